//! What the operator says is what Prometheus' own checker accepts.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokenward_e2e::control_plane::binaries;
use tokenward_e2e::scene::Scene;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;

/// Where promtool is. Its first build takes both cores for minutes, so nothing else is begun before it is there.
async fn program() -> Result<&'static Path> {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || tokio::task::spawn_blocking(binaries::promtool).await?;
    Ok(PROGRAM.get_or_try_init(find).await?)
}

/// `promtool check metrics` of a scrape.
async fn promtool(scrape: &str) -> Result<Output> {
    let mut promtool = tokio::process::Command::new(program().await?);
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.kill_on_drop(true).spawn().context("starting promtool")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(scrape.as_bytes()).await?;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}

/// That promtool finds nothing to say.
async fn passes(scrape: &str) -> Result<()> {
    let Output { status, stdout, stderr } = promtool(scrape).await?;
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
    let unnamed = promtool("# TYPE tokenward_tokens counter\ntokenward_tokens 1\n").await?;
    assert!(!unnamed.status.success(), "{unnamed:?}");
    let garbage = promtool("tokenward_tokens{ 1\n").await?;
    assert!(!garbage.status.success(), "{garbage:?}");
    Ok(())
}
