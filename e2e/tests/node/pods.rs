//! The operator's pods, seen from the node.

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::node::Node;
use tokenward_e2e::operator::NAMESPACE;

/// A new leader is there 19 s after the death of the old one.
const SOON: Duration = Duration::from_mins(1);

/// Who holds the lease: the pod's name, and something that each of its processes draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader(String);

impl Leader {
    /// The name of its pod.
    pub fn pod(&self) -> &str {
        self.0.split_once('_').map_or(&self.0, |(pod, _)| pod)
    }
}

async fn leads_now(node: &Node) -> Result<Leader> {
    let lease = ["-n", NAMESPACE, "get", "lease", "tokenward", "-o", "jsonpath={.spec.holderIdentity}"];
    let holder = node.kubectl_ok(lease).await?;
    ensure!(!holder.is_empty(), "nobody holds the lease");
    Ok(Leader(holder))
}

/// Waits for a leader.
pub async fn leader(node: &Node) -> Result<Leader> {
    eventually(SOON, "one of two replicas leads", async || leads_now(node).await).await
}

async fn another_leads_now(node: &Node, before: &Leader) -> Result<Leader> {
    let now = leads_now(node).await?;
    ensure!(now.pod() != before.pod(), "{} leads", now.0);
    Ok(now)
}

/// Waits until another pod leads.
pub async fn led_by_another(node: &Node, before: &Leader) -> Result<Leader> {
    eventually(SOON, "another pod leads", async || another_leads_now(node, before).await).await
}

/// Kills the leader's process, which has no time to say goodbye, until another pod leads: the kubelet starts it again, and it
/// could be the first to see the lease expire.
pub async fn dies(node: &Node, leader: &Leader) -> Result<Leader> {
    kill(leader)?;
    let check = async || {
        // It is not always there.
        let _ = kill(leader);
        another_leads_now(node, leader).await
    };
    eventually(SOON, "another pod leads", check).await
}

/// The folders in /proc of the operator's processes: those of the Deployment's two pods.
pub async fn operators(node: &Node) -> Result<Vec<PathBuf>> {
    let names = ["-n", NAMESPACE, "get", "pods", "-o", "jsonpath={.items[*].metadata.name}"];
    let names = node.kubectl_ok(names).await?;
    let found: Vec<PathBuf> = names.split_whitespace().map(process).collect::<Result<_>>()?;
    ensure!(found.len() == 2, "pods: {names}");
    Ok(found)
}

/// The folder in /proc of the operator in this pod.
fn process(pod: &str) -> Result<PathBuf> {
    for entry in fs::read_dir("/proc")? {
        let folder = entry?.path();
        let reads = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        if reads("cmdline").starts_with("/tokenward\0")
            && reads("environ").split('\0').any(|set| set == format!("HOSTNAME={pod}"))
        {
            return Ok(folder);
        }
    }
    bail!("no process of pod {pod}")
}

fn kill(leader: &Leader) -> Result<()> {
    let folder = process(leader.pod())?;
    let pid = folder.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
    Ok(kill_process(pid.context("no process id")?, Signal::KILL)?)
}

/// The kernel holds the process to what the Deployment says.
pub fn confined(process: &Path) -> Result<()> {
    let status = fs::read_to_string(process.join("status"))?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    for (name, wanted) in [
        ("Uid:", "65532\t65532\t65532\t65532"),
        ("Gid:", "65532\t65532\t65532\t65532"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("NoNewPrivs:", "1"),
        // A filter, that of the runtime.
        ("Seccomp:", "2"),
    ] {
        ensure!(line(name) == wanted, "{name} {} and not {wanted}", line(name));
    }
    let written = fs::write(process.join("root/written"), "").err().map(|error| error.kind());
    ensure!(written == Some(std::io::ErrorKind::ReadOnlyFilesystem), "its root can be written: {written:?}");
    Ok(())
}
