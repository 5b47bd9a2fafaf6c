//! `print`: the only command that shows a token.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::{Result, anyhow, ensure};

use super::{cluster::Cluster, output, secret};
use crate::{args::Print, core::print::value};

pub async fn run(cluster: &Cluster, args: &Print) -> Result<ExitCode> {
    let safe = args.yes || !io::stdout().is_terminal();
    ensure!(safe, "a terminal remembers what it shows; send the output to a file or a program, or add --yes");
    let data = secret::get(cluster, &cluster.namespace, &args.secret).await?.data.unwrap_or_default();
    let value = value(&data, args.key.as_deref()).map_err(|error| anyhow!("Secret {}: {error}", args.secret))?;
    output::print_bytes(value)?;
    Ok(ExitCode::SUCCESS)
}
