//! What the operator says is what Prometheus' own checker accepts.

use anyhow::{Result, ensure};
use std::process::Output;
use tokenward_e2e::prometheus::{program, promtool};
use tokenward_e2e::scene::Scene;

/// That promtool finds nothing to say.
async fn passes(scrape: &str) -> Result<()> {
    let Output { status, stdout, stderr } = promtool(["check", "metrics"], scrape).await?;
    let said = [stdout, stderr].concat();
    ensure!(status.success() && said.is_empty(), "{status}: {}\n{scrape}", String::from_utf8_lossy(&said));
    Ok(())
}

#[tokio::test]
async fn promtool_accepts_an_empty_operator_and_one_with_a_history() -> Result<()> {
    program().await?;
    let scene = Scene::start("promtool").await?;
    passes(&scene.operator.metrics().await?).await?;
    scene.story().await?;
    scene.counts("tokens_published_total", &[("reason", "AnchorDeleted")], 1.0).await?;
    passes(&scene.operator.metrics().await?).await
}

#[tokio::test]
async fn promtool_finds_what_is_wrong() -> Result<()> {
    let unnamed = promtool(["check", "metrics"], "# TYPE tokenward_tokens counter\ntokenward_tokens 1\n").await?;
    assert!(!unnamed.status.success(), "{unnamed:?}");
    let garbage = promtool(["check", "metrics"], "tokenward_tokens{ 1\n").await?;
    assert!(!garbage.status.success(), "{garbage:?}");
    Ok(())
}
