//! An API server that calls itself what the shipped limits do not have, as those of Talos, kops and Gardener do.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::process::Command;
use tokenward_e2e::operator::install;
use tokenward_e2e::scene::{SOON, Scene, condition, spec};
use tokenward_e2e::{ControlPlane, Operator, Options, Profile, Proxy, eventually, target_dir};

/// Runs a command line as an administrator would.
fn shell(plane: &ControlPlane, command: &str) -> Result<()> {
    let tools = plane.kubectl_path().parent().context("kubectl has no folder")?;
    let path = format!("{}:{}", tools.display(), std::env::var("PATH")?);
    let mut shell = Command::new("sh");
    let output = shell.args(["-c", command]).env("PATH", path).env("KUBECONFIG", plane.kubeconfig()).output()?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[tokio::test]
async fn an_audience_that_the_limits_refuse_is_told_with_the_command_that_adds_it() -> Result<()> {
    let profile = Profile { apiserver: vec!["--api-audiences=https://10.0.0.1:6443".into()], ..Profile::default() };
    let dir = target_dir().join("e2e").join("address-audience");
    let plane: &ControlPlane = Box::leak(Box::new(ControlPlane::start(profile, dir).await?));
    install(plane).await?;
    plane.create_namespace("ci").await?;
    let operator = Operator::start(plane, Options { dir: plane.dir().join("operators"), ..Options::default() }).await?;
    operator.ready().await?;
    let scene = Scene::around(plane, "ci", Proxy::start(plane)?, operator).await?;
    scene.reader("deployer").await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.not_ready("p", "AdmissionDenied").await?;
    let (_, told) = scene.condition("p", "ApiAudienceNotAllowed", "True").await?;
    assert!(told.message.starts_with("the API server calls itself https://10.0.0.1:6443, which"), "{}", told.message);
    let (status, body) = scene.operator.readyz().await?;
    assert!(status == 200 && body.contains(&told.message), "{status} {body}");
    assert_eq!(scene.operator.log()?.matches("calls itself").count(), 1, "{}", scene.operator.log()?);

    let (_, command) = told.message.split_once("add it: ").context("no command")?;
    shell(plane, command)?;
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let ready = condition(&policy, "Ready").context("no condition")?.status;
        ensure!(ready == "True" && condition(&policy, "ApiAudienceNotAllowed").is_none(), "{}", policy.data["status"]);
        Ok(())
    };
    eventually(2 * SOON, "tokens pass, and nothing says otherwise", check).await.with_context(|| scene.log_end())?;
    assert!(!scene.operator.readyz().await?.1.contains("calls itself"));
    Ok(())
}
