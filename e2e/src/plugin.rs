//! The kubectl plugin, as kubectl finds it.

use crate::image::{File, architecture, sha256};
use crate::{VERSION, pages, target_dir, workspace_dir};
use anyhow::{Result, ensure};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

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

/// Several tests of one program make a release at once.
static TURN: Mutex<()> = Mutex::new(());

/// The files of the archive of a release: the binary, its manual pages and the licence.
///
/// # Errors
/// When there is no binary, or it does not write its manual.
pub fn files() -> Result<Vec<File>> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let manual = target_dir().join("plugin-manual");
    if manual.exists() {
        fs::remove_dir_all(&manual)?;
    }
    let written = Command::new(program()?).arg("man").arg(&manual).output()?;
    ensure!(written.status.success(), "kubectl-tokenward man: {}", String::from_utf8_lossy(&written.stderr));
    let file = |path: &str, from: &Path, mode| -> Result<File> {
        Ok(File { path: path.to_owned(), content: fs::read(from)?, mode })
    };
    let licence = workspace_dir().join("LICENSE");
    let mut files = vec![file("kubectl-tokenward", &program()?, 0o755)?, file("LICENSE", &licence, 0o644)?];
    for page in pages::files(&manual, "1")? {
        let name = page.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push(file(&format!("man/man1/{name}"), &page, 0o644)?);
    }
    Ok(files)
}

/// The manifest for krew of an archive with this name and content, which is below this address.
///
/// # Errors
/// When the template cannot be read.
pub fn manifest(archive: &str, content: &[u8], downloads: &str) -> Result<String> {
    let template = pages::read("cli/krew.yaml")?;
    let (_, manifest) = template.split_once('\n').unwrap_or_default();
    let filled = [
        ("VERSION", VERSION),
        ("ARCHITECTURE", architecture()),
        ("DOWNLOADS", downloads.trim_end_matches('/')),
        ("ARCHIVE", archive),
        ("DIGEST", &sha256(content)),
    ];
    Ok(filled.iter().fold(manifest.to_owned(), |text, (word, value)| text.replace(word, value)))
}
