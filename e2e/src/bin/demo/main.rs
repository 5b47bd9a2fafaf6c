//! What `make demo` runs: the whole story on a control plane of its own, or on the cluster of the current kubeconfig, each
//! step shown and checked.

mod current;
mod screen;
mod shell;
mod story;
mod token;

use anyhow::{Context, Result, anyhow, bail, ensure};
use screen::Screen;
use shell::Shell;
use std::fs;
use std::io::{IsTerminal, stdin};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokenward_e2e::image::NAME;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE};
use tokenward_e2e::{Cluster, ControlPlane, Operator, Options, Profile, dist, target_dir};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> ExitCode {
    let screen = Screen::new();
    match run(&screen).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen.failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Without an argument on a control plane of its own.
async fn run(screen: &Screen) -> Result<()> {
    // Before the start, so that a Ctrl-C while it starts ends in order as well.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = async {
        tokio::select! { _ = interrupt.recv() => (), _ = terminate.recv() => () }
    };
    tokio::pin!(stopped);
    match std::env::args().nth(1).as_deref() {
        None => own(screen, stopped).await,
        Some("current") => current::run(screen, stopped).await,
        Some(other) => {
            bail!("CLUSTER={other}: write CLUSTER=current for the cluster of your kubeconfig, or leave it out")
        }
    }
}

async fn own(screen: &Screen, mut stopped: Pin<&mut impl Future<Output = ()>>) -> Result<()> {
    let plane = tokio::select! {
        plane = ControlPlane::start(Profile::default(), target_dir().join("demo")) => plane?,
        () = &mut stopped => bail!("interrupted"),
    };
    let done = tokio::select! {
        operator = play(screen, &plane) => operator,
        () = &mut stopped => Err(anyhow!("interrupted")),
    };
    let done = match done {
        Ok(operator) => {
            let by_hand = stay(screen, &plane, &operator);
            let stayed = tokio::select! { stayed = by_hand => stayed, () = &mut stopped => Ok(()) };
            stayed.and(stop(&operator).await)
        }
        Err(error) => Err(error),
    };
    done.and(plane.stop().await)
}

/// The whole story; the operator that it is told of goes on running.
async fn play(screen: &Screen, plane: &ControlPlane) -> Result<Operator> {
    let start = Instant::now();
    let (shell, details) = (Shell::new(screen, plane)?, screen.details());
    story::control_plane(&details, &shell.details(), plane).await?;
    let release = plane.dir().join("dist");
    fs::create_dir_all(&release)?;
    fs::write(release.join("install.yaml"), dist::manifests(NAME)?)?;
    let apply = format!("kubectl apply -f {}", shell::shown(&release.join("install.yaml")));
    story::install(&details, &shell.details(), &apply).await?;
    let why = "no kubelet runs here: the operator is a process with its own account's token";
    let operator = start_operator(&details, &shell.details(), plane, Vec::new(), why).await?;
    story::tell(screen, &shell, plane).await?;
    if !screen.is_brief() {
        story::bootstrap_tokens(screen, &shell, plane).await?;
    }
    details.end(start.elapsed());
    Ok(operator)
}

/// Keeps everything up while a person sits at the terminal.
async fn stay(screen: &Screen, plane: &ControlPlane, operator: &Operator) -> Result<()> {
    if stdin().is_terminal() {
        screen.by_hand(&plane.kubeconfig(), &operator.log_path());
        enter().await?;
    }
    Ok(())
}

async fn stop(operator: &Operator) -> Result<()> {
    let (status, _) = operator.terminate().await?;
    ensure!(status.success(), "the operator ended with {status}: see {}", operator.log_path().display());
    Ok(())
}

/// The release binary with its own account's token and the RBAC just installed.
async fn start_operator(
    screen: &Screen,
    shell: &Shell,
    cluster: &Cluster,
    args: Vec<String>,
    why: &str,
) -> Result<Operator> {
    let dir = cluster.dir().join("operator");
    let operator = Operator::start(cluster, Options { dir: dir.clone(), args, ..Options::default() }).await?;
    let took = operator.ready().await?;
    let kubeconfig = shell::shown(&dir.join("operator.kubeconfig"));
    let whoami = format!("kubectl --kubeconfig {kubeconfig} auth whoami -o jsonpath='{{.status.userInfo.username}}'");
    let name = shell.run(&whoami).await?;
    let wanted = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
    ensure!(name == wanted, "the operator is {name}");
    screen.check(&format!("{why}, ready after {}", seconds(took)));
    Ok(operator)
}

/// Returns at Enter, or at the end of the input.
async fn enter() -> Result<()> {
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: the runtime would wait for it when Ctrl-C comes instead.
    std::thread::spawn(move || sender.send(stdin().read_line(&mut String::new())));
    receiver.await.context("nobody reads the terminal")??;
    Ok(())
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        return format!("{} ms", time.as_millis());
    }
    format!("{:.1} s", time.as_secs_f64())
}
