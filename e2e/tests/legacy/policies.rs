//! Several policies, none, and operators that lose a right or their life.

use super::lab::{INVALID_SINCE, LAST_USED, Lab, OLD};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE};
use tokenward_e2e::proxy::{Act, Call, Rule};
use tokenward_e2e::scene::SOON;
use tokenward_e2e::scene::caller::{Caller, Wanted, secret_path};

/// Kinds that are watched for a policy alone, as the metric has them.
const KINDS: [&str; 5] =
    ["secrets (legacy tokens)", "pods", "serviceaccounts (legacy tokens)", "namespaces", "configmaps (legacy tokens)"];

/// How many of them are watched.
async fn watched(lab: &Lab) -> Result<usize> {
    let text = lab.operator.metrics().await?;
    let series = |kind: &str| format!("tokenward_watch_last_event_timestamp_seconds{{kind=\"{kind}\"}}");
    Ok(KINDS.iter().filter(|kind| text.contains(&series(kind))).count())
}

/// Waits until so many are.
async fn watches(lab: &Lab, wanted: usize) -> Result<()> {
    let check = async || {
        let found = watched(lab).await?;
        ensure!(found == wanted, "{found} watches");
        Ok(())
    };
    eventually(SOON, &format!("{wanted} watches"), check).await
}

/// Calls that list pods, or watch them.
fn looks_at_pods(lab: &Lab, mark: usize) -> usize {
    lab.proxy.calls_since(mark, "GET", "/api/v1/pods").len()
}

#[tokio::test]
async fn the_watches_end_with_the_last_policy_and_come_back_with_the_next() -> Result<()> {
    let lab = Lab::start("idle").await?;
    lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    lab.quarantined("old").await?;
    watches(&lab, KINDS.len()).await?;
    lab.plane.kubectl_ok(["delete", "ltpol", "idle"]).await?;
    watches(&lab, 0).await?;
    let mark = lab.proxy.mark();
    lab.proxy.cut_connections();
    let others = async || {
        let again = lab.proxy.calls_since(mark, "GET", "/legacytokenpolicies").len();
        ensure!(again > 0, "policies are not watched again");
        Ok(())
    };
    eventually(SOON, "policies are watched again", others).await?;
    ensure!(looks_at_pods(&lab, mark) == 0, "pods are watched for nobody");
    lab.token("next", json!({ LAST_USED: OLD })).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    lab.quarantined("next").await?;
    ensure!(lab.label_of("old", INVALID_SINCE).await?.is_some_and(|day| !day.is_empty()), "it went with the policy");
    let lists = lab.proxy.calls_since(mark, "GET", "/api/v1/pods").into_iter();
    let lists = lists.filter(|call| call.query.contains("sendInitialEvents=true")).count();
    ensure!(lists == 1, "pods were listed {lists} times");
    watches(&lab, KINDS.len()).await
}

#[tokio::test]
async fn a_right_that_is_lost_in_the_middle_shows_everywhere_and_is_recovered_from() -> Result<()> {
    let lab = Lab::start("lost").await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    lab.fence("first").await?;
    let role = ["clusterrole", "tokenward"];
    let text = lab.plane.kubectl_ok(["get", role[0], role[1], "-o", "json"]).await?;
    let all = serde_json::from_str::<Value>(&text)?["rules"].clone();
    let grant = async |rules: &Value| {
        let patch = json!({ "rules": rules }).to_string();
        lab.plane.kubectl_ok(["patch", role[0], role[1], "--type=merge", "-p", &patch]).await
    };
    let mut fewer = all.clone();
    for rule in fewer.as_array_mut().into_iter().flatten().filter(|rule| rule["resources"][0] == "secrets") {
        rule["verbs"] = json!(["get", "list", "watch"]);
    }
    grant(&fewer).await?;
    let operator = Caller::user(lab.plane, &format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}")).await?;
    let lift = json!({"metadata": {"labels": {INVALID_SINCE: ""}}});
    let dry = secret_path("lost", "first") + "?dryRun=All";
    operator.gets("MERGE", &dry, &lift, Wanted::Refused("cannot patch")).await?;
    for name in ["old", "older"] {
        lab.token(name, json!({ LAST_USED: OLD })).await?;
    }
    let says = |status: &Value| {
        status["conditions"][0]["status"] == "False" && status["conditions"][0]["reason"] == "Forbidden"
    };
    lab.status("the policy is not ready", says).await?;
    let series = "tokenward_failures_total{reason=\"Forbidden\"} 0\n";
    ensure!(!lab.operator.metrics().await?.contains(series), "no failure is counted");
    grant(&all).await?;
    lab.quarantined("old").await?;
    lab.quarantined("older").await?;
    lab.told("ServiceAccount", "robot", "Forbidden").await?;
    let told = lab.told_of("Forbidden").await?;
    ensure!(told == ["Secret", "ServiceAccount"], "not once on each: {told:?}");
    lab.status("the policy is ready", |status| status["conditions"][0]["status"] == "True").await.map(drop)
}

/// The watch does not see the end of policies that it may not read.
#[tokio::test]
async fn policies_that_may_not_be_read_any_more_are_as_good_as_gone() -> Result<()> {
    let lab = Lab::start("unread").await?;
    lab.policy(json!({"mode": "Report", "unusedFor": "24h"})).await?;
    watches(&lab, KINDS.len()).await?;
    let name = "tokenward-legacy-token-policy";
    let text = lab.plane.kubectl_ok(["get", "clusterrole", name, "-o", "json"]).await?;
    let all = serde_json::from_str::<Value>(&text)?["rules"].clone();
    let grant = async |rules: &Value| {
        let patch = json!({ "rules": rules }).to_string();
        lab.plane.kubectl_ok(["patch", "clusterrole", name, "--type=merge", "-p", &patch]).await
    };
    let mut fewer = all.clone();
    let others = |rule: &Value| rule["resources"] != json!(["legacytokenpolicies"]);
    fewer.as_array_mut().into_iter().for_each(|rules| rules.retain(others));
    ensure!(fewer != all, "no rule was taken away: {all}");
    grant(&fewer).await?;
    lab.proxy.cut_connections();
    watches(&lab, 0).await?;
    grant(&all).await?;
    // The operator looks for the right once a minute.
    eventually(2 * SOON, "the watches are back", async || watches(&lab, KINDS.len()).await).await
}

#[tokio::test]
async fn policies_for_the_same_namespace_say_so_and_one_that_keeps_protects_from_all() -> Result<()> {
    let lab = Lab::start("several").await?;
    lab.token("kept", json!({ LAST_USED: OLD, INVALID_SINCE: OLD, "keep": "me" })).await?;
    let keeper = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "LegacyTokenPolicy",
        "metadata": {"name": "keeper"}, "spec": {"keep": {"matchLabels": {"keep": "me"}}}});
    lab.plane.apply(&keeper.to_string()).await?;
    lab.policy(json!({"mode": "Delete", "unusedFor": "24h", "deleteAfter": "24h"})).await?;
    let names = |status: &Value| {
        let all = status["conditions"].as_array().into_iter().flatten();
        let message = all.filter(|it| it["type"] == "Overlapping").find_map(|it| it["message"].as_str());
        message.is_some_and(|message| message.starts_with("LegacyTokenPolicy keeper is for"))
    };
    lab.status("the other policy is named", names).await?;
    lab.fence("fence").await?;
    ensure!(lab.writes("DELETE", "") == 0, "one that another policy keeps was deleted");
    lab.plane.kubectl_ok(["delete", "ltpol", "keeper"]).await?;
    lab.told("Secret", "kept", "LegacyTokenDeleted").await.map(drop)
}

#[tokio::test]
async fn a_quarantine_whose_event_was_lost_is_known_by_the_secret_alone() -> Result<()> {
    let lab = Lab::start("killed").await?;
    let event = |call: &Call| call.is("POST", "/events") && call.says("LegacyTokenQuarantined");
    let held = lab.proxy.add(Rule::before(event, Act::Hold));
    lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    held.reached().await?;
    lab.operator.kill9()?;
    held.cut();
    held.remove();
    lab.operator.restart()?;
    lab.fence("fence").await?;
    lab.state("old", "Quarantined").await?;
    let fields = lab.secrets.get_metadata("old").await?.metadata.managed_fields.unwrap_or_default();
    let ours = fields.into_iter().find(|entry| entry.manager.as_deref() == Some("tokenward"));
    ensure!(ours.as_ref().is_some_and(|entry| entry.time.is_some()), "no field of ours: {ours:?}");
    ensure!(lab.writes("PATCH", "old") == 1, "written again");
    lab.label("old", INVALID_SINCE, Some("")).await?;
    lab.state("old", "Used").await.map(drop)
}
