//! Revoking and ending in states that keep the operator from issuing: a policy that cannot be read, and deletions in each
//! cascade.

use anyhow::{Context, Result, ensure};
use chrono::{SecondsFormat, Utc};
use kube::api::{DeleteParams, PropagationPolicy};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, Target, condition, spec};

const TARGET: &str = "p-deployer";
const BEFORE: &str = "tokenward.dev/revoke-issued-before";

/// A schedule that fits the pattern of the schema, and that no CronJob has: its range ends before it begins.
fn unreadable() -> Value {
    spec(&["deployer"], json!({"rotation": {"windows": [{"schedule": "45-15 2 * * *", "duration": "1h"}]}}))
}

/// Waits until the policy cannot be read, and its status tells this of the accounts and of the end of their tokens.
async fn frozen(scene: &Scene, accounts: &str, expires: Option<&str>) -> Result<()> {
    let check = async || {
        let policy = scene.policies().get("p").await?;
        let stalled = condition(&policy, "Stalled").with_context(|| policy.data["status"].to_string())?;
        ensure!(stalled.reason == "PolicyUnreadable" && stalled.message.contains("45-15"), "{stalled:?}");
        let status = &policy.data["status"];
        ensure!(status["accounts"]["summary"] == accounts, "{status}");
        ensure!(status["earliestExpiration"].as_str() == expires, "{status}");
        Ok(())
    };
    eventually(SOON, "the policy is frozen", check).await
}

async fn revoke_now(scene: &Scene, target: &Target) -> Result<()> {
    scene.ages(target).await?;
    let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let annotations = json!({"tokenward.dev/revoke-reason": "leaked", BEFORE: now});
    scene
        .policies()
        .patch(
            "p",
            &kube::api::PatchParams::default(),
            &kube::api::Patch::Merge(json!({"metadata": {"annotations": annotations}})),
        )
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_tells_of_its_tokens_and_revokes_them() -> Result<()> {
    let scene = Scene::start("frozen").await?;
    let first = scene.deployer(json!({})).await?;
    scene.policy("p", &unreadable()).await?;
    frozen(&scene, "1/1", Some(first.says("expires-at"))).await?;
    let series = format!(
        "tokenward_policy_earliest_expiration_timestamp_seconds{{namespace=\"{}\",policy=\"p\"}}",
        scene.namespace
    );
    for fence in ["before-restart", "after-restart"] {
        scene.fence(fence).await?;
        frozen(&scene, "1/1", Some(first.says("expires-at"))).await?;
        let metrics = scene.operator.metrics().await?;
        ensure!(metrics.contains(&series), "{series} is not in {metrics}");
        scene.operator.restart()?;
        scene.operator.ready().await?;
    }
    revoke_now(&scene, &first).await?;
    scene.told("p", "TokenRevoked", "leaked").await?;
    scene.bearer(first.token()).await?.dies().await?;
    frozen(&scene, "0/1", None).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.ready("p").await?;
    scene.bearer(second.token()).await?.lives().await
}

#[tokio::test]
async fn deleting_a_policy_kills_its_tokens_but_with_orphans() -> Result<()> {
    for readable in [true, false] {
        for (n, cascade) in [PropagationPolicy::Background, PropagationPolicy::Foreground, PropagationPolicy::Orphan]
            .into_iter()
            .enumerate()
        {
            let scene = Scene::start(&format!("cascade-{readable}-{n}")).await?;
            let target = scene.deployer(json!({})).await?;
            if !readable {
                scene.policy("p", &unreadable()).await?;
                frozen(&scene, "1/1", Some(target.says("expires-at"))).await?;
            }
            let kept = matches!(cascade, PropagationPolicy::Orphan);
            let deletion = DeleteParams { propagation_policy: Some(cascade), ..DeleteParams::default() };
            scene.policies().delete("p", &deletion).await?;
            let gone = async || {
                ensure!(scene.policies().get_opt("p").await?.is_none(), "the policy is still there");
                Ok(())
            };
            eventually(2 * SOON, "the policy goes", gone).await?;
            if kept {
                // Longer than a grant needs to end.
                scene.fence("after").await?;
                scene.swept().await?;
                ensure!(scene.target(TARGET).await?.token_id() == target.token_id());
                scene.bearer(target.token()).await?.lives().await?;
            } else {
                scene.gone(TARGET).await?;
                scene.bearer(target.token()).await?.dies().await?;
            }
        }
    }
    Ok(())
}
