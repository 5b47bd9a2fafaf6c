//! What `config/` installs, on a real API server, as the README says to install it.

mod common;

use std::fs;

use anyhow::{Context, Result, ensure};
use common::{SOON, operator, plane, policies};
use serde_json::json;
use tokenward_e2e::operator::apply_overlay;
use tokenward_e2e::{ControlPlane, Options, Profile, Proxy, eventually, target_dir, workspace_dir};

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

#[tokio::test]
async fn kustomize_builds_every_overlay() -> Result<()> {
    let plane = plane().await?;
    let overlays = overlays()?;
    for expected in ["config/crd", "config/default", "config/install", "config/namespaced", "config/samples"] {
        ensure!(overlays.iter().any(|overlay| overlay == expected), "{expected} is missing in {overlays:?}");
    }
    for overlay in overlays {
        let path = workspace_dir().join(&overlay);
        let built = plane.kubectl_ok(["kustomize", &path.to_string_lossy()]).await.context(overlay.clone())?;
        ensure!(built.contains("kind:"), "{overlay} is empty");
    }
    Ok(())
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

#[tokio::test]
async fn default_installs_all_but_the_crds_and_its_removal_leaves_them() -> Result<()> {
    let plane = own_plane("default").await?;
    apply_overlay(&plane, "config/crd").await?;
    apply_overlay(&plane, "config/default").await?;
    assert!(exists(&plane, &["deployment", "tokenward", "-n", "tokenward-system"]).await?);
    assert!(exists(&plane, &["clusterrole", "tokenward"]).await?);
    let policy = r#"{"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
        "metadata": {"name": "p", "namespace": "default"}, "spec": {"serviceAccounts": {"names": ["default"]}}}"#;
    plane.apply(policy).await?;
    let path = workspace_dir().join("config/default");
    plane.kubectl_ok(["delete", "--wait=false", "-k", &path.to_string_lossy()]).await?;
    assert!(!exists(&plane, &["clusterrole", "tokenward"]).await?);
    assert!(exists(&plane, &["tokenpolicy", "p", "-n", "default"]).await?, "uninstalling must not revoke");
    plane.stop().await
}

#[tokio::test]
async fn roles_alone_are_enough_for_one_namespace() -> Result<()> {
    let plane: &'static ControlPlane = Box::leak(Box::new(own_plane("namespaced").await?));
    plane.create_namespace("ci").await?;
    apply_overlay(plane, "config/crd").await?;
    apply_overlay(plane, "config/namespaced").await?;
    assert!(!exists(plane, &["clusterrole", "tokenward"]).await?, "no rights over the cluster");
    plane.kubectl_ok(["create", "serviceaccount", "deployer", "-n", "ci"]).await?;
    let proxy = Proxy::start(plane)?;
    let operator = operator(plane, "ci", &proxy, Options::default()).await?;
    operator.ready().await?;
    let client = plane.client().await?;
    let spec = json!({"serviceAccounts": {"names": ["deployer"]}});
    common::apply_policy(&policies(&client, "ci"), "p", &spec).await?;
    eventually(SOON, "the policy is ready", async || {
        let policy = policies(&client, "ci").get("p").await?;
        let ready = common::condition(&policy, "Ready").context("no condition")?;
        ensure!(ready.status == "True", "{}", ready.message);
        Ok(())
    })
    .await?;
    let refused =
        proxy.requests().into_iter().filter(|seen| seen.status == Some(403) && !seen.path.contains("kube-public"));
    assert_eq!(refused.map(|seen| seen.path).collect::<Vec<_>>(), Vec::<String>::new());
    Ok(())
}
