//! A Secret passes in place to the next account or to a renamed policy: watchers never see it go, and a consumer that reads
//! it again and again always gets a token that works.

use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{DeleteParams, PropagationPolicy, WatchEvent, WatchParams};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};

const SHARED: &str = "shared";

fn shared(account: &str, more: &Value) -> Value {
    let mut all = spec(&[account], json!({"secret": {"name": SHARED}, "rotation": {"overlap": "20s"}}));
    all.as_object_mut().into_iter().for_each(|all| all.extend(more.as_object().cloned().unwrap_or_default()));
    all
}

/// Policy `p` for account `deployer` has the Secret.
async fn scene(namespace: &str, more: &Value) -> Result<(Scene, Target)> {
    let scene = Scene::start(namespace).await?;
    scene.reader("deployer").await?;
    scene.reader("next").await?;
    scene.policy("p", &shared("deployer", more)).await?;
    scene.ready("p").await?;
    let target = scene.target(SHARED).await?;
    Ok((scene, target))
}

/// Reads the Secret as its consumer does, and uses its token, until the token is one of this account and policy.
async fn consumed_until(scene: &Scene, account: &str, policy: &str, before: &Target) -> Result<Target> {
    let next = async || {
        let target = scene.target(SHARED).await.context("the Secret is gone")?;
        let user = scene.bearer(target.token()).await?.whoami().await?;
        ensure!(user.is_some(), "401 with token {} of {}", target.token_id(), target.says("service-account"));
        Ok(target)
    };
    for _ in 0..600 {
        let target = next().await?;
        let passed = target.says("service-account") == account && target.says("policy") == policy;
        if passed && target.token_id() != before.token_id() {
            return Ok(target);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    anyhow::bail!("the Secret does not pass to {policy} and {account}: {}", scene.log_end())
}

/// The kinds of news about the Secret since this version of it.
async fn news(scene: &Scene, since: &Target, last: &Target) -> Result<Vec<String>> {
    let (_, version) = since.version();
    let fields = format!("metadata.name={SHARED}");
    let watch = scene.secrets().watch(&WatchParams::default().fields(&fields), version.context("no version")?).await?;
    let mut watch = watch.boxed();
    let mut kinds = Vec::new();
    while let Some(event) = watch.try_next().await? {
        let (kind, secret) = match event {
            WatchEvent::Modified(secret) => ("MODIFIED", secret),
            WatchEvent::Added(secret) => ("ADDED", secret),
            WatchEvent::Deleted(secret) => ("DELETED", secret),
            other => anyhow::bail!("{other:?}"),
        };
        kinds.push(kind.to_owned());
        if secret.metadata.resource_version.as_deref() == last.version().1 {
            break;
        }
    }
    Ok(kinds)
}

#[tokio::test]
async fn the_secret_of_a_policy_passes_to_its_next_account() -> Result<()> {
    let (scene, first) = scene("next-account", &json!({})).await?;
    scene.policy("p", &shared("next", &json!({}))).await?;
    let second = consumed_until(&scene, "next", "p", &first).await?;
    assert_eq!(news(&scene, &first, &second).await?, ["MODIFIED"], "one write");
    scene.told("p", "TokenRotated", "TakenOver").await?;
    ensure!(scene.events("p").await?.iter().all(|event| event.kind != "Warning"), "{:?}", scene.events("p").await?);
    // The old account's token ends with its overlap.
    scene.bearer(first.token()).await?.lives().await?;
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn a_renamed_policy_takes_the_secret_up() -> Result<()> {
    for retain in [false, true] {
        let more = if retain { json!({"deletionPolicy": "Retain"}) } else { json!({}) };
        let (scene, first) = scene(&format!("renamed-{retain}"), &more).await?;
        scene.policy("q", &shared("deployer", &json!({}))).await?;
        scene.not_ready("q", "TargetConflict").await?;
        let cascade = if retain { PropagationPolicy::Background } else { PropagationPolicy::Orphan };
        let deletion = DeleteParams { propagation_policy: Some(cascade), ..DeleteParams::default() };
        scene.policies().delete("p", &deletion).await?;
        let second = consumed_until(&scene, "deployer", "q", &first).await?;
        scene.ready("q").await?;
        let news = news(&scene, &first, &second).await?;
        ensure!(news.iter().all(|kind| kind == "MODIFIED"), "{news:?}");
        ensure!(first.version().0 == second.version().0, "another Secret");
        scene.gone(first.anchor()).await?;
        scene.bearer(first.token()).await?.dies().await?;
        scene.bearer(second.token()).await?.lives().await?;
        // The new policy owns all of it.
        scene.delete_policy("q").await?;
        scene.gone(SHARED).await?;
        scene.bearer(second.token()).await?.dies().await?;
    }
    Ok(())
}

/// A Secret that was let go and then edited by somebody else is not ours any more.
#[tokio::test]
async fn a_secret_that_somebody_else_edited_is_not_taken_up() -> Result<()> {
    let (scene, first) = scene("let-go-edited", &json!({"deletionPolicy": "Retain"})).await?;
    scene.delete_policy("p").await?;
    let gone = async || {
        ensure!(scene.policies().get_opt("p").await?.is_none(), "still there");
        Ok(())
    };
    eventually(SOON, "the policy goes", gone).await?;
    scene.patch_secret(SHARED, json!({"stringData": {"token": "mine"}})).await?;
    scene.policy("q", &shared("deployer", &json!({}))).await?;
    let message = scene.not_ready("q", "TargetNotOwned").await?;
    ensure!(message.contains("delete that Secret or choose another secret.name"), "{message}");
    scene.fence("after").await?;
    let target = scene.target(SHARED).await?;
    assert_eq!((target.token(), target.says("policy")), ("mine", "p"));
    scene.bearer(first.token()).await?.lives().await
}
