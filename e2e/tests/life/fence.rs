//! Two operators at once, both acting: what protects is the fence of every write, never a lease.

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use serde_json::json;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokenward_e2e::scene::{SOON, Scene, Target, claims, operator, spec};
use tokenward_e2e::{Act, Call, Operator, Options, Rule, eventually};
use tokio::sync::Notify;

const GRANTS: usize = 100;
const ROTATIONS: usize = 2;

/// A second operator like that of the scene. It talks through the same proxy, as it must write the same Secrets:
/// server and CA are in them.
async fn second(scene: &Scene) -> Result<Operator> {
    let options = Options { name: format!("{}-second", scene.namespace), ..Options::default() };
    let operator = operator(scene.plane, &scene.namespace, &scene.proxy, options).await?;
    operator.ready().await?;
    Ok(operator)
}

/// Every token that each target ever held, in the order of their publication.
type History = BTreeMap<String, Vec<String>>;

/// Follows the targets until `end`; an error when the `iat` of one goes back.
async fn follow(secrets: Api<Secret>, end: Arc<Notify>) -> Result<History> {
    let targets = watcher::Config::default().labels("tokenward.dev/role=target");
    let mut events = pin!(watcher::watcher(secrets, targets));
    let mut history = History::new();
    loop {
        let event = tokio::select! {
            event = events.try_next() => event?.context("the watch ended")?,
            () = end.notified() => return Ok(history),
        };
        match event {
            Event::Apply(secret) | Event::InitApply(secret) => enter(&mut history, &Target::read(secret)?)?,
            Event::Delete(secret) => bail!("target {:?} was deleted", secret.metadata.name),
            Event::Init | Event::InitDone => {}
        }
    }
}

fn enter(history: &mut History, target: &Target) -> Result<()> {
    let name = target.secret.metadata.name.clone().context("no name")?;
    let tokens = history.entry(name.clone()).or_default();
    let iat = |token: &str| claims(token).map(|claims| claims["iat"].as_i64());
    if let Some(last) = tokens.last() {
        ensure!(iat(last)? <= iat(target.token())?, "iat of {name} went back");
    }
    if tokens.last().is_none_or(|last| last != target.token()) {
        tokens.push(target.token().to_owned());
    }
    Ok(())
}

/// Waits until all targets were issued under this value, by whichever operator.
async fn rotated(scene: &Scene, value: &str) -> Result<BTreeMap<String, Target>> {
    let check = async || {
        let targets = scene.targets().await?;
        let done = targets.values().filter(|target| target.says("rotate") == value).count();
        ensure!(done == GRANTS, "{done} of {GRANTS}");
        Ok(targets)
    };
    eventually(Duration::from_mins(3), &format!("{GRANTS} targets under {value:?}"), check).await
}

/// With an overlap until they expire, nothing that was ever published may be dead.
async fn all_live(scene: &Scene, history: &History) -> Result<()> {
    let tokens = history.iter().flat_map(|(name, tokens)| tokens.iter().map(move |token| (name, token)));
    let review = async |(name, token): (&String, &String)| {
        let user = scene.user(token).await?;
        ensure!(user.is_some(), "a token that {name} held is dead: {}", claims(token)?["jti"]);
        Ok(())
    };
    futures::stream::iter(tokens).map(review).buffer_unordered(8).try_collect().await
}

#[tokio::test]
async fn two_operators_that_both_act_as_there_is_no_election_agree_on_100_grants() -> Result<()> {
    let scene = Scene::start("two-at-once").await?;
    let _other = second(&scene).await?;
    scene.many(GRANTS, "acc").await?;
    let end = Arc::new(Notify::new());
    let watch = tokio::spawn(follow(scene.secrets(), end.clone()));
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    let mut targets = rotated(&scene, "").await?;
    for rotation in 1..=ROTATIONS {
        scene.rotate("p", &rotation.to_string()).await?;
        targets = rotated(&scene, &rotation.to_string()).await?;
    }
    scene.ready("p").await?;
    scene.swept().await?;
    end.notify_one();
    let history = watch.await??;
    for (name, target) in &scene.targets().await? {
        scene.holds(target).await.with_context(|| name.clone())?;
        assert_eq!(target.token_id(), targets[name].token_id(), "{name} changed afterwards");
    }
    let published: usize = history.values().map(Vec::len).sum();
    let minted = scene.mints();
    println!("{published} tokens published of {minted} minted");
    assert_eq!(history.len(), GRANTS);
    assert!(published >= GRANTS * (1 + ROTATIONS));
    assert!(minted <= 2 * published, "a storm");
    all_live(&scene, &history).await
}

/// Waits until the target was issued under this value.
async fn issued_under(scene: &Scene, value: &str) -> Result<Target> {
    let check = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.says("rotate") == value, "still {:?}", target.says("rotate"));
        Ok(target)
    };
    eventually(SOON, &format!("the rotation to {value:?}"), check).await
}

fn writes(scene: &Scene, mark: usize) -> Vec<Option<u16>> {
    let calls = scene.proxy.calls_since(mark, "PATCH", "/secrets/p-deployer");
    calls.iter().map(|call| call.status).collect()
}

#[tokio::test]
async fn a_sleeper_does_not_overwrite_a_newer_token() -> Result<()> {
    let scene = Scene::start("sleeper").await?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.ready("p").await?;
    scene.ages(&scene.target("p-deployer").await?).await?;

    let write = |call: &Call| call.is("PATCH", "/secrets/p-deployer");
    let held = scene.proxy.add(Rule::before(write, Act::Hold).nth(1));
    let mark = scene.proxy.mark();
    scene.rotate("p", "1").await?;
    held.reached_times(1, SOON).await?;
    scene.operator.sigstop()?;
    let other = second(&scene).await?;
    scene.ages(&issued_under(&scene, "1").await?).await?;
    scene.rotate("p", "2").await?;
    let newest = issued_under(&scene, "2").await?;
    scene.ages(&newest).await?;

    held.release();
    let answered = async || writes(&scene, mark)[0].context("no answer yet");
    eventually(SOON, "the answer to the stale write", answered).await?;
    scene.operator.sigcont()?;
    assert_eq!(writes(&scene, mark), [409, 200, 200].map(Some));
    scene.swept().await?;
    scene.rest().await?;
    assert_eq!(scene.target("p-deployer").await?.version(), newest.version());
    assert_eq!(scene.mints(), 4);
    scene.holds(&newest).await?;
    // The sleeper, alone again, goes on from what it slept through.
    other.kill9()?;
    scene.rotate("p", "3").await?;
    let last = issued_under(&scene, "3").await?;
    // A change of the Secret is seen a moment before its writer has the answer.
    let answered = async || writes(&scene, mark)[3].context("no answer yet");
    eventually(SOON, "the answer to the last write", answered).await?;
    assert_eq!(writes(&scene, mark), [409, 200, 200, 200].map(Some));
    scene.holds(&last).await
}
