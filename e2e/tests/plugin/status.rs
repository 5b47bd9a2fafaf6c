//! `status`.

use super::{ok, on_terminal};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, spec};

#[tokio::test]
async fn shows_the_tree_and_the_times_of_the_operator() -> Result<()> {
    let scene = Scene::start("plugin-status").await?;
    let windows = json!([{"schedule": "0 3 * * *", "duration": "2h"}]);
    let first = scene.deployer(json!({"rotation": {"overlap": "1h", "windows": windows}})).await?;
    let second = scene.rotated("1", &first).await?;
    scene.told("p", "TokenRotated", second.token_id()).await?;
    // A status may be written a second after the event.
    let told = async || {
        let policy = scene.ready("p").await?;
        ensure!(
            policy.data["status"]["earliestExpiration"] == second.says("expires-at"),
            "it tells of the first token"
        );
        Ok(policy)
    };
    let policy = eventually(SOON, "the status tells of the second token", told).await?;
    let text = ok(&scene, "status p -o wide").await?;
    for words in [
        "plugin-status/p  ready  1/1\n",
        "account deployer, Secret p-deployer\n",
        &format!("current   {}  ", second.token_id()),
        &format!("bound to {}, key ", second.anchor()),
        &format!("previous  {}  ", first.token_id()),
        "dies in 59m",
        "ago  TokenRotated  ",
    ] {
        ensure!(text.contains(words), "no {words:?} in\n{text}");
    }
    let view: Value = serde_json::from_str(&ok(&scene, "status p -o json").await?)?;
    let current = &view[0]["secrets"][0]["tokens"][0];
    assert_eq!(current["replacedAt"], policy.data["status"]["nextRotation"], "{view:#}");
    assert_eq!(current["endsAt"], second.says("expires-at"), "{view:#}");
    let yaml: Value = serde_saphyr::from_str(&ok(&scene, "status p -o yaml").await?)?;
    assert_eq!(yaml, view);
    for output in [text, view.to_string()] {
        ensure!(![&first, &second].iter().any(|target| output.contains(target.token())), "token text in {output}");
    }
    Ok(())
}

#[tokio::test]
async fn says_why_a_policy_is_not_ready_in_red_on_a_terminal() -> Result<()> {
    let scene = Scene::start("plugin-failing").await?;
    scene.policy("p", &spec(&["nobody"], json!({}))).await?;
    let message = scene.not_ready("p", "AccountNotFound").await?;
    let text = ok(&scene, "status").await?;
    ensure!(text.contains("plugin-failing/p  not ready  0/1"), "{text}");
    ensure!(text.contains("account nobody: AccountNotFound (for "), "{text}");
    ensure!(text.contains("create the ServiceAccount") && !text.contains(&message), "{text}");
    ensure!(!text.contains('\u{1b}'), "colours in a pipe: {text:?}");
    let coloured = on_terminal(&scene, "status", "").await?;
    let line = coloured.lines().next().context("no line")?;
    ensure!(line.contains("\u{1b}[31mnot ready\u{1b}[0m"), "{coloured:?}");
    Ok(())
}
