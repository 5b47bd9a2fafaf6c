//! Files that options name: copies of those of the control plane, and kubeconfigs.

use super::{file, report};
use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::time::Duration;
use tokenward_e2e::control_plane::shared;
use tokenward_e2e::https::Https;
use tokenward_e2e::operator::token;
use tokenward_e2e::{ControlPlane, kubeconfig};

fn authentication(name: &str, jwt: &[Value]) -> Result<PathBuf> {
    let config = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration", "jwt": jwt,
        "anonymous": {"enabled": false},
    });
    file(name, &config.to_string())
}

/// An issuer of that configuration, with this address of its discovery document.
fn issuer(server: &Https, discovery: &str) -> Value {
    json!({
        "issuer": {"url": server.url, "discoveryURL": discovery, "audiences": ["x"], "certificateAuthority": server.ca_pem},
        "claimMappings": {"username": {"claim": "sub", "prefix": "x:"}},
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("path")
}

#[tokio::test]
async fn a_webhook_that_its_file_does_not_lead_to_is_not_checked() -> Result<()> {
    let whole = kubeconfig::with_files("https://127.0.0.1:1", Path::new("/none"), Path::new("/none"), "");
    let lost = file("lost-context.kubeconfig", &whole.replace("current-context", "other"))?;
    let no_ca = file("lost-ca.kubeconfig", &whole)?;
    for path in [&lost, &no_ca] {
        let report = report(shared().await?, &["--webhook-config", text(path)?]).await?;
        report.shows("webhook", "notChecked", &["the file of --webhook-config leads to no service: failed to "])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_wrong_file_is_an_error_of_its_option() -> Result<()> {
    let plane = shared().await?;
    let other = file("other.yaml", r#"{"apiVersion": "v1", "kind": "ConfigMap", "data": {"token": "hidden"}}"#)?;
    let pipe = other.with_file_name("pipe");
    if !pipe.exists() {
        ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "no pipe");
    }
    for (option, path, words) in [
        (
            "--authentication-config",
            &other,
            "is no AuthenticationConfiguration of apiserver.config.k8s.io; name a copy",
        ),
        ("--authentication-config", &pipe, "pipe is no regular file"),
        ("--webhook-config", &pipe, "pipe is no regular file"),
        ("--kubeconfig", &pipe, "pipe is no regular file"),
        ("--webhook-config", &PathBuf::from("/none"), "reading /none: "),
    ] {
        let output = plane.kubectl(["tokenward", "hygiene", option, text(path)?]).await?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(1) && told.contains(words) && !told.contains("hidden"),
            "{option}: {told}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_configuration_without_issuers_is_shown_as_one() -> Result<()> {
    let alone = authentication("anonymous-alone.yaml", &[])?;
    let report = report(shared().await?, &["--authentication-config", text(&alone)?]).await?;
    report.shows("OIDC", "notChecked", &["the file of --authentication-config has no issuers"])
}

#[tokio::test]
async fn issuers_are_told_apart_by_what_was_asked_and_none_is_read_for_ever() -> Result<()> {
    let server = Https::start(|url| {
        let small = json!({"issuer": url});
        let huge = json!({"issuer": url, "claims_supported": ["x".repeat(1 << 20)]});
        move |path: &str, _: &Value| Some(if path == "/huge" { huge.clone() } else { small.clone() })
    })?;
    let [small, huge, gone] =
        [format!("{}/small", server.url), format!("{}/huge", server.url), "https://127.0.0.1:1/".to_owned()];
    let config = authentication("three.yaml", &[&small, &huge, &gone].map(|discovery| issuer(&server, discovery)))?;
    let report = report(shared().await?, &["--authentication-config", text(&config)?]).await?;
    report.shows("OIDC", "yes", &[&format!("{small} answers, and names that issuer")])?;
    report.shows("OIDC", "yes", &[&format!("{gone} does not answer this machine")])?;
    report.finds_no("OIDC", &gone)?;
    let whole = "holds no discovery document: no whole answer of at most 256 KiB";
    report.finds("OIDC", "medium", &format!("{huge} {whole}"))
}

/// Each of them answers only once the other has been asked.
#[tokio::test]
async fn issuers_and_the_webhook_are_asked_at_the_same_time() -> Result<()> {
    let both = Arc::new(Barrier::new(2));
    let server = || {
        let both = both.clone();
        Https::start(|url| {
            let answer = json!({"issuer": url});
            move |_: &str, _: &Value| {
                both.wait();
                Some(answer.clone())
            }
        })
    };
    let (idp, hook) = (server()?, server()?);
    let config = authentication("slow.yaml", &[issuer(&idp, &format!("{}/slow", idp.url))])?;
    let webhook = file("slow.kubeconfig", &kubeconfig::with_token(&hook.url, &hook.ca_pem, "x"))?;
    let options = ["--authentication-config", text(&config)?, "--webhook-config", text(&webhook)?];
    let report = report(shared().await?, &options).await?;
    report.shows("webhook", "yes", &[" answers"])?;
    report.finds_no("OIDC", "does not answer")
}

/// The administrator's kubeconfig, with more users for the same cluster.
pub fn with_users(plane: &ControlPlane, name: &str, users: &[(&str, Value)]) -> Result<PathBuf> {
    let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(plane.kubeconfig())?)?;
    let mut add = |list: &str, item: Value| config[list].as_array_mut().context("no list").map(|list| list.push(item));
    for (user, credentials) in users {
        add("users", json!({"name": user, "user": credentials}))?;
        add("contexts", json!({"name": user, "context": {"cluster": "e2e", "user": user}}))?;
    }
    add("users", json!({"name": "elsewhere", "user": {"client-certificate": "/none", "client-key": "/none"}}))?;
    file(name, &config.to_string())
}

#[tokio::test]
async fn a_user_that_cannot_be_read_hides_no_other_and_each_is_named() -> Result<()> {
    let plane = shared().await?;
    let token = token(plane, "default", "default", Duration::from_hours(1)).await?;
    let good = file("good-token", token.expose_secret())?;
    let exec =
        json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "log-in", "args": ["hidden-argument"]});
    let users = [
        ("broken", json!({"client-certificate": "/none", "client-key": "/none"})),
        ("filed", json!({"token": "opaque", "tokenFile": good})),
        ("lost", json!({"tokenFile": "/none"})),
        ("asked", json!({ "exec": exec })),
    ];
    let config = with_users(plane, "users.kubeconfig", &users)?;
    let report = report(plane, &["--kubeconfig", text(&config)?]).await?;
    let here = [
        "kubeconfig user e2e: a certificate of ",
        "kubeconfig user broken: reading /none",
        "kubeconfig users elsewhere",
    ];
    report.shows("client certificates", "yes", &here)?;
    report.finds("client certificates", "high", "kubeconfig user e2e is in system:masters")?;
    let filed = "kubeconfig user filed: a token of ServiceAccount default/default";
    report.shows(
        "bound tokens",
        "yes",
        &[filed, "kubeconfig user lost: reading /none", "kubeconfig users elsewhere"],
    )?;
    report.shows("OIDC", "notChecked", &["kubeconfig user asked: what the command log-in logs in with"])?;
    ensure!(!report.text.contains("hidden-argument") && !report.text.contains("opaque"));
    Ok(())
}
