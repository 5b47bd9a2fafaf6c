//! Attacks of docs/explanation/threat-model.md that people with rights in a namespace can try, each with an ordinary request.

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::scene::caller::{Caller, policy, policy_path};
use tokenward_e2e::scene::{SOON, Scene, Target, plane, spec};
use tokenward_e2e::{Act, Call, Options, Rule, eventually};

const TARGET: &str = "p-deployer";

/// What an attacker would want a policy to say; there is no field for any of it.
fn unsayable() -> Vec<(&'static str, Value)> {
    let kubeconfig = |more: Value| json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": more}}});
    let argo_cd = |more: Value| json!({"secret": {"format": {"type": "ArgoCDCluster", "argoCDCluster": more}}});
    vec![
        ("/secret/namespace", json!({"secret": {"namespace": "kube-system"}})),
        ("/serviceAccounts/namespace", json!({"serviceAccounts": {"namespace": "kube-system"}})),
        ("/secret/type", json!({"secret": {"type": "kubernetes.io/service-account-token"}})),
        ("/secret/data", json!({"secret": {"data": {"a": "b"}}})),
        ("/token/boundObjectRef", json!({"token": {"boundObjectRef": {"kind": "Pod", "name": "p"}}})),
        ("/secret/format/kubeconfig/certificateAuthorityData", kubeconfig(json!({"certificateAuthorityData": "eA=="}))),
        ("/secret/format/kubeconfig/exec", kubeconfig(json!({"exec": {"command": "sh"}}))),
        ("/secret/format/kubeconfig/authProvider", kubeconfig(json!({"authProvider": {"name": "x"}}))),
        ("/secret/format/kubeconfig/tokenFile", kubeconfig(json!({"tokenFile": "/etc/passwd"}))),
        ("/secret/format/kubeconfig/proxyUrl", kubeconfig(json!({"proxyUrl": "http://attacker.example"}))),
        ("/secret/format/kubeconfig/insecureSkipTlsVerify", kubeconfig(json!({"insecureSkipTlsVerify": true}))),
        ("/secret/format/argoCDCluster/execProviderConfig", argo_cd(json!({"execProviderConfig": {"command": "sh"}}))),
    ]
}

#[tokio::test]
async fn what_a_policy_must_not_say_has_no_field() -> Result<()> {
    let plane = plane().await?;
    plane.create_namespace("unsayable").await?;
    let admin = Caller::admin(plane).await?;
    let path = policy_path("unsayable", "");
    for (field, more) in unsayable() {
        let mut asked = more;
        asked["serviceAccounts"]["names"] = json!(["deployer"]);
        let asked = policy("p", &asked);
        let strict = admin.send("POST", &format!("{path}?fieldValidation=Strict"), &asked).await?;
        ensure!(strict.code == 400 && strict.message.contains("unknown field"), "{field}: {strict:?}");
        let pruned = admin.send("POST", &format!("{path}?dryRun=All&fieldValidation=Ignore"), &asked).await?;
        ensure!(pruned.code == 200, "{field}: {pruned:?}");
        ensure!(pruned.body["spec"].pointer(field).is_none(), "{field} is kept: {}", pruned.body["spec"]);
    }
    Ok(())
}

/// That nothing of ours is in a namespace.
async fn untouched(scene: &Scene, namespace: &str) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(scene.client.clone(), namespace);
    let found = secrets.list_metadata(&kube::api::ListParams::default()).await?.items;
    ensure!(found.is_empty(), "{} Secrets in {namespace}", found.len());
    ensure!(scene.proxy.minted().iter().all(|minted| minted.namespace != namespace), "a token of {namespace}");
    Ok(())
}

#[tokio::test]
async fn neither_labels_nor_names_reach_into_another_namespace() -> Result<()> {
    let plane = plane().await?;
    plane.create_namespace("reached").await?;
    let namespaces = vec!["reaching".to_owned(), "reached".to_owned()];
    let scene = Scene::start_with("reaching", Options { namespaces, ..Options::default() }).await?;
    let there: Api<ServiceAccount> = Api::namespaced(scene.client.clone(), "reached");
    let account = json!({"metadata": {"name": "strong", "labels": {"tokenward.dev/issue": "true"}}});
    there.create(&PostParams::default(), &serde_json::from_value(account)?).await?;
    let labels = json!({"matchLabels": {"tokenward.dev/issue": "true"}});
    scene.policy("labels", &json!({"serviceAccounts": {"selector": labels}})).await?;
    scene.policy("all", &json!({"serviceAccounts": {"selector": {}}})).await?;
    for name in ["reached/strong", "../reached/strong", "system:serviceaccount:reached:strong"] {
        scene.refusal("path", &spec(&[name], json!({}))).await.context(name)?;
    }
    // That it exists there is not told: the message is that of a name which exists nowhere.
    scene.policy("names", &spec(&["strong"], json!({}))).await?;
    scene.policy("guess", &spec(&["absent"], json!({}))).await?;
    let (strong, absent) =
        (scene.not_ready("names", "AccountNotFound").await?, scene.not_ready("guess", "AccountNotFound").await?);
    assert_eq!(strong.replace("strong", "absent"), absent);
    scene.fence("fence").await?;
    untouched(&scene, "reached").await
}

/// Replaces the owners of a Secret.
async fn owned_by(scene: &Scene, secret: &str, owner: &Value) -> Result<()> {
    scene.patch_secret(secret, json!({"metadata": {"ownerReferences": [owner]}})).await
}

#[tokio::test]
async fn an_owner_that_the_garbage_collector_does_not_find_costs_no_more_than_a_repair() -> Result<()> {
    let plane = plane().await?;
    plane.create_namespace("owners-elsewhere").await?;
    let scene = Scene::start("owned-from-elsewhere").await?;
    let before = scene.deployer(json!({})).await?;
    let elsewhere: Api<k8s_openapi::api::core::v1::ConfigMap> =
        Api::namespaced(scene.client.clone(), "owners-elsewhere");
    let map = json!({"metadata": {"name": "theirs"}});
    let uid = elsewhere.create(&PostParams::default(), &serde_json::from_value(map)?).await?.metadata.uid;
    // To the garbage collector an owner in another namespace is one that is gone: it deletes the Secret.
    let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "theirs", "uid": uid});
    for secret in [before.anchor(), TARGET] {
        owned_by(&scene, secret, &owner).await?;
    }
    let owners = before.secret.metadata.owner_references.clone();
    let whole = async || {
        let target = scene.target(TARGET).await?;
        let anchor = scene.secrets().get_metadata(target.anchor()).await?;
        ensure!(target.secret.metadata.owner_references == owners, "the target's owners");
        ensure!(anchor.metadata.owner_references == owners, "the anchor's owners");
        scene.holds(&target).await
    };
    eventually(SOON, "a living token in Secrets of the policy", whole).await?;
    scene.rest().await?;
    let (told, mints) = (scene.events("p").await?, scene.mints());
    let repairs = ["SecretRepaired", "TokenReissued"];
    ensure!(told.iter().any(|told| repairs.contains(&told.reason.as_str())), "{told:?}");
    ensure!(mints <= 3, "{mints} tokens");
    whole().await
}

/// Puts a finalizer on a Secret.
async fn hold(scene: &Scene, secret: &str) -> Result<()> {
    scene.patch_secret(secret, json!({"metadata": {"finalizers": ["attacker.example/hold"]}})).await
}

/// Lets a terminating anchor go and creates it anew under its name.
async fn recreate(scene: &Scene, before: &Target) -> Result<()> {
    scene.patch_secret(before.anchor(), json!({"metadata": {"finalizers": null}})).await?;
    scene.gone(before.anchor()).await?;
    let copy = json!({"metadata": {"name": before.anchor()}, "type": "tokenward.dev/anchor", "immutable": true});
    scene.secrets().create(&PostParams::default(), &serde_json::from_value(copy)?).await?;
    Ok(())
}

#[tokio::test]
async fn a_finalizer_on_an_anchor_is_taken_off_and_told() -> Result<()> {
    let scene = Scene::start("finalizer").await?;
    let target = scene.deployer(json!({})).await?;
    hold(&scene, target.anchor()).await?;
    let told = scene.told("p", "SecretRepaired", "FinalizersChanged").await?;
    ensure!(told.note.contains(target.anchor()) || told.related == TARGET, "{told:?}");
    scene.delete_secret(target.anchor()).await?;
    scene.gone(target.anchor()).await?;
    scene.bearer(target.token()).await?.dies().await?;
    scene.next_target(TARGET, &target).await?;
    Ok(())
}

#[tokio::test]
async fn neither_a_finalizer_nor_its_name_brings_an_anchor_back() -> Result<()> {
    let scene = Scene::start("held-anchor").await?;
    let first = scene.deployer(json!({})).await?;
    scene.operator.kill9()?;
    hold(&scene, first.anchor()).await?;
    scene.delete_secret(first.anchor()).await?;
    scene.operator.restart()?;
    // Its token is as good as dead, so a fresh one comes before it is.
    let second = scene.next_target(TARGET, &first).await?;
    scene.holds(&second).await?;
    scene.told("p", "TokenReissued", "AnchorDeleted").await?;
    // The API server gives a deleted object 60 s, and remembers an answer for 10 s.
    let dead = async || {
        ensure!(scene.user(first.token()).await?.is_none(), "it is alive");
        Ok(())
    };
    eventually(SOON + Duration::from_secs(15), "the token dies in spite of the finalizer", dead).await?;
    recreate(&scene, &first).await?;
    scene.fence("after").await?;
    dead().await?;
    scene.holds(&scene.target(TARGET).await?).await
}

#[tokio::test]
async fn a_secret_that_a_finalizer_holds_is_revoked_and_told_until_it_is_gone() -> Result<()> {
    let scene = Scene::start("held-target").await?;
    let before = scene.deployer(json!({})).await?;
    hold(&scene, TARGET).await?;
    scene.delete_secret(TARGET).await?;
    let told = scene.not_ready("p", "TargetTerminating").await?;
    ensure!(told.contains("attacker.example/hold"), "{told}");
    scene.gone(before.anchor()).await?;
    scene.bearer(before.token()).await?.dies().await?;
    ensure!(scene.mints() == 1, "a token for a Secret that cannot be written");
    scene.patch_secret(TARGET, json!({"metadata": {"finalizers": null}})).await?;
    let next = scene.next_target(TARGET, &before).await?;
    scene.holds(&next).await?;
    scene.ready("p").await?;
    Ok(())
}

/// Escape sequences, line breaks, a line of the log as it could be, and marks that turn the direction of text.
const FORGED: &str = "\u{1b}[31mred\u{1b}[0m\r\n{\"level\":\"INFO\",\"message\":\"forged\"}\n\u{8}\u{7f}\u{9b}x\ttail";

/// Every way by which a text of somebody else comes into log, events and status.
async fn forge(scene: &Scene) -> Result<()> {
    let denied = Act::fail(403, "Forbidden", &format!("admission webhook \"w\" denied the request: {FORGED}"));
    let rule = scene.proxy.add(Rule::after(Call::is_mint, denied).nth(1));
    scene.deployer(json!({})).await?;
    ensure!(rule.acted() == 1, "no refusal");
    let target = scene.target(TARGET).await?;
    scene.annotate("p", "tokenward.dev/revoke-issued-before", Some(FORGED)).await?;
    scene.told("p", "RevocationTimeInvalid", "").await?;
    scene.ages(&target).await?;
    scene.annotate("p", "tokenward.dev/revoke-reason", Some(FORGED)).await?;
    let now = chrono::Utc::now().to_rfc3339();
    scene.annotate("p", "tokenward.dev/revoke-issued-before", Some(&now)).await?;
    let next = scene.next_target(TARGET, &target).await?;
    scene.ages(&next).await?;
    scene.rotate("p", FORGED).await?;
    scene.next_target(TARGET, &next).await?;
    scene.told("p", "TokenRotated", "").await?;
    Ok(())
}

/// A character that a terminal or a log reader obeys.
fn acts(c: char) -> bool {
    c.is_control() && c != '\n'
}

async fn says_it_harmlessly(format: &str) -> Result<()> {
    let args = vec![format!("--log-format={format}")];
    let scene = Scene::start_with(&format!("forged-{format}"), Options { args, ..Options::default() }).await?;
    forge(&scene).await?;
    let log = scene.operator.log()?;
    ensure!(log.contains("forged") && !log.contains(acts), "{log:?}");
    for line in log.lines() {
        match format {
            "json" => drop(serde_json::from_str::<Value>(line).with_context(|| format!("{line:?}"))?),
            _ => ensure!(line.starts_with("20"), "a line without its time: {line:?}"),
        }
    }
    let metrics = scene.operator.metrics().await?;
    ensure!(metrics.lines().all(|line| line.starts_with(['#', 't'])) && !metrics.contains(acts), "{metrics:?}");
    let notes = scene.events("p").await?.into_iter().map(|told| told.note);
    let status = scene.policies().get("p").await?.data["status"].clone();
    let messages = status["conditions"].as_array().into_iter().flatten();
    let messages = messages.map(|condition| condition["message"].as_str().unwrap_or_default().to_owned());
    for text in notes.chain(messages) {
        ensure!(!text.contains(char::is_control), "{text:?}");
    }
    Ok(())
}

#[tokio::test]
async fn texts_of_others_forge_no_line_and_move_no_cursor() -> Result<()> {
    try_join_all(["json", "text"].map(says_it_harmlessly)).await?;
    Ok(())
}

#[tokio::test]
async fn view_edit_and_admin_know_nothing_of_tokenward() -> Result<()> {
    let dump = plane().await?.kubectl_ok(["get", "clusterroles", "view", "edit", "admin", "-o", "json"]).await?;
    ensure!(dump.contains("configmaps") && !dump.contains("tokenward"), "{dump}");
    Ok(())
}
