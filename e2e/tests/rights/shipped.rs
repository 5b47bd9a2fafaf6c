//! What no role in `config/` may hold, whoever it is for.

use crate::granted::{granted, list};
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE};
use tokenward_e2e::scene::overlay::{arguments, render, with_component};
use tokenward_e2e::{target_dir, workspace_dir};

/// Verbs by which a right becomes any other right.
const ESCALATION: [&str; 3] = ["impersonate", "escalate", "bind"];

/// The role of a component that has to know what pods refer to.
const READS_PODS: &str = "tokenward-legacy-token-policy";

/// Every folder in `config/<folder>` that kustomize can build.
fn folders(folder: &str) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(workspace_dir().join("config").join(folder))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.join("kustomization.yaml").exists());
    ensure!(!paths.is_empty(), "no overlay in {folder}");
    Ok(paths)
}

/// Every overlay, and `config/install` with each component.
fn everything() -> Result<Vec<(String, Vec<Value>)>> {
    let mut all = folders("")?;
    all.extend(folders("samples")?);
    for component in folders("components")? {
        let name = component.file_name().unwrap_or_default().to_string_lossy().into_owned();
        all.push(with_component(target_dir().join("e2e/rights-shipped").join(&name), &name)?);
    }
    all.into_iter().map(|path| Ok((path.display().to_string(), render(&path)?))).collect()
}

fn harmless(role: &Value, rule: &Value) -> Result<()> {
    let (verbs, kinds) = (list(&rule["verbs"]), list(&rule["resources"]));
    let words = ["verbs", "resources", "apiGroups", "resourceNames"].map(|field| list(&rule[field])).concat();
    ensure!(!words.iter().any(|word| word.contains('*')), "a wildcard: {rule}");
    ensure!(!verbs.iter().any(|verb| ESCALATION.contains(&verb.as_str())), "an escalation: {rule}");
    let kinds = kinds.iter().map(|kind| kind.split('/').next().unwrap_or_default());
    let reads = role["metadata"]["name"] == READS_PODS && verbs == ["list", "watch"];
    ensure!(!kinds.clone().any(|kind| kind == "nodes" || (kind == "pods" && !reads)), "pods or nodes: {rule}");
    ensure!(rule["nonResourceURLs"].is_null(), "URLs: {rule}");
    Ok(())
}

#[test]
fn no_role_has_a_wildcard_an_escalation_or_nodes_and_one_alone_reads_pods() -> Result<()> {
    let mut roles = BTreeSet::new();
    for (overlay, manifests) in everything()? {
        for role in manifests.iter().filter(|manifest| manifest["kind"] == "ClusterRole" || manifest["kind"] == "Role")
        {
            roles.insert(role["metadata"]["name"].to_string());
            for rule in role["rules"].as_array().into_iter().flatten() {
                harmless(role, rule).map_err(|error| error.context(format!("{overlay}: {}", role["metadata"])))?;
            }
        }
    }
    assert!(roles.len() >= 7, "{roles:?}");
    Ok(())
}

#[test]
fn no_role_of_ours_is_aggregated_into_one_of_the_cluster() -> Result<()> {
    for (overlay, manifests) in everything()? {
        for manifest in manifests {
            assert!(manifest["aggregationRule"].is_null(), "{overlay}: {manifest}");
            let labels = manifest["metadata"]["labels"].as_object().into_iter().flatten();
            let aggregated = labels.filter(|(key, _)| key.starts_with("rbac.authorization.k8s.io/aggregate"));
            assert_eq!(aggregated.count(), 0, "{overlay}: {manifest}");
        }
    }
    Ok(())
}

#[test]
fn outside_of_the_watched_namespaces_only_its_lease_its_limits_and_the_public_address_are_in_reach() -> Result<()> {
    for (overlay, watched) in [("namespaced", &["ci"] as &[&str]), ("multi-namespace", &["team-a", "team-b"])] {
        let manifests = render(&workspace_dir().join("config").join(overlay))?;
        let rights = granted(&manifests, NAMESPACE, ACCOUNT)?;
        let elsewhere = rights
            .iter()
            .filter(|right| !right.namespace.as_deref().is_some_and(|namespace| watched.contains(&namespace)));
        let elsewhere: Vec<String> = elsewhere.map(ToString::to_string).collect();
        let expected = [
            "get configmaps cluster-info in kube-public",
            "create leases.coordination.k8s.io in tokenward-system",
            "get configmaps tokenward-limits in tokenward-system",
            "get leases.coordination.k8s.io tokenward in tokenward-system",
            "patch leases.coordination.k8s.io tokenward in tokenward-system",
        ];
        assert_eq!(elsewhere, expected, "{overlay}");
        let flag = format!("--namespace={}", watched.join(","));
        assert!(arguments(&manifests)?.contains(&flag), "what is granted is watched: {flag}");
    }
    Ok(())
}
