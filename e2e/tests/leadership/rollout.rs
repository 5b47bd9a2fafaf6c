//! A rollout: three replicas are replaced one after the other, and no Secret notices.

use crate::{candidate, credential, grant, holder, leads, lease};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokenward_e2e::scene::{SOON, Scene, operator, plane};
use tokenward_e2e::{Operator, Options, eventually};

const PODS: [&str; 3] = ["a", "b", "c"];

/// Somebody else than before leads, and each policy is as ready as it was.
async fn handed_over(scene: &Scene, home: &str, before: &str) -> Result<()> {
    let check = async || {
        let holder = holder(&lease(scene, home)).await?;
        ensure!(!holder.is_empty() && holder != before, "{holder:?} leads");
        Ok(())
    };
    eventually(SOON, "another replica leads", check).await
}

/// As a Deployment does: the successor is ready before its predecessor is asked to end.
async fn replace(scene: &Scene, home: &str, old: &Operator, pod: &str) -> Result<Operator> {
    let before = holder(&lease(scene, home)).await?;
    let (token, _) = credential(scene.plane).await?;
    let options = Options { name: format!("rollout-{pod}-new"), ..candidate(&format!("{pod}-new"), home, token) };
    let new = operator(scene.plane, &scene.namespace, &scene.proxy, options).await?;
    new.ready().await?;
    let (status, _) = old.terminate().await?;
    ensure!(status.success(), "{pod}: {status}");
    if before.starts_with(&format!("{pod}_")) {
        handed_over(scene, home, &before).await?;
    }
    Ok(new)
}

#[tokio::test]
async fn three_replicas_are_replaced_one_by_one_and_no_secret_changes() -> Result<()> {
    let (plane, home) = (plane().await?, "rollout-home");
    plane.create_namespace(home).await?;
    grant(plane, home).await?;
    let (token, _) = credential(plane).await?;
    let scene = Scene::start_with("rollout", candidate(PODS[0], home, token)).await?;
    leads(&scene.operator, &lease(&scene, home), PODS[0]).await?;
    let mut others = Vec::new();
    for pod in &PODS[1..] {
        let (token, _) = credential(plane).await?;
        let options = Options { name: format!("rollout-{pod}"), ..candidate(pod, home, token) };
        others.push(operator(plane, "rollout", &scene.proxy, options).await?);
        others.last().context("none")?.ready().await?;
    }
    scene.many(10, "acc").await?;
    scene.policy("p", &json!({"serviceAccounts": {"selector": {"matchLabels": {"e2e": "many"}}}})).await?;
    scene.ready("p").await?;
    scene.fence("before").await?;
    let (versions, status) = (scene.versions().await?, scene.policies().get("p").await?.data);

    let old = std::iter::once(&scene.operator).chain(&others);
    let mut new = Vec::new();
    for (pod, old) in PODS.into_iter().zip(old) {
        new.push(replace(&scene, home, old, pod).await?);
    }
    scene.fence("after").await?;
    let after = scene.versions().await?;
    assert!(versions.iter().all(|(name, version)| after.get(name) == Some(version)), "{versions:?} {after:?}");
    assert_eq!(scene.policies().get("p").await?.data, status);
    // One each, and those of the two fences.
    assert_eq!(scene.mints(), 12);
    Ok(())
}
