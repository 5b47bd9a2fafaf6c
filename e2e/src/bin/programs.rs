//! What `make programs` runs: the programs of others that tests run are found, or built.

use anyhow::Result;
use tokenward_e2e::control_plane::binaries::{Binaries, helm, krew, prometheus, promtool};
use tokenward_e2e::node::isolation;

fn main() -> Result<()> {
    Binaries::find()?;
    if isolation::obstacle().is_none() {
        Binaries::find_node()?;
    }
    for program in [promtool, prometheus, helm, krew] {
        program()?;
    }
    Ok(())
}
