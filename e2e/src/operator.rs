//! The operator under test: a process with its own `ServiceAccount`'s token.

use crate::cluster::printed;
use crate::control_plane::ISSUER;
use crate::leak::{Finding, Scanner};
use crate::poll::eventually_every;
use crate::process::Process;
use crate::proxy::Told;
use crate::{Cluster, Component, ControlPlane, Proxy, eventually, http, kubeconfig, ports, target_dir, workspace_dir};
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::api::{Api, PostParams};
use rustix::process::Signal;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The namespace that Tokenward is installed in.
pub const NAMESPACE: &str = "tokenward-system";
/// Tokenward's own `ServiceAccount`.
pub const ACCOUNT: &str = "tokenward";

/// How to start an operator.
#[derive(Default)]
pub struct Options<'a> {
    /// Names its files; operators in one folder need different names. Empty: `operator`.
    pub name: String,
    /// Where its kubeconfig and log go.
    pub dir: PathBuf,
    /// Talk through this proxy rather than to the API server.
    pub via: Option<&'a Proxy>,
    /// The namespaces to govern; none means all.
    pub namespaces: Vec<String>,
    /// More arguments.
    pub args: Vec<String>,
    /// More environment, for example `RUST_LOG`.
    pub env: Vec<(String, String)>,
    /// The namespace of its kubeconfig's context, where its lease is. Empty: none.
    pub home: String,
    /// Reach the API server at this URL rather than at its own.
    pub server: Option<String>,
    /// The file with the CA that it trusts, which may change, rather than the one of the API server or proxy.
    pub ca_file: Option<PathBuf>,
    /// Run this program rather than `TOKENWARD_BIN` or the release build.
    pub program: Option<PathBuf>,
    /// Authenticate with this token rather than with a fresh one of the installed account.
    pub token: Option<SecretString>,
}

/// An operator's process; dropping it kills it, and panics when it has ever told a token.
pub struct Operator {
    command: Recipe,
    running: Mutex<Running>,
    told: Option<Told>,
}

/// What every start has in common.
struct Recipe {
    program: PathBuf,
    name: String,
    dir: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

#[derive(Clone)]
struct Running {
    process: Arc<Process>,
    metrics: u16,
    health: u16,
}

impl Operator {
    /// Starts the operator (`TOKENWARD_BIN`, else the release build); see [`Operator::ready`].
    ///
    /// # Errors
    /// When there is no program, no token, or no place for its files.
    pub async fn start(cluster: &Cluster, options: Options<'_>) -> Result<Self> {
        let token = match options.token {
            Some(token) => token,
            None => token(cluster, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?,
        };
        let name = if options.name.is_empty() { "operator".to_owned() } else { options.name };
        fs::create_dir_all(&options.dir)?;
        let dir = std::path::absolute(options.dir)?;
        let (url, ca) = match options.via {
            Some(proxy) => (proxy.url().to_owned(), proxy.ca_pem()),
            None => (cluster.url(), cluster.ca_pem()),
        };
        let url = options.server.unwrap_or(url);
        let file = dir.join(format!("{name}.token"));
        fs::write(&file, token.expose_secret())?;
        let text = match &options.ca_file {
            Some(ca) => kubeconfig::with_files(&url, ca, &file, &options.home),
            None => kubeconfig::with_token_file(&url, ca, &file, &options.home),
        };
        fs::write(dir.join(format!("{name}.kubeconfig")), text)?;
        let mut args: Vec<String> = options.namespaces.iter().map(|name| format!("--namespace={name}")).collect();
        args.extend(options.args);
        let program = options.program.map_or_else(program, Ok)?;
        let command = Recipe { program, name, dir, args, env: options.env };
        let running = Mutex::new(command.spawn()?);
        Ok(Self { command, running, told: options.via.map(Proxy::told) })
    }

    /// Tokens in its log, in its metrics, or in what it told the API server through a proxy, other than as data of a Secret.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn leaks(&self) -> Result<Vec<Finding>> {
        let mut texts = vec![(self.log_path().display().to_string(), fs::read(self.log_path())?)];
        // Who has ended, sleeps or never began has no metrics to show.
        texts.extend(self.last_metrics().ok().map(|text| ("/metrics".to_owned(), text)));
        if let Some(told) = &self.told {
            return told.leaks(&texts);
        }
        let scanner = Scanner::new([], ISSUER)?;
        Ok(texts.iter().flat_map(|(name, text)| scanner.scan(name, text)).collect())
    }

    /// As [`Operator::metrics`], where nothing can be awaited.
    fn last_metrics(&self) -> Result<Vec<u8>> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.running().metrics));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        // It answers within 1 s also when it is busy.
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(text)
    }

    /// Waits until `/readyz` answers 200, and returns how long that took from the start of the process.
    ///
    /// # Errors
    /// After 60 s, with the last answer; at once when the process ends.
    pub async fn ready(&self) -> Result<Duration> {
        let process = self.running().process;
        let check = async || {
            let (status, body) = self.readyz().await?;
            ensure!(status == 200, "/readyz: {status} {body}");
            Ok(process.started().elapsed())
        };
        let pause = Duration::from_millis(10);
        tokio::select! {
            done = eventually_every(pause, Duration::from_mins(1), "the operator is ready", check) => {
                done.with_context(|| process.log_tail())
            }
            end = process.wait(Duration::from_mins(2)) => bail!("it ended: {end:?}\n{}", process.log_tail()),
        }
    }

    /// Status and body of `/readyz`.
    ///
    /// # Errors
    /// When nothing answers.
    pub async fn readyz(&self) -> Result<(u16, String)> {
        http::get(&format!("http://127.0.0.1:{}/readyz", self.running().health)).await
    }

    /// The text of `/metrics`.
    ///
    /// # Errors
    /// When nothing answers, or not with 200.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.metrics_as(None).await?.1)
    }

    /// `Content-Type` and text of `/metrics`, asked for with this `Accept`.
    ///
    /// # Errors
    /// When nothing answers, or not with 200.
    pub async fn metrics_as(&self, accept: Option<&str>) -> Result<(String, String)> {
        let url = format!("http://127.0.0.1:{}/metrics", self.running().metrics);
        let http::Answer { status, content_type, body } = http::get_as(&url, accept).await?;
        ensure!(status == 200, "/metrics: {status} {body}");
        Ok((content_type, body))
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.running().process.kill()
    }

    /// SIGTERM; returns how it ended and how long that took.
    ///
    /// # Errors
    /// When it has ended before, or still runs after 60 s.
    pub async fn terminate(&self) -> Result<(ExitStatus, Duration)> {
        let process = self.running().process;
        let start = Instant::now();
        process.signal(Signal::TERM)?;
        let status = process.wait(Duration::from_mins(1)).await?;
        let status = status.with_context(|| format!("still running 60 s after SIGTERM\n{}", process.log_tail()))?;
        Ok((status, start.elapsed()))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.running().process.signal(signal)
    }

    /// Stops it as if its machine slept.
    ///
    /// # Errors
    /// When it has ended.
    pub fn sigstop(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn sigcont(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Starts it again with the same kubeconfig, killing it first if it still runs.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&self) -> Result<()> {
        self.kill9()?;
        let next = self.command.spawn()?;
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Gives it another token, as the kubelet does: it reads the file again within a minute.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn refresh_token(&self, token: &SecretString) -> Result<()> {
        let file = self.command.dir.join(format!("{}.token", self.command.name));
        let fresh = file.with_extension("token.new");
        fs::write(&fresh, token.expose_secret())?;
        Ok(fs::rename(fresh, file)?)
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        self.running().process.exited()
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.running().process.id()
    }

    /// Where it serves metrics and health.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        let running = self.running();
        (running.metrics, running.health)
    }

    /// The file with its output, of all starts.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.command.log()
    }

    /// Its output so far, of all starts.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(self.log_path())?).into_owned())
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn rss_kib(&self) -> Result<u64> {
        self.proc_status("VmRSS:")
    }

    /// The most resident memory it ever had, in KiB.
    ///
    /// # Errors
    /// When it has ended.
    pub fn peak_rss_kib(&self) -> Result<u64> {
        self.proc_status("VmHWM:")
    }

    /// CPU time of the process so far, in user and kernel mode, in hundredths of a second.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // proc(5): the name may hold blanks, and ends with the last parenthesis; utime and stime are fields 14 and 15.
        let fields = text.rsplit_once(')').map(|(_, fields)| fields.split_whitespace()).context("no fields")?;
        let ticks = fields.skip(11).take(2).map(|field| Ok(field.parse::<u64>()?)).sum::<Result<u64>>()?;
        // Linux tells user space of 100 ticks a second on every architecture that we build for.
        Ok(Duration::from_millis(ticks * 10))
    }

    fn proc_status(&self, field: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        let value = value.and_then(|value| value.split_whitespace().next());
        Ok(value.with_context(|| format!("no {field} for {}", self.command.name))?.parse()?)
    }

    fn running(&self) -> Running {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let leaks = self.leaks();
        let none = matches!(&leaks, Ok(found) if found.is_empty());
        // A scenario that leaks must fail, and here no error can be returned.
        assert!(none || std::thread::panicking(), "token text was told: {leaks:#?}");
    }
}

impl Recipe {
    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    fn spawn(&self) -> Result<Running> {
        let (metrics, health) = (ports::free()?, ports::free()?);
        let mut command = Command::new(&self.program);
        let names = std::env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| is_setting(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.arg("run").args(&self.args);
        command.arg(format!("--metrics-bind-address=127.0.0.1:{metrics}"));
        command.arg(format!("--health-probe-bind-address=127.0.0.1:{health}"));
        command.env("KUBECONFIG", self.dir.join(format!("{}.kubeconfig", self.name))).envs(self.env.iter().cloned());
        let process = Process::spawn(&self.name, &mut command, &self.log())?;
        Ok(Running { process: Arc::new(process), metrics, health })
    }
}

fn is_setting(name: &str) -> bool {
    name.starts_with("KUBE") || name.starts_with("TOKENWARD_")
}

/// The operator's binary: `TOKENWARD_BIN`, else the release build.
///
/// # Errors
/// When it is not there; the message says what to do.
pub fn program() -> Result<PathBuf> {
    let chosen = std::env::var_os("TOKENWARD_BIN").map(PathBuf::from);
    let path = chosen.unwrap_or_else(|| target_dir().join("release/tokenward"));
    ensure!(path.is_file(), "{} is missing: run `make build`, or set TOKENWARD_BIN", path.display());
    Ok(path)
}

/// A token of any `ServiceAccount`, asked for as administrator, unbound, for the API server's own audience.
///
/// # Errors
/// When the API server gives none.
pub async fn token(cluster: &Cluster, namespace: &str, account: &str, life: Duration) -> Result<SecretString> {
    let accounts: Api<ServiceAccount> = Api::namespaced(cluster.client().await?, namespace);
    let spec = TokenRequestSpec { expiration_seconds: Some(life.as_secs().try_into()?), ..Default::default() };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let answer = accounts.create_token_request(account, &PostParams::default(), &request).await;
    let answer = answer.with_context(|| format!("a token for {namespace}/{account}"))?;
    Ok(SecretString::from(answer.status.context("a TokenRequest without status")?.token))
}

/// Installs `config/install`: the CRDs, the namespace, the RBAC and all else that is shipped.
///
/// # Errors
/// When kubectl fails, or the API server or the garbage collector do not take notice within 30 s.
pub async fn install(plane: &ControlPlane) -> Result<()> {
    apply_overlay(plane, "config/install").await?;
    kinds_are_known(plane).await
}

/// Waits until the API server and the garbage collector know the kinds that were just installed.
///
/// # Errors
/// When they do not within 40 s.
pub async fn kinds_are_known(plane: &ControlPlane) -> Result<()> {
    plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
    // The garbage collector looks for new kinds every 30 s, and when it starts.
    plane.stop_component(Component::ControllerManager).await?;
    plane.start_component(Component::ControllerManager).await?;
    garbage_collector_knows(plane, "tokenward.dev/v1alpha1", "TokenPolicy").await
}

/// `kubectl apply --server-side -k` of a folder, of the repository where the path is relative.
///
/// # Errors
/// When kubectl fails, with what it said.
pub async fn apply_overlay(plane: &ControlPlane, folder: impl AsRef<Path>) -> Result<()> {
    let path = workspace_dir().join(folder);
    let output = plane.kubectl(["apply", "--server-side", "-k", &path.to_string_lossy()]).await?;
    printed(&output).with_context(|| format!("applying {}", path.display()))?;
    Ok(())
}

/// Waits until the garbage collector removes dependents of this kind, by giving it an orphan.
///
/// # Errors
/// When the orphan is still there after 40 s.
pub async fn garbage_collector_knows(plane: &ControlPlane, api_version: &str, kind: &str) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(plane.client().await?, "default");
    let owner = json!({"apiVersion": api_version, "kind": kind, "name": "none", "uid": "00000000-none"});
    let orphan = json!({"metadata": {"generateName": "gc-probe-", "ownerReferences": [owner]}});
    let orphan = maps.create(&PostParams::default(), &serde_json::from_value(orphan)?).await?;
    let name = orphan.metadata.name.context("no name")?;
    let gone = async || {
        ensure!(maps.get_opt(&name).await?.is_none(), "the orphan of {kind} is still there");
        Ok(())
    };
    eventually(Duration::from_secs(40), "the garbage collector works", gone).await
}
