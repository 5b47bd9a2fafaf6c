//! `kubectl tokenward`, run by kubectl on a real control plane.

mod audit;
mod basics;
mod migrate;
mod order;
mod print;
mod status;
mod verify;

use anyhow::{Context, Result, ensure};
use std::process::{Output, Stdio};
use tokenward_e2e::plugin::search_path;
use tokenward_e2e::scene::Scene;

/// What the plugin printed, what it said besides, and its exit code.
#[derive(Debug)]
struct Said {
    out: String,
    aside: String,
    code: Option<i32>,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { out: text(&output.stdout), aside: text(&output.stderr), code: output.status.code() }
    }
}

/// Runs `kubectl tokenward` in the namespace of a scene, whatever comes of it.
async fn said(scene: &Scene, line: &str) -> Result<Said> {
    said_of(scene, line, "").await
}

/// As [`said`], with this on its standard input.
async fn said_of(scene: &Scene, line: &str, input: &str) -> Result<Said> {
    let args = ["tokenward", "-n", &scene.namespace].into_iter().chain(line.split(' '));
    Ok(scene.plane.kubectl_with(args, input).await?.into())
}

/// As [`said`], and expects that it works.
async fn ok(scene: &Scene, line: &str) -> Result<String> {
    let said = said(scene, line).await?;
    ensure!(said.code == Some(0), "{line}: {said:?}");
    Ok(said.out)
}

/// As [`said`], and expects an error.
async fn error(scene: &Scene, line: &str) -> Result<String> {
    let said = said(scene, line).await?;
    ensure!(said.code == Some(1) && said.out.is_empty() && said.aside.contains("error: "), "{line}: {said:?}");
    Ok(said.aside)
}

/// Runs the plugin on a terminal (script of util-linux makes one), and types this.
async fn on_terminal(scene: &Scene, line: &str, typed: &str) -> Result<String> {
    let command = format!("{} tokenward -n {} {line}", scene.plane.kubectl_path().display(), scene.namespace);
    let mut script = tokio::process::Command::new("script");
    script.args(["--quiet", "--return", "--command", &command, "/dev/null"]);
    script.env("PATH", search_path()).env("KUBECONFIG", scene.plane.kubeconfig()).env_remove("NO_COLOR");
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = script.spawn().context("script")?;
    let mut stdin = child.stdin.take().context("no input")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, typed.as_bytes()).await?;
    let output = child.wait_with_output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
