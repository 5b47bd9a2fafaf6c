//! Token text is in the Secret's data and in the TLS stream, and nowhere else, whatever happens and at any log level.

use anyhow::{Result, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kube::api::{Patch, PatchParams};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;
use tokenward_e2e::control_plane::ISSUER;
use tokenward_e2e::leak::Scanner;
use tokenward_e2e::operator::token;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};
use tokenward_e2e::{Act, Call, Options, Rule, eventually};

const TARGET: &str = "p-deployer";

fn writes_target(call: &Call) -> bool {
    call.is("PATCH", &format!("/secrets/{TARGET}"))
}

fn reads_target(call: &Call) -> bool {
    call.is("GET", &format!("/secrets/{TARGET}"))
}

async fn traced(namespace: &str, format: &str) -> Result<Scene> {
    let env = vec![("RUST_LOG".to_owned(), "trace".to_owned())];
    let args = vec![format!("--log-format={format}")];
    let scene = Scene::start_with(namespace, Options { env, args, ..Options::default() }).await?;
    scene.account("deployer", &[]).await?;
    Ok(scene)
}

/// Every kind of success: issue in each format, rotation, retirement.
async fn lives(scene: &Scene) -> Result<Target> {
    let more = json!({"secret": {"format": {"type": "Kubeconfig"}}});
    scene.policy("k", &spec(&["deployer"], more)).await?;
    scene.policy("p", &spec(&["deployer"], json!({"rotation": {"overlap": "1s"}}))).await?;
    scene.ready("k").await?;
    scene.ready("p").await?;
    let first = scene.target(TARGET).await?;
    scene.ages(&first).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.gone(first.anchor()).await?;
    Ok(second)
}

async fn edit(scene: &Scene, patch: Value) -> Result<()> {
    scene.secrets().patch(TARGET, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Somebody strips the label: the Secret is read back and written again with the same token.
async fn mended(scene: &Scene, rules: Vec<Rule>) -> Result<()> {
    let before = scene.target(TARGET).await?;
    let rules: Vec<_> = rules.into_iter().map(|rule| scene.proxy.add(rule)).collect();
    edit(scene, json!({"metadata": {"labels": {"tokenward.dev/role": null}}})).await?;
    let check = async || {
        let target = scene.target(TARGET).await?;
        let labels = target.secret.metadata.labels.clone().unwrap_or_default();
        ensure!(labels.contains_key("tokenward.dev/role"), "still stripped");
        ensure!(target.token() == before.token(), "another token");
        Ok(())
    };
    eventually(SOON, "the label is back", check).await?;
    ensure!(rules.iter().all(|rule| rule.acted() == 1), "some answers were not met");
    Ok(())
}

/// A rotation that meets these rules first.
async fn rotated(scene: &Scene, value: &str, rules: Vec<Rule>) -> Result<Target> {
    let before = scene.target(TARGET).await?;
    scene.ages(&before).await?;
    let rules: Vec<_> = rules.into_iter().map(|rule| scene.proxy.add(rule)).collect();
    scene.rotate("p", value).await?;
    let target = scene.next_target(TARGET, &before).await?;
    ensure!(rules.iter().all(|rule| rule.acted() == 1), "some answers were not met");
    Ok(target)
}

/// Answers to TokenRequests with a live token in the wrong place or form.
fn malformed(token: &str) -> Vec<Rule> {
    let status = |status: Value| json!({"kind": "TokenRequest", "status": status}).to_string();
    let bodies = [
        status(json!({"token": [token]})),
        status(json!(token)),
        status(json!({"token": format!("{token}.{token}")})),
        format!("<html>{token}"),
    ];
    let echo = format!("TokenRequest is invalid: {token}, asked with authorization: Bearer {token}");
    let acts = bodies.into_iter().map(Act::Replace).chain([Act::fail(422, "Invalid", &echo), Act::Truncate]);
    (1..).zip(acts).map(|(n, act)| Rule::after(Call::is_mint, act).nth(n)).collect()
}

/// An answer to the second look at the target, which is the one that reads it whole.
fn garbled(target: &Target) -> Rule {
    let token = BASE64_STANDARD.encode(target.token());
    let secret = json!({"kind": "Secret", "metadata": 3, "data": {"token": token}});
    Rule::after(reads_target, Act::Replace(secret.to_string())).nth(2)
}

/// Refusals of a write that repeat what they refuse.
fn echoing(token: &str) -> Vec<Rule> {
    let twice = BASE64_STANDARD.encode(token);
    let message = format!("admission webhook \"w\" denied the request: {{\"token\":\"{twice}\"}} holds {token}");
    let acts = [
        Act::fail(403, "Forbidden", &message),
        Act::fail(422, "Invalid", &format!("data.token: Invalid value: \"{twice}\"")),
        Act::fail(403, "Forbidden", &format!("near {} and {}", &twice[twice.len() - 60..], &token[token.len() - 40..])),
        Act::fail(500, "InternalError", &format!("{token}: {token}")),
        Act::Fail { status: 500, body: format!("cannot store {token}"), headers: vec![] },
    ];
    (1..).zip(acts).map(|(n, act)| Rule::before(writes_target, act).nth(n)).collect()
}

/// What every scenario ends with finds what is planted.
fn its_end_would_tell(scene: &Scene, token: &str) -> Result<()> {
    ensure!(scene.operator.leaks()?.is_empty(), "it told a token");
    let (path, log) = (scene.operator.log_path(), scene.operator.log()?);
    fs::write(&path, format!("{log}{token}"))?;
    let found = scene.operator.leaks()?;
    fs::write(&path, &log)?;
    ensure!(found.iter().any(|finding| finding.offset == log.len()), "the scanner is blind: {found:?}");
    Ok(())
}

async fn goes_through_everything(format: &str) -> Result<()> {
    let scene = traced(&format!("leaks-{format}"), format).await?;
    lives(&scene).await?;
    mended(&scene, vec![]).await?;
    // It goes into answers that the proxy makes, so it has to be known before.
    let known = token(scene.plane, &scene.namespace, "deployer", Duration::from_hours(1)).await?;
    let known = known.expose_secret();
    let target = rotated(&scene, "2", malformed(known)).await?;
    mended(&scene, vec![garbled(&target)]).await?;
    let mints = scene.mints();
    rotated(&scene, "3", echoing(known)).await?;
    ensure!(scene.mints() == mints + 1, "{} tokens for one rotation", scene.mints() - mints);
    scene.keeps_secrets().await?;
    let scanner = Scanner::new([known], ISSUER)?;
    let texts = scene.readable().await?;
    let found: Vec<_> = texts.iter().flat_map(|(name, text)| scanner.scan(name, text)).collect();
    ensure!(found.is_empty(), "token text in {found:#?}");
    let log = scene.operator.log()?;
    scene.told("p", "AdmissionDenied", "[removed]").await?;
    ensure!(log.contains("TRACE") && log.contains("denied the request"), "the log does not tell what happened");
    its_end_would_tell(&scene, target.token())
}

// On a thread for each: whoever searches a long log keeps the other from answering within the operator's 10 s for a request.
#[tokio::test]
async fn no_token_text_is_told() -> Result<()> {
    goes_through_everything("json").await
}

#[tokio::test]
async fn no_token_text_is_told_as_text() -> Result<()> {
    goes_through_everything("text").await
}
