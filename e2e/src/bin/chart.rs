//! Writes `charts/tokenward` anew from `config/`.

use anyhow::Result;
use std::fs;
use tokenward_e2e::chart::{files, folder};

fn main() -> Result<()> {
    let (files, folder) = (files()?, folder());
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(folder.join("templates"))?;
    for (name, text) in files {
        fs::write(folder.join(name), text)?;
    }
    Ok(())
}
