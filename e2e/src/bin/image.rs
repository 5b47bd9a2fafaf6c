//! Writes the operator's image: `target/image/tokenward.tar`, an OCI archive.

use anyhow::Result;
use std::fs;
use std::io::{Write as _, stdout};
use tokenward_e2e::image::{Image, NAME};
use tokenward_e2e::{operator, target_dir};

fn main() -> Result<()> {
    let image = Image::operator(&operator::program()?)?;
    let archive = target_dir().join("image/tokenward.tar");
    fs::create_dir_all(target_dir().join("image"))?;
    fs::write(&archive, image.archive()?.0)?;
    Ok(writeln!(stdout(), "{NAME}: {}", archive.display())?)
}
