//! What `make programs` runs: the programs of others that tests run are found, or built.

use anyhow::Result;
use tokenward_e2e::control_plane::binaries::{Binaries, helm, krew, prometheus, promtool};

fn main() -> Result<()> {
    Binaries::find()?;
    Binaries::find_node()?;
    for program in [promtool, prometheus, helm, krew] {
        program()?;
    }
    Ok(())
}
