//! A real etcd, kube-apiserver and kube-controller-manager on loopback ports.

pub mod audit;
pub mod binaries;
mod files;

use crate::process::{Process, tail};
use crate::{Cluster, eventually, kubeconfig, ports, target_dir};
use anyhow::{Context, Result, bail, ensure};
use audit::AuditEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use binaries::Binaries;
pub use files::{NODE, NextCa};
use hyper::http::Request;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::Api;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::OnceCell;

/// The issuer of every `ServiceAccount` token.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

const START: Duration = Duration::from_secs(90);
const GRACE: Duration = Duration::from_secs(3);
const CONTROLLERS: [&str; 8] = [
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "namespace-controller",
    "garbage-collector-controller",
    "root-ca-certificate-publisher-controller",
    "resourcequota-controller",
    "clusterrole-aggregation-controller",
    "validatingadmissionpolicy-status-controller",
];

/// Arguments beyond the usual ones; of a flag given twice the later one, from here, counts (lists are joined).
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// For kube-apiserver, for example `--service-account-max-token-expiration=1h`.
    pub apiserver: Vec<String>,
    /// For kube-controller-manager, for example `--controllers=token-cleaner-controller`.
    pub controller_manager: Vec<String>,
    /// The port of the API server; a free one if not given.
    pub port: Option<u16>,
    /// For etcd, for example `--quota-backend-bytes=33554432`.
    pub etcd: Vec<String>,
}

impl Profile {
    /// An API server that streams no lists, as by default in Kubernetes 1.30, 1.31 and 1.33.
    #[must_use]
    pub fn with_pages() -> Self {
        Self { apiserver: vec!["--feature-gates=WatchList=false".to_owned()], ..Self::default() }
    }
}

/// Which keys and issuers of `ServiceAccount` tokens the API server believes; it signs with the first of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signing {
    /// Names of keys; `sa` is there from the start, see [`ControlPlane::write_key`] for more.
    pub keys: Vec<String>,
    /// Issuers.
    pub issuers: Vec<String>,
}

impl Default for Signing {
    fn default() -> Self {
        Self { keys: vec!["sa".to_owned()], issuers: vec![ISSUER.to_owned()] }
    }
}

impl Signing {
    fn args(&self) -> impl Iterator<Item = String> {
        let signing = self.keys.iter().take(1).map(|key| format!("--service-account-signing-key-file={key}.key"));
        let believed = self.keys.iter().map(|key| format!("--service-account-key-file={key}.pub"));
        let issuers = self.issuers.iter().map(|issuer| format!("--service-account-issuer={issuer}"));
        signing.chain(believed).chain(issuers)
    }
}

/// One program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// etcd
    Etcd,
    /// kube-apiserver
    ApiServer,
    /// kube-controller-manager
    ControllerManager,
}

impl Component {
    const ALL: [Self; 3] = [Self::Etcd, Self::ApiServer, Self::ControllerManager];

    fn program(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
        }
    }

    fn log(self) -> &'static str {
        match self {
            Self::Etcd => "etcd.log",
            Self::ApiServer => "apiserver.log",
            Self::ControllerManager => "controller-manager.log",
        }
    }
}

/// A running control plane; everything it started ends when it is dropped, or when this process dies.
pub struct ControlPlane {
    cluster: Cluster,
    binaries: Binaries,
    profile: Profile,
    signing: Mutex<Signing>,
    etcd_port: u16,
    api_port: u16,
    processes: Mutex<BTreeMap<Component, Arc<Process>>>,
    // Last, so that the folder is free only when nothing runs in it.
    _claim: File,
}

/// The control plane that all tests of this test binary share, with the default profile.
///
/// # Errors
/// When it cannot be started.
pub async fn shared() -> Result<&'static ControlPlane> {
    static PLANE: OnceCell<ControlPlane> = OnceCell::const_new();
    let start = async || {
        let program = std::env::current_exe()?;
        let file = program.file_stem().context("a program without a name")?.to_string_lossy();
        // Each build has another hash in its name; its files take the place of the last one's.
        let name = file.rsplit_once('-').map_or(&*file, |(name, _)| name);
        ControlPlane::start(Profile::default(), target_dir().join("e2e").join(name)).await
    };
    PLANE.get_or_try_init(start).await
}

impl Deref for ControlPlane {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl ControlPlane {
    /// Starts a fresh control plane with all its files in `dir`, which must be empty, absent or an earlier one's.
    ///
    /// # Errors
    /// When the programs are missing, or do not work within 90 s; then with the end of the log.
    pub async fn start(profile: Profile, dir: impl AsRef<Path>) -> Result<Self> {
        let dir = std::path::absolute(dir)?;
        let binaries = tokio::task::spawn_blocking(Binaries::find).await??;
        for _ in 0..2 {
            match Self::try_start(&profile, &dir, &binaries).await {
                Err(_) if port_was_taken(&dir) => {}
                done => return done,
            }
        }
        Self::try_start(&profile, &dir, &binaries).await
    }

    async fn try_start(profile: &Profile, dir: &Path, binaries: &Binaries) -> Result<Self> {
        let claim = files::claim(dir)?;
        let clients = files::write(dir)?;
        let api_port = profile.port.map_or_else(ports::free, Ok)?;
        let plane = Self {
            cluster: Cluster {
                dir: dir.to_owned(),
                kubectl: binaries.path("kubectl")?.to_owned(),
                url: format!("https://127.0.0.1:{api_port}"),
                ca_pem: clients.ca_pem,
            },
            binaries: binaries.clone(),
            profile: profile.clone(),
            signing: Mutex::default(),
            etcd_port: ports::free()?,
            api_port,
            processes: Mutex::default(),
            _claim: claim,
        };
        plane.write_kubeconfig("kubeconfig", &clients.admin)?;
        plane.write_kubeconfig("controller-manager.kubeconfig", &clients.controller_manager)?;
        plane.write_kubeconfig("kubelet.kubeconfig", &clients.kubelet)?;
        for component in Component::ALL {
            plane.start_component(component).await?;
        }
        Ok(plane)
    }

    fn write_kubeconfig(&self, name: &str, identity: &crate::pki::Identity) -> Result<()> {
        let text = kubeconfig::with_certificate(&self.url(), self.ca_pem(), identity);
        Ok(fs::write(self.dir().join(name), text)?)
    }

    /// Stops everything: SIGTERM, after 3 s SIGKILL.
    ///
    /// # Errors
    /// When a process cannot be ended.
    pub async fn stop(&self) -> Result<()> {
        for component in Component::ALL.into_iter().rev() {
            self.stop_component(component).await?;
        }
        Ok(())
    }

    /// Stops one program: SIGTERM, after 3 s SIGKILL. A program that is not running is no error.
    ///
    /// # Errors
    /// When the process cannot be ended.
    pub async fn stop_component(&self, component: Component) -> Result<()> {
        let process = self.processes().remove(&component);
        if let Some(process) = process {
            process.stop(GRACE).await?;
        }
        Ok(())
    }

    /// Kills one program with SIGKILL.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill_component(&self, component: Component) -> Result<()> {
        self.process(component)?.kill()?;
        self.processes().remove(&component);
        Ok(())
    }

    /// Sends one program a signal, for example `STOP` or `CONT`.
    ///
    /// # Errors
    /// When it is not running.
    pub fn signal_component(&self, component: Component, signal: Signal) -> Result<()> {
        self.process(component)?.signal(signal)
    }

    /// Starts one stopped program, with the same ports, keys and data, and waits until it works.
    ///
    /// # Errors
    /// When it runs already, or does not work within 90 s.
    pub async fn start_component(&self, component: Component) -> Result<()> {
        ensure!(self.process(component).is_err(), "{component:?} runs already");
        let process = Process::spawn(component.program(), &mut self.command(component)?, &self.log(component))?;
        self.processes().insert(component, Arc::new(process));
        match component {
            // The API server waits for it.
            Component::Etcd => Ok(()),
            Component::ApiServer => self.wait_for(component, async || self.api_ready().await).await,
            Component::ControllerManager => self.wait_for(component, async || self.controllers_ready().await).await,
        }
    }

    /// Takes the API server down: SIGTERM, after 3 s SIGKILL.
    ///
    /// # Errors
    /// When the process cannot be ended.
    pub async fn apiserver_stop(&self) -> Result<()> {
        self.stop_component(Component::ApiServer).await
    }

    /// Brings the API server back on the same port with the same certificates.
    ///
    /// # Errors
    /// When it runs already, or does not work within 90 s.
    pub async fn apiserver_start(&self) -> Result<()> {
        self.start_component(Component::ApiServer).await
    }

    /// Makes a second key, for [`ControlPlane::sign_with`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_key(&self, name: &str) -> Result<()> {
        files::write_key(self.dir(), name)
    }

    /// Starts the API server anew with these keys and issuers.
    ///
    /// # Errors
    /// When it does not stop, or does not work within 90 s.
    pub async fn sign_with(&self, signing: Signing) -> Result<()> {
        self.apiserver_stop().await?;
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner) = signing;
        self.apiserver_start().await
    }

    /// Makes another CA for the certificate that the API server shows, and lets the administrator and the controllers trust
    /// both: clients that were made before trust the old one alone. Certificates of clients are not concerned.
    ///
    /// # Errors
    /// When a file cannot be written, or the controllers do not come back within 90 s.
    pub async fn next_ca(&self) -> Result<NextCa> {
        let next = files::next_ca()?;
        let both = format!("{}{}", self.ca_pem(), next.pem);
        for name in ["kubeconfig", "controller-manager.kubeconfig"] {
            kubeconfig::trust(&self.dir().join(name), &both)?;
        }
        self.stop_component(Component::ControllerManager).await?;
        self.start_component(Component::ControllerManager).await?;
        Ok(next)
    }

    /// Gives the API server a certificate of the other CA, which it takes up by itself.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn serve_with(&self, next: &NextCa) -> Result<()> {
        files::write_serving(self.dir(), &next.serving)
    }

    /// The process id of one program.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self, component: Component) -> Result<i32> {
        Ok(self.process(component)?.id())
    }

    /// Makes a Secret as old as this day. That happens in etcd, behind the API server's back, which lets nobody write a
    /// creation time.
    ///
    /// # Errors
    /// When there is no such Secret, or etcd does not take it.
    pub async fn age_secret(&self, namespace: &str, name: &str, day: &str) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client().await?, namespace);
        let mut secret = serde_json::to_value(secrets.get(name).await?)?;
        secret["metadata"]["creationTimestamp"] = json!(format!("{day}T00:00:00Z"));
        // The API server knows the version from etcd.
        secret["metadata"].as_object_mut().context("no metadata")?.remove("resourceVersion");
        let key = STANDARD.encode(format!("/registry/secrets/{namespace}/{name}"));
        let body = json!({"key": key, "value": STANDARD.encode(secret.to_string())}).to_string();
        let etcd = kube::Config::new(format!("http://127.0.0.1:{}", self.etcd_port).parse()?);
        let put = Request::post("/v3/kv/put").body(body.into_bytes())?;
        kube::Client::try_from(etcd)?.request_text(put).await.with_context(|| format!("storing {namespace}/{name}"))?;
        Ok(())
    }

    /// Every finished line of the audit log. A request's line may come a moment after its answer.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn audit(&self) -> Result<Vec<AuditEvent>> {
        let text = fs::read_to_string(self.dir().join("audit.log")).context("reading audit.log")?;
        audit::parse(&text).context("parsing audit.log")
    }

    async fn wait_for(&self, component: Component, check: impl AsyncFnMut() -> Result<()>) -> Result<()> {
        let process = self.process(component)?;
        let what = format!("{} works", component.program());
        tokio::select! {
            done = eventually(START, &what, check) => done.with_context(|| process.log_tail()),
            end = process.wait(2 * START) => bail!("{} ended: {end:?}\n{}", component.program(), process.log_tail()),
        }
    }

    async fn api_ready(&self) -> Result<()> {
        if let Some(status) = self.process(Component::Etcd)?.exited()? {
            bail!("etcd ended: {status}\n{}", tail(&self.log(Component::Etcd)));
        }
        self.client().await?.request_text(Request::get("/readyz").body(Vec::new())?).await?;
        Ok(())
    }

    async fn controllers_ready(&self) -> Result<()> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, "default");
        accounts.get("default").await?;
        Ok(())
    }

    fn process(&self, component: Component) -> Result<Arc<Process>> {
        self.processes().get(&component).cloned().with_context(|| format!("{component:?} is not running"))
    }

    fn processes(&self) -> MutexGuard<'_, BTreeMap<Component, Arc<Process>>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, component: Component) -> PathBuf {
        self.dir().join(component.log())
    }

    fn command(&self, component: Component) -> Result<Command> {
        let mut command = Command::new(self.binaries.path(component.program())?);
        let (usual, extra) = match component {
            Component::Etcd => (self.etcd_args(), &self.profile.etcd),
            Component::ApiServer => (self.apiserver_args(), &self.profile.apiserver),
            Component::ControllerManager => (self.controller_manager_args(), &self.profile.controller_manager),
        };
        command.args(usual).args(extra).current_dir(self.dir());
        Ok(command)
    }

    fn etcd_args(&self) -> Vec<String> {
        let url = format!("http://127.0.0.1:{}", self.etcd_port);
        vec![
            "--data-dir=etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            "--quota-backend-bytes=8589934592".to_owned(),
            "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
            format!("--listen-client-urls={url}"),
            format!("--advertise-client-urls={url}"),
        ]
    }

    fn apiserver_args(&self) -> Vec<String> {
        let fixed = [
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            // Otherwise it complains every few seconds that its address is a loopback one.
            "--endpoint-reconciler-type=none",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--tls-cert-file=apiserver.crt",
            "--tls-private-key-file=apiserver.key",
            "--client-ca-file=ca.crt",
            "--authorization-mode=RBAC",
            "--enable-bootstrap-token-auth",
            "--audit-policy-file=audit-policy.yaml",
            "--audit-log-path=audit.log",
            "--audit-log-mode=blocking",
            // Megabytes; the default of 100 would start a new file in the middle of a benchmark.
            "--audit-log-maxsize=100000",
        ];
        let mut args: Vec<String> = fixed.map(str::to_owned).to_vec();
        args.push(format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port));
        args.push(format!("--secure-port={}", self.api_port));
        args.extend(self.signing.lock().unwrap_or_else(PoisonError::into_inner).args());
        args
    }

    #[expect(clippy::unused_self, reason = "one shape for the three programs")]
    fn controller_manager_args(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            "--kubeconfig=controller-manager.kubeconfig",
            "--secure-port=0",
            "--leader-elect=false",
            "--root-ca-file=ca.crt",
            "--service-account-private-key-file=sa.key",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--resource-quota-sync-period=5s",
        ]
        .map(str::to_owned)
        .to_vec();
        args.push(format!("--controllers={}", CONTROLLERS.join(",")));
        args
    }
}

fn port_was_taken(dir: &Path) -> bool {
    let taken = |log: &str| tail(&dir.join(log)).contains("address already in use");
    Component::ALL.iter().any(|component| taken(component.log()))
}
