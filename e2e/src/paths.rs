use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the workspace, which holds `config/` and `e2e/`.
#[must_use]
pub fn workspace_dir() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The folder of build results: `CARGO_TARGET_DIR`, else `target` in the workspace.
#[must_use]
pub fn target_dir() -> PathBuf {
    let chosen = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    workspace_dir().join(chosen)
}

/// Writes a kustomize overlay into this folder and returns it; `CONFIG` in the text stands for the folder `config`.
///
/// # Errors
/// When the folder cannot be written.
pub fn write_overlay(folder: PathBuf, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(&folder)?;
    // kustomize takes relative paths only.
    let config = workspace_dir().join("config");
    let up = "../".repeat(folder.components().count() - 1);
    let config = format!("{up}{}", config.to_string_lossy().trim_start_matches('/'));
    fs::write(folder.join("kustomization.yaml"), text.replace("CONFIG", &config))?;
    Ok(folder)
}
