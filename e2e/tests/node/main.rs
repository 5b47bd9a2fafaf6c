//! The files of a release on a real kubelet and containerd: probes, two replicas, the pod's confinement,
//! and a consumer that reads a mounted Secret over rotations.

mod consumer;
mod pods;

use anyhow::{Context, Result, ensure};
use consumer::Consumer;
use pods::{confined, dies, leader, led_by_another};
use std::io::{Write as _, stderr};
use std::path::Path;
use std::process::Command;
use tokenward_e2e::dist;
use tokenward_e2e::image::NAME;
use tokenward_e2e::node::{self, Node, POD_IMAGE, isolation};
use tokenward_e2e::operator::{NAMESPACE, apply_overlay, program};

const TEST: &str = "a_real_node_runs_what_the_readme_installs";

#[tokio::test]
async fn a_real_node_runs_what_the_readme_installs() -> Result<()> {
    if isolation::is_inside() {
        let node = Node::start(Path::new(env!("CARGO_BIN_EXE_pod"))).await?;
        return story(&node).await.with_context(|| node.last_words());
    }
    if let Some(reason) = isolation::obstacle() {
        // Not println!, which the test harness would swallow.
        return Ok(writeln!(stderr(), "{TEST} is not run: {reason}")?);
    }
    node::prepare()?;
    isolation::rerun(TEST).await
}

#[test]
fn the_binary_needs_no_library() -> Result<()> {
    let told = Command::new("ldd").arg(program()?).output()?;
    let told = format!("{}{}", String::from_utf8_lossy(&told.stdout), String::from_utf8_lossy(&told.stderr));
    ensure!(told.contains("statically linked") || told.contains("not a dynamic executable"), "{told}");
    Ok(())
}

async fn story(node: &Node) -> Result<()> {
    node.load(&dist::image(None)?.0)?;
    node.apply(&dist::manifests(NAME)?).await?;
    let rolled_out = ["-n", NAMESPACE, "rollout", "status", "deployment/tokenward", "--timeout=90s"];
    node.kubectl_ok(rolled_out).await.context("two replicas are ready through their probes")?;
    is_guarded(node).await?;
    let first = leader(node).await?;
    for pod in pods::operators(node).await? {
        confined(&pod)?;
    }
    apply_overlay(node, "config/samples").await?;
    let consumer = Consumer::start(node).await?;
    consumer.rotates("1").await?;
    let second = dies(node, &first).await?;
    consumer.rotates("2").await?;
    node.kubectl_ok(["-n", NAMESPACE, "delete", "pod", second.pod()]).await?;
    led_by_another(node, &second).await?;
    consumer.rotates("3").await?;
    node.kubectl_ok(rolled_out).await.context("two replicas are ready again")?;
    Ok(())
}

/// What stands around the pods: a drain may take one of them, and a pod with more power than they have is not let in.
async fn is_guarded(node: &Node) -> Result<()> {
    let budget =
        ["-n", NAMESPACE, "wait", "pdb/tokenward", "--for=jsonpath={.status.disruptionsAllowed}=1", "--timeout=30s"];
    node.kubectl_ok(budget).await?;
    let refused = node.kubectl(["-n", NAMESPACE, "run", "intruder", "--privileged", "--image", POD_IMAGE]).await?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(said.contains("violates PodSecurity \"restricted"), "{said}");
    Ok(())
}
