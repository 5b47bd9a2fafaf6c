//! Everything that the operator does, once.

use crate::shape::Shape;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};

const SYSTEM: &str = "kube-system";

/// The life of grants, in each namespace of the shape.
pub async fn grants(shape: &Shape) -> Result<()> {
    for scene in &shape.scenes {
        let place = || format!("in {}: {}", scene.namespace, shape.scenes[0].log_end());
        life(scene).await.with_context(place)?;
    }
    Ok(())
}

/// Issue, rotation, end of an overlap, every repair, an account that comes again, and each end of a policy.
async fn life(scene: &Scene) -> Result<()> {
    let third = scene.story().await?;
    scene.patch_secret("p-deployer", json!({"stringData": {"token": "edited"}})).await?;
    let fourth = scene.next_target("p-deployer", &third).await?;
    foreign_owner(scene).await?;
    scene.accounts().delete("deployer", &DeleteParams::default()).await?;
    scene.not_ready("p", "AccountNotFound").await?;
    scene.account("deployer", &[]).await?;
    let fifth = scene.next_target("p-deployer", &fourth).await?;
    scene.ready("p").await?;
    scene.delete_secret("p-deployer").await?;
    scene.next_target("p-deployer", &fifth).await?;
    let_go(scene).await?;
    unselect(scene).await?;
    scene.delete_policy("p").await?;
    scene.gone("p-deployer").await?;
    scene.fence("after").await
}

async fn foreign_owner(scene: &Scene) -> Result<()> {
    let owner = scene.accounts().get("deployer").await?.metadata;
    let foreign = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": owner.name, "uid": owner.uid});
    let add = json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": foreign}]);
    let add = Patch::Json::<()>(serde_json::from_value(add)?);
    scene.secrets().patch("p-deployer", &PatchParams::default(), &add).await?;
    let alone = async || {
        let owners = scene.secrets().get("p-deployer").await?.metadata.owner_references.unwrap_or_default();
        ensure!(owners.len() == 1, "{owners:?}");
        Ok(())
    };
    eventually(SOON, "the foreign owner is removed", alone).await
}

/// A policy with `Retain` goes, and its Secret stays.
async fn let_go(scene: &Scene) -> Result<()> {
    scene.policy("kept", &spec(&["default"], json!({"deletionPolicy": "Retain"}))).await?;
    scene.ready("kept").await?;
    scene.delete_policy("kept").await?;
    scene.fence("kept-after").await?;
    Target::read(scene.secrets().get("kept-default").await?).map(drop)
}

/// An account loses its Secret when a policy names it no more, and when a label goes.
async fn unselect(scene: &Scene) -> Result<()> {
    scene.account("other", &[("issue", "true")]).await?;
    scene.policy("named", &spec(&["default", "other"], json!({}))).await?;
    scene.policy("labelled", &json!({"serviceAccounts": {"selector": {"matchLabels": {"issue": "true"}}}})).await?;
    scene.ready("named").await?;
    eventually(SOON, "its target", async || scene.target("labelled-other").await).await?;
    scene.policy("named", &spec(&["default"], json!({}))).await?;
    let unlabel = Patch::Merge(json!({"metadata": {"labels": {"issue": null}}}));
    scene.accounts().patch("other", &PatchParams::default(), &unlabel).await?;
    scene.gone("named-other").await?;
    scene.gone("labelled-other").await
}

fn bootstrap_token(id: &str, more: &Value) -> Value {
    let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef"});
    for (key, value) in more.as_object().into_iter().flatten() {
        data[key] = value.clone();
    }
    let metadata = json!({"name": format!("bootstrap-token-{id}")});
    json!({"metadata": metadata, "type": "bootstrap.kubernetes.io/token", "stringData": data})
}

async fn create(shape: &Shape, id: &str, more: Value) -> Result<Api<Secret>> {
    let secrets: Api<Secret> = Api::namespaced(shape.plane.client().await?, SYSTEM);
    secrets.create(&PostParams::default(), &serde_json::from_value(bootstrap_token(id, &more))?).await?;
    Ok(secrets)
}

/// Waits for an event of this reason.
async fn told(shape: &Shape, namespace: &str, reason: &str) -> Result<()> {
    let check = async || {
        let events = shape.plane.kubectl_ok(["get", "events", "-n", namespace]).await?;
        ensure!(events.contains(reason), "{events}");
        Ok(())
    };
    eventually(SOON, &format!("an event {reason}"), check).await.with_context(|| shape.scenes[0].log_end())
}

/// The cleaner deletes a bootstrap token that has expired.
pub async fn clean(shape: &Shape) -> Result<()> {
    create(shape, "passed", json!({"expiration": "2020-01-01T00:00:00Z"})).await?;
    told(shape, SYSTEM, "BootstrapTokenDeleted").await
}

/// A policy gives a bootstrap token an end, and says so in its status.
pub async fn cap(shape: &Shape) -> Result<()> {
    create(shape, "always", json!({})).await?;
    let policy = json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "BootstrapTokenPolicy", "metadata": {"name": "caps"},
        "spec": {"mode": "Enforce", "maxAge": "24h"},
    });
    shape.plane.apply(&policy.to_string()).await?;
    told(shape, SYSTEM, "BootstrapTokenCapped").await?;
    let wait = ["wait", "btpol/caps", "--for=condition=Ready", "--timeout=90s"];
    shape.plane.kubectl_ok(wait).await?;
    Ok(())
}

/// A policy quarantines a legacy token of which nobody has known for years, and says so in its status.
pub async fn quarantine(shape: &Shape) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(shape.plane.client().await?, "ci");
    let old = "2020-01-01";
    let metadata = json!({"name": "legacy", "labels": {"kubernetes.io/legacy-token-last-used": old},
        "annotations": {"kubernetes.io/service-account.name": "default"}});
    let secret = json!({"metadata": metadata, "type": "kubernetes.io/service-account-token"});
    secrets.create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
    let filled = async || {
        let data = secrets.get("legacy").await?.data.unwrap_or_default();
        ensure!(data.contains_key("token"), "no token yet");
        Ok(())
    };
    eventually(SOON, "the controller has filled it", filled).await?;
    shape.plane.age_secret("ci", "legacy", old).await?;
    let policy = json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": "LegacyTokenPolicy", "metadata": {"name": "legacy"},
        "spec": {"mode": "Quarantine", "unusedFor": "24h"},
    });
    shape.plane.apply(&policy.to_string()).await?;
    told(shape, "ci", "LegacyTokenQuarantined").await?;
    shape.plane.kubectl_ok(["wait", "ltpol/legacy", "--for=condition=Ready", "--timeout=90s"]).await?;
    Ok(())
}

/// The signer signs `cluster-info`, and gives way to somebody else.
pub async fn sign(shape: &Shape) -> Result<()> {
    create(shape, "signer", json!({"usage-bootstrap-signing": "true"})).await?;
    let maps: Api<ConfigMap> = Api::namespaced(shape.plane.client().await?, "kube-public");
    let map = json!({"metadata": {"name": "cluster-info"}, "data": {"kubeconfig": "apiVersion: v1"}});
    maps.create(&PostParams::default(), &serde_json::from_value(map)?).await?;
    let key = "jws-kubeconfig-signer";
    for n in 0..3 {
        let signed = async || {
            let data = maps.get("cluster-info").await?.data.unwrap_or_default();
            ensure!(data.get(key).is_some_and(|jws| !jws.starts_with("mine")), "{data:?}");
            Ok(())
        };
        eventually(SOON, "it signs", signed).await.with_context(|| shape.scenes[0].log_end())?;
        let mine = Patch::Merge(json!({"data": {key: format!("mine-{n}")}}));
        maps.patch("cluster-info", &PatchParams::default(), &mine).await?;
    }
    told(shape, "kube-public", "SignaturesContested").await
}

/// The leader ends, and another replica goes on.
pub async fn hand_over(shape: &Shape) -> Result<()> {
    let another = shape.another("another").await?;
    another.ready().await?;
    let leases: Api<Lease> = Api::namespaced(shape.plane.client().await?, "tokenward-system");
    let holder = async || {
        let spec = leases.get("tokenward").await?.spec.context("no spec")?;
        anyhow::Ok(spec.holder_identity.unwrap_or_default())
    };
    let first = holder().await?;
    for scene in shape.scenes.iter().filter(|scene| first.starts_with(&format!("{}_", scene.namespace))) {
        let (status, _) = scene.operator.terminate().await?;
        ensure!(status.success(), "{status}");
    }
    for scene in &shape.scenes {
        scene.fence("handed-over").await?;
    }
    let second = holder().await?;
    ensure!(second != first && !second.is_empty(), "{second:?} leads after {first:?}");
    Ok(())
}
