//! What the pods of the node test run. `pause` holds a pod's namespaces; `consume` uses a mounted Secret of the format `Token`,
//! reading it again before each call, and prints what came of it.

use anyhow::{Context, Result, bail};
use hyper::http::Request;
use kube::Client;
use kube::config::{Config, KubeConfigOptions};
use std::fs;
use std::io::{Write as _, stdout};
use std::path::Path;
use std::time::Duration;
use tokenward_e2e::kubeconfig::with_token;
use tokio::signal::unix::{SignalKind, signal};

/// Where the Secret is mounted.
const SECRET: &str = "/etc/token";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let what = std::env::args().nth(1).context("pause or consume?")?;
    let work = async {
        match what.as_str() {
            "pause" => std::future::pending().await,
            "consume" => consume().await,
            _ => bail!("{what}?"),
        }
    };
    tokio::select! { done = work => done, _ = terminate.recv() => Ok(()) }
}

async fn consume() -> Result<()> {
    let (mut calls, mut refused, mut tokens, mut last) = (0_u32, 0_u32, 0_u32, String::new());
    loop {
        let token = read("token")?;
        if token != last {
            tokens += 1;
            last.clone_from(&token);
        }
        calls += 1;
        if let Err(error) = call(&token).await {
            refused += 1;
            writeln!(stdout(), "{error:#}")?;
        }
        writeln!(stdout(), "tokens={tokens} calls={calls} refused={refused}")?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn read(key: &str) -> Result<String> {
    fs::read_to_string(Path::new(SECRET).join(key)).with_context(|| format!("reading {key}"))
}

/// Asks for what the account may see.
async fn call(token: &str) -> Result<()> {
    let kubeconfig = serde_json::from_str(&with_token(&read("server")?, &read("ca.crt")?, token))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let path = format!("/api/v1/namespaces/{}/configmaps", read("namespace")?);
    Client::try_from(config)?.request_text(Request::get(path).body(Vec::new())?).await?;
    Ok(())
}
