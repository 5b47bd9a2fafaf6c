//! Prints the bill of materials of the operator.

use anyhow::Result;
use std::io::{Write as _, stdout};

fn main() -> Result<()> {
    Ok(stdout().write_all(tokenward_e2e::sbom::operator()?.as_bytes())?)
}
