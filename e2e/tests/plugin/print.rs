//! `print`.

use super::{error, ok, on_terminal};
use anyhow::{Result, ensure};
use serde_json::json;
use tokenward_e2e::scene::{Scene, spec};

#[tokio::test]
async fn a_token_is_printed_to_a_pipe_and_refused_on_a_terminal() -> Result<()> {
    let scene = Scene::start("plugin-print").await?;
    let target = scene.deployer(json!({})).await?;
    assert_eq!(ok(&scene, "print p-deployer").await?, target.token());
    assert_eq!(ok(&scene, "print p-deployer --key ca.crt").await?, target.value("ca.crt"));
    let refused = on_terminal(&scene, "print p-deployer", "").await?;
    ensure!(refused.contains("add --yes") && !refused.contains(target.token()), "{refused:?}");
    ensure!(on_terminal(&scene, "print p-deployer --yes", "").await?.trim_end() == target.token());
    for (line, hint) in [
        ("print p-deployer --key x", "it has no key x; name one with --key: ca.crt, namespace, server, token"),
        ("print nothing", "there is no Secret nothing in namespace plugin-print"),
    ] {
        let told = error(&scene, line).await?;
        ensure!(told.contains(hint), "{told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_is_printed_whole_and_works() -> Result<()> {
    let scene = Scene::start("plugin-kubeconfig").await?;
    scene.reader("deployer").await?;
    scene.policy("p", &spec(&["deployer"], json!({"secret": {"format": {"type": "Kubeconfig"}}}))).await?;
    scene.ready("p").await?;
    let config = ok(&scene, "print p-deployer").await?;
    ensure!(scene.kubectl_with(&config, &["get", "configmaps"]).await?.status.success());
    Ok(())
}
