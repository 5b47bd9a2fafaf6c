//! `audit`.

use super::{error, ok, said};
use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use serde_json::Value;
use std::fs::{self, File};
use std::io::Write as _;
use std::time::Duration;
use tokenward_e2e::scene::{Scene, Target, claims};

/// A token that is used before and after it is replaced, its successor, and the id of a token that no policy knows.
async fn history(scene: &Scene) -> Result<(Target, Target, String)> {
    let first = scene.deployer(serde_json::json!({"rotation": {"overlap": "1h"}})).await?;
    scene.bearer(first.token()).await?.lives().await?;
    let second = scene.rotated("1", &first).await?;
    // Tokens tell their issue in whole seconds, so what is late shows a second later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let free = scene.plane.kubectl_ok(["-n", &scene.namespace, "create", "token", "deployer"]).await?;
    for token in [first.token(), second.token(), free.trim()] {
        scene.bearer(token).await?.get(&scene.config_maps()).await?;
    }
    let id = claims(free.trim())?["jti"].as_str().context("no jti")?.to_owned();
    Ok((first, second, id))
}

/// What is told of one token.
fn of<'a>(uses: &'a Value, id: &str) -> Result<&'a Value> {
    let found = uses.as_array().and_then(|uses| uses.iter().find(|found| found["id"] == id));
    found.with_context(|| format!("no {id} in {uses:#}"))
}

#[tokio::test]
async fn requests_are_joined_to_policies_and_late_users_are_named() -> Result<()> {
    let scene = Scene::start("plugin-audit").await?;
    let (first, second, free) = history(&scene).await?;
    let log = scene.plane.dir().join("audit.log");
    let line = format!("audit {}", log.display());
    let uses: Value = serde_json::from_str(&ok(&scene, &format!("{line} -o json")).await?)?;
    ensure!(uses.as_array().is_some_and(|uses| uses.len() == 3), "{uses:#}");
    let late = of(&uses, first.token_id())?;
    ensure!(late["requests"] == 2 && late["lateRequests"] == 1, "{late:#}");
    ensure!(late["known"]["policy"] == "p" && late["addresses"]["values"][0] == "127.0.0.1", "{late:#}");
    let current = of(&uses, second.token_id())?;
    ensure!(
        current["known"]["diesAt"].is_null() && current["verbs"]["values"] == serde_json::json!(["list"]),
        "{current:#}"
    );
    let unknown = of(&uses, &free)?;
    ensure!(unknown["known"].is_null() && unknown["requestedBy"] == "tokenward-e2e-admin", "{unknown:#}");

    let text = ok(&scene, &line).await?;
    let head = format!(
        "system:serviceaccount:plugin-audit:deployer  {}\n├─ policy plugin-audit/p, previous token",
        first.token_id()
    );
    ensure!(text.starts_with(&head) && text.contains("after it was replaced: this consumer breaks in 59m"), "{text}");
    Ok(())
}

#[tokio::test]
async fn a_log_is_read_compressed_and_without_a_cluster() -> Result<()> {
    let scene = Scene::start("plugin-audit-gz").await?;
    let (first, ..) = history(&scene).await?;
    let (log, packed) = (scene.plane.dir().join("audit.log"), scene.plane.dir().join("plugin-audit.log.gz"));
    let mut gzip = GzEncoder::new(File::create(&packed)?, Compression::fast());
    gzip.write_all(&fs::read(&log)?)?;
    gzip.write_all(b"no event\n")?;
    gzip.finish()?;
    let told = said(&scene, &format!("audit {} --kubeconfig /none -o json", packed.display())).await?;
    ensure!(
        told.code == Some(0) && told.aside.contains("Tokens are not joined to policies: reading the kubeconfig"),
        "{told:?}"
    );
    ensure!(told.aside.contains("1 line is no audit event."), "{told:?}");
    let uses: Value = serde_json::from_str(&told.out)?;
    let late = of(&uses, first.token_id())?;
    ensure!(late["known"].is_null() && late["requests"] == 2, "{late:#}");
    ensure!(late["requestedBy"] == "system:serviceaccount:tokenward-system:tokenward", "{late:#}");
    ensure!(error(&scene, "audit /none").await?.contains("reading /none"));
    // A log that ends in the middle is shown up to there.
    let whole = fs::read(&packed)?;
    fs::write(&packed, &whole[..whole.len() - 4])?;
    let cut = said(&scene, &format!("audit {} /none -o json", packed.display())).await?;
    let uses: Value = serde_json::from_str(&cut.out)?;
    ensure!(of(&uses, first.token_id())?["requests"] == 2, "{uses:#}");
    let named = |path: &str| cut.aside.contains(&format!("error: reading {path}: "));
    ensure!(cut.code == Some(1) && named(&packed.display().to_string()) && named("/none"), "{cut:?}");
    Ok(())
}
