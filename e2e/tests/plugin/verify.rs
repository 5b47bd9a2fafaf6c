//! `verify`.

use super::{Said, error, ok, said, said_of};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fs;
use tokenward_e2e::eventually;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};

/// Expects these words in the output, and no token text.
fn has(said: &Said, words: &[&str], token: &str) -> Result<()> {
    ensure!(!said.out.contains(token) && !said.aside.contains(token), "token text in {said:?}");
    let missing: Vec<_> = words.iter().filter(|words| !said.out.contains(**words)).collect();
    ensure!(missing.is_empty(), "no {missing:?} in {said:?}");
    Ok(())
}

/// Expects that a token in this text is good.
async fn good(scene: &Scene, text: &str, words: &[&str], token: &str) -> Result<()> {
    let said = said_of(scene, "verify", text).await?;
    ensure!(said.code == Some(0), "{said:?}");
    has(&said, words, token)
}

#[tokio::test]
async fn a_good_token_has_evidence_for_each_check() -> Result<()> {
    let scene = Scene::start("plugin-verify").await?;
    let target = scene.deployer(json!({})).await?;
    let said = said(&scene, "verify p-deployer").await?;
    ensure!(said.code == Some(0), "{said:?}");
    let lines = [
        &format!("token {} of ServiceAccount plugin-verify/deployer\n", target.token_id()),
        &format!("✓ signature   ES256 by the key {}, which the API server publishes\n", target.says("key-id")),
        "✓ time        issued ",
        &format!("✓ issuer      {}, the API server's own; for: {}\n", target.says("issuer"), target.says("issuer")),
        "✓ rights      in namespace plugin-verify, by Roles and ClusterRoles, it may\n",
        "              get,list configmaps\n",
        "✓ review      the API server accepts it as system:serviceaccount:plugin-verify:deployer, for: ",
        "✓ account     ServiceAccount deployer lives\n",
        &format!("✓ bound to    Secret {} lives\n", target.anchor()),
        "✓ origin      policy p, current token of Secret p-deployer, replaced in ",
    ];
    has(&said, &lines, target.token())?;
    let report: Value = serde_json::from_str(&ok(&scene, "verify p-deployer -o json").await?)?;
    assert_eq!((&report[0]["id"], report[0]["checks"].as_array().map(Vec::len)), (&json!(target.token_id()), Some(9)));
    Ok(())
}

#[tokio::test]
async fn tokens_are_found_in_every_format_and_of_every_kind() -> Result<()> {
    let scene = Scene::start("plugin-kinds").await?;
    scene.reader("deployer").await?;
    for format in ["Kubeconfig", "ArgoCDCluster", "Token"] {
        let secret = json!({"secret": {"name": format.to_lowercase(), "format": {"type": format}}});
        scene.policy(&format.to_lowercase(), &spec(&["deployer"], secret)).await?;
        scene.ready(&format.to_lowercase()).await?;
        let said = said(&scene, &format!("verify {}", format.to_lowercase())).await?;
        ensure!(said.code == Some(0) && said.out.contains("current token of Secret"), "{said:?}");
    }
    let token = scene.target("token").await?.token().to_owned();
    let file = scene.plane.dir().join("plugin-kinds.token");
    fs::write(&file, &token)?;
    let said = said(&scene, &format!("verify {}", file.display())).await?;
    ensure!(said.code == Some(0), "{said:?}");
    let manifest = scene.plane.kubectl_ok(["-n", "plugin-kinds", "get", "secret", "kubeconfig", "-o", "yaml"]).await?;
    good(&scene, &manifest, &["policy kubeconfig, current"], &token).await?;
    let free = scene.plane.kubectl_ok(["-n", "plugin-kinds", "create", "token", "deployer"]).await?;
    good(&scene, &free, &["✓ signature", "? origin      no policy knows it"], free.trim()).await?;
    let pod = of_pod(&scene).await?;
    good(&scene, &pod, &["✓ bound to    Pod idle lives"], pod.trim()).await?;
    let legacy = legacy(&scene).await?;
    good(&scene, &legacy, &["legacy token", "never expires", "✓ bound to    Secret legacy lives"], &legacy).await
}

/// The token of a pod, as a kubelet would request it.
async fn of_pod(scene: &Scene) -> Result<String> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle", "namespace": scene.namespace}, "spec": {
        "serviceAccountName": "deployer", "containers": [{"name": "idle", "image": "idle"}]}});
    scene.plane.apply(&pod.to_string()).await?;
    let bound = ["--bound-object-kind=Pod", "--bound-object-name=idle"];
    scene.plane.kubectl_ok(["-n", &scene.namespace, "create", "token", "deployer"].iter().chain(&bound)).await
}

/// The token of a Secret that kube-controller-manager fills.
pub async fn legacy(scene: &Scene) -> Result<String> {
    let account = json!({"kubernetes.io/service-account.name": "deployer"});
    let metadata = json!({"name": "legacy", "namespace": scene.namespace, "annotations": account});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token", "metadata": metadata});
    scene.plane.apply(&secret.to_string()).await?;
    let filled = async || {
        let token = Target::read(scene.secrets().get("legacy").await?)?.token().to_owned();
        ensure!(!token.is_empty(), "no token yet");
        Ok(token)
    };
    eventually(SOON, "a legacy token", filled).await
}

#[tokio::test]
async fn a_token_that_was_revoked_or_forged_is_not_good() -> Result<()> {
    let scene = Scene::start("plugin-bad").await?;
    let target = scene.deployer(json!({})).await?;
    scene.delete_secret(target.anchor()).await?;
    scene.bearer(target.token()).await?.dies().await?;
    let dead = said_of(&scene, "verify -", target.token()).await?;
    ensure!(dead.code == Some(3), "{dead:?}");
    let gone = format!("✗ bound to    Secret {} is gone, and the token died with it", target.anchor());
    let words = [
        "✓ signature",
        "✗ review      the API server refuses it: ",
        &gone,
        "? rights      not checked: the API server takes it for no login",
        "✗ verdict     the token is not good",
    ];
    has(&dead, &words, target.token())?;

    let fresh = scene.next_target("p-deployer", &target).await?;
    let (message, _) = fresh.token().rsplit_once('.').context("no signature")?;
    let (_, signature) = target.token().rsplit_once('.').context("no signature")?;
    let forged = format!("{message}.{signature}");
    let told = said_of(&scene, "verify", &forged).await?;
    ensure!(told.code == Some(3), "{told:?}");
    let words = [
        "✗ signature   it is no ES256 signature by the key ",
        "? review      not checked: the API server did not sign it, so it is not sent there",
        "? account     not checked: ServiceAccount deployer: the API server did not sign it",
    ];
    has(&told, &words, &forged)?;
    let none = said_of(&scene, "verify", "no token").await?;
    ensure!(none.code == Some(1) && none.aside.contains("- holds no ServiceAccount token"), "{none:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_for_another_audience_is_checked_for_that() -> Result<()> {
    let scene = Scene::start("plugin-audience").await?;
    let target = scene.deployer(json!({"token": {"audiences": ["vault"]}})).await?;
    let vault = said(&scene, "verify p-deployer --audience vault").await?;
    ensure!(vault.code == Some(0), "{vault:?}");
    has(
        &vault,
        &["; for: vault\n", "for: vault\n", "? rights      not checked: the API server takes it for no login"],
        target.token(),
    )?;
    let other = said(&scene, "verify p-deployer --audience aws").await?;
    ensure!(
        other.code == Some(3) && other.out.contains("✗ issuer      it is not for aws, but for: vault"),
        "{other:?}"
    );
    Ok(())
}

#[tokio::test]
async fn what_could_not_be_checked_is_said() -> Result<()> {
    let scene = Scene::start("plugin-unchecked").await?;
    let target = scene.deployer(json!({})).await?;
    let told = said_of(&scene, "verify --kubeconfig /none", target.token()).await?;
    ensure!(told.code == Some(3), "{told:?}");
    let unchecked = "not checked: reading the kubeconfig; check --kubeconfig and --context";
    has(
        &told,
        &["✓ time        ", &format!("? signature   {unchecked}"), &format!("? review      {unchecked}")],
        target.token(),
    )?;
    let told = said_of(&scene, "verify --as nobody", target.token()).await?;
    ensure!(told.code == Some(3), "{told:?}");
    let lacks = |right: &str| format!("you lack a right: `kubectl auth can-i {right} says no");
    let rights =
        ["get /openid/v1/jwks`", "get serviceaccounts -n plugin-unchecked`", "list secrets -n plugin-unchecked`"];
    for right in rights {
        has(&told, &[&lacks(right)], target.token())?;
    }
    // Without keys, nobody knows whose token it is.
    let kept = "not checked: another API server may have signed it, so it is not sent there; you lack a right";
    has(&told, &[&format!("? review      {kept}"), &format!("? rights      {kept}")], target.token())?;
    let given = said(&scene, &format!("verify {}", target.token())).await?;
    ensure!(given.code == Some(1) && given.aside.contains("the argument is a token"), "refused");
    has(&given, &[], target.token())?;
    let told = error(&scene, "verify secret_token").await?;
    ensure!(told.contains("the argument is no name of a Secret"), "{told}");
    let told = error(&scene, "verify p-deployer --kubeconfig /none").await?;
    ensure!(told.contains("a file is named with a slash, as ./p-deployer"), "{told}");
    Ok(())
}
