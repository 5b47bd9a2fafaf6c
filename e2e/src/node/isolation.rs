//! A node needs a machine's namespaces for itself: the test runs itself a second time, in private ones, whose end takes
//! everything with it that was started there.

use super::cgroups::{self, Cgroups};
use super::dir;
use super::packages::run;
use crate::process::Process;
use crate::workspace_dir;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

const INSIDE: &str = "TOKENWARD_NODE";
const NAMESPACES: [&str; 8] =
    ["--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", "--propagation=private"];
/// It takes two minutes; this is for when it hangs.
const PATIENCE: Duration = Duration::from_mins(15);

/// Whether this process runs in the node's namespaces.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why there can be no node on this machine, if so.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let missing = ["apt-get", "dpkg-deb", "ip", "mount", "strip", "unshare"].into_iter().find(|name| !is_there(name));
    if let Some(name) = missing {
        return Some(format!("it needs {name}"));
    }
    let mut namespaces = Command::new("unshare");
    let tried = run(namespaces.args(NAMESPACES).args(["mount", "-t", "tmpfs", "tmpfs", "/run"]));
    tried.err().map(|error| format!("{error:#}")).or_else(cgroups::obstacle)
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs the test of this name again, in namespaces of its own.
///
/// # Errors
/// When it fails there, with the end of what it said.
pub async fn rerun(test: &str) -> Result<()> {
    // The cgroups are the machine's: two nodes take turns.
    let turn = File::create(std::env::temp_dir().join("tokenward-node.lock"))?;
    turn.lock()?;
    let cgroups = Cgroups::create()?;
    let log = dir().join("test.log");
    fs::write(&log, "")?;
    let mut command = Command::new("unshare");
    command.args(NAMESPACES).args(["--kill-child", "sh"]).arg(workspace_dir().join("e2e/node/init.sh")).arg(dir());
    command.arg(std::env::current_exe()?).args(["--exact", test, "--nocapture"]).env(INSIDE, "1").stdin(Stdio::null());
    let process = Process::spawn("unshare", &mut command, &log)?;
    let ended = process.wait(PATIENCE).await?;
    drop(process);
    drop((cgroups, turn));
    let said = fs::read_to_string(&log)?;
    let status = ended.with_context(|| format!("not ended within {PATIENCE:?}\n{said}"))?;
    ensure!(status.success(), "{status}\n{said}");
    ensure!(said.contains("1 passed"), "nothing was run\n{said}");
    Ok(())
}
