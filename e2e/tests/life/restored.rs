//! What comes back: targets and anchors from a backup, the namespace, the CRD. All of it works again, and nothing
//! that was dead is brought to life.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokenward_e2e::eventually;
use tokenward_e2e::operator::apply_overlay;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};

const TARGET: &str = "p-deployer";

/// What a backup keeps of a Secret: `kubectl get -o yaml`.
async fn backup(scene: &Scene, name: &str) -> Result<String> {
    scene.plane.kubectl_ok(["-n", &scene.namespace, "get", "secret", name, "-o", "yaml"]).await
}

/// Runs kubectl with a copy of a Secret: `create` or `replace`.
async fn restore(scene: &Scene, verb: &str, copy: &str) -> Result<()> {
    let output = scene.plane.kubectl_with([verb, "-f", "-"], copy).await?;
    ensure!(output.status.success(), "kubectl {verb}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The copy without what binds it to one object of the past.
fn portable(copy: &str) -> String {
    let bound = ["resourceVersion:", "uid:", "creationTimestamp:"];
    let keep =
        |line: &&str| line.starts_with("    ") || !bound.iter().any(|field| line.trim_start().starts_with(field));
    copy.lines().filter(keep).collect::<Vec<_>>().join("\n")
}

/// Waits for a third token after these two: it works, nothing else was minted, and the event has this reason.
async fn third(scene: &Scene, old: [&Target; 2], reason: &str) -> Result<Target> {
    let check = async || {
        let target = scene.target(TARGET).await?;
        ensure!(old.iter().all(|old| old.token() != target.token()), "an old token");
        ensure!(old.iter().all(|old| old.token_id() != target.token_id()), "annotations about an old token");
        Ok(target)
    };
    let third = eventually(SOON, "a fresh token", check).await?;
    scene.holds(&third).await?;
    scene.told("p", reason, third.token_id()).await?;
    scene.fence("after").await?;
    ensure!(scene.mints_of("deployer") == 3, "{} tokens", scene.mints_of("deployer"));
    ensure!(scene.target(TARGET).await?.version() == third.version(), "it was written again");
    Ok(third)
}

/// Waits until the grant has this anchor and no other; a fence has its own.
async fn only_anchor(scene: &Scene, target: &Target) -> Result<()> {
    let check = async || {
        let mut anchors = scene.anchors().await?;
        anchors.retain(|anchor| anchor != target.anchor());
        ensure!(anchors.len() == 1, "besides {}: {anchors:?}", target.anchor());
        Ok(())
    };
    eventually(SOON, "the other anchors go", check).await
}

/// A target, a backup of it, and the target after a rotation that killed the token in the backup.
async fn backed_up(scene: &Scene) -> Result<(Target, String, String, Target)> {
    let first = scene.deployer(json!({"rotation": {"overlap": "2s"}})).await?;
    let (target, anchor) = (backup(scene, TARGET).await?, backup(scene, first.anchor()).await?);
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    Ok((first, target, anchor, second))
}

#[tokio::test]
async fn an_old_copy_put_over_the_target_is_replaced_with_a_fresh_token() -> Result<()> {
    let scene = Scene::start("put-over").await?;
    let (first, target, _, second) = backed_up(&scene).await?;
    restore(&scene, "replace", &portable(&target)).await?;
    let third = third(&scene, [&first, &second], "TokenReissued").await?;
    assert_eq!(third.version().0, first.version().0);
    scene.bearer(first.token()).await?.dies().await?;
    only_anchor(&scene, &third).await
}

#[tokio::test]
async fn a_target_and_its_anchor_restored_while_the_operator_is_down_get_a_fresh_token() -> Result<()> {
    let scene = Scene::start("restored-down").await?;
    let (first, target, anchor, second) = backed_up(&scene).await?;
    scene.operator.kill9()?;
    scene.delete_secret(TARGET).await?;
    restore(&scene, "create", &portable(&anchor)).await?;
    restore(&scene, "create", &portable(&target)).await?;
    assert_eq!(scene.target(TARGET).await?.token(), first.token());
    scene.operator.restart()?;
    let third = third(&scene, [&first, &second], "TokenReissued").await?;
    // The anchor of the backup has another UID, so the token of the backup is dead with it.
    scene.bearer(first.token()).await?.dies().await?;
    only_anchor(&scene, &third).await
}

#[tokio::test]
async fn a_target_restored_before_its_overlap_ended_gets_a_fresh_token_too() -> Result<()> {
    let scene = Scene::start("restored-early").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "1h"}})).await?;
    let copy = backup(&scene, TARGET).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.operator.kill9()?;
    scene.delete_secret(TARGET).await?;
    restore(&scene, "create", &portable(&copy)).await?;
    scene.operator.restart()?;
    // It was issued under an earlier value of the annotation.
    let third = third(&scene, [&first, &second], "TokenRotated").await?;
    assert_eq!(third.says("rotate"), "1");
    Ok(())
}

/// Creates a Secret from a copy, under this name and without owners.
async fn create_copy(scene: &Scene, mut copy: Secret, name: &str) -> Result<Target> {
    copy.metadata.name = Some(name.to_owned());
    copy.metadata.uid = None;
    copy.metadata.resource_version = None;
    copy.metadata.managed_fields = None;
    copy.metadata.owner_references = None;
    Target::read(scene.secrets().create(&PostParams::default(), &copy).await?)
}

#[tokio::test]
async fn a_target_of_an_earlier_policy_is_adopted_with_a_fresh_token() -> Result<()> {
    let scene = Scene::start("adopted").await?;
    let first = scene.deployer(json!({})).await?;
    scene.delete_policy("p").await?;
    scene.gone(TARGET).await?;
    scene.gone(first.anchor()).await?;
    let restored = create_copy(&scene, first.secret.clone(), TARGET).await?;
    scene.fence("before").await?;
    // Without a policy nobody touches it.
    assert_eq!(scene.target(TARGET).await?.version(), restored.version());
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.ready("p").await?;
    let second = scene.target(TARGET).await?;
    scene.holds(&second).await?;
    let told = scene.told("p", "TokenReissued", second.token_id()).await?;
    assert!(told.note.contains("(PolicyRecreated)"), "{}", told.note);
    assert_eq!(second.version().0, restored.version().0);
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.anchors().await?.len()), (2, 3));
    // It is the new policy's now, and goes with it.
    scene.delete_policy("p").await?;
    scene.gone(TARGET).await?;
    scene.bearer(second.token()).await?.dies().await
}

#[tokio::test]
async fn a_target_restored_with_its_dead_owner_goes_and_the_next_policy_issues_anew() -> Result<()> {
    let scene = Scene::start("dead-owner").await?;
    let first = scene.deployer(json!({})).await?;
    let (target, anchor) = (backup(&scene, TARGET).await?, backup(&scene, first.anchor()).await?);
    scene.delete_policy("p").await?;
    scene.gone(TARGET).await?;
    scene.gone(first.anchor()).await?;
    restore(&scene, "create", &portable(&anchor)).await?;
    restore(&scene, "create", &portable(&target)).await?;
    scene.gone(TARGET).await?;
    scene.gone(first.anchor()).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.ready("p").await?;
    let second = scene.target(TARGET).await?;
    scene.holds(&second).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 2);
    only_anchor(&scene, &second).await
}

/// The garbage collector may take what the operator has just adopted: that costs a token more, and no more than one.
#[tokio::test]
async fn a_policy_deleted_and_recreated_at_once_ends_with_one_working_token() -> Result<()> {
    let scene = Scene::start("recreated-at-once").await?;
    let first = scene.deployer(json!({})).await?;
    scene.delete_policy("p").await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.gone(first.anchor()).await?;
    scene.ready("p").await?;
    scene.rest().await?;
    scene.ready("p").await?;
    let last = scene.target(TARGET).await?;
    scene.holds(&last).await?;
    scene.fence("after").await?;
    let mints = scene.mints_of("deployer");
    assert!((2..=3).contains(&mints), "{mints} tokens");
    assert_eq!(scene.target(TARGET).await?.version(), last.version());
    only_anchor(&scene, &last).await
}

#[tokio::test]
async fn a_copy_under_another_name_is_not_ours_and_never_touched() -> Result<()> {
    let scene = Scene::start("copied").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "2s"}})).await?;
    let copy = create_copy(&scene, first.secret.clone(), "copy").await?;
    scene.fence("copied").await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    // Nor does it keep a token alive.
    scene.gone(first.anchor()).await?;
    scene.operator.restart()?;
    scene.operator.ready().await?;
    scene.delete_policy("p").await?;
    scene.gone(second.anchor()).await?;
    scene.gone(TARGET).await?;
    scene.fence("after").await?;
    let after = scene.target("copy").await?;
    assert_eq!((after.version(), &after.data), (copy.version(), &copy.data));
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

#[tokio::test]
async fn a_namespace_that_was_deleted_and_comes_back_works_again() -> Result<()> {
    let scene = Scene::start("comes-back").await?;
    let first = scene.deployer(json!({})).await?;
    let namespaces: Api<Namespace> = Api::all(scene.client.clone());
    namespaces.delete("comes-back", &DeleteParams::default()).await?;
    let gone = async || {
        ensure!(namespaces.get_opt("comes-back").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the namespace goes", gone).await?;
    scene.plane.create_namespace("comes-back").await?;
    let second = scene.deployer(json!({})).await?;
    scene.bearer(first.token()).await?.dies().await?;
    assert_eq!(scene.bearer(second.token()).await?.get(&scene.config_maps()).await?, 200);
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.operator.exited()?), (2, None));
    only_anchor(&scene, &second).await
}

/// Deletes the CRD, and returns when it is gone.
async fn delete_crd(scene: &Scene) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(scene.client.clone());
    definitions.delete("tokenpolicies.tokenward.dev", &DeleteParams::default()).await?;
    let gone = async || {
        ensure!(definitions.get_opt("tokenpolicies.tokenward.dev").await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SOON, "the CRD goes", gone).await
}

#[tokio::test]
async fn a_crd_that_was_deleted_and_comes_back_works_again_without_a_restart() -> Result<()> {
    let scene = Scene::alone("crd-again").await?;
    let pid = scene.operator.pid();
    let names = ["p", "q", "r"];
    scene.reader("deployer").await?;
    let mut before = Vec::new();
    for name in names {
        scene.policy(name, &spec(&["deployer"], json!({}))).await?;
        scene.ready(name).await?;
        before.push(scene.target(&format!("{name}-deployer")).await?);
    }
    delete_crd(&scene).await?;
    for old in &before {
        scene.gone(old.anchor()).await?;
        scene.bearer(old.token()).await?.dies().await?;
    }
    apply_overlay(scene.plane, "config/crd").await?;
    let established = ["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"];
    scene.plane.kubectl_ok(established).await?;
    for (name, old) in names.into_iter().zip(&before) {
        let stored = async || scene.policy(name, &spec(&["deployer"], json!({}))).await;
        eventually(SOON, "the API server serves the kind again", stored).await?;
        scene.ready(name).await?;
        let target = scene.target(&format!("{name}-deployer")).await?;
        scene.holds(&target).await.with_context(|| name.to_owned())?;
        assert_ne!(target.token_id(), old.token_id());
    }
    assert_eq!((scene.mints(), scene.anchors().await?.len()), (6, 3));
    assert_eq!((scene.operator.pid(), scene.operator.exited()?), (pid, None));
    Ok(())
}
