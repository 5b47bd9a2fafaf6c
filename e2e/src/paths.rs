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
    // Tests that run at once write the same overlay: none of them may find half a file.
    let new = folder.join(format!("{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::write(&new, text.replace("CONFIG", &config))?;
    fs::rename(new, folder.join("kustomization.yaml"))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_overlay_that_many_write_at_once_is_whole_at_every_moment() -> Result<()> {
        let folder = write_overlay(target_dir().join("e2e-overlay"), "resources: []\n")?;
        let write = || (0..500).try_for_each(|_| write_overlay(folder.clone(), "resources: []\n").map(drop));
        thread::scope(|scope| {
            let writers = [scope.spawn(write), scope.spawn(write)];
            while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
                assert_eq!(
                    fs::read_to_string(folder.join("kustomization.yaml")).unwrap_or_default(),
                    "resources: []\n"
                );
            }
        });
        Ok(())
    }
}
