//! Revocations at their edges: tokens from before a change of the binding, tokens that nothing can revoke, instants to
//! come, and the ids that are told of tokens that no Secret names any more.

use anyhow::{Context, Result, ensure};
use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, Target, condition, spec};

const TARGET: &str = "p-deployer";
const BEFORE: &str = "tokenward.dev/revoke-issued-before";

fn binding(binding: &str) -> Value {
    json!({"token": {"binding": binding}})
}

/// A ready policy whose tokens were bound so, and since an edit have anchors: the tokens before and after it.
async fn anchored(namespace: &str, before: &str) -> Result<(Scene, Target, Target)> {
    let scene = Scene::start(namespace).await?;
    let first = scene.deployer(binding(before)).await?;
    scene.policy("p", &spec(&["deployer"], binding("Anchor"))).await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.ready("p").await?;
    Ok((scene, first, second))
}

/// Revokes what policy `p` issued before now, which is later than the target's token.
async fn revoke_now(scene: &Scene, target: &Target) -> Result<()> {
    scene.ages(target).await?;
    scene.annotate("p", BEFORE, Some(&Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true))).await
}

/// Waits until the policy says this of a revocation, in event and status.
async fn unsupported(scene: &Scene) -> Result<()> {
    let told = scene.told("p", "RevocationUnsupported", "lives until it expires").await?;
    ensure!(told.kind == "Warning" && told.note.contains("delete the ServiceAccount"), "{told:?}");
    let says = async || {
        let policy = scene.policies().get("p").await?;
        let found = condition(&policy, "RevocationFailing").context("no condition RevocationFailing")?;
        ensure!(found.reason == "RevocationUnsupported", "{found:?}");
        Ok(())
    };
    eventually(SOON, "the status says so", says).await
}

#[tokio::test]
async fn tokens_bound_to_the_target_before_an_edit_are_revoked_with_the_others() -> Result<()> {
    let scene = Scene::start("once-target").await?;
    let oldest = scene.deployer(binding("Target")).await?;
    scene.rotate("p", "1").await?;
    let older = scene.next_target(TARGET, &oldest).await?;
    scene.policy("p", &spec(&["deployer"], binding("Anchor"))).await?;
    let newest = scene.next_target(TARGET, &older).await?;
    for target in [&oldest, &older, &newest] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    revoke_now(&scene, &newest).await?;
    for target in [&oldest, &older, &newest] {
        scene.bearer(target.token()).await?.dies().await?;
    }
    let fresh = async || {
        let target = scene.target(TARGET).await?;
        ensure!(target.token() != newest.token(), "still the old one");
        scene.holds(&target).await
    };
    eventually(SOON, "a fresh token", fresh).await?;
    scene.rest().await?;
    assert_eq!(scene.mints(), 4);
    Ok(())
}

#[tokio::test]
async fn a_token_bound_to_nothing_before_an_edit_is_not_forgotten() -> Result<()> {
    let (scene, first, second) = anchored("once-nothing", "None").await?;
    scene.condition("p", "RevocationUnsupported", "True").await?;
    revoke_now(&scene, &second).await?;
    scene.bearer(second.token()).await?.dies().await?;
    unsupported(&scene).await?;
    scene.bearer(first.token()).await?.lives().await
}

#[tokio::test]
async fn a_time_on_a_secret_whose_token_is_bound_to_nothing_is_told() -> Result<()> {
    let scene = Scene::start("nothing-secret").await?;
    let first = scene.deployer(binding("None")).await?;
    scene.ages(&first).await?;
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    scene.patch_secret(TARGET, json!({"metadata": {"annotations": {(BEFORE): now}}})).await?;
    unsupported(&scene).await?;
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn an_instant_to_come_or_before_every_token_is_told_at_once() -> Result<()> {
    let scene = Scene::start("told-ahead").await?;
    let first = scene.deployer(json!({})).await?;
    let hour = (Utc::now() + TimeDelta::hours(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    scene.annotate("p", BEFORE, Some(&hour)).await?;
    scene.told("p", "RevocationScheduled", &hour).await?;
    let day = (Utc::now() - TimeDelta::days(1)).to_rfc3339_opts(SecondsFormat::Secs, true);
    scene.annotate("p", BEFORE, Some(&day)).await?;
    scene.told("p", "NothingToRevoke", &day).await?;
    scene.bearer(first.token()).await?.lives().await
}

#[tokio::test]
async fn deleting_a_target_tells_which_tokens_died() -> Result<()> {
    let scene = Scene::start("target-ids").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.delete_secret(TARGET).await?;
    for target in [&first, &second] {
        let told = scene.told("p", "TokenRevoked", target.token_id()).await?;
        ensure!(told.note.contains("TargetDeleted"), "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_seems_to_come_from_the_future_is_replaced_once() -> Result<()> {
    let scene = Scene::start("future").await?;
    let first = scene.deployer(json!({})).await?;
    let times =
        json!({"tokenward.dev/issued-at": "2036-01-01T00:00:00Z", "tokenward.dev/expires-at": "2036-01-02T00:00:00Z"});
    scene.patch_secret(TARGET, json!({"metadata": {"annotations": times}, "data": {"token": "Zm9v"}})).await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.told("p", "TokenReissued", "NotYetValid").await?;
    scene.ready("p").await?;
    scene.holds(&second).await?;
    scene.rest().await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}
