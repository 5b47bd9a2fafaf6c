//! A real node on a control plane: containerd, kubelet and scheduler, in namespaces of their own.

mod cgroups;
pub mod isolation;
mod packages;

use crate::control_plane::NODE;
use crate::control_plane::binaries::Binaries;
use crate::image::{File, Image};
use crate::process::Process;
use crate::{ControlPlane, Profile, eventually, target_dir};
use anyhow::{Context, Result, ensure};
use packages::{Packages, libraries, run};
use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The image of the test's own pods: `pause`, which holds a pod's namespaces, and `consume`.
pub const POD_IMAGE: &str = "localhost/pod:v1";
const START: Duration = Duration::from_mins(1);
const SOCKET: &str = "/run/containerd/containerd.sock";
const ADDRESS: &str = "10.88.0.1";
/// What Deployments and nodes need besides the usual controllers; lists of the same flag are joined.
const CONTROLLERS: &str = "--controllers=deployment-controller,replicaset-controller,node-lifecycle-controller,\
                           disruption-controller,pod-garbage-collector-controller";

/// Everything of the node, and what it leaves behind for whoever looks for the cause of a failure.
fn dir() -> PathBuf {
    target_dir().join("node")
}

/// A control plane with a node that is ready.
pub struct Node {
    /// Ends first.
    processes: Vec<Process>,
    packages: Packages,
    plane: ControlPlane,
}

impl Deref for Node {
    type Target = ControlPlane;

    fn deref(&self) -> &ControlPlane {
        &self.plane
    }
}

/// Downloads and builds what is not there, as the node's namespaces have no network.
///
/// # Errors
/// When it cannot be had.
pub fn prepare() -> Result<()> {
    fs::create_dir_all(dir())?;
    Packages::find()?;
    Binaries::find()?;
    Binaries::find_node()?;
    Ok(())
}

impl Node {
    /// Starts everything; `pod` is the program in [`POD_IMAGE`]. Only in namespaces made by [`isolation`].
    ///
    /// # Errors
    /// When something does not work within a minute, with its last words.
    pub async fn start(pod: &Path) -> Result<Self> {
        let profile = Profile {
            // Pods reach it at the Service's address, with nobody in between.
            port: Some(443),
            apiserver: vec![
                "--bind-address=0.0.0.0".to_owned(),
                format!("--advertise-address={ADDRESS}"),
                "--authorization-mode=Node".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--allow-privileged".to_owned(),
                "--kubelet-preferred-address-types=InternalIP".to_owned(),
            ],
            controller_manager: vec![CONTROLLERS.to_owned()],
            ..Profile::default()
        };
        let plane = ControlPlane::start(profile, dir().join("plane")).await?;
        let mut node = Self { processes: Vec::new(), packages: Packages::find()?, plane };
        node.start_containerd().await?;
        node.load(&pod_image(pod)?.archive()?.0)?;
        node.start_kubelet().await?;
        Ok(node)
    }

    async fn start_containerd(&mut self) -> Result<()> {
        let config = include_str!("containerd.toml")
            .replace("STATE", &fresh("containerd")?.to_string_lossy())
            .replace("CNI_PLUGINS", &self.packages.path("usr/lib/cni").to_string_lossy())
            .replace("CNI_CONFIG", &fresh("cni")?.to_string_lossy())
            .replace("POD_IMAGE", POD_IMAGE);
        fs::write(dir().join("cni/node.conflist"), include_str!("cni.json"))?;
        fs::write(dir().join("containerd.toml"), config)?;
        let mut containerd = Command::new(self.packages.path("usr/bin/containerd"));
        // It looks for runc and its shim where programs are.
        let path = std::env::var("PATH").unwrap_or_default();
        let path =
            format!("{}:{}:{path}", self.packages.path("usr/bin").display(), self.packages.path("usr/sbin").display());
        self.spawn("containerd", containerd.env("PATH", path).arg("--config").arg(dir().join("containerd.toml")))?;
        let answers = async || run(self.ctr().arg("version"));
        eventually(START, "containerd works", answers).await.with_context(|| self.last_words())
    }

    async fn start_kubelet(&mut self) -> Result<()> {
        let binaries = Binaries::find_node()?;
        let kubeconfig = |name: &str| format!("--kubeconfig={}", self.dir().join(name).display());
        let mut scheduler = Command::new(binaries.path("kube-scheduler")?);
        scheduler.arg(kubeconfig("kubeconfig")).args(["--leader-elect=false", "--secure-port=0"]);
        fs::write(dir().join("resolv.conf"), "nameserver 127.0.0.1\n")?;
        let config = include_str!("kubelet.yaml")
            .replace("CGROUP", cgroups::NAME)
            .replace("SOCKET", SOCKET)
            .replace("RESOLV_CONF", &dir().join("resolv.conf").to_string_lossy());
        fs::write(dir().join("kubelet.yaml"), config)?;
        let mut kubelet = Command::new(binaries.path("kubelet")?);
        kubelet.arg(kubeconfig("kubelet.kubeconfig")).arg("--config").arg(dir().join("kubelet.yaml"));
        kubelet.args([format!("--hostname-override={NODE}"), format!("--node-ip={ADDRESS}")]);
        self.spawn("kube-scheduler", &mut scheduler)?;
        self.spawn("kubelet", &mut kubelet)?;
        let ready = ["wait", "--for=condition=Ready", "--timeout=5s", &format!("node/{NODE}")].map(str::to_owned);
        let check = async || self.kubectl_ok(&ready).await.map(drop);
        eventually(START, "the node is ready", check).await.with_context(|| self.last_words())
    }

    fn spawn(&mut self, name: &str, command: &mut Command) -> Result<()> {
        let log = dir().join(format!("{name}.log"));
        fs::write(&log, "")?;
        self.processes.push(Process::spawn(name, command, &log)?);
        Ok(())
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new(self.packages.path("usr/bin/ctr"));
        ctr.args(["--address", SOCKET, "--namespace", "k8s.io"]);
        ctr
    }

    /// Puts an archive with an image on the node.
    ///
    /// # Errors
    /// When containerd does not take it.
    pub fn load(&self, image: &[u8]) -> Result<()> {
        let archive = dir().join("image.tar");
        fs::write(&archive, image)?;
        run(self.ctr().args(["images", "import"]).arg(archive))
    }

    /// The ends of all logs.
    #[must_use]
    pub fn last_words(&self) -> String {
        self.processes.iter().map(Process::log_tail).collect::<Vec<_>>().join("\n")
    }
}

/// An empty folder of the node.
fn fresh(name: &str) -> Result<PathBuf> {
    let folder = dir().join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The program with the libraries that it is linked with.
fn pod_image(program: &Path) -> Result<Image> {
    let stripped = dir().join("pod");
    run(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
    let mut files = vec![File { path: "pod".into(), content: fs::read(&stripped)?, mode: 0o755 }];
    for library in libraries(&stripped)? {
        let path = library.to_string_lossy().trim_start_matches('/').to_owned();
        files.push(File { path, content: fs::read(&library)?, mode: 0o755 });
    }
    ensure!(files.len() > 1, "{} is linked with nothing: is it the right one?", program.display());
    let entrypoint = vec!["/pod".to_owned(), "pause".to_owned()];
    Ok(Image { name: POD_IMAGE.into(), user: "65532:65532".into(), entrypoint, files })
}
