//! Writes what a release has: `target/dist`.

use anyhow::{Result, ensure};
use std::io::{Write as _, stdout};
use tokenward_e2e::{dist, target_dir};

fn main() -> Result<()> {
    let repository = std::env::args().nth(1);
    let is_tagged = |name: &str| name.rsplit('/').next().is_some_and(|last| last.contains([':', '@']));
    ensure!(
        repository.as_deref().is_none_or(|name| name.contains('/') && !is_tagged(name)),
        "IMAGE must have a registry and no tag, as in IMAGE=registry.example.com/tokenward"
    );
    let folder = target_dir().join("dist");
    dist::write(&folder, repository.as_deref())?;
    Ok(writeln!(stdout(), "{}", folder.display())?)
}
