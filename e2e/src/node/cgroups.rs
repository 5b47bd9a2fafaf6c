//! The part of the machine's cgroup tree (version 1) that a node has for itself.

use anyhow::{Context, Result};
use rustix::fs::{Access, access};
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// The kubelet's `cgroupRoot`, in each hierarchy.
pub const NAME: &str = "tokenward-node";
/// What the kubelet and runc count with.
const HIERARCHIES: [&str; 9] = ["blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids", "systemd"];

/// Why a node cannot have its part, if so.
pub(super) fn obstacle() -> Option<String> {
    let refused = |hierarchy: &&&str| access(Path::new(ROOT).join(**hierarchy), Access::WRITE_OK).is_err();
    let lacking = HIERARCHIES.iter().find(refused)?;
    Some(format!("{ROOT}/{lacking} cannot be written: it needs cgroup version 1, and was never tried with 2"))
}

/// Removes the groups when it is dropped.
pub struct Cgroups(());

impl Cgroups {
    /// Makes the groups, in place of what an earlier run left.
    ///
    /// # Errors
    /// When the machine has no such hierarchy, or does not let us.
    pub fn create() -> Result<Self> {
        remove_all();
        let groups = Self(());
        for hierarchy in HIERARCHIES {
            let group = Path::new(ROOT).join(hierarchy).join(NAME);
            fs::create_dir_all(&group).with_context(|| format!("cgroup {}", group.display()))?;
        }
        // A new group of this hierarchy may use nothing until it is told.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let all = fs::read(Path::new(ROOT).join("cpuset").join(file))?;
            fs::write(Path::new(ROOT).join("cpuset").join(NAME).join(file), all)?;
        }
        Ok(groups)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        remove_all();
    }
}

/// runc makes groups in more hierarchies than it needs.
fn remove_all() {
    for hierarchy in fs::read_dir(ROOT).into_iter().flatten().flatten() {
        remove(&hierarchy.path().join(NAME));
    }
}

/// Groups have files that cannot be removed and go with their folder; one that is in use stays.
fn remove(group: &Path) {
    let children = fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
    for child in children.filter(|path| path.is_dir()).collect::<Vec<PathBuf>>() {
        remove(&child);
    }
    let _ = fs::remove_dir(group);
}
