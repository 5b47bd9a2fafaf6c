//! What `make cluster` runs: a control plane in the foreground.

use anyhow::Result;
use std::path::PathBuf;
use std::process::ExitCode;
use tokenward_e2e::{ControlPlane, Profile, target_dir};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    // Before the start, so that a Ctrl-C while it starts ends in order as well.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = async {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    };
    tokio::pin!(stopped);
    let dir = std::env::var_os("CLUSTER_DIR").map_or_else(|| target_dir().join("cluster"), PathBuf::from);
    let plane = tokio::select! {
        plane = ControlPlane::start(Profile::default(), dir) => plane?,
        () = &mut stopped => return Ok(()),
    };
    println!("The API server is {}; stop it with Ctrl-C.", plane.url());
    println!("export KUBECONFIG={}", plane.kubeconfig().display());
    stopped.await;
    plane.stop().await
}
