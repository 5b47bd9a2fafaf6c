//! `token.binding`: what a token is bound to, what that costs, and what kills it.

use anyhow::{Context, Result, ensure};
use chrono::Utc;
use serde_json::{Value, json};
use tokenward_e2e::scene::audited::{Audited, on_secrets};
use tokenward_e2e::scene::{SOON, Scene, Target, claims, spec};
use tokenward_e2e::{Act, Call, Rule, eventually};

const TARGET: &str = "p-deployer";

fn policy(binding: &str) -> Value {
    spec(&["deployer"], json!({"token": {"binding": binding}}))
}

/// A scene with a ready policy `p` of this binding.
async fn bound(namespace: &str, binding: &str) -> Result<(Scene, Target)> {
    let scene = Scene::start(namespace).await?;
    let target = scene.deployer(json!({"token": {"binding": binding}})).await?;
    Ok((scene, target))
}

/// Waits until the target holds a token that was issued under this value.
async fn issued_under(scene: &Scene, value: &str) -> Result<Target> {
    let check = async || {
        let target = scene.target(TARGET).await?;
        ensure!(target.says("rotate") == value && !target.token().is_empty(), "under {:?}", target.says("rotate"));
        Ok(target)
    };
    eventually(SOON, &format!("a token under {value:?}"), check).await
}

/// What the target's token says that it is bound to: the name and UID of a Secret.
fn bound_to(target: &Target) -> Result<(String, String)> {
    let secret = claims(target.token())?["kubernetes.io"]["secret"].clone();
    let text = |field: &str| secret[field].as_str().unwrap_or_default().to_owned();
    Ok((text("name"), text("uid")))
}

/// That the token in the target is alive, and the one its annotations are about.
async fn holds(scene: &Scene, target: &Target) -> Result<()> {
    ensure!(claims(target.token())?["jti"] == target.token_id(), "the annotations are about another token");
    scene.bearer(target.token()).await?.lives().await
}

/// Calls of a first issue and of a rotation under this binding.
async fn costs(binding: &str, issue: &[&str], rotation: &[&str]) -> Result<()> {
    let audited = Audited::start(&format!("cost-{}", binding.to_lowercase())).await?;
    let scene = &audited.scene;
    scene.account("deployer", &[]).await?;
    let start = audited.rest().await?;
    scene.policy("p", &policy(binding)).await?;
    scene.ready("p").await?;
    let calls = on_secrets(&audited.calls_until_rest(start).await?);
    ensure!(calls == issue, "a first issue: {calls:?}");
    let start = Utc::now();
    scene.rotate("p", "1").await?;
    holds(scene, &issued_under(scene, "1").await?).await?;
    let calls = on_secrets(&audited.calls_until_rest(start).await?);
    ensure!(calls == rotation, "a rotation: {calls:?}");
    ensure!((scene.mints(), scene.anchors().await?.len()) == (2, 0), "{} tokens", scene.mints());
    Ok(())
}

const MINT: &str = "create serviceaccounts/token deployer";
const APPLY: &str = "patch secrets p-deployer";
const GET: &str = "get secrets p-deployer";

#[tokio::test]
async fn binding_target_costs_four_calls_and_two_per_rotation() -> Result<()> {
    costs("Target", &[GET, APPLY, MINT, APPLY], &[MINT, APPLY]).await
}

#[tokio::test]
async fn binding_none_costs_three_calls_and_two_per_rotation() -> Result<()> {
    costs("None", &[GET, MINT, APPLY], &[MINT, APPLY]).await
}

#[tokio::test]
async fn a_restart_without_anchors_costs_no_call_per_grant() -> Result<()> {
    let audited = Audited::start("no-anchors").await?;
    let scene = &audited.scene;
    for (name, binding) in [("target", "Target"), ("none", "None")] {
        scene.account(name, &[]).await?;
        scene.policy(name, &spec(&[name], json!({"token": {"binding": binding}}))).await?;
        scene.ready(name).await?;
    }
    let start = audited.rest().await?;
    let before = scene.versions().await?;
    scene.operator.restart()?;
    scene.operator.ready().await?;
    let calls = on_secrets(&audited.calls_until_rest(start).await?);
    assert_eq!((calls, scene.versions().await?), (vec![], before));
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn a_token_bound_to_its_target_dies_with_it_and_a_fresh_one_comes() -> Result<()> {
    let (scene, first) = bound("bound-target", "Target").await?;
    let uid = first.version().0.context("no uid")?.to_owned();
    assert_eq!(bound_to(&first)?, (TARGET.to_owned(), uid.clone()));
    scene.rotate("p", "1").await?;
    let second = issued_under(&scene, "1").await?;
    assert_eq!(bound_to(&second)?, (TARGET.to_owned(), uid));
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    scene.delete_secret(TARGET).await?;
    let check = async || {
        let target = scene.target(TARGET).await?;
        ensure!(!target.token().is_empty(), "no token yet");
        Ok(target)
    };
    let third = eventually(SOON, "a fresh token", check).await?;
    for old in [&first, &second] {
        scene.bearer(old.token()).await?.dies().await?;
    }
    holds(&scene, &third).await?;
    assert_eq!(bound_to(&third)?.1, third.version().0.unwrap_or_default());
    scene.told("p", "TokenReissued", "TargetDeleted").await?;
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.target(TARGET).await?.version()), (3, third.version()));
    Ok(())
}

#[tokio::test]
async fn a_token_bound_to_nothing_outlives_its_target() -> Result<()> {
    let (scene, first) = bound("bound-nothing", "None").await?;
    assert_eq!(bound_to(&first)?, (String::new(), String::new()));
    scene.delete_secret(TARGET).await?;
    let check = async || scene.target(TARGET).await;
    let second = eventually(SOON, "a new target", check).await?;
    holds(&scene, &second).await?;
    scene.bearer(first.token()).await?.lives().await?;
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

#[tokio::test]
async fn deleting_the_policy_kills_a_token_bound_to_its_target() -> Result<()> {
    let (scene, first) = bound("target-ended", "Target").await?;
    scene.delete_policy("p").await?;
    scene.gone(TARGET).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    Ok(())
}

/// Kills the operator at the first call that matches, after the API server did what it was asked.
async fn crash(scene: &Scene, matches: impl Fn(&Call) -> bool + Send + Sync + 'static) -> Result<()> {
    let held = scene.proxy.add(Rule::after(matches, Act::Hold));
    scene.policy("p", &policy("Target")).await?;
    held.reached_times(1, SOON).await?;
    scene.operator.kill9()?;
    held.cut();
    Ok(())
}

#[tokio::test]
async fn an_empty_target_that_a_crash_left_is_filled_with_one_token() -> Result<()> {
    let scene = Scene::start("empty-target").await?;
    scene.account("deployer", &[]).await?;
    crash(&scene, |call| call.is("PATCH", "/secrets/p-deployer")).await?;
    let empty = scene.target(TARGET).await?;
    assert_eq!((empty.token(), scene.mints()), ("", 0));
    scene.operator.restart()?;
    scene.ready("p").await?;
    let target = scene.target(TARGET).await?;
    holds(&scene, &target).await?;
    assert_eq!(target.version().0, empty.version().0);
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    Ok(())
}

#[tokio::test]
async fn a_token_that_a_crash_lost_costs_one_more() -> Result<()> {
    let scene = Scene::start("lost-token").await?;
    scene.account("deployer", &[]).await?;
    crash(&scene, Call::is_mint).await?;
    scene.operator.restart()?;
    scene.ready("p").await?;
    let target = scene.target(TARGET).await?;
    holds(&scene, &target).await?;
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.target(TARGET).await?.version()), (2, target.version()));
    Ok(())
}

/// Changes the binding of a ready policy, and returns the targets before and after.
async fn switched(namespace: &str, from: &str, to: &str) -> Result<(Scene, Target, Target)> {
    let (scene, before) = bound(namespace, from).await?;
    scene.policy("p", &policy(to)).await?;
    scene.ready("p").await?;
    let after = scene.target(TARGET).await?;
    ensure!(after.token_id() != before.token_id(), "the same token");
    holds(&scene, &after).await?;
    scene.bearer(before.token()).await?.lives().await?;
    scene.fence("after").await?;
    ensure!(scene.mints_of("deployer") == 2, "{} tokens", scene.mints_of("deployer"));
    Ok((scene, before, after))
}

#[tokio::test]
async fn from_anchor_to_target_the_old_token_still_dies_with_its_anchor() -> Result<()> {
    let (scene, before, after) = switched("anchor-to-target", "Anchor", "Target").await?;
    assert_eq!(bound_to(&after)?.0, TARGET);
    scene.delete_secret(before.anchor()).await?;
    scene.bearer(before.token()).await?.dies().await?;
    scene.bearer(after.token()).await?.lives().await
}

#[tokio::test]
async fn from_target_to_anchor_the_old_token_still_dies_with_its_target() -> Result<()> {
    let (scene, before, after) = switched("target-to-anchor", "Target", "Anchor").await?;
    assert_eq!(bound_to(&after)?.0, after.anchor());
    scene.delete_secret(TARGET).await?;
    scene.bearer(before.token()).await?.dies().await?;
    let check = async || scene.target(TARGET).await;
    let fresh = eventually(SOON, "a fresh target", check).await?;
    scene.holds(&fresh).await
}

#[tokio::test]
async fn from_anchor_to_none_the_old_token_still_dies_with_its_anchor() -> Result<()> {
    let (scene, before, after) = switched("anchor-to-none", "Anchor", "None").await?;
    assert_eq!(bound_to(&after)?.0, "");
    scene.delete_secret(before.anchor()).await?;
    scene.bearer(before.token()).await?.dies().await?;
    scene.bearer(after.token()).await?.lives().await
}

#[tokio::test]
async fn overlap_and_age_need_anchors() -> Result<()> {
    let scene = Scene::start("refused").await?;
    for binding in ["Target", "None"] {
        for rotation in [json!({"overlap": "1h"}), json!({"overlap": "1h", "maxAge": "1h"})] {
            let refused = spec(&["a"], json!({"token": {"binding": binding}, "rotation": rotation}));
            let message = scene.refusal("p", &refused).await?;
            ensure!(message.contains("overlap") && message.contains("Anchor"), "{message}");
        }
    }
    Ok(())
}
