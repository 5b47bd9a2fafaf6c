//! Secrets with legacy tokens on a real API server. Days that must pass are in labels and in the API server's own record.

mod belt;
mod lab;
mod migration;
mod neighbours;
mod policies;

use anyhow::{Result, ensure};
use lab::{INVALID_SINCE, LAST_USED, Lab, OLD};
use serde_json::json;
use tokenward_e2e::eventually;
use tokenward_e2e::proxy::{Act, Call, Rule};
use tokenward_e2e::scene::SOON;

#[tokio::test]
async fn a_report_lists_everything_and_writes_nothing() -> Result<()> {
    let lab = Lab::start("report").await?;
    let token = lab.token("old", json!({})).await?;
    lab.token_of("robot", "new", json!({})).await?;
    lab.token_of("robot", "copy", json!({ LAST_USED: OLD })).await?;
    lab.plane
        .kubectl_ok(["-n", "report", "patch", "serviceaccount", "robot", "-p", r#"{"secrets":[{"name":"old"}]}"#])
        .await?;
    lab.bearer(&token).await?.lives().await?;
    lab.policy(json!({"unusedFor": "24h"})).await?;
    lab.state("copy", "Used").await?;
    let today = chrono::Utc::now().date_naive().to_string();
    let used = lab.state("old", "Used").await?;
    ensure!(used["lastUsed"].as_str() <= Some(&*today) && used["lastUsed"].is_string(), "{used}");
    lab.label("old", LAST_USED, Some(OLD)).await?;
    let unused = lab.state("old", "Unused").await?;
    ensure!(unused["serviceAccount"] == "robot" && unused["lastUsed"] == OLD, "{unused}");
    ensure!(unused["referredBy"] == json!(["serviceaccount/robot"]), "{unused}");
    let new = lab.state("new", "Used").await?;
    ensure!(new["lastUsed"].is_null() && new["referredBy"].is_null(), "{new}");
    let table = lab.plane.kubectl_ok(["get", "ltpol", "report"]).await?;
    let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    ensure!(row[..6] == ["report", "True", "Report", "3", "1", "0"], "{table}");
    let series = "tokenward_legacy_tokens{policy=\"report\",state=\"unused\"} 1\n";
    ensure!(lab.operator.metrics().await?.contains(series), "{}", lab.operator.metrics().await?);
    ensure!(lab.writes("PATCH", "") == 0, "it wrote to a Secret");
    lab.bearer(&token).await?.lives().await
}

#[tokio::test]
async fn a_quarantined_token_is_refused_until_the_command_of_the_event_lifts_it() -> Result<()> {
    let lab = Lab::start("quarantine").await?;
    let token = lab.token("old", json!({})).await?;
    let bearer = lab.bearer(&token).await?;
    bearer.lives().await?;
    lab.label("old", LAST_USED, Some(OLD)).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    lab.quarantined("old").await?;
    bearer.dies().await?;
    lab.state("old", "Quarantined").await?;
    let note = lab.told("Secret", "old", "LegacyTokenQuarantined").await?;
    ensure!(note == lab.told("ServiceAccount", "robot", "LegacyTokenQuarantined").await?, "{note}");
    let command = note.split("lift it with: kubectl ").nth(1).unwrap_or_default();
    lab.label("old", LAST_USED, Some(OLD)).await?;
    lab.plane.kubectl_ok(command.split(' ')).await?;
    bearer.lives().await?;
    lab.label("old", LAST_USED, Some(OLD)).await?;
    lab.state("old", "Used").await?;
    lab.operator.restart()?;
    lab.fence("fence").await?;
    let label = lab.label_of("old", INVALID_SINCE).await?;
    ensure!(label.as_deref() == Some(""), "quarantined again: {label:?}");
    bearer.lives().await
}

#[tokio::test]
async fn a_label_that_somebody_removes_stays_away_also_after_a_restart() -> Result<()> {
    let lab = Lab::start("lifted").await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    let token = lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.quarantined("old").await?;
    lab.label("old", INVALID_SINCE, None).await?;
    lab.told("Secret", "old", "LegacyTokenLifted").await?;
    let writes = lab.writes("PATCH", "old");
    lab.fence("fence-1").await?;
    lab.operator.restart()?;
    lab.fence("fence-2").await?;
    let label = lab.label_of("old", INVALID_SINCE).await?;
    ensure!(label.as_deref() == Some("") && lab.writes("PATCH", "old") == writes, "written again: {label:?}");
    lab.bearer(&token).await?.lives().await
}

#[tokio::test]
async fn a_secret_is_deleted_after_its_quarantine_unless_somebody_tried_to_use_it() -> Result<()> {
    let lab = Lab::start("delete").await?;
    let deletes = |call: &Call| call.is("DELETE", "/namespaces/delete/secrets/");
    let blind = move |call: &Call| deletes(call) && !(call.says("\"uid\":\"") && call.says("\"resourceVersion\":\""));
    let unfenced = lab.proxy.add(Rule::before(blind, Act::Drop));
    lab.token("old", json!({ LAST_USED: OLD, INVALID_SINCE: OLD })).await?;
    let today = chrono::Utc::now().date_naive().to_string();
    lab.token("fresh", json!({ LAST_USED: OLD, INVALID_SINCE: today })).await?;
    let tried = lab.token("tried", json!({ LAST_USED: OLD, INVALID_SINCE: OLD })).await?;
    lab.bearer(&tried).await?.dies().await?;
    lab.policy(json!({"mode": "Delete", "unusedFor": "24h", "deleteAfter": "24h"})).await?;
    let gone = async || {
        ensure!(lab.secrets.get_metadata_opt("old").await?.is_none(), "it is there: {}", lab.last_words());
        Ok(())
    };
    eventually(std::time::Duration::from_secs(90), "the Secret is gone", gone).await?;
    let note = lab.told("Secret", "old", "LegacyTokenDeleted").await?;
    ensure!(note.contains(&format!("quarantined on {OLD} and not used since")), "{note}");
    lab.told("ServiceAccount", "robot", "LegacyTokenDeleted").await?;
    lab.fence("fence").await?;
    ensure!(lab.writes("DELETE", "") == 1 && unfenced.hits() == 0, "more than one Secret was deleted");
    Ok(())
}

/// A pod that is never started refers to a Secret as well as any other.
fn pod(namespace: &str, secret: &str) -> String {
    let container = json!({"name": "c", "image": "c", "env": [
        {"name": "T", "valueFrom": {"secretKeyRef": {"name": secret, "key": "token"}}}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod", "namespace": namespace},
        "spec": {"containers": [container], "automountServiceAccountToken": false}})
    .to_string()
}

#[tokio::test]
async fn mounted_and_kept_secrets_are_left_alone_and_all_of_them_without_a_record_of_uses() -> Result<()> {
    let lab = Lab::start("untouched").await?;
    lab.record_uses_since(None).await?;
    lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.token("mounted", json!({ LAST_USED: OLD })).await?;
    lab.token("kept", json!({ LAST_USED: OLD, "keep": "me" })).await?;
    lab.token("odd", json!({ LAST_USED: "yesterday" })).await?;
    lab.plane.apply(&pod("untouched", "mounted")).await?;
    let keep = json!({"matchLabels": {"keep": "me"}});
    lab.policy(json!({"mode": "Delete", "unusedFor": "24h", "deleteAfter": "24h", "keep": keep})).await?;
    let says = |status: &serde_json::Value, reason| {
        status["conditions"][0]["status"] == "False" && status["conditions"][0]["reason"] == reason
    };
    let status = lab.status("uses are not recorded", |status| says(status, "UsesNotRecorded")).await?;
    let counts = json!({"total": 4, "quarantined": 0, "mounted": 1, "kept": 1, "unknown": 1, "used": 0, "unused": 1});
    ensure!(status["tokens"] == counts && lab.writes("PATCH", "") == 0, "{status}");
    let odd = lab.state("odd", "Unknown").await?;
    ensure!(odd["message"].as_str().is_some_and(|text| text.contains("is no day: set it to")), "{odd}");
    lab.record_uses_since(Some(OLD)).await?;
    lab.quarantined("old").await?;
    let mounted = lab.state("mounted", "Mounted").await?;
    ensure!(mounted["referredBy"] == json!(["pod/pod"]), "{mounted}");
    lab.lifted_unseen(&["mounted", "kept"]).await?;
    lab.fence("fence").await?;
    ensure!(lab.writes("PATCH", "") == 2, "more than the old one and the fence were written");
    lab.plane.kubectl_ok(["-n", "untouched", "delete", "pod", "pod", "--force", "--grace-period=0"]).await?;
    lab.told("Secret", "mounted", "LegacyTokenLifted").await.map(drop)
}

#[tokio::test]
async fn without_the_right_to_read_pods_it_reports_only_and_says_so() -> Result<()> {
    let lab = Lab::start("podless").await?;
    let role = ["clusterrole", "tokenward-legacy-token-policy"];
    let text = lab.plane.kubectl_ok(["get", role[0], role[1], "-o", "json"]).await?;
    let mut rules = serde_json::from_str::<serde_json::Value>(&text)?["rules"].clone();
    let all = rules.clone();
    rules.as_array_mut().into_iter().for_each(|rules| rules.retain(|rule| rule["resources"][0] != "pods"));
    let grant = async |rules: &serde_json::Value| {
        let patch = json!({ "rules": rules }).to_string();
        lab.plane.kubectl_ok(["patch", role[0], role[1], "--type=merge", "-p", &patch]).await
    };
    grant(&rules).await?;
    lab.operator.restart()?;
    lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    let says = |status: &serde_json::Value| {
        let ready = &status["conditions"][0];
        ready["reason"] == "Forbidden" && ready["message"].as_str().is_some_and(|text| text.contains("pods"))
    };
    let status = lab.status("the status names the right", says).await?;
    ensure!(status["tokens"]["unused"] == 1 && lab.writes("PATCH", "old") == 0, "{status}");
    grant(&all).await?;
    lab.quarantined("old").await?;
    eventually(SOON, "it is ready", async || {
        lab.plane.kubectl_ok(["wait", "ltpol/podless", "--for=condition=Ready", "--timeout=5s"]).await
    })
    .await
    .map(drop)
}
