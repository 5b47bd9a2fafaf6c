//! What `config/` installs, on a real API server, as the README says to install it.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use tokenward_e2e::operator::{apply_overlay, install};
use tokenward_e2e::scene::overlay::{arguments, pod_template, render, with_component};
use tokenward_e2e::scene::{Bearer, SOON, Target, operator, plane, policies};
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, Proxy, eventually, target_dir, workspace_dir};

/// Every folder of `config/` that kustomize can build.
fn overlays() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(workspace_dir().join("config"))? {
        let entry = entry?;
        if entry.path().join("kustomization.yaml").exists() {
            names.push(format!("config/{}", entry.file_name().to_string_lossy()));
        }
    }
    names.sort();
    Ok(names)
}

/// A control plane of its own, for what installs or removes things for the whole cluster.
async fn own_plane(name: &str) -> Result<ControlPlane> {
    ControlPlane::start(Profile::default(), target_dir().join("e2e").join(format!("install-{name}"))).await
}

async fn exists(plane: &ControlPlane, what: &[&str]) -> Result<bool> {
    let args = ["get", "--ignore-not-found", "-o", "name"].iter().chain(what);
    Ok(!plane.kubectl_ok(args).await?.trim().is_empty())
}

#[test]
fn kustomize_builds_every_overlay() -> Result<()> {
    let overlays = overlays()?;
    for expected in ["crd", "default", "install", "multi-namespace", "namespaced", "samples"] {
        let expected = format!("config/{expected}");
        ensure!(overlays.contains(&expected), "{expected} is missing in {overlays:?}");
    }
    for overlay in overlays {
        let built = manifests(&overlay)?;
        ensure!(built.iter().all(|manifest| manifest["kind"].is_string()), "{overlay}: {built:?}");
    }
    Ok(())
}

#[test]
fn uninstalling_leaves_every_crd_also_that_of_a_component() -> Result<()> {
    for name in ["bootstrap-token-policy", "legacy-token-policy"] {
        let built = render(&with_component(target_dir().join("e2e/install-overlays").join(name), name)?)?;
        let crds = built.iter().filter(|manifest| manifest["kind"] == "CustomResourceDefinition");
        let metadata: Vec<&Value> = crds.map(|crd| &crd["metadata"]).collect();
        assert_eq!(metadata.len(), 2, "{metadata:?}");
        let stays = |metadata: &&Value| metadata["labels"]["app.kubernetes.io/component"] == "api";
        assert!(metadata.iter().all(stays), "{metadata:?}");
    }
    Ok(())
}

#[tokio::test]
async fn applying_the_same_manifests_again_changes_nothing() -> Result<()> {
    let plane = own_plane("again").await?;
    let folder = workspace_dir().join("config/install");
    let apply = ["apply", "-k", &*folder.to_string_lossy()];
    plane.kubectl_ok(apply).await?;
    let generations = "jsonpath={range .items[*]}{.metadata.uid} {.metadata.generation}{'\\n'}{end}";
    let generations = ["get", "deployments,crds,poddisruptionbudgets,networkpolicies", "-A", "-o", generations];
    let before = plane.kubectl_ok(generations).await?;
    let answer = plane.kubectl_ok(apply).await?;
    let changed: Vec<&str> = answer.lines().filter(|line| !line.ends_with(" unchanged")).collect();
    // kubectl sends empty data and a selector again each time, and neither changes anything.
    assert_eq!(changed, ["configmap/tokenward-limits configured", "poddisruptionbudget.policy/tokenward configured"]);
    assert_eq!(plane.kubectl_ok(generations).await?, before);
    plane.stop().await
}

#[tokio::test]
async fn samples_pass_the_server_and_fields_are_explained() -> Result<()> {
    let plane = plane().await?;
    plane.create_namespace("ci").await?;
    let samples = workspace_dir().join("config/samples");
    let answer = plane.kubectl_ok(["apply", "--dry-run=server", "-k", &samples.to_string_lossy()]).await?;
    let policies = answer.lines().filter(|line| line.starts_with("tokenpolicy.tokenward.dev/"));
    assert_eq!(policies.count(), 3, "{answer}");
    let explained = plane.kubectl_ok(["explain", "tokenpolicy.spec.rotation"]).await?;
    for text in ["maxAge", "Renew at the latest this long after issue", "renewBeforePercentage"] {
        assert!(explained.contains(text), "{text} in {explained}");
    }
    for name in ["tp", "tokenward"] {
        plane.kubectl_ok(["get", name, "-A"]).await.context("short name and category")?;
    }
    Ok(())
}

/// The manifests of a folder of the repository.
fn manifests(overlay: &str) -> Result<Vec<Value>> {
    render(&workspace_dir().join(overlay))
}

/// Waits until the policy is ready.
async fn ready(plane: &ControlPlane, namespace: &str, policy: &str) -> Result<()> {
    let policies = policies(&plane.client().await?, namespace);
    let check = async || {
        let policy = policies.get(policy).await?;
        let ready = tokenward_e2e::scene::condition(&policy, "Ready").context("no condition")?;
        ensure!(ready.status == "True", "{}", ready.message);
        Ok(())
    };
    eventually(SOON, &format!("{policy} is ready"), check).await
}

#[tokio::test]
async fn the_pod_fits_the_namespaces_own_security_level() -> Result<()> {
    let plane = plane().await?;
    for overlay in ["config/install", "config/namespaced", "config/multi-namespace"] {
        let mut pod = pod_template(&manifests(overlay)?)?.clone();
        pod["apiVersion"] = "v1".into();
        pod["kind"] = "Pod".into();
        pod["metadata"]["name"] = "probe".into();
        pod["metadata"]["namespace"] = "tokenward-system".into();
        let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
        let answer = plane.kubectl_with(dry, &pod.to_string()).await?;
        assert!(answer.status.success(), "{overlay}: {}", String::from_utf8_lossy(&answer.stderr));
    }
    // The level is enforced: the same server refuses a pod that asks for more.
    let privileged = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "namespace": "tokenward-system"},
        "spec": {"containers": [{"name": "x", "image": "x", "securityContext": {"privileged": true}}]}}"#;
    let dry = ["apply", "--server-side", "--dry-run=server", "-f", "-"];
    assert!(!plane.kubectl_with(dry, privileged).await?.status.success());
    Ok(())
}

#[tokio::test]
async fn the_samples_work_with_the_deployments_own_arguments() -> Result<()> {
    let own = own_plane("samples").await?;
    let plane = &own;
    install(plane).await?;
    apply_overlay(plane, "config/samples").await?;
    let options = Options {
        dir: plane.dir().join("operators"),
        args: arguments(&manifests("config/install")?)?,
        ..Options::default()
    };
    let operator = Operator::start(plane, options).await?;
    operator.ready().await?;
    for policy in ["deployers", "reporter", "runners"] {
        ready(plane, "ci", policy).await?;
    }
    for secret in ["deployers-deployer", "reporter-kubeconfig", "runners-linux", "runners-arm"] {
        assert!(exists(plane, &["secret", secret, "-n", "ci"]).await?, "{secret}");
    }
    drop(operator);
    own.stop().await
}

/// The token that a Secret of namespace `default` holds.
async fn published(plane: &ControlPlane, name: &str) -> Result<Target> {
    let secrets: Api<Secret> = Api::namespaced(plane.client().await?, "default");
    Target::read(secrets.get(name).await?)
}

#[tokio::test]
async fn the_operators_removal_revokes_nothing_and_leaves_the_checks_for_its_return() -> Result<()> {
    let own = own_plane("default").await?;
    let plane = &own;
    apply_overlay(plane, "config/crd").await?;
    apply_overlay(plane, "config/default").await?;
    assert!(exists(plane, &["deployment", "tokenward", "-n", "tokenward-system"]).await?);
    let proxy = Proxy::start(plane)?;
    let operator = operator(plane, "default", &proxy, Options::default()).await?;
    let policies = policies(&plane.client().await?, "default");
    tokenward_e2e::scene::apply_policy(&policies, "p", &json!({"serviceAccounts": {"names": ["default"]}})).await?;
    ready(plane, "default", "p").await?;
    let may_write = ["--verb=get,patch", "--resource=tokenpolicies.tokenward.dev"];
    plane.kubectl_ok(["create", "role", "ann"].into_iter().chain(may_write)).await?;
    plane.kubectl_ok(["create", "rolebinding", "ann", "--role=ann", "--user=ann"]).await?;
    let limit = ["patch", "configmap", "tokenward-limits", "-n", "tokenward-system", "--type=merge", "-p"];
    plane.kubectl_ok(limit.into_iter().chain([r#"{"data": {"maxDuration": "30h"}}"#])).await?;
    let path = workspace_dir().join("config/install");
    let path = path.to_string_lossy();
    let but_the_api = "app.kubernetes.io/component!=api";
    // kubectl waits until all of it is gone.
    plane.kubectl_ok(["delete", "--timeout=60s", "-k", &path, "-l", but_the_api]).await?;
    let left = ["all,clusterroles,clusterrolebindings,priorityclasses,networkpolicies,poddisruptionbudgets", "-A"];
    assert!(!exists(plane, &[left[0], left[1], "-l", "app.kubernetes.io/name=tokenward"]).await?);
    the_checks_are_on(plane).await?;
    apply_overlay(plane, "config/install").await?;
    the_checks_are_on(plane).await?;
    assert!(policies.get_opt("p").await?.is_some());
    Bearer::new(plane, published(plane, "p-default").await?.token()).await?.lives().await?;
    drop(operator);
    own.stop().await
}

/// Of the author and of the limit that was set.
async fn the_checks_are_on(plane: &ControlPlane) -> Result<()> {
    let limited = async |hours: u32| {
        let spec = json!({"serviceAccounts": {"names": ["default"]}, "token": {"duration": format!("{hours}h")}});
        let policies = policies(&plane.client().await?, "default");
        tokenward_e2e::scene::apply_policy(&policies, &format!("h{hours}"), &spec).await
    };
    limited(30).await?;
    let refusal = limited(31).await.err().context("31h is accepted")?;
    ensure!(format!("{refusal:#}").contains("31h is over the limit 30h"), "{refusal:#}");
    let patch = r#"{"spec": {"serviceAccounts": {"names": ["boss"]}}}"#;
    let edit = plane.kubectl(["patch", "tp", "p", "--as=ann", "--type=merge", "-p", patch]).await?;
    let refusal = String::from_utf8_lossy(&edit.stderr).into_owned();
    ensure!(refusal.contains("ann lacks the right to create secrets in namespace default"), "{refusal}");
    Ok(())
}

/// The CRD of an earlier release.
const OLDER_CRD: &str = include_str!("../cases/crd-of-9faba8a.yaml");

/// The policy is edited twice, and its status follows.
async fn is_edited(plane: &ControlPlane, generation: u32) -> Result<()> {
    for (suspend, generation) in [("true", generation), ("false", generation + 1)] {
        let patch = format!("{{\"spec\":{{\"suspend\":{suspend}}}}}");
        plane.kubectl_ok(["-n", "default", "patch", "tp", "p", "--type=merge", "-p", &patch]).await?;
        let written = format!("--for=jsonpath={{.status.observedGeneration}}={generation}");
        plane.kubectl_ok(["-n", "default", "wait", "tp/p", &written, "--timeout=30s"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_upgrade_and_the_way_back_cost_no_token_and_no_status() -> Result<()> {
    let own = own_plane("upgrade").await?;
    let plane = &own;
    plane.apply(OLDER_CRD).await?;
    apply_overlay(plane, "config/default").await?;
    let proxy = Proxy::start(plane)?;
    let operator = operator(plane, "default", &proxy, Options::default()).await?;
    let policies = policies(&plane.client().await?, "default");
    let format = json!({"type": "Kubeconfig", "kubeconfig": {"key": "value"}});
    let spec = json!({"serviceAccounts": {"names": ["default"]}, "secret": {"format": format}});
    tokenward_e2e::scene::apply_policy(&policies, "p", &spec).await?;
    ready(plane, "default", "p").await?;
    let secrets: Api<Secret> = Api::namespaced(plane.client().await?, "default");
    let before = secrets.get("p-default").await?;

    apply_overlay(plane, "config/install").await?;
    operator.restart()?;
    operator.ready().await?;
    is_edited(plane, 2).await.context("after the upgrade")?;
    plane.apply(OLDER_CRD).await?;
    operator.restart()?;
    operator.ready().await?;
    is_edited(plane, 4).await.context("with the older CRD again")?;
    let after = secrets.get("p-default").await?;
    assert_eq!((after.data, after.metadata.resource_version), (before.data, before.metadata.resource_version));
    assert_eq!(proxy.minted().len(), 1);
    drop(operator);
    own.stop().await
}

#[tokio::test]
async fn roles_alone_are_enough_for_one_namespace() -> Result<()> {
    let own = own_plane("namespaced").await?;
    let plane = &own;
    plane.create_namespace("ci").await?;
    apply_overlay(plane, "config/crd").await?;
    apply_overlay(plane, "config/namespaced").await?;
    assert!(!exists(plane, &["clusterrole", "tokenward"]).await?, "no rights over the cluster");
    plane.kubectl_ok(["create", "serviceaccount", "deployer", "-n", "ci"]).await?;
    let args = arguments(&manifests("config/namespaced")?)?;
    assert_eq!(args, ["--leader-elect", "--bootstrap-token-cleaner=off", "--namespace=ci"]);
    assert!(
        !exists(plane, &["role", "-n", "kube-system", "tokenward-bootstrap-token-cleaner"]).await?,
        "no right there"
    );
    let proxy = Proxy::start(plane)?;
    let options = Options { dir: plane.dir().join("operators"), via: Some(&proxy), args, ..Options::default() };
    let operator = Operator::start(plane, options).await?;
    operator.ready().await?;
    let spec = json!({"serviceAccounts": {"names": ["deployer"]}});
    tokenward_e2e::scene::apply_policy(&policies(&plane.client().await?, "ci"), "p", &spec).await?;
    ready(plane, "ci", "p").await?;
    let calls = proxy.requests();
    let refused = calls.iter().filter(|seen| seen.status == Some(403)).map(|seen| &seen.path);
    assert_eq!(refused.collect::<Vec<_>>(), Vec::<&String>::new());
    let elsewhere = calls.iter().map(|seen| &seen.path).filter(|path| !path.contains("/namespaces/ci/"));
    let elsewhere: BTreeSet<&str> = elsewhere.map(String::as_str).collect();
    // The address, its own limits and Lease, and what tokens are signed with: Kubernetes lets every account read that.
    let keys = ["/.well-known/openid-configuration", "/openid/v1/jwks"];
    let address = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    let leases = "/apis/coordination.k8s.io/v1/namespaces/tokenward-system/leases";
    let lease = format!("{leases}/tokenward");
    let limits = "/api/v1/namespaces/tokenward-system/configmaps/tokenward-limits";
    assert_eq!(elsewhere, BTreeSet::from([keys[0], keys[1], address, limits, leases, &lease]));
    drop(operator);
    own.stop().await
}
