//! The command behind `make cluster`: it ends in order when asked, and leaves nothing behind when killed.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokenward_e2e::{eventually, target_dir};

/// The command, when its cluster works, with the address of the API server.
fn cluster() -> Result<(Child, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cluster"));
    command.env("CLUSTER_DIR", target_dir().join("e2e/cluster-command")).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let output = child.stdout.take().context("no output")?;
    let lines: Vec<String> = BufReader::new(output).lines().take(2).collect::<Result<_, _>>()?;
    let [address, export] = lines.as_slice() else { anyhow::bail!("{lines:?}") };
    assert!(export.starts_with("export KUBECONFIG=/"), "{export}");
    let address = address.split("https://").nth(1).and_then(|rest| rest.split(';').next());
    Ok((child, address.context("no address")?.to_owned()))
}

#[tokio::test]
async fn ends_in_order_and_leaves_nothing_when_killed() -> Result<()> {
    let (mut child, address) = cluster()?;
    TcpStream::connect(&address)?;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    assert_eq!(child.wait()?.code(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
    let (mut child, address) = cluster()?;
    child.kill()?;
    child.wait()?;
    let gone = async || {
        anyhow::ensure!(TcpStream::connect(&address).is_err(), "the API server still answers");
        Ok(())
    };
    eventually(Duration::from_secs(5), "the watchdog acts", gone).await
}
