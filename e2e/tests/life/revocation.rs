//! Revocation: by a time, on a policy or on one target; by deleting what a token belongs to; with the operator down.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokenward_e2e::scene::{SOON, Scene, Target, claims, condition, spec};
use tokenward_e2e::{Act, Call, Rule, eventually};

const TARGET: &str = "p-deployer";
const BEFORE: &str = "tokenward.dev/revoke-issued-before";
const REASON: &str = "tokenward.dev/revoke-reason";

fn text(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// When a token was issued: whole seconds.
fn issued(token: &str) -> Result<DateTime<Utc>> {
    let seconds = claims(token)?["iat"].as_i64().context("no iat")?;
    DateTime::from_timestamp(seconds, 0).context("iat")
}

fn is_deployers(call: &Call) -> bool {
    call.is_mint() && call.path.contains("/deployer/")
}

/// An instant of now that is later than the issue of this token.
async fn later(token: &str) -> Result<DateTime<Utc>> {
    let issued = issued(token)?.timestamp();
    let check = async || {
        ensure!(Utc::now().timestamp() > issued, "it is as young as can be");
        Ok(Utc::now())
    };
    eventually(SOON, "the next second", check).await
}

/// Revokes what policy `p` issued before `instant`.
async fn revoke(scene: &Scene, instant: DateTime<Utc>) -> Result<()> {
    scene.annotate("p", BEFORE, Some(&text(instant))).await
}

/// Revokes what was issued before now, which is later than the target's token.
async fn revoke_now(scene: &Scene, target: &Target) -> Result<DateTime<Utc>> {
    scene.ages(target).await?;
    let now = Utc::now();
    revoke(scene, now).await?;
    Ok(now)
}

/// Rotates policy `p` and waits for the new token.
async fn rotated(scene: &Scene, value: &str, before: &Target) -> Result<Target> {
    scene.rotate("p", value).await?;
    scene.next_target(TARGET, before).await
}

/// That these tokens die, and that the target has one that was not issued before `instant`.
async fn replaced(scene: &Scene, dead: &[&Target], name: &str, instant: DateTime<Utc>) -> Result<Target> {
    let after = scene.next_target(name, dead.last().context("none")?).await?;
    for old in dead {
        scene.bearer(old.token()).await?.dies().await?;
        scene.gone(old.anchor()).await?;
    }
    scene.holds(&after).await?;
    ensure!(issued(after.token())? >= instant, "issued at {}, revoked until {instant}", issued(after.token())?);
    Ok(after)
}

/// That the account has so many tokens in all, and that its target stays as it is.
async fn minted(scene: &Scene, fence: &str, target: &Target, mints: usize) -> Result<()> {
    scene.fence(fence).await?;
    let (account, name) = (target.says("service-account"), target.says("target"));
    ensure!(scene.mints_of(account) == mints, "{} tokens for {mints}", scene.mints_of(account));
    ensure!(scene.target(name).await?.version() == target.version(), "it was written again");
    Ok(())
}

/// Waits until the metric counts so many tokens revoked for this reason.
async fn counted(scene: &Scene, reason: &str, times: usize) -> Result<()> {
    let line = format!(r#"tokenward_tokens_revoked_total{{reason="{reason}"}} {times}"#);
    let check = async || {
        let metrics = scene.operator.metrics().await?;
        let revoked: Vec<&str> = metrics.lines().filter(|line| line.contains("revoked_total")).collect();
        ensure!(revoked.contains(&line.as_str()), "{revoked:#?}");
        Ok(())
    };
    eventually(SOON, &line, check).await
}

#[tokio::test]
async fn everything_a_policy_issued_before_an_instant_dies_and_one_token_replaces_it() -> Result<()> {
    let scene = Scene::start("policy-time").await?;
    let first = scene.deployer(json!({})).await?;
    let second = rotated(&scene, "1", &first).await?;
    scene.annotate("p", REASON, Some("leaked-in-log")).await?;
    let instant = revoke_now(&scene, &second).await?;
    let third = replaced(&scene, &[&first, &second], TARGET, instant).await?;
    for old in [&first, &second] {
        let told = scene.told("p", "TokenRevoked", old.token_id()).await?;
        assert!(told.note.contains("leaked-in-log"), "{}", told.note);
    }
    let told = scene.told("p", "TokenReissued", third.token_id()).await?;
    assert!(told.note.contains("Revoked"), "{}", told.note);
    counted(&scene, "leaked-in-log", 2).await?;
    assert!(scene.operator.log()?.contains("leaked-in-log"));
    assert_eq!((third.previous()?, scene.anchors().await?), (vec![], vec![third.anchor().to_owned()]));
    minted(&scene, "after", &third, 3).await
}

#[tokio::test]
async fn without_a_reason_the_revocation_is_called_by_its_annotation() -> Result<()> {
    let scene = Scene::start("no-reason").await?;
    let first = scene.deployer(json!({})).await?;
    let instant = revoke_now(&scene, &first).await?;
    replaced(&scene, &[&first], TARGET, instant).await?;
    scene.told("p", "TokenRevoked", "RevokeIssuedBefore").await?;
    counted(&scene, "RevokeIssuedBefore", 1).await
}

#[tokio::test]
async fn a_time_on_one_target_revokes_nothing_of_the_others() -> Result<()> {
    let scene = Scene::start("target-time").await?;
    for account in ["a", "b"] {
        scene.account(account, &[]).await?;
    }
    scene.policy("p", &spec(&["a", "b"], json!({}))).await?;
    scene.ready("p").await?;
    let (first, other) = (scene.target("p-a").await?, scene.target("p-b").await?);
    scene.rotate("p", "1").await?;
    let (second, other) = (scene.next_target("p-a", &first).await?, scene.next_target("p-b", &other).await?);
    scene.ages(&second).await?;
    let instant = Utc::now();
    let annotations = json!({BEFORE: text(instant), REASON: "laptop-lost"});
    scene.patch_secret("p-a", json!({"metadata": {"annotations": annotations}})).await?;
    let third = replaced(&scene, &[&first, &second], "p-a", instant).await?;
    counted(&scene, "laptop-lost", 2).await?;
    minted(&scene, "a-after", &third, 3).await?;
    minted(&scene, "b-after", &other, 2).await?;
    scene.bearer(other.token()).await?.lives().await
}

#[tokio::test]
async fn a_time_to_come_acts_when_it_is_reached() -> Result<()> {
    let scene = Scene::start("to-come").await?;
    let first = scene.deployer(json!({})).await?;
    let instant = Utc::now() + TimeDelta::seconds(15);
    revoke(&scene, instant).await?;
    minted(&scene, "before", &first, 1).await?;
    scene.bearer(first.token()).await?.lives().await?;
    ensure!(Utc::now() < instant, "this machine is too slow: nothing was looked at before the instant");
    let second = replaced(&scene, &[&first], TARGET, instant).await?;
    assert!(Utc::now() >= instant);
    minted(&scene, "after", &second, 2).await
}

#[tokio::test]
async fn a_time_to_come_is_kept_over_a_restart() -> Result<()> {
    let scene = Scene::start("to-come-down").await?;
    let first = scene.deployer(json!({})).await?;
    let instant = Utc::now() + TimeDelta::seconds(5);
    revoke(&scene, instant).await?;
    scene.operator.kill9()?;
    let passed = async || {
        ensure!(Utc::now() > instant, "not yet");
        Ok(())
    };
    eventually(SOON, "the instant passes", passed).await?;
    scene.bearer(first.token()).await?.lives().await?;
    scene.operator.restart()?;
    let second = replaced(&scene, &[&first], TARGET, instant).await?;
    minted(&scene, "after", &second, 2).await
}

#[tokio::test]
async fn a_token_that_was_not_issued_before_the_instant_is_not_touched() -> Result<()> {
    let scene = Scene::start("not-before").await?;
    let first = scene.deployer(json!({})).await?;
    let instant = issued(first.token())?;
    for (n, instant) in [instant - TimeDelta::hours(1), instant].into_iter().enumerate() {
        revoke(&scene, instant).await?;
        minted(&scene, &format!("after-{n}"), &first, 1).await?;
    }
    scene.bearer(first.token()).await?.lives().await?;
    assert_eq!(scene.anchors().await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn the_same_time_again_and_a_restart_do_nothing() -> Result<()> {
    let scene = Scene::start("idempotent").await?;
    let first = scene.deployer(json!({})).await?;
    let instant = revoke_now(&scene, &first).await?;
    let second = replaced(&scene, &[&first], TARGET, instant).await?;
    revoke(&scene, instant).await?;
    scene.annotate("p", REASON, Some("said-later")).await?;
    minted(&scene, "again", &second, 2).await?;
    scene.operator.restart()?;
    minted(&scene, "restarted", &second, 2).await?;
    scene.annotate("p", BEFORE, None).await?;
    minted(&scene, "removed", &second, 2).await?;
    revoke(&scene, instant).await?;
    minted(&scene, "put-back", &second, 2).await
}

#[tokio::test]
async fn while_suspended_everything_is_revoked_and_nothing_issued() -> Result<()> {
    let scene = Scene::start("suspended").await?;
    let first = scene.deployer(json!({})).await?;
    let second = rotated(&scene, "1", &first).await?;
    scene.policy("p", &spec(&["deployer"], json!({"suspend": true}))).await?;
    scene.condition("p", "Suspended", "True").await?;
    let instant = revoke_now(&scene, &second).await?;
    for old in [&first, &second] {
        scene.gone(old.anchor()).await?;
        scene.bearer(old.token()).await?.dies().await?;
    }
    scene.fence("suspended").await?;
    assert_eq!(scene.mints_of("deployer"), 2);
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    let third = replaced(&scene, &[&second], TARGET, instant).await?;
    minted(&scene, "after", &third, 3).await
}

#[tokio::test]
async fn two_policies_on_one_account_are_independent() -> Result<()> {
    let scene = Scene::start("independent").await?;
    let first = scene.deployer(json!({})).await?;
    scene.policy("q", &spec(&["deployer"], json!({}))).await?;
    scene.ready("q").await?;
    let other = scene.target("q-deployer").await?;
    scene.ages(&other).await?;
    let instant = revoke_now(&scene, &first).await?;
    let second = replaced(&scene, &[&first], TARGET, instant).await?;
    minted(&scene, "after", &second, 3).await?;
    assert_eq!(scene.target("q-deployer").await?.version(), other.version());
    scene.bearer(other.token()).await?.lives().await
}

/// The reason of `Reconciling` or `Stalled`, whichever the policy has.
async fn says(scene: &Scene, reason: &str) -> Result<String> {
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let found = ["Reconciling", "Stalled"].iter().find_map(|kind| condition(&policy, kind));
        let found = found.filter(|found| found.reason == reason);
        found.map(|found| found.message).with_context(|| policy.data["status"].to_string())
    };
    eventually(SOON, reason, check).await
}

#[tokio::test]
async fn a_time_that_is_none_is_told_and_revokes_nothing() -> Result<()> {
    let scene = Scene::start("no-time").await?;
    let first = scene.deployer(json!({})).await?;
    scene.ages(&first).await?;
    scene.annotate("p", BEFORE, Some("yesterday")).await?;
    let message = says(&scene, "RevocationTimeInvalid").await?;
    assert!(message.contains("yesterday") && message.contains("3339"), "{message}");
    assert_eq!(scene.told("p", "RevocationTimeInvalid", "yesterday").await?.kind, "Warning");
    minted(&scene, "after", &first, 1).await?;
    scene.bearer(first.token()).await?.lives().await?;
    let instant = revoke_now(&scene, &first).await?;
    replaced(&scene, &[&first], TARGET, instant).await?;
    scene.ready("p").await?;
    let over = async || {
        let status = scene.policies().get("p").await?.data["status"].to_string();
        ensure!(!status.contains("RevocationTimeInvalid"), "{status}");
        Ok(())
    };
    eventually(SOON, "it is not told any more", over).await
}

#[tokio::test]
async fn a_time_on_a_target_that_is_none_is_told_too() -> Result<()> {
    let scene = Scene::start("no-target-time").await?;
    let first = scene.deployer(json!({})).await?;
    let annotation = json!({"metadata": {"annotations": {BEFORE: "2026-13-01T00:00:00Z"}}});
    scene.patch_secret(TARGET, annotation).await?;
    let told = scene.told("p", "RevocationTimeInvalid", "2026-13-01").await?;
    assert_eq!(told.kind, "Warning");
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.target(TARGET).await?.token_id()), (1, first.token_id()));
    scene.bearer(first.token()).await?.lives().await
}

#[tokio::test]
async fn a_token_on_its_way_at_the_instant_is_never_published() -> Result<()> {
    let scene = Scene::start("on-its-way").await?;
    let first = scene.deployer(json!({})).await?;
    let held = scene.proxy.add(Rule::after(is_deployers, Act::Hold));
    scene.rotate("p", "1").await?;
    held.reached().await?;
    let lost = scene.proxy.minted().last().context("nothing minted")?.token().to_owned();
    let instant = later(&lost).await?;
    revoke(&scene, instant).await?;
    scene.fence("seen").await?;
    held.release();
    let third = replaced(&scene, &[&first], TARGET, instant).await?;
    scene.bearer(&lost).await?.dies().await?;
    minted(&scene, "after", &third, 3).await?;
    assert_eq!(scene.anchors().await?.len(), 3);
    Ok(())
}

#[tokio::test]
async fn a_token_that_a_crash_lost_before_the_instant_is_revoked_with_the_others() -> Result<()> {
    let scene = Scene::start("lost-before").await?;
    let first = scene.deployer(json!({})).await?;
    let held = scene.proxy.add(Rule::after(is_deployers, Act::Hold));
    scene.rotate("p", "1").await?;
    held.reached().await?;
    scene.operator.kill9()?;
    held.cut();
    let lost = scene.proxy.minted().last().context("nothing minted")?.token().to_owned();
    let instant = later(&lost).await?;
    revoke(&scene, instant).await?;
    scene.operator.restart()?;
    let third = replaced(&scene, &[&first], TARGET, instant).await?;
    scene.bearer(&lost).await?.dies().await?;
    counted(&scene, "RevokeIssuedBefore", 2).await?;
    minted(&scene, "after", &third, 3).await
}

/// A scene with a ready policy `p` whose tokens are bound so.
async fn bound(namespace: &str, binding: &str) -> Result<(Scene, Target)> {
    let scene = Scene::start(namespace).await?;
    let target = scene.deployer(json!({"token": {"binding": binding}})).await?;
    Ok((scene, target))
}

#[tokio::test]
async fn a_token_bound_to_its_target_is_revoked_with_it() -> Result<()> {
    let (scene, first) = bound("bound-target", "Target").await?;
    let instant = revoke_now(&scene, &first).await?;
    let fresh = async || {
        let target = scene.target(TARGET).await?;
        ensure!(!target.token().is_empty() && target.token() != first.token(), "still the old one");
        Ok(target)
    };
    let second = eventually(SOON, "the target is written anew", fresh).await?;
    assert_ne!(second.version().0, first.version().0);
    assert!(issued(second.token())? >= instant);
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    minted(&scene, "after", &second, 2).await
}

#[tokio::test]
async fn a_token_bound_to_nothing_cannot_be_revoked_and_the_policy_says_so() -> Result<()> {
    let (scene, first) = bound("bound-nothing", "None").await?;
    revoke_now(&scene, &first).await?;
    let (_, unsupported) = scene.condition("p", "RevocationUnsupported", "True").await?;
    assert!(unsupported.message.contains("ServiceAccount"), "{}", unsupported.message);
    scene.bearer(first.token()).await?.lives().await
}

/// Gives a Secret a second owner, and waits until the operator has taken it away.
async fn owned_by_another(scene: &Scene, name: &str) -> Result<()> {
    let uid = scene.accounts().get("deployer").await?.metadata.uid;
    let foreign = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": "deployer", "uid": uid});
    let mut owners = json!(scene.secrets().get(name).await?.metadata.owner_references);
    owners.as_array_mut().context("no owners")?.push(foreign);
    scene.patch_secret(name, json!({"metadata": {"ownerReferences": owners}})).await?;
    let alone = async || {
        let owners: Value = json!(scene.secrets().get(name).await?.metadata.owner_references);
        ensure!(owners.as_array().is_some_and(|owners| owners.len() == 1), "{owners}");
        Ok(())
    };
    eventually(SOON, "one owner is left", alone).await
}

/// Deletes the policy while the operator is down: the garbage collector does the rest.
async fn collected(scene: &Scene, tokens: &[&Target]) -> Result<()> {
    scene.operator.kill9()?;
    scene.delete_policy("p").await?;
    scene.gone(TARGET).await?;
    for old in tokens {
        scene.gone(old.anchor()).await?;
        scene.bearer(old.token()).await?.dies().await?;
    }
    scene.operator.restart()?;
    scene.fence("after").await?;
    ensure!(scene.mints_of("deployer") == tokens.len(), "{} tokens", scene.mints_of("deployer"));
    Ok(())
}

#[tokio::test]
async fn deleting_the_policy_revokes_everything_with_the_operator_down() -> Result<()> {
    let scene = Scene::start("collected").await?;
    let first = scene.deployer(json!({})).await?;
    let second = rotated(&scene, "1", &first).await?;
    collected(&scene, &[&first, &second]).await
}

#[tokio::test]
async fn a_second_owner_that_was_added_before_keeps_no_token_alive() -> Result<()> {
    let scene = Scene::start("two-owners").await?;
    let first = scene.deployer(json!({})).await?;
    for secret in [TARGET, first.anchor()] {
        owned_by_another(&scene, secret).await?;
    }
    collected(&scene, &[&first]).await
}
