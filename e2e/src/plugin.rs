//! The kubectl plugin, as kubectl finds it.

use crate::target_dir;
use anyhow::{Result, ensure};
use std::ffi::OsString;
use std::path::PathBuf;

/// The plugin's binary: `KUBECTL_TOKENWARD_BIN`, else the release build.
///
/// # Errors
/// When it is not there; the message says what to do.
pub fn program() -> Result<PathBuf> {
    let path = chosen();
    ensure!(path.is_file(), "{} is missing: run `make plugin`, or set KUBECTL_TOKENWARD_BIN", path.display());
    Ok(path)
}

fn chosen() -> PathBuf {
    let chosen = std::env::var_os("KUBECTL_TOKENWARD_BIN").map(PathBuf::from);
    chosen.unwrap_or_else(|| target_dir().join("release/kubectl-tokenward"))
}

/// The `PATH` with the plugin's folder in front.
#[must_use]
pub fn search_path() -> OsString {
    let mut path = chosen().parent().map(|folder| folder.as_os_str().to_owned()).unwrap_or_default();
    if let Some(rest) = std::env::var_os("PATH") {
        path.push(":");
        path.push(rest);
    }
    path
}
