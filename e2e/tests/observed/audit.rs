//! What the operator costs the API server, counted in the audit log.

use anyhow::{Result, ensure};
use chrono::Utc;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokenward_e2e::scene::audited::{Audited, lines, on_secrets};
use tokenward_e2e::scene::spec;
use tokenward_e2e::{AuditEvent, eventually};

const GRANTS: usize = 200;
/// What is asked once a minute and process, however many grants there are.
const MINUTELY: [&str; 5] = [
    "get /.well-known/openid-configuration",
    "get /openid/v1/jwks",
    "get configmaps cluster-info",
    "list bootstraptokenpolicies",
    "list legacytokenpolicies",
];

fn events(calls: &[AuditEvent]) -> usize {
    calls.iter().filter(|call| call.resource == "events").count()
}

#[tokio::test]
async fn a_first_issue_and_a_rotation_cost_four_calls_each() -> Result<()> {
    let audited = Audited::start("four-calls").await?;
    let scene = &audited.scene;
    scene.account("deployer", &[]).await?;
    let start = audited.rest().await?;
    scene.policy("p", &spec(&["deployer"], json!({"rotation": {"overlap": "3s"}}))).await?;
    scene.ready("p").await?;
    let issue = audited.calls_until_rest(start).await?;
    let expected = ["get secrets p-deployer", "create secrets (anchor)"];
    let mint_and_write = ["create serviceaccounts/token deployer", "patch secrets p-deployer"];
    assert_eq!(on_secrets(&issue), [expected, mint_and_write].concat());
    assert_eq!(events(&issue), 1, "{issue:#?}");

    let before = scene.target("p-deployer").await?;
    let start = Utc::now();
    scene.rotate("p", "1").await?;
    scene.next_target("p-deployer", &before).await?;
    scene.gone(before.anchor()).await?;
    let rotation = audited.calls_until_rest(start).await?;
    let anchor = [["create secrets (anchor)"], ["delete secrets (anchor)"]];
    assert_eq!(on_secrets(&rotation), [&anchor[0][..], &mint_and_write, &anchor[1]].concat());
    assert!(events(&rotation) <= 1, "{:?}", lines(&rotation, |call| call.resource == "events"));
    Ok(())
}

#[tokio::test]
async fn a_rotation_in_the_second_of_the_issue_costs_no_more() -> Result<()> {
    let audited = Audited::start("same-second").await?;
    let scene = &audited.scene;
    scene.account("deployer", &[]).await?;
    let start = audited.rest().await?;
    // `iat` counts whole seconds: from the start of one, both tokens fit into it.
    let fraction = Utc::now().timestamp_subsec_millis();
    tokio::time::sleep(Duration::from_millis(1000 - u64::from(fraction % 1000))).await;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    eventually(tokenward_e2e::scene::SOON, "a target", async || scene.target("p-deployer").await).await?;
    scene.rotate("p", "1").await?;
    let rotated = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.says("rotate") == "1", "still {:?}", target.says("rotate"));
        Ok(target)
    };
    let target = eventually(tokenward_e2e::scene::SOON, "the rotation", rotated).await?;
    scene.bearer(target.token()).await?.lives().await?;
    let calls = on_secrets(&audited.calls_until_rest(start).await?);
    assert_eq!(calls.iter().filter(|call| call.starts_with("create serviceaccounts/token")).count(), 2, "{calls:#?}");
    assert_eq!(calls.len(), 7, "{calls:#?}");
    Ok(())
}

#[tokio::test]
async fn idling_and_restarting_with_200_grants_cost_nothing_per_grant() -> Result<()> {
    let audited = Audited::start("two-hundred").await?;
    let scene = &audited.scene;
    scene.many(GRANTS, "acc").await?;
    let selector = json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}});
    scene.policy("p", &selector).await?;
    let policy = scene.ready("p").await?;
    assert_eq!(policy.data["status"]["accounts"]["summary"], format!("{GRANTS}/{GRANTS}"));
    audited.rest().await?;
    let versions = scene.versions().await?;

    let idle = audited.rest().await?;
    tokio::time::sleep(Duration::from_mins(1)).await;
    let calls: Vec<_> = audited.calls()?.into_iter().filter(|call| call.received >= idle).collect();
    // Once a minute each: keys and issuer, the address, and the optional kinds, which are not installed here.
    let mut polls: BTreeMap<String, usize> = BTreeMap::new();
    for call in lines(&calls, |call| call.verb != "watch") {
        *polls.entry(call).or_default() += 1;
    }
    assert!(polls.keys().all(|call| MINUTELY.contains(&call.as_str())), "{polls:?}");
    assert!(polls.values().all(|times| *times <= 2), "{polls:?}");

    let start = Utc::now();
    scene.operator.restart()?;
    scene.operator.ready().await?;
    let calls = audited.calls_until_rest(start).await?;
    // Once per process, and not per account.
    let mut fixed = BTreeSet::from(["get configmaps tokenward-limits", "patch tokenpolicies/status p"]);
    fixed.extend(MINUTELY);
    let reading = |call: &AuditEvent| ["list", "watch"].contains(&call.verb.as_str());
    let others = lines(&calls, |call| !reading(call));
    assert!(others.iter().all(|call| fixed.contains(call.as_str())), "{others:?}");
    assert!(others.len() <= fixed.len(), "{others:?}");
    let reads = lines(&calls, reading);
    assert!(reads.len() <= 16, "{reads:#?}");
    assert_eq!(scene.versions().await?, versions);
    assert_eq!(scene.mints(), GRANTS);
    Ok(())
}
