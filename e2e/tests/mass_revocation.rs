//! A revocation of a thousand tokens, with a crash in the middle of it.

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures::{StreamExt, TryStreamExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokenward_e2e::poll::eventually_every;
use tokenward_e2e::proxy::Minted;
use tokenward_e2e::scene::{Scene, Target, claims};
use tokenward_e2e::{Act, Call, Rule};

const GRANTS: usize = 1_000;
/// Calls that the operator has under way at once.
const SLOTS: usize = 32;
const LONG: Duration = Duration::from_mins(4);

fn issued(token: &str) -> Result<DateTime<Utc>> {
    let seconds = claims(token)?["iat"].as_i64().context("no iat")?;
    DateTime::from_timestamp(seconds, 0).context("iat")
}

/// Waits until every account has a token that was not issued before `instant`.
async fn all_since(scene: &Scene, instant: DateTime<Utc>) -> Result<BTreeMap<String, Target>> {
    let check = async || {
        let targets = scene.targets().await?;
        let fresh = targets.values().filter(|target| issued(target.token()).is_ok_and(|issued| issued >= instant));
        let fresh = fresh.count();
        ensure!(fresh == GRANTS, "{fresh} of {GRANTS}");
        Ok(targets)
    };
    eventually_every(Duration::from_millis(500), LONG, "all have a fresh token", check).await
}

/// How many of these tokens the API server still knows.
async fn living(scene: &Scene, tokens: impl Iterator<Item = String>) -> Result<usize> {
    let review = async |token: String| scene.user(&token).await.map(|user| usize::from(user.is_some()));
    let answers = futures::stream::iter(tokens).map(review).buffer_unordered(8);
    answers.try_fold(0, async |sum, one| Ok(sum + one)).await
}

/// Waits until all of these tokens are dead, and none of their anchors is left.
async fn all_dead(scene: &Scene, revoked: &[Minted]) -> Result<()> {
    let names: BTreeSet<&str> = revoked.iter().map(|minted| minted.bound_name.as_str()).collect();
    let check = async || {
        let anchors = scene.anchors().await?;
        let left = anchors.iter().filter(|anchor| names.contains(anchor.as_str())).count();
        ensure!(left == 0, "{left} anchors are left");
        let alive = living(scene, revoked.iter().map(|minted| minted.token().to_owned())).await?;
        ensure!(alive == 0, "{alive} tokens are alive");
        Ok(())
    };
    eventually_every(Duration::from_secs(1), LONG, "all that was issued before is dead", check).await
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_thousand_revocations_loses_none() -> Result<()> {
    let scene = Scene::start("thousand").await?;
    scene.many(GRANTS, "acc").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    all_since(&scene, DateTime::UNIX_EPOCH).await?;
    scene.rest().await?;
    ensure!(scene.mints() == GRANTS, "{} tokens", scene.mints());
    // Whole seconds: all that was issued so far lies before the next one.
    let instant = Utc::now() + TimeDelta::seconds(1);
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold).nth(400));
    let value = instant.to_rfc3339_opts(SecondsFormat::Millis, true);
    scene.annotate("p", "tokenward.dev/revoke-issued-before", Some(&value)).await?;
    held.reached_times(1, LONG).await?;
    scene.operator.kill9()?;
    held.cut();
    let done = scene.mints() - GRANTS;
    ensure!((1..GRANTS).contains(&done), "not in the middle: {done} tokens were minted");
    scene.operator.restart()?;
    let targets = all_since(&scene, instant).await?;
    let minted = scene.proxy.minted();
    let revoked: Vec<Minted> =
        minted.into_iter().filter(|one| issued(one.token()).is_ok_and(|at| at < instant)).collect();
    ensure!(revoked.len() >= GRANTS, "{} were issued before", revoked.len());
    all_dead(&scene, &revoked).await?;
    let alive = living(&scene, targets.values().map(|target| target.token().to_owned())).await?;
    ensure!(alive == GRANTS, "{alive} of {GRANTS} published tokens are alive");
    scene.swept().await?;
    ensure!(scene.anchors().await?.len() == GRANTS, "{} anchors", scene.anchors().await?.len());
    let minted = scene.mints();
    println!("{minted} tokens minted, {done} of them in between issue and crash");
    ensure!(minted <= 2 * GRANTS + SLOTS, "{minted} tokens: a storm");
    Ok(())
}
