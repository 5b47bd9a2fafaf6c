//! What Argo CD shows of a policy: `config/argocd` in the Lua that Argo CD has.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use mlua::serde::SerializeOptions;
use mlua::{Lua, LuaOptions, LuaSerdeExt, StdLib, Table};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenward_e2e::scene::{SOON, Scene, plane, spec};
use tokenward_e2e::{Act, Call, Rule, eventually, workspace_dir};

const SCRIPT: &str = include_str!("../../../config/argocd/health.lua");
const CONFIG_MAP: &str = include_str!("../../../config/argocd/argocd-cm.yaml");
const CASES: &str = include_str!("../../cases/argocd-health.yaml");

/// What the script says about an object: health and message.
#[derive(Debug, PartialEq, Eq)]
struct Health(String, String);

/// Runs the script as Argo CD does: Lua 5.1, the object as `obj`, next to no library.
fn health(object: &Value) -> Result<Health> {
    let lua = Lua::new_with(StdLib::NONE, LuaOptions::default())?;
    // A null of JSON is nil there.
    let options = SerializeOptions::new().serialize_none_to_null(false).serialize_unit_to_null(false);
    lua.globals().set("obj", lua.to_value_with(object, options)?)?;
    let answer: Table = lua.load(SCRIPT).set_name("health.lua").eval()?;
    Ok(Health(answer.get("status")?, answer.get("message")?))
}

#[derive(Deserialize)]
struct Case {
    name: String,
    object: Value,
    health: String,
    message: Option<String>,
}

#[test]
fn every_state_has_its_health() -> Result<()> {
    let cases: Vec<Case> = serde_saphyr::from_str(CASES)?;
    assert!(cases.len() > 10, "{} cases", cases.len());
    for Case { name, object, health: wanted, message } in cases {
        let Health(found, said) = health(&object).context(name.clone())?;
        assert_eq!(found, wanted, "{name}: {said}");
        assert!(message.is_none_or(|message| message == said), "{name}: {said}");
    }
    Ok(())
}

#[test]
fn the_config_map_holds_the_very_script_for_every_kind() -> Result<()> {
    let map: Value = serde_saphyr::from_str(CONFIG_MAP)?;
    assert_eq!(map["metadata"]["name"], "argocd-cm");
    let data = map["data"].as_object().context("no data")?;
    for kind in ["TokenPolicy", "BootstrapTokenPolicy", "LegacyTokenPolicy"] {
        let key = format!("resource.customizations.health.tokenward.dev_{kind}");
        assert!(data.get(&key).is_some_and(|script| script == SCRIPT), "{key} is not health.lua");
    }
    assert_eq!(data.len(), 3);
    Ok(())
}

#[tokio::test]
async fn the_documented_command_adds_the_keys_and_keeps_the_others() -> Result<()> {
    let plane = plane().await?;
    plane.create_namespace("argocd").await?;
    let theirs = json!({"metadata": {"name": "argocd-cm"}, "data": {"url": "https://argocd.example"}});
    let maps: Api<ConfigMap> = Api::namespaced(plane.client().await?, "argocd");
    maps.create(&PostParams::default(), &serde_json::from_value(theirs)?).await?;
    let file = workspace_dir().join("config/argocd/argocd-cm.yaml");
    let patch = ["-n", "argocd", "patch", "configmap", "argocd-cm", "--patch-file", &file.to_string_lossy()];
    plane.kubectl_ok(patch).await?;
    let data = maps.get("argocd-cm").await?.data.context("no data")?;
    assert_eq!((data.len(), data["url"].as_str()), (4, "https://argocd.example"));
    assert_eq!(data["resource.customizations.health.tokenward.dev_TokenPolicy"], SCRIPT);
    Ok(())
}

/// A policy as Argo CD sees it.
trait ArgoCd {
    /// What Argo CD would show of the policy `p` now.
    async fn health(&self) -> Result<Health>;
    /// Waits until Argo CD would show this, with a message that contains `text`.
    async fn shown(&self, wanted: &str, text: &str) -> Result<()>;
}

impl ArgoCd for Scene {
    async fn health(&self) -> Result<Health> {
        health(&serde_json::to_value(self.policies().get("p").await?)?)
    }

    async fn shown(&self, wanted: &str, text: &str) -> Result<()> {
        let check = async || {
            let Health(found, message) = self.health().await?;
            ensure!(found == wanted && message.contains(text), "{found}: {message}");
            Ok(())
        };
        eventually(SOON, &format!("{wanted}: {text}"), check).await
    }
}

#[tokio::test]
async fn a_real_policy_is_healthy_only_when_its_tokens_are_published() -> Result<()> {
    let scene = Scene::start("argo").await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.shown("Degraded", "create the ServiceAccount").await?;
    let held = scene.proxy.add(Rule::before(Call::is_mint, Act::Hold));
    scene.account("deployer", &[]).await?;
    held.reached().await?;
    scene.shown("Progressing", "tokens are being issued").await?;
    held.release();
    scene.shown("Healthy", "1 of 1 accounts").await?;
    scene.policy("p", &spec(&["deployer"], json!({"suspend": true}))).await?;
    scene.shown("Suspended", "set spec.suspend to false").await
}

#[tokio::test]
async fn what_the_operator_has_not_seen_is_progressing() -> Result<()> {
    let scene = Scene::start("argo-unseen").await?;
    scene.operator.sigstop()?;
    scene.account("deployer", &[]).await?;
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    assert_eq!(scene.health().await?.0, "Progressing");
    scene.operator.sigcont()?;
    scene.shown("Healthy", "1 of 1 accounts").await?;
    scene.operator.sigstop()?;
    scene.policy("p", &spec(&["absent"], json!({}))).await?;
    let Health(found, message) = scene.health().await?;
    assert!(found == "Progressing" && message.contains("latest change"), "{found}: {message}");
    scene.operator.sigcont()?;
    scene.shown("Degraded", "create the ServiceAccount").await
}

#[tokio::test]
async fn a_policy_that_is_being_deleted_is_progressing() -> Result<()> {
    let scene = Scene::start("argo-deleted").await?;
    scene.deployer(json!({})).await?;
    scene.shown("Healthy", "1 of 1 accounts").await?;
    let finalizers = |of: Value| Patch::Merge(json!({"metadata": {"finalizers": of}}));
    scene.policies().patch("p", &PatchParams::default(), &finalizers(json!(["e2e.example/hold"]))).await?;
    scene.policies().delete("p", &DeleteParams::default()).await?;
    let shown = scene.shown("Progressing", "It is being deleted").await;
    scene.policies().patch("p", &PatchParams::default(), &finalizers(Value::Null)).await?;
    shown
}
