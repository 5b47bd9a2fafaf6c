//! `audit`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use chrono::Utc;
use flate2::bufread::MultiGzDecoder;

use super::{cluster::Cluster, output};
use crate::{
    args::{Audit as Args, ClusterArgs},
    core::audit::{Audit, Known, draw, known},
};

/// How a gzip file begins (RFC 1952, 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Lines are a few kilobytes long.
const BUFFER: usize = 1 << 20;

pub async fn run(cluster: &ClusterArgs, args: &Args) -> Result<ExitCode> {
    let known = match joined(cluster).await {
        Ok(known) => known,
        Err(error) => {
            output::note(format!("Tokens are not joined to policies: {error:#}"));
            BTreeMap::new()
        }
    };
    let mut audit = Audit::new(known, cluster.namespace.clone());
    for file in &args.files {
        read(file, &mut audit).with_context(|| format!("reading {file}"))?;
    }
    if audit.unread > 0 {
        output::note(format!("{} lines are no audit events.", audit.unread));
    }
    let (uses, now) = (audit.uses(), Utc::now());
    output::show(args.output, &uses, || draw(&uses, now, output::paint()))?;
    Ok(ExitCode::SUCCESS)
}

/// What the Secrets of the namespace say that was asked for, else those of all.
async fn joined(args: &ClusterArgs) -> Result<BTreeMap<String, Known>> {
    Ok(known(&Cluster::connect(args).await?.targets(args.namespace.as_deref()).await?))
}

fn read(file: &str, audit: &mut Audit) -> Result<()> {
    let input: Box<dyn io::Read> = if file == "-" { Box::new(io::stdin().lock()) } else { Box::new(File::open(file)?) };
    let mut input = BufReader::with_capacity(BUFFER, input);
    if input.fill_buf()?.starts_with(&GZIP) {
        lines(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(input)), audit)
    } else {
        lines(input, audit)
    }
}

fn lines(mut input: impl BufRead, audit: &mut Audit) -> Result<()> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        audit.read(&line);
        line.clear();
    }
    Ok(())
}
