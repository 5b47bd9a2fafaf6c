//! Policies that live in Git: tools apply them again and again, label and annotate them, and wait for their status.

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tokenward_e2e::proxy::Seen;
use tokenward_e2e::scene::kstatus::{Kstatus, Record, is_consistent, is_pending, kstatus};
use tokenward_e2e::scene::{SOON, Scene, claims, condition, spec};
use tokenward_e2e::{Act, Call, Rule, eventually};

/// What others put on a policy, and on nothing else.
const THEIRS: [&str; 3] = ["argocd.argoproj.io/instance", "argocd.argoproj.io/tracking-id", "theirs.example/commit"];

/// A change of nothing but metadata: labels, annotations, and every third time one more manager of fields.
async fn touch(scene: &Scene, n: usize) -> Result<()> {
    if n.is_multiple_of(3) {
        let annotations = json!({format!("theirs.example/tool-{n}"): "here"});
        let metadata = json!({"annotations": annotations});
        let apply = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": metadata});
        scene.policies().patch("p", &PatchParams::apply(&format!("tool-{n}")), &Patch::Apply(apply)).await?;
        return Ok(());
    }
    let [instance, tracking, commit] = THEIRS;
    let annotations = json!({tracking: format!("app:tokenward.dev/TokenPolicy:{n}"), commit: n.to_string()});
    let patch = json!({"metadata": {"labels": {instance: format!("app-{n}")}, "annotations": annotations}});
    scene.policies().patch("p", &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Calls since `mark` but for watches and the polls of keys and issuer.
fn calls(scene: &Scene, mark: usize) -> Vec<Seen> {
    let mut calls = scene.proxy.calls_since(mark, "", "/");
    let is_poll = |path: &str| path.starts_with("/openid/") || path.starts_with("/.well-known/");
    calls.retain(|call| !call.query.contains("watch=true") && !is_poll(&call.path));
    calls
}

/// Labels and annotations of a Secret, with their keys.
async fn metadata(scene: &Scene, secret: &str) -> Result<BTreeMap<String, String>> {
    let metadata = scene.secrets().get_metadata(secret).await?.metadata;
    Ok([metadata.labels, metadata.annotations].into_iter().flatten().flatten().collect())
}

#[tokio::test]
async fn metadata_of_a_policy_makes_no_call_and_no_token() -> Result<()> {
    let scene = Scene::start("metadata").await?;
    let before = scene.deployer(json!({})).await?;
    scene.rest().await?;
    let (mark, generation) = (scene.proxy.mark(), scene.policies().get("p").await?.metadata.generation);
    for n in 0..20 {
        touch(&scene, n).await?;
    }
    let policy = scene.policies().get("p").await?;
    assert_eq!(policy.metadata.generation, generation);
    assert!(policy.metadata.managed_fields.iter().flatten().count() > 6, "{:?}", policy.metadata.managed_fields);
    // Two changes later: all that is called since is about the fence.
    scene.fence("fence").await?;
    scene.rest().await?;
    let calls = calls(&scene, mark);
    let about = |part: &str| calls.iter().filter(|call| call.path.ends_with(part)).collect::<Vec<_>>();
    for part in ["/tokenpolicies/p", "/tokenpolicies/p/status", "/p-deployer", "/deployer/token", "/deployer"] {
        assert!(about(part).is_empty(), "{calls:#?}");
    }
    let named = calls.iter().filter(|call| call.path.contains("fence")).count();
    // The anchor, and the event that tells of the token, have no name in the path.
    assert_eq!((about("/secrets").len(), about("/events").len()), (1, 1), "{calls:#?}");
    assert_eq!(named + 2, calls.len(), "{calls:#?}");
    assert_eq!(scene.mints_of("deployer"), 1);
    assert_eq!(scene.target("p-deployer").await?.version(), before.version());
    Ok(())
}

#[tokio::test]
async fn metadata_of_a_policy_is_not_copied() -> Result<()> {
    let scene = Scene::start("not-copied").await?;
    let first = scene.deployer(json!({"secret": {"labels": {"ours.example/app": "x"}}})).await?;
    touch(&scene, 1).await?;
    touch(&scene, 3).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target("p-deployer", &first).await?;
    for secret in ["p-deployer", first.anchor(), second.anchor()] {
        let metadata = metadata(&scene, secret).await?;
        let copied: Vec<&str> = THEIRS.into_iter().filter(|key| metadata.contains_key(*key)).collect();
        assert!(copied.is_empty(), "{copied:?} on {secret}");
    }
    assert_eq!(metadata(&scene, "p-deployer").await?["ours.example/app"], "x");
    Ok(())
}

/// Edits the policy `p`: from the second edit on with shorter tokens and a label.
async fn edit(scene: &Scene, accounts: &[&str], mut more: Value) -> Result<DynamicObject> {
    more["token"] = json!({"duration": "2h"});
    more["secret"] = json!({"labels": {"app": "x"}});
    scene.policy("p", &spec(accounts, more)).await
}

/// A policy that waits for its account, issues, changes, is suspended, fails and recovers. No account gets more than the
/// three tokens that it may get at once.
async fn story(scene: &Scene) -> Result<()> {
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.not_ready("p", "AccountNotFound").await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.account("deployer", &[]).await?;
    held.reached().await?;
    scene.condition("p", "Reconciling", "True").await?;
    held.release();
    scene.ready("p").await?;
    for more in [json!({}), json!({"suspend": true})] {
        edit(scene, &["deployer"], more).await?;
        scene.ready("p").await?;
    }
    edit(scene, &["deployer", "absent"], json!({})).await?;
    scene.not_ready("p", "AccountNotFound").await?;
    scene.account("absent", &[]).await?;
    scene.ready("p").await?;
    renewal_fails(scene).await?;
    edit(scene, &["deployer"], json!({})).await?;
    scene.ready("p").await?;
    Ok(())
}

/// A rotation that the API server refuses for a while.
async fn renewal_fails(scene: &Scene) -> Result<()> {
    let refusal = Act::fail(500, "InternalError", "not now");
    let refused = scene.proxy.add(Rule::before(Call::is_mint, refusal));
    let before = scene.target("p-deployer").await?;
    scene.rotate("p", "2").await?;
    scene.condition("p", "Reconciling", "True").await?;
    refused.remove();
    scene.next_target("p-deployer", &before).await?;
    Ok(())
}

/// Waits until the record has the newest version of the policy, and returns all of them.
async fn all(scene: &Scene, record: &Record) -> Result<Vec<DynamicObject>> {
    scene.rest().await?;
    let newest = scene.policies().get("p").await?.metadata.resource_version;
    let check = async || {
        let versions = record.versions()?;
        ensure!(versions.iter().any(|version| version.metadata.resource_version == newest), "not yet {newest:?}");
        Ok(versions)
    };
    eventually(SOON, "the watch has the newest version", check).await
}

#[tokio::test]
async fn every_status_ever_written_is_consistent() -> Result<()> {
    let scene = Scene::start("kstatus").await?;
    let record = scene.record().await?;
    story(&scene).await?;
    let versions = all(&scene, &record).await?;
    for version in &versions {
        let about = || format!("{} of {:?}", version.data["status"], version.metadata.generation);
        is_consistent(version).with_context(about)?;
        let observed = version.data["status"]["observedGeneration"].as_i64();
        let ready = condition(version, "Ready").is_some_and(|ready| ready.status == "True");
        let done = ready && observed == version.metadata.generation;
        ensure!(done || kstatus(version) != Kstatus::Current, "{}", about());
    }
    let mut found: Vec<Kstatus> = versions.iter().map(kstatus).collect();
    assert_eq!(found.last(), Some(&Kstatus::Current));
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [Kstatus::InProgress, Kstatus::Failed, Kstatus::Current]);
    Ok(())
}

/// Tools that know nothing of the kind wait from the first read on, whether an operator runs or not.
#[tokio::test]
async fn a_new_policy_is_pending_and_its_first_token_costs_one_status() -> Result<()> {
    let scene = Scene::start("pending").await?;
    scene.account("deployer", &[]).await?;
    let (mark, held) = (scene.proxy.mark(), scene.proxy.add(Rule::before(Call::is_mint, Act::Hold)));
    let created = scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    held.reached().await?;
    for policy in [created, scene.policies().get("p").await?] {
        ensure!(is_pending(&policy) && kstatus(&policy) == Kstatus::InProgress, "{}", policy.data["status"]);
    }
    held.release();
    scene.ready("p").await?;
    scene.rest().await?;
    assert_eq!(scene.proxy.calls_since(mark, "PATCH", "/status").len(), 1);
    Ok(())
}

/// What `kubectl wait` exits with: whether the policy `p` became ready within so many seconds.
async fn waits(scene: &Scene, seconds: u32) -> Result<bool> {
    let timeout = format!("--timeout={seconds}s");
    let args = ["-n", &scene.namespace, "wait", "--for=condition=Ready", "tp/p", &timeout];
    let output = scene.plane.kubectl(args).await?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() || complaint.contains("timed out"), "{complaint}");
    Ok(output.status.success())
}

#[tokio::test]
async fn kubectl_wait_does_not_take_the_old_generation_for_the_new_one() -> Result<()> {
    let scene = Scene::start("wait-bad").await?;
    scene.deployer(json!({})).await?;
    assert!(waits(&scene, 60).await?);
    scene.policy("p", &spec(&["absent"], json!({}))).await?;
    assert!(!waits(&scene, 5).await?, "ready with an account that does not exist");
    scene.not_ready("p", "AccountNotFound").await?;
    // Also while nobody looks at the edit.
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    assert!(waits(&scene, 60).await?);
    scene.operator.sigstop()?;
    scene.policy("p", &spec(&["absent"], json!({}))).await?;
    let early = waits(&scene, 3).await;
    scene.operator.sigcont()?;
    assert!(!early?, "ready before the operator has seen it");
    Ok(())
}

/// Edits the policy while calls that match are held, and tells whether it said `Ready` of that generation before they
/// went on.
async fn edited_while_held(scene: &Scene, held: fn(&Call) -> bool, more: Value) -> Result<()> {
    let held = scene.proxy.add(Rule::before(held, Act::Hold));
    scene.policy("p", &spec(&["deployer"], more)).await?;
    let release = async {
        held.reached().await?;
        // Not ready in the new generation.
        scene.condition("p", "Ready", "False").await?;
        held.release();
        anyhow::Ok(())
    };
    let (waited, released) = tokio::join!(waits(scene, 60), release);
    released?;
    ensure!(waited?, "not ready after 60 s");
    Ok(())
}

#[tokio::test]
async fn kubectl_wait_returns_when_the_edit_is_published() -> Result<()> {
    let scene = Scene::start("wait-good").await?;
    let first = scene.deployer(json!({"token": {"duration": "3h"}})).await?;
    edited_while_held(&scene, Call::is_mint, json!({"token": {"duration": "2h"}})).await?;
    let second = scene.target("p-deployer").await?;
    let claims = claims(second.token())?;
    let life = claims["exp"].as_i64().context("no exp")? - claims["iat"].as_i64().context("no iat")?;
    assert_eq!((life, second.token_id() == first.token_id()), (7200, false));
    let labelled = json!({"token": {"duration": "2h"}, "secret": {"labels": {"app": "x"}}});
    edited_while_held(&scene, |call| call.is("PATCH", "/secrets/p-deployer"), labelled).await?;
    assert_eq!(metadata(&scene, "p-deployer").await?["app"], "x");
    assert_eq!(scene.target("p-deployer").await?.token_id(), second.token_id());
    Ok(())
}

#[tokio::test]
async fn three_edits_in_a_row_are_not_held_back() -> Result<()> {
    let scene = Scene::start("three-edits").await?;
    let first = scene.deployer(json!({})).await?;
    let shorter = json!({"token": {"duration": "2h"}});
    scene.policy("p", &spec(&["deployer"], shorter.clone())).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    let mut labelled = shorter;
    labelled["secret"] = json!({"labels": {"app": "x"}});
    scene.policy("p", &spec(&["deployer"], labelled)).await?;
    scene.ready("p").await?;
    assert_eq!(metadata(&scene, "p-deployer").await?["app"], "x");
    assert_eq!(scene.target("p-deployer").await?.token_id(), second.token_id());
    // A burst of three is for everyone.
    let told = scene.events("p").await?;
    assert!(told.iter().all(|event| event.reason != "MintBudgetExhausted"), "{told:#?}");
    Ok(())
}
