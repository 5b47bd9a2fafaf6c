//! `audit`.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use chrono::Utc;
use flate2::bufread::MultiGzDecoder;

use super::{cluster::Cluster, output};
use crate::{
    args::{Audit as Args, ClusterArgs},
    core::{
        audit::{Audit, Known, draw, known},
        text::count,
    },
};

/// How a gzip file begins (RFC 1952, 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Lines are a few kilobytes long.
const BUFFER: usize = 1 << 20;
/// Bytes of a line. An API server that cuts events does so at 10 MiB by default; without a limit, any file fills the memory.
const LONGEST: usize = 32 << 20;

pub async fn run(cluster: &ClusterArgs, args: &Args) -> Result<ExitCode> {
    let known = match joined(cluster).await {
        Ok(known) => known,
        Err(error) => {
            output::note(format!("Tokens are not joined to policies: {error:#}"));
            BTreeMap::new()
        }
    };
    let mut audit = Audit::new(known, cluster.namespace.clone());
    let mut code = ExitCode::SUCCESS;
    for file in &args.files {
        // The rest is worth seeing, as of a log that is being written.
        if let Err(error) = read(file, &mut audit).with_context(|| format!("reading {file}")) {
            output::note(format!("error: {error:#}; the output lacks the rest of this file"));
            code = ExitCode::FAILURE;
        }
    }
    if audit.unread > 0 {
        let are = if audit.unread == 1 { "is no audit event" } else { "are no audit events" };
        output::note(format!("{} {are}.", count(audit.unread, "line")));
    }
    let (uses, now) = (audit.uses(), Utc::now());
    output::show(args.output, &uses, || draw(&uses, now, output::paint()))?;
    Ok(code)
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
    while input.by_ref().take(LONGEST as u64).read_until(b'\n', &mut line)? > 0 {
        if line.len() == LONGEST && !line.ends_with(b"\n") {
            input.skip_until(b'\n')?;
            audit.unread += 1;
        } else {
            audit.read(&line);
        }
        line.clear();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_without_an_end_does_not_fill_the_memory() {
        let event = r#"{"stage": "ResponseComplete", "verb": "get", "user": {"username": "system:serviceaccount:ci:a"},
            "requestReceivedTimestamp": "2026-11-28T12:00:00Z"}"#
            .replace('\n', "");
        // White space around JSON means nothing, so only its length is against the first line.
        let long = event.as_bytes().chain(io::repeat(b' ').take(LONGEST as u64));
        let next = format!("\n{event}\n");
        let mut audit = Audit::new(BTreeMap::new(), None);
        lines(BufReader::new(long.chain(next.as_bytes())), &mut audit).unwrap();
        assert_eq!((audit.unread, audit.uses()[0].requests), (1, 1));
    }
}
