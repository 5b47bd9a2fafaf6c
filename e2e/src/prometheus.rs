//! Prometheus' own programs: the server, and promtool, which checks files and asks the server.

use crate::control_plane::binaries;
use crate::process::Process;
use crate::{eventually, ports, workspace_dir};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

/// Where promtool is. Its first build takes both cores for minutes, so nothing else is begun before it is there.
///
/// # Errors
/// When it cannot be built.
pub async fn program() -> Result<&'static Path> {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || spawn_blocking(binaries::promtool).await?;
    Ok(PROGRAM.get_or_try_init(find).await?)
}

/// Where the server is; as [`program`].
///
/// # Errors
/// As there.
pub async fn server() -> Result<PathBuf> {
    spawn_blocking(binaries::prometheus).await?
}

/// Runs promtool with `input` on its standard input, whatever its exit status.
///
/// # Errors
/// When it cannot be started.
pub async fn promtool<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>, input: &str) -> Result<Output> {
    let mut promtool = tokio::process::Command::new(program().await?);
    promtool.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.kill_on_drop(true).spawn().context("starting promtool")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    // It may end without having read it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}

/// As [`promtool`], for what succeeds: its output.
///
/// # Errors
/// When it fails, with what it said.
pub async fn promtool_ok<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Result<String> {
    let Output { status, stdout, stderr } = promtool(args, "").await?;
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(status.success(), "promtool: {status}\n{stdout}{stderr}");
    Ok(stdout)
}

/// The file with a CustomResourceDefinition of the Prometheus Operator, as its Go module has it.
///
/// # Errors
/// When Go cannot download the module.
pub fn crd(plural: &str) -> Result<PathBuf> {
    let mut go = Command::new("go");
    go.args(["mod", "download", "-json", "github.com/prometheus-operator/prometheus-operator"]);
    let output = go.current_dir(workspace_dir().join("e2e/prometheus-operator")).env("GOWORK", "off").output()?;
    ensure!(output.status.success(), "go mod download: {}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout)?;
    let module = Path::new(told["Dir"].as_str().context("no folder")?);
    Ok(module.join(format!("example/prometheus-operator-crd/monitoring.coreos.com_{plural}.yaml")))
}

/// A server that scrapes every second; dropping it kills it.
pub struct Prometheus {
    process: Process,
    url: String,
}

impl Prometheus {
    /// Scrapes what listens on this port of loopback, and evaluates this file of rules. `dir` is emptied before.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready after a minute.
    pub async fn start(program: &Path, dir: &Path, target: u16, rules: &str) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        fs::write(dir.join("rules.yaml"), rules)?;
        fs::write(dir.join("prometheus.yaml"), config(target).to_string())?;
        let address = format!("127.0.0.1:{}", ports::free()?);
        let mut command = Command::new(program);
        command.current_dir(dir).args(["--config.file=prometheus.yaml", "--storage.tsdb.path=data"]);
        command.arg(format!("--web.listen-address={address}"));
        let process = Process::spawn("prometheus", &mut command, &dir.join("prometheus.log"))?;
        let server = Self { process, url: format!("http://{address}") };
        let check = async || promtool_ok(["check", "ready", "--url", &server.url]).await;
        let ready = eventually(Duration::from_mins(1), "Prometheus is ready", check).await;
        ready.with_context(|| server.process.log_tail())?;
        Ok(server)
    }

    /// What an expression gives now: the samples of a vector.
    ///
    /// # Errors
    /// When it is no expression that gives a vector.
    pub async fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let answer = promtool_ok(["query", "instant", "--format=json", &self.url, expression]).await;
        Ok(serde_json::from_str(&answer.with_context(|| expression.to_owned())?)?)
    }
}

/// JSON is YAML.
fn config(port: u16) -> Value {
    let targets = [format!("127.0.0.1:{port}")];
    json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yaml"],
        // As the PodMonitor has it.
        "scrape_configs": [{"job_name": "tokenward", "honor_labels": true, "static_configs": [{"targets": targets}]}],
    })
}
