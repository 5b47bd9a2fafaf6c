//! Writes what a release has: `target/dist`.

use anyhow::{Result, ensure};
use std::io::{Write as _, stdout};
use tokenward_e2e::{dist, target_dir};

fn main() -> Result<()> {
    let argument = |at| std::env::args().nth(at).filter(|argument| !argument.is_empty());
    let (repository, downloads) = (argument(1), argument(2));
    ensure!(
        downloads.as_deref().is_none_or(dist::is_https),
        "DOWNLOADS must be an https address, as in DOWNLOADS=https://downloads.example.com/tokenward"
    );
    ensure!(
        repository.as_deref().is_none_or(dist::is_repository),
        "IMAGE must be a registry and a name in lower case, without scheme, tag and digest, as in \
         IMAGE=registry.example.com/tokenward"
    );
    let folder = target_dir().join("dist");
    dist::write(&folder, &dist::release(repository.as_deref(), downloads.as_deref())?)?;
    Ok(writeln!(stdout(), "{}", folder.display())?)
}
