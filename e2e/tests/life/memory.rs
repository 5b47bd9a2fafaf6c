//! What the operator's memory holds, and who may look into it.
#![cfg(target_os = "linux")]

use anyhow::{Context, Result, ensure};
use rustix::process::{Signal, geteuid};
use serde_json::json;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tokenward_e2e::control_plane::ISSUER;
use tokenward_e2e::leak::{Kind, Scanner};
use tokenward_e2e::proxy::Minted;
use tokenward_e2e::scene::{SOON, Scene, spec};
use tokenward_e2e::{Act, Options, Rule, eventually};

/// Each of the 32 slots of `--concurrency` has a connection, and each connection a buffer for what comes and one for what
/// goes, which keep their last bytes while it idles. Without wiping what is freed, there were 87 copies.
const BUFFERS: usize = 32 * 2;
const ACCOUNTS: usize = 250;
/// The user of the shipped Deployment.
const NOBODY: u32 = 65532;

/// Each stretch of memory that the process can write to; what goes away while it is read was freed.
fn memory(pid: i32) -> Result<Vec<Vec<u8>>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut stretches = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).context("no range")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        let mut stretch = vec![0; usize::try_from(end - start)?];
        if memory.read_exact_at(&mut stretch, start).is_ok() {
            stretches.push(stretch);
        }
    }
    Ok(stretches)
}

/// How often one of these tokens, or a part of one, lies in the memory.
fn copies<'a>(tokens: impl Iterator<Item = &'a str>, memory: &[Vec<u8>]) -> Result<usize> {
    let scanner = Scanner::new(tokens, ISSUER)?;
    let found = memory.iter().flat_map(|stretch| scanner.scan("memory", stretch));
    // Of others it is only told that they are tokens.
    Ok(found.filter(|finding| finding.kind != Kind::Jwt).count())
}

/// Waits until every target was issued under this value.
async fn all_under(scene: &Scene, value: &str) -> Result<()> {
    let check = async || {
        let targets = scene.targets().await?;
        let done = targets.values().filter(|target| target.says("rotate") == value).count();
        ensure!(done == ACCOUNTS, "{done} of {ACCOUNTS}");
        Ok(())
    };
    eventually(3 * SOON, "a token under the new value in each Secret", check).await
}

#[tokio::test]
async fn of_a_thousand_tokens_memory_keeps_no_more_than_idle_connections_do() -> Result<()> {
    let scene = Scene::start("memory").await?;
    scene.many(ACCOUNTS, "m").await?;
    let selector = json!({"matchLabels": {"e2e": "many"}});
    // Without anchors it is half the calls.
    scene.policy("p", &json!({"serviceAccounts": {"selector": selector}, "token": {"binding": "None"}})).await?;
    for value in ["", "1", "2", "3"] {
        if !value.is_empty() {
            scene.rotate("p", value).await?;
        }
        all_under(&scene, value).await?;
    }
    scene.rest().await?;
    let minted = scene.proxy.minted();
    ensure!(minted.len() >= 4 * ACCOUNTS, "{} tokens", minted.len());
    let Ok(memory) = memory(scene.operator.pid()) else {
        ensure!(!geteuid().is_root(), "root cannot read the memory");
        println!("not looked at: the memory can be read by root alone");
        return Ok(());
    };
    let own = fs::read_to_string(scene.operator.log_path().with_extension("token"))?;
    ensure!(
        copies([own.as_str()].into_iter(), &memory)? > 0,
        "its own token, which it needs all the time, is not found"
    );
    let found = copies(minted.iter().map(Minted::token), &memory)?;
    println!("{found} copies of {} tokens, {BUFFERS} allowed", minted.len());
    assert!(found <= BUFFERS, "{found} copies");
    Ok(())
}

/// A folder that the user of the operator can write to, with the operator's program in it and a script that runs its
/// arguments there, as that user and with core files of any size.
fn as_nobody(name: &str) -> Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("tokenward-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let user = if geteuid().is_root() {
        chown(&dir, Some(NOBODY), Some(NOBODY))?;
        format!("setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups")
    } else {
        String::new()
    };
    fs::copy(tokenward_e2e::operator::program()?, dir.join("tokenward"))?;
    script(&dir.join("as-nobody"), &format!("cd {} && ulimit -c unlimited && exec {user} \"$@\"", dir.display()))?;
    script(&dir.join("operator"), &format!("exec {0}/as-nobody {0}/tokenward \"$@\"", dir.display()))?;
    Ok(dir)
}

fn script(path: &Path, line: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{line}\n"))?;
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}

/// An operator as in the shipped Deployment, not as root.
async fn unprivileged(namespace: &str, dir: &Path) -> Result<Scene> {
    let options =
        Options { program: Some(dir.join("operator")), dir: dir.to_owned(), env: trace(), ..Options::default() };
    let scene = Scene::start_with(namespace, options).await?;
    scene.account("deployer", &[]).await?;
    Ok(scene)
}

fn trace() -> Vec<(String, String)> {
    vec![("RUST_LOG".to_owned(), "trace".to_owned())]
}

/// Runs a shell as the operator's user.
fn shell(dir: &Path, line: &str) -> Result<Output> {
    Ok(Command::new(dir.join("as-nobody")).args(["sh", "-c", line]).output()?)
}

#[tokio::test]
async fn a_crash_with_a_token_in_hand_leaves_no_core_file_and_nothing_in_the_log() -> Result<()> {
    let dir = as_nobody("crash")?;
    let scene = unprivileged("crash", &dir).await?;
    let written = scene.proxy.add(Rule::before(|call| call.is("PATCH", "/secrets/p-deployer"), Act::Hold));
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    written.reached().await?;
    ensure!(scene.mints() == 1, "no token is in hand");
    scene.operator.signal(Signal::ABORT)?;
    let ended = async || scene.operator.exited()?.context("it still runs");
    let status = eventually(SOON, "it ends", ended).await?;
    assert_eq!((status.signal(), status.core_dumped()), (Some(Signal::ABORT.as_raw()), false));
    let cores = fs::read_dir(&dir)?
        .filter_map(Result::ok)
        .filter(|file| file.file_name().to_string_lossy().starts_with("core"));
    assert_eq!(cores.count(), 0);
    assert_eq!(scene.operator.leaks()?, []);
    // Any other program would have left one.
    let other = shell(&dir, "kill -ABRT $$")?.status;
    assert_eq!((other.signal(), other.core_dumped()), (Some(Signal::ABORT.as_raw()), true));
    // It looks into its log when it goes.
    drop(scene);
    Ok(fs::remove_dir_all(dir)?)
}

#[tokio::test]
async fn nobody_but_root_looks_into_the_process() -> Result<()> {
    let dir = as_nobody("look")?;
    let scene = unprivileged("look", &dir).await?;
    let proc = format!("/proc/{}", scene.operator.pid());
    // The same user asks, who may read the same of any other program of its own.
    for file in ["mem", "environ", "maps"] {
        let denied = shell(&dir, &format!("head -c 1 {proc}/{file}"))?;
        let said = String::from_utf8_lossy(&denied.stderr);
        ensure!(!denied.status.success() && said.contains("Permission denied"), "{file}: {said}");
    }
    let other = shell(&dir, "sleep 60 & head -c 1 /proc/$!/environ > /dev/null && kill $!")?;
    ensure!(other.status.success(), "{}", String::from_utf8_lossy(&other.stderr));
    // It looks into its log when it goes.
    drop(scene);
    Ok(fs::remove_dir_all(dir)?)
}
