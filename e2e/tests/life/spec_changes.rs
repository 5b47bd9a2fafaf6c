//! Every field of a policy, changed: which of them need a new token, which only write the Secret again, and which
//! touch nothing.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::scene::limits::OTHER_SERVER;
use tokenward_e2e::scene::{SOON, Scene, Target, is_current};

/// What a change brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// The Secret is not written.
    Nothing,
    /// The Secret is written again with the same token.
    Rewritten,
    /// A new token is issued; the old one stays alive for its overlap.
    Minted,
}
use Effect::{Minted, Nothing, Rewritten};

/// A field, its spec before and after besides `serviceAccounts`, and the effect.
type Row = (&'static str, Value, Value, Effect);

fn token_rows() -> Vec<Row> {
    vec![
        ("audiences", json!({}), json!({"token": {"audiences": ["vault"]}}), Minted),
        ("audience-added", token(json!({"audiences": ["a"]})), token(json!({"audiences": ["a", "b"]})), Minted),
        ("duration", json!({}), token(json!({"duration": "12h"})), Minted),
        ("duration-spelled", token(json!({"duration": "1h"})), token(json!({"duration": "60m"})), Nothing),
        ("renew-before", json!({}), rotation(json!({"renewBeforePercentage": 30})), Nothing),
        ("overlap", json!({}), rotation(json!({"overlap": "1h"})), Nothing),
        ("max-age", rotation(json!({"overlap": "1h"})), rotation(json!({"overlap": "1h", "maxAge": "1h"})), Nothing),
    ]
}

fn secret_rows() -> Vec<Row> {
    let config = json!({"type": "Kubeconfig"});
    let cluster = json!({"type": "Kubeconfig", "kubeconfig": {"clusterName": "prod"}});
    let namespace = json!({"type": "Kubeconfig", "kubeconfig": {"namespace": "default"}});
    vec![
        ("labels", json!({}), secret(json!({"labels": {"app": "x"}})), Rewritten),
        ("label-removed", secret(json!({"labels": {"app": "x"}})), json!({}), Rewritten),
        ("annotations", json!({}), secret(json!({"annotations": {"e2e.example/a": "x"}})), Rewritten),
        ("format", json!({}), secret(json!({"format": config})), Rewritten),
        ("cluster-name", secret(json!({"format": config})), secret(json!({"format": cluster})), Rewritten),
        ("namespace", secret(json!({"format": config})), secret(json!({"format": namespace})), Rewritten),
        ("same-name", json!({}), secret(json!({"name": "{policy}-{serviceAccount}"})), Nothing),
        ("suspend", json!({}), json!({"suspend": true}), Nothing),
        ("deletion-policy", json!({}), json!({"deletionPolicy": "Retain"}), Minted),
        ("deletion-policy-back", json!({"deletionPolicy": "Retain"}), json!({}), Minted),
    ]
}

fn newer_rows() -> Vec<Row> {
    let window = json!({"windows": [{"schedule": "0 2 * * *", "duration": "2h", "timeZone": "Europe/Berlin"}]});
    let key = json!({"type": "Kubeconfig", "kubeconfig": {"key": "kubeconfig"}});
    let argo = json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a"]}});
    let project = json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a"], "project": "b"}});
    let server = json!({"type": "Kubeconfig", "kubeconfig": {"server": OTHER_SERVER}});
    let remote = |name: &str| json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": name}});
    let registry = |name: &str| json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": [name]}});
    vec![
        ("windows", json!({}), rotation(window), Nothing),
        ("key", secret(json!({"format": {"type": "Kubeconfig"}})), secret(json!({"format": key})), Rewritten),
        ("argo", json!({}), secret(json!({"format": argo})), Rewritten),
        ("argo-project", secret(json!({"format": argo})), secret(json!({"format": project})), Rewritten),
        ("server", secret(json!({"format": {"type": "Kubeconfig"}})), secret(json!({"format": server})), Rewritten),
        ("istio", json!({}), secret(json!({"format": remote("east")})), Rewritten),
        ("istio-name", secret(json!({"format": remote("east")})), secret(json!({"format": remote("west")})), Rewritten),
        ("docker", secret(json!({"format": registry("a.io")})), secret(json!({"format": registry("b.io")})), Rewritten),
        ("binding-target", json!({}), token(json!({"binding": "Target"})), Minted),
        ("binding-none", json!({}), token(json!({"binding": "None"})), Minted),
        ("binding-anchor", token(json!({"binding": "None"})), token(json!({"binding": "Anchor"})), Minted),
        ("binding-said", json!({}), token(json!({"binding": "Anchor"})), Nothing),
    ]
}

#[expect(clippy::needless_pass_by_value, reason = "short rows")]
fn token(token: Value) -> Value {
    json!({"token": token})
}

#[expect(clippy::needless_pass_by_value, reason = "short rows")]
fn rotation(rotation: Value) -> Value {
    json!({"rotation": rotation})
}

#[expect(clippy::needless_pass_by_value, reason = "short rows")]
fn secret(secret: Value) -> Value {
    json!({"secret": secret})
}

/// Policy and account are called as the field is.
fn spec(name: &str, more: &Value) -> Value {
    tokenward_e2e::scene::spec(&[name], more.clone())
}

/// Waits until the operator has taken the policy's current generation in.
async fn taken_in(scene: &Scene, policy: &str) -> Result<()> {
    let check = async || {
        let policy = scene.policies().get(policy).await?;
        ensure!(is_current(&policy), "{}", policy.data["status"]);
        Ok(())
    };
    eventually(SOON, &format!("the status of {policy} is current"), check).await
}

/// Waits until the target is as the effect says.
async fn follows(scene: &Scene, name: &str, before: &Target, effect: Effect) -> Result<()> {
    taken_in(scene, name).await?;
    let check = async || {
        let after = scene.target(&format!("{name}-{name}")).await?;
        let (same, written) = (after.token_id() == before.token_id(), after.version() != before.version());
        ensure!(same != (effect == Minted) && written != (effect == Nothing), "same token: {same}, written: {written}");
        Ok(())
    };
    eventually(SOON, &format!("{name}: {effect:?}"), check).await
}

/// That nothing came of the change but its effect.
async fn nothing_else(scene: &Scene, name: &str, before: &Target, effect: Effect) -> Result<()> {
    let after = scene.target(&format!("{name}-{name}")).await?;
    let mints = 1 + usize::from(effect == Minted);
    ensure!(scene.mints_of(name) == mints, "{} tokens for {mints}", scene.mints_of(name));
    ensure!((after.token_id() == before.token_id()) == (effect != Minted), "another token");
    ensure!((after.version() == before.version()) == (effect == Nothing), "written or not: {effect:?}");
    ensure!(after.version().0 == before.version().0, "another Secret");
    let minted = scene.proxy.minted();
    let first = minted.iter().find(|minted| minted.account == name).context("no token")?;
    let audience = tokenward_e2e::scene::claims(first.token())?["aud"][0].clone();
    if audience.as_str().is_some_and(|audience| audience.starts_with("https://")) {
        ensure!(scene.user(first.token()).await?.is_some(), "the first token is dead");
    }
    Ok(())
}

async fn change_each(namespace: &str, rows: &[Row]) -> Result<()> {
    let scene = Scene::start(namespace).await?;
    let mut before = Vec::new();
    for (name, spec_before, ..) in rows {
        scene.account(name, &[]).await?;
        scene.policy(name, &spec(name, spec_before)).await.context(*name)?;
    }
    for (name, ..) in rows {
        scene.ready(name).await?;
        before.push(scene.target(&format!("{name}-{name}")).await?);
    }
    for (name, _, after, _) in rows {
        scene.policy(name, &spec(name, after)).await.context(*name)?;
    }
    for ((name, _, _, effect), before) in rows.iter().zip(&before) {
        follows(&scene, name, before, *effect).await.context(*name)?;
    }
    scene.fence("after").await?;
    for ((name, _, _, effect), before) in rows.iter().zip(&before) {
        nothing_else(&scene, name, before, *effect).await.context(*name)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_new_token_is_minted_only_for_what_is_in_the_token() -> Result<()> {
    change_each("token-fields", &token_rows()).await
}

#[tokio::test]
async fn another_layout_is_written_with_the_same_token() -> Result<()> {
    change_each("secret-fields", &secret_rows()).await
}

#[tokio::test]
async fn windows_formats_and_bindings_follow_the_same_rule() -> Result<()> {
    change_each("newer-fields", &newer_rows()).await
}

#[tokio::test]
async fn another_way_to_select_the_same_account_changes_nothing() -> Result<()> {
    let scene = Scene::start("selection").await?;
    scene.account("deployer", &[("e2e", "yes")]).await?;
    scene.account("other", &[]).await?;
    let accounts = |accounts: Value| json!({"serviceAccounts": accounts});
    let labels = json!({"selector": {"matchLabels": {"e2e": "yes"}}});
    let words = json!({"selector": {"matchExpressions": [{"key": "e2e", "operator": "Exists"}]}});
    scene.policy("p", &accounts(json!({"names": ["deployer"]}))).await?;
    scene.ready("p").await?;
    let before = scene.target("p-deployer").await?;
    for selection in [json!({"names": ["deployer", "other"]}), labels, words, json!({"names": ["deployer"]})] {
        scene.policy("p", &accounts(selection)).await?;
        scene.ready("p").await?;
    }
    scene.fence("after").await?;
    assert_eq!(scene.target("p-deployer").await?.version(), before.version());
    assert_eq!((scene.mints_of("deployer"), scene.mints_of("other")), (1, 1));
    Ok(())
}

#[tokio::test]
async fn another_name_brings_a_new_secret_with_a_token_of_its_own() -> Result<()> {
    let scene = Scene::start("names").await?;
    let first = scene.deployer(json!({})).await?;
    for name in ["second", "third", "{policy}-{serviceAccount}"] {
        scene.policy("p", &tokenward_e2e::scene::spec(&["deployer"], json!({"secret": {"name": name}}))).await?;
        scene.ready("p").await?;
    }
    for gone in ["second", "third"] {
        scene.gone(gone).await?;
    }
    scene.fence("after").await?;
    let last = scene.target("p-deployer").await?;
    scene.holds(&last).await?;
    assert_eq!((scene.mints_of("deployer"), last.previous()?.len()), (4, 3));
    // The overlap of the tokens before it runs on.
    scene.bearer(first.token()).await?.lives().await
}
