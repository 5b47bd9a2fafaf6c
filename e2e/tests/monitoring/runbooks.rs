//! The commands of the runbooks, run as they are written.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokenward_e2e::pages::{blocks, read};
use tokenward_e2e::scene::{Scene, spec};

/// Runs a block of commands with the scene's kubectl, as its administrator.
async fn run(scene: &Scene, commands: &str) -> Result<()> {
    let kubectl = scene.plane.kubectl_path().parent().context("kubectl is nowhere")?;
    let path = format!("{}:{}", kubectl.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-eu", "-c", commands]).env("PATH", path).env("KUBECONFIG", scene.plane.kubeconfig());
    let output = shell.kill_on_drop(true).output().await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {complaint}\n{commands}", output.status);
    Ok(())
}

#[tokio::test]
async fn each_command_of_the_runbooks_works() -> Result<()> {
    let scene = Scene::start("ci").await?;
    scene.account("deployer", &[]).await?;
    scene.policy("deployers", &spec(&["deployer"], json!({}))).await?;
    scene.ready("deployers").await?;
    let token = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "stringData": {"token-id": "abcdef", "token-secret": "0123456789abcdef"}});
    scene.plane.apply(&token.to_string()).await?;
    let runbooks = read("docs/runbooks.md")?;
    let mut done = 0;
    for commands in blocks(&runbooks, "sh") {
        run(&scene, commands).await?;
        done += 1;
    }
    assert!(done >= 14, "only {done} blocks were found");
    Ok(())
}
