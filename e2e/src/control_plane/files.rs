//! What a control plane needs on disk before it starts.

use super::audit;
use crate::pki::{Authority, Identity, signing_key};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::path::Path;

/// The address of the Service `kubernetes`: the first of `--service-cluster-ip-range`.
const SERVICE: &str = "10.96.0.1";
/// The names that the API server is reached by.
const NAMES: [&str; 4] = ["127.0.0.1", "localhost", "kubernetes.default.svc", SERVICE];
/// The name of the only node.
pub const NODE: &str = "node";

const MARK: &str = ".tokenward-control-plane";

/// Makes `dir` an empty folder of ours for as long as the answer lives; what another control plane left there goes.
pub(super) fn claim(dir: &Path) -> Result<File> {
    let mark = dir.join(MARK);
    let foreign = dir.is_dir() && fs::read_dir(dir)?.next().is_some() && !mark.exists();
    ensure!(!foreign, "{} holds files that are no control plane's: choose another folder", dir.display());
    if mark.exists() && File::open(&mark)?.try_lock().is_err() {
        bail!("{} belongs to a control plane that is running", dir.display());
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("emptying {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let claim = File::create(mark)?;
    claim.lock()?;
    Ok(claim)
}

/// The client certificates that a kubeconfig is made of.
pub(super) struct Clients {
    pub(super) ca_pem: String,
    pub(super) admin: Identity,
    pub(super) controller_manager: Identity,
    pub(super) kubelet: Identity,
}

pub(super) fn write(dir: &Path) -> Result<Clients> {
    let authority = Authority::new("tokenward-e2e")?;
    write_serving(dir, &authority.server(&NAMES)?)?;
    write_key(dir, "sa")?;
    let ca_pem = authority.pem();
    for (name, text) in [("ca.crt", ca_pem.as_str()), ("audit-policy.yaml", audit::POLICY)] {
        fs::write(dir.join(name), text)?;
    }
    let admin = authority.client("tokenward-e2e-admin", "system:masters")?;
    let controller_manager = authority.client("system:kube-controller-manager", "system:masters")?;
    let kubelet = authority.client(&format!("system:node:{NODE}"), "system:nodes")?;
    Ok(Clients { ca_pem, admin, controller_manager, kubelet })
}

/// A CA that is to follow the first one.
pub struct NextCa {
    /// Its certificate.
    pub pem: String,
    pub(super) serving: Identity,
}

pub(super) fn next_ca() -> Result<NextCa> {
    let authority = Authority::new("tokenward-e2e-next")?;
    Ok(NextCa { pem: authority.pem(), serving: authority.server(&NAMES)? })
}

/// The API server looks at both when one of them changes, and waits until they fit.
pub(super) fn write_serving(dir: &Path, serving: &Identity) -> Result<()> {
    for (name, text) in [("apiserver.key", &serving.key), ("apiserver.crt", &serving.certificate)] {
        let new = dir.join(format!("{name}.new"));
        fs::write(&new, text)?;
        fs::rename(new, dir.join(name))?;
    }
    Ok(())
}

/// Writes a fresh key for `ServiceAccount` tokens: `<name>.key` and `<name>.pub`.
pub(super) fn write_key(dir: &Path, name: &str) -> Result<()> {
    let (private, public) = signing_key()?;
    fs::write(dir.join(format!("{name}.key")), private)?;
    Ok(fs::write(dir.join(format!("{name}.pub")), public)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wipes_only_its_own_folder() {
        let dir = std::env::temp_dir().join(format!("tokenward-claim-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("precious"), "").unwrap();
        assert!(claim(&dir).is_err());
        fs::remove_file(dir.join("precious")).unwrap();
        let held = claim(&dir).unwrap();
        fs::write(dir.join("etcd.log"), "").unwrap();
        assert!(claim(&dir).is_err());
        drop(held);
        claim(&dir).unwrap();
        assert!(!dir.join("etcd.log").exists());
        fs::remove_dir_all(&dir).unwrap();
    }
}
