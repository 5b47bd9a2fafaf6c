//! `kubectl tokenward`: shows, rotates, revokes, prints, verifies and audits tokens.
//!
//! As in the operator, `core` decides and is pure, and `shell` acts. Nothing here has a right of its own: every call is made
//! with the credentials of the kubeconfig.

mod args;
mod core;
mod shell;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use crate::core::{complete, order::Verb};
use anyhow::{Context as _, Result};
use args::{Args, Command};
use clap::{CommandFactory as _, Parser as _};
use shell::{audit, cluster::Cluster, hygiene, migrate, order, output, print, status, verify};

/// By this name kubectl asks for completions; a link to the plugin is enough.
const COMPLETER: &str = "kubectl_complete-tokenward";

fn main() -> ExitCode {
    let mut words = std::env::args();
    if words.next().is_some_and(|program| program.ends_with(COMPLETER)) {
        let lines = complete::lines(Args::command(), &words.collect::<Vec<_>>());
        return output::print(&lines).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    // The provider can be installed once, and here nobody has done so before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Into::into).and_then(|runtime| runtime.block_on(run(args))) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As kubectl, which ends with 1 for every error.
fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

async fn run(args: Args) -> Result<ExitCode> {
    match args.command {
        Command::Status(command) => status::run(&Cluster::connect(&args.cluster).await?, &command).await,
        Command::Rotate(order) => order::run(&Cluster::connect(&args.cluster).await?, Verb::Rotate, &order).await,
        Command::Revoke(order) => order::run(&Cluster::connect(&args.cluster).await?, Verb::Revoke, &order).await,
        Command::Print(command) => print::run(&Cluster::connect(&args.cluster).await?, &command).await,
        Command::Verify(command) => verify::run(&args.cluster, &command).await,
        Command::Migrate(command) => migrate::run(&args.cluster, &command).await,
        Command::Hygiene(command) => hygiene::run(&args.cluster, &command).await,
        Command::Audit(command) => audit::run(&args.cluster, &command).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "kubectl-tokenward", &mut script);
            output::print_bytes(&script)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { folder } => {
            let written =
                std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(Args::command(), &folder));
            written.with_context(|| format!("writing {}; choose another folder", folder.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
