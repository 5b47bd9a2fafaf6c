//! What the operator costs the API server, counted in the audit log.

mod common;

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use common::{Scene, claims, plane, spec};
use secrecy::ExposeSecret;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, token};
use tokenward_e2e::{AuditEvent, Options, eventually};

/// Without a call for so long the operator is at rest.
const QUIET: TimeDelta = TimeDelta::seconds(6);
const GRANTS: usize = 200;

/// A scene whose operator is told apart in the audit log by the id of its own token.
struct Audited {
    scene: Scene,
    credential: String,
}

impl Audited {
    async fn start(namespace: &str) -> Result<Self> {
        let token = token(plane().await?, NAMESPACE, ACCOUNT, Duration::from_hours(24)).await?;
        let id = claims(token.expose_secret())?["jti"].as_str().context("a token without jti")?.to_owned();
        let options = Options { token: Some(token), ..Options::default() };
        Ok(Self { scene: Scene::start_with(namespace, options).await?, credential: id })
    }

    /// What the operator asked of the API server so far; a watch counts when it opens.
    fn calls(&self) -> Result<Vec<AuditEvent>> {
        let mut events = self.scene.plane.audit()?;
        events.retain(|event| {
            let counts = event.is_complete() != (event.verb == "watch");
            counts && event.credential_id() == Some(&self.credential)
        });
        events.sort_by_key(|event| event.received);
        let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        ensure!(events.iter().all(|event| event.user == user), "a credential of somebody else");
        Ok(events)
    }

    /// Waits until the operator has called nothing but watches for [`QUIET`], and returns when that was.
    async fn rest(&self) -> Result<DateTime<Utc>> {
        let check = async || {
            let (calls, now) = (self.calls()?, Utc::now());
            let last = calls.iter().rfind(|call| call.verb != "watch").context("no call yet")?;
            ensure!(now - last.at > QUIET, "just now {}", line(last));
            Ok(now)
        };
        eventually(Duration::from_mins(3), "the operator comes to rest", check).await
    }

    async fn calls_until_rest(&self, since: DateTime<Utc>) -> Result<Vec<AuditEvent>> {
        self.rest().await?;
        Ok(self.calls()?.into_iter().filter(|call| call.received >= since).collect())
    }
}

fn line(call: &AuditEvent) -> String {
    let name = if call.name.starts_with("tw-") { "(anchor)" } else { &call.name };
    let slash = if call.subresource.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{} {name}", call.verb, call.resource, call.subresource).trim_end().to_owned()
}

fn lines(calls: &[AuditEvent], wanted: impl Fn(&AuditEvent) -> bool) -> Vec<String> {
    calls.iter().filter(|call| wanted(call)).map(line).collect()
}

/// The calls that section 2.1 of the design counts.
fn on_secrets(calls: &[AuditEvent]) -> Vec<String> {
    let counted = |call: &AuditEvent| match call.resource.as_str() {
        "secrets" => !["list", "watch"].contains(&call.verb.as_str()),
        "serviceaccounts" => call.subresource == "token",
        _ => false,
    };
    lines(calls, counted)
}

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
    eventually(common::SOON, "a target", async || scene.target("p-deployer").await).await?;
    scene.rotate("p", "1").await?;
    let rotated = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.says("rotate") == "1", "still {:?}", target.says("rotate"));
        Ok(target)
    };
    let target = eventually(common::SOON, "the rotation", rotated).await?;
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
    // The optional kind is not installed here, and is looked for once a minute.
    let (optional, others): (Vec<_>, Vec<_>) =
        lines(&calls, |call| call.verb != "watch").into_iter().partition(|call| call == "list bootstraptokenpolicies");
    assert_eq!(others, [""; 0]);
    assert!(optional.len() <= 2, "{optional:?}");

    let start = Utc::now();
    scene.operator.restart()?;
    scene.operator.ready().await?;
    let calls = audited.calls_until_rest(start).await?;
    // Once per process, and not per account.
    let fixed = BTreeSet::from(["get configmaps cluster-info", "patch tokenpolicies/status p"]);
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
