//! Attacks of docs/explanation/threat-model.md by mass: connections, requests, edits, bytes. Counts and states are asserted, not times.

use anyhow::{Context, Result, ensure};
use kube::api::PostParams;
use rustix::process::geteuid;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;
use tokenward_e2e::scene::{SOON, Scene, spec};
use tokenward_e2e::{Act, Call, Options, Rule, eventually};

const TARGET: &str = "p-deployer";

/// Whether the other side still keeps this connection.
fn is_open(stream: &TcpStream) -> Result<bool> {
    stream.set_nonblocking(true)?;
    match stream.peek(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(true),
        _ => Ok(false),
    }
}

/// So many connections, each with the beginning of a request that never ends.
fn slow(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let connect = |_| {
        let mut stream = TcpStream::connect(address)?;
        // Who was already closed to make room cannot be written to.
        let _ = stream.write_all(b"GET /livez HTTP/1.1\r\nx: ");
        Ok(stream)
    };
    (0..count).map(connect).collect()
}

#[tokio::test]
async fn a_thousand_idle_connections_keep_nobody_out_and_are_not_kept() -> Result<()> {
    let scene = Scene::start("slow").await?;
    let target = scene.deployer(json!({})).await?;
    let (metrics, health) = scene.operator.ports();
    let mut streams = slow(health, 1000)?;
    streams.extend(slow(metrics, 1000)?);
    assert_eq!(scene.operator.readyz().await?.0, 200);
    assert!(scene.operator.metrics().await?.contains("tokenward_"));
    let bounded = async || {
        let open = streams.iter().map(is_open).collect::<Result<Vec<bool>>>()?.into_iter().filter(|open| *open);
        let open = open.count();
        ensure!(open <= 128, "{open} of 2000 are open");
        Ok(())
    };
    eventually(SOON, "64 for each listener remain", bounded).await?;
    // Who says nothing is sent away.
    let none = async || {
        ensure!(!streams.iter().map(is_open).collect::<Result<Vec<bool>>>()?.contains(&true), "some are open");
        Ok(())
    };
    eventually(SOON, "the rest goes as well", none).await?;
    scene.rotate("p", "1").await?;
    scene.next_target(TARGET, &target).await?;
    Ok(())
}

/// The remote addresses of all connections of a process that nobody else has made to it.
fn peers(pid: i32, own: [u16; 2]) -> Result<BTreeSet<String>> {
    let mut inodes = BTreeSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // What was closed since is no peer.
        let Ok(link) = fs::read_link(entry?.path()) else { continue };
        let link = link.to_string_lossy().into_owned();
        inodes.extend(link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).map(str::to_owned));
    }
    let mut peers = BTreeSet::new();
    for table in ["tcp", "tcp6", "udp", "udp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}"))?;
        let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        for row in rows.filter(|row| row.len() > 9 && inodes.contains(row[9])) {
            let local = row[1].rsplit(':').next().and_then(|port| u16::from_str_radix(port, 16).ok());
            if !local.is_some_and(|port| own.contains(&port)) {
                peers.insert(row[2].to_owned());
            }
        }
    }
    Ok(peers)
}

/// Policies with every text that looks like an address.
async fn luring(scene: &Scene) -> Result<()> {
    scene.account("deployer", &[]).await?;
    let lure = "127.0.0.1:9";
    let formats = [
        json!({"type": "Kubeconfig", "kubeconfig": {"clusterName": format!("https://{lure}")}}),
        json!({"type": "ArgoCDCluster", "argoCDCluster": {"clusterName": format!("https://{lure}")}}),
        json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": [lure]}}),
    ];
    for (n, format) in formats.into_iter().enumerate() {
        let annotations = json!({"example.com/url": format!("https://{lure}")});
        let secret = json!({"format": format, "annotations": annotations});
        let token = json!({"audiences": []});
        scene.policy(&format!("p-{n}"), &spec(&["deployer"], json!({"secret": secret, "token": token}))).await?;
    }
    let audience = json!({"token": {"audiences": [format!("https://{lure}")]}});
    scene.policy("p", &spec(&["deployer"], audience)).await?;
    Ok(())
}

#[tokio::test]
async fn the_operator_connects_to_nobody_but_the_api_server() -> Result<()> {
    let scene = Scene::start("one-peer").await?;
    let (pid, own) = (scene.operator.pid(), scene.operator.ports().into());
    if peers(pid, own).is_err() {
        ensure!(!geteuid().is_root(), "root cannot see the connections");
        return Ok(());
    }
    luring(&scene).await?;
    let mut seen = BTreeSet::new();
    for policy in ["p-0", "p-1", "p-2", "p"] {
        seen.extend(peers(pid, own)?);
        scene.ready(policy).await?;
    }
    scene.fence("after").await?;
    seen.extend(peers(pid, own)?);
    let port: u16 = scene.proxy.url().rsplit(':').next().context("no port")?.parse()?;
    assert_eq!(seen, BTreeSet::from([format!("0100007F:{port:04X}")]));
    Ok(())
}

#[tokio::test]
async fn a_namespace_whose_calls_all_hang_leaves_room_for_others() -> Result<()> {
    let options = Options {
        namespaces: vec!["greedy".to_owned(), "modest".to_owned()],
        args: vec!["--concurrency=4".to_owned()],
        ..Options::default()
    };
    tokenward_e2e::scene::plane().await?.create_namespace("modest").await?;
    let scene = Scene::start_with("greedy", options).await?;
    scene.many(60, "g").await?;
    let hung = scene.proxy.add(Rule::before(|call| call.is_mint() && call.path.contains("/greedy/"), Act::Hold));
    let selector = json!({"matchLabels": {"e2e": "many"}});
    scene.policy("p", &json!({"serviceAccounts": {"selector": selector}})).await?;
    hung.reached_times(4, SOON).await?;
    let modest = tokenward_e2e::scene::policies(&scene.client, "modest");
    tokenward_e2e::scene::apply_policy(&modest, "p", &spec(&["default"], json!({}))).await?;
    let ready = async || {
        let policy = modest.get("p").await?;
        let ready = tokenward_e2e::scene::condition(&policy, "Ready").context("no condition")?;
        ensure!(ready.status == "True", "{ready:?}");
        Ok(())
    };
    eventually(SOON, "the modest one is served", ready).await?;
    ensure!(scene.proxy.minted().iter().all(|minted| minted.namespace == "modest"), "the greedy one was served");
    ensure!(hung.acted() < 60, "all 60 were tried at once");
    Ok(())
}

#[tokio::test]
async fn who_edits_a_secret_in_a_loop_pays_no_more_than_the_budget() -> Result<()> {
    let scene = Scene::start("loop").await?;
    scene.deployer(json!({})).await?;
    let start = Instant::now();
    let spoil = async || {
        scene.patch_secret(TARGET, json!({"data": {"token": "eA=="}})).await?;
        let policy = scene.policies().get("p").await?;
        let status = policy.data["status"].to_string();
        ensure!(status.contains("MintBudgetExhausted"), "{status}");
        Ok(())
    };
    eventually(SOON, "the budget is empty", spoil).await?;
    // Three at once and one in 10 s; the first issue is another.
    let allowed = 1 + 3 + start.elapsed().as_secs() / 10;
    let mints = scene.mints() as u64;
    ensure!((3..=allowed).contains(&mints), "{mints} tokens, {allowed} allowed");
    let told = scene.told("p", "MintBudgetExhausted", "show-managed-fields").await?;
    ensure!(told.kind == "Warning", "{told:?}");
    // It is mended when it may be.
    let mended = async || {
        let target = scene.target(TARGET).await?;
        scene.holds(&target).await
    };
    eventually(SOON, "the Secret holds a living token", mended).await
}

#[tokio::test]
async fn what_is_too_large_is_refused() -> Result<()> {
    let many: Vec<String> = (0..10_000).map(|n| format!("a-{n}")).collect();
    let long = "x".repeat(1_400_000);
    let labels: Value = (0..1_000).map(|n| (format!("k{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let values: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    let expression = json!({"key": "k", "operator": "In", "values": values});
    let one = |more| spec(&["deployer"], more);
    let window = json!({"schedule": "0 2 * * *", "duration": "1h"});
    let cases = [
        (one(json!({"token": {"audiences": many}})), "must have at most 16 items"),
        (one(json!({"token": {"audiences": [long]}})), "Too long: may not be more than 2048"),
        (one(json!({"secret": {"annotations": {"a": long}}})), "Too long: may not be more than 4096"),
        (one(json!({"secret": {"labels": labels}})), "must have at most 16 items"),
        (one(json!({"rotation": {"windows": vec![window; 1_000]}})), "must have at most 8 items"),
        (json!({"serviceAccounts": {"selector": {"matchExpressions": [expression]}}}), "must have at most 64 items"),
    ];
    tokenward_e2e::scene::refused::refused("too-large", &cases).await
}

#[tokio::test]
async fn the_largest_objects_that_are_stored_stop_nothing() -> Result<()> {
    let scene = Scene::start("large").await?;
    let first = scene.deployer(json!({})).await?;
    let peak = scene.operator.peak_rss_kib()?;
    // 256 KiB are what the API server takes as annotations, 1 MiB as data.
    scene.annotate("p", "example.com/large", Some(&"x".repeat(200_000))).await?;
    let metadata = json!({"annotations": {"example.com/large": "x".repeat(200_000)}});
    scene.patch_secret(TARGET, json!({"metadata": metadata, "data": {"large": "eHh4".repeat(200_000)}})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.holds(&second).await?;
    // Deeper than any parser should follow.
    let deep = json!({"tokenward.dev/previous": "[".repeat(50_000), "example.com/large": null});
    scene.patch_secret(TARGET, json!({"metadata": {"annotations": deep}})).await?;
    let mended = async || {
        let target = scene.target(TARGET).await?;
        target.previous()?;
        scene.holds(&target).await
    };
    eventually(SOON, "the list of older tokens is whole again", mended).await?;
    let grown = scene.operator.peak_rss_kib()? - peak;
    // A few times of what is stored.
    ensure!(grown < 16 << 10, "{grown} KiB more");
    Ok(())
}

/// Forged anchors with the longest annotations are listed at a start, one after the other and not a page of them at once.
#[tokio::test]
async fn a_start_with_40_megabytes_of_forged_annotations_takes_a_few() -> Result<()> {
    let scene = Scene::start("large-list").await?;
    let target = scene.deployer(json!({})).await?;
    let peak = scene.operator.peak_rss_kib()?;
    for n in 0..200 {
        let annotations = json!({"example.com/large": "x".repeat(200_000)});
        let metadata = json!({"name": format!("tw-{n:010}"), "annotations": annotations});
        let forged = serde_json::from_value(json!({"metadata": metadata, "type": "tokenward.dev/anchor"}))?;
        scene.secrets().create(&PostParams::default(), &forged).await?;
    }
    scene.operator.restart()?;
    scene.operator.ready().await?;
    scene.rotate("p", "1").await?;
    scene.next_target(TARGET, &target).await?;
    let grown = scene.operator.peak_rss_kib()?.saturating_sub(peak);
    // A page of them would be 40 MB, and as much again while it is read.
    ensure!(grown < 16 << 10, "{grown} KiB more");
    println!("{grown} KiB more");
    Ok(())
}

#[tokio::test]
async fn of_an_answer_of_64_megabytes_four_are_read() -> Result<()> {
    let scene = Scene::start("large-answer").await?;
    let first = scene.deployer(json!({})).await?;
    let peak = scene.operator.peak_rss_kib()?;
    let body = "x".repeat(64 << 20);
    let failure = Act::Fail { status: 500, body: body.clone(), headers: vec![] };
    let rules = [Rule::before(Call::is_mint, failure).nth(1), Rule::after(Call::is_mint, Act::Replace(body)).nth(2)];
    let rules = rules.map(|rule| scene.proxy.add(rule));
    scene.rotate("p", "1").await?;
    scene.next_target(TARGET, &first).await?;
    ensure!(rules.iter().all(|rule| rule.acted() == 1), "some answers were not met");
    let grown = scene.operator.peak_rss_kib()? - peak;
    ensure!(grown < 24 << 10, "{grown} KiB more");
    Ok(())
}
