//! `make demo`, and `make demo CLUSTER=current` on a cluster with things of others in it.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokenward_e2e::control_plane::{binaries::Binaries, shared};
use tokenward_e2e::operator::apply_overlay;
use tokenward_e2e::{ControlPlane, eventually};

/// Runs the demo with the administrator's kubeconfig as the current one, and kubectl in the `PATH`.
async fn demo(plane: &ControlPlane) -> Result<Output> {
    let kubectl = Binaries::find()?.path("kubectl")?.to_owned();
    let folder = kubectl.parent().context("no folder")?.to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&others)))?;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.arg("current").env("PATH", path).env("KUBECONFIG", plane.kubeconfig());
    Ok(tokio::task::spawn_blocking(move || demo.output()).await??)
}

/// Every object of the cluster, but what comes and goes by itself.
async fn objects(plane: &ControlPlane) -> Result<BTreeSet<String>> {
    let kinds = plane.kubectl_ok(["api-resources", "--verbs=list", "-o", "name"]).await?;
    let kinds = kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.starts_with("componentstatuses"));
    let kinds = kinds.collect::<Vec<_>>().join(",");
    let path = "{range .items[*]}{.kind} {.metadata.namespace}/{.metadata.name} {.metadata.uid}{\"\\n\"}{end}";
    let list = plane.kubectl_ok(["get", &kinds, "-A", "-o", &format!("jsonpath={path}")]).await?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// The same, when each namespace has what its controllers make.
async fn settled(plane: &ControlPlane) -> Result<BTreeSet<String>> {
    let check = async || {
        let objects = objects(plane).await?;
        let names = objects.iter().filter_map(|object| object.strip_prefix("Namespace /")?.split(' ').next());
        for name in names {
            for made in [format!("ServiceAccount {name}/default "), format!("ConfigMap {name}/kube-root-ca.crt ")] {
                ensure!(objects.iter().any(|object| object.starts_with(&made)), "{made}is not there yet");
            }
        }
        Ok(objects)
    };
    eventually(Duration::from_mins(1), "the namespaces are complete", check).await
}

/// Waits until the cluster has these objects and no others: the API server drops the API of a CRD a moment after it.
async fn as_before(plane: &ControlPlane, before: &BTreeSet<String>) -> Result<()> {
    let check = async || {
        let now = objects(plane).await?;
        let other: Vec<&String> = now.symmetric_difference(before).collect();
        ensure!(other.is_empty(), "{other:#?}");
        Ok(())
    };
    eventually(Duration::from_mins(1), "all is as before", check).await
}

#[tokio::test]
async fn on_a_control_plane_of_its_own_it_checks_the_whole_story() -> Result<()> {
    Binaries::find()?;
    let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
    demo.stdin(Stdio::null());
    let done = tokio::task::spawn_blocking(move || demo.output()).await??;
    let text = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "{text}");
    for words in ["dist/install.yaml", "the one that never expires is reported", "All of this was checked"] {
        ensure!(text.contains(words), "{words} is not in {text}");
    }
    Ok(())
}

#[tokio::test]
async fn on_the_current_cluster_it_leaves_everything_as_it_was() -> Result<()> {
    let plane = shared().await?;
    plane.kubectl_ok(["create", "configmap", "ours", "-n", "default", "--from-literal=a=b"]).await?;
    let token = "--from-literal=expiration=2020-01-01T00:00:00Z";
    let kind = "--type=bootstrap.kubernetes.io/token";
    plane
        .kubectl_ok(["create", "secret", "generic", "bootstrap-token-old111", "-n", "kube-system", kind, token])
        .await?;
    let (before, config) = (settled(plane).await?, fs::read(plane.kubeconfig())?);
    ensure!(before.iter().any(|object| object.starts_with("ConfigMap default/ours")), "{before:?}");

    let done = demo(plane).await?;
    let text = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success(), "{text}");
    for words in ["your current context: e2e, https://127.0.0.1:", "nothing of it is left", "All of this was checked"] {
        ensure!(text.contains(words), "{words} is not in {text}");
    }
    as_before(plane, &before).await?;

    // Somebody else's namespace of that name, and nothing else, is enough to refuse.
    plane.create_namespace("ci").await?;
    let before = settled(plane).await?;
    let refused = demo(plane).await?;
    let text = [refused.stdout, refused.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    ensure!(!refused.status.success() && text.contains("has these already") && text.contains("namespace/ci"), "{text}");
    as_before(plane, &before).await?;
    assert_eq!(fs::read(plane.kubeconfig())?, config, "the kubeconfig is as it was");
    can_be_installed(plane).await
}

/// The demo leaves the API server able to judge policies by a `ConfigMap`, which it is not after the last of such has gone.
async fn can_be_installed(plane: &ControlPlane) -> Result<()> {
    apply_overlay(plane, "config/install").await?;
    let policy = |duration: &str| {
        format!(
            r#"{{"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {{"name": "p", "namespace": "ci"}},
            "spec": {{"serviceAccounts": {{"names": ["default"]}}, "token": {{"duration": "{duration}"}}}}}}"#
        )
    };
    let limited = async || {
        let answer = plane.kubectl_with(["apply", "--dry-run=server", "-f", "-"], &policy("169h")).await?;
        let text = String::from_utf8_lossy(&answer.stderr).into_owned();
        ensure!(text.contains("169h is over the limit 168h"), "{text}");
        Ok(())
    };
    eventually(Duration::from_mins(1), "the limits count", limited).await?;
    plane.apply(&policy("168h")).await?;
    Ok(())
}
