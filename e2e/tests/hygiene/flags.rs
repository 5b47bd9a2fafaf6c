//! What flags of kube-apiserver say: static tokens, OIDC, webhook, authenticating proxy.

use super::{HOOKED, STATIC, file, open, report, whoami};
use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokenward_e2e::eventually;
use tokenward_e2e::kubeconfig::{with_certificate, with_token};
use tokenward_e2e::scene::SOON;

#[tokio::test]
async fn a_static_token_file_is_found() -> Result<()> {
    let open = open().await?;
    ensure!(whoami(&open.plane, STATIC).await?.starts_with("static "));
    let report = report(&open.plane, &[]).await?;
    report.shows("static token file", "yes", &["--token-auth-file=", "tokens.csv"])?;
    report.finds("static token file", "high", "never expire, and lie there as plain text")?;
    ensure!(!report.text.contains(STATIC));
    Ok(())
}

#[tokio::test]
async fn an_issuer_that_may_name_groups_of_kubernetes_is_found() -> Result<()> {
    let open = open().await?;
    let end = chrono::Utc::now().timestamp() + 600;
    let token =
        open.issuer.token(json!({"aud": "kubernetes", "sub": "me", "exp": end, "groups": ["system:masters"]}))?;
    let works = async || {
        let me = whoami(&open.plane, &token).await?;
        ensure!(me.contains("#me ") && me.contains("system:masters"), "{me}");
        Ok(())
    };
    eventually(SOON, "the issuer is known", works).await?;
    let report = report(&open.plane, &[]).await?;
    let url = &open.issuer.https.url;
    report.shows("OIDC", "yes", &[&format!("tokens of {url} log in"), "its CA is on the control plane's machine"])?;
    report.finds(
        "OIDC",
        "high",
        &format!("{url} may put a user into any group, as system:masters: claim groups without"),
    )?;
    report.finds_no("OIDC", "call a user by any name")
}

#[tokio::test]
async fn a_webhook_is_found_with_its_cache_and_whether_it_answers() -> Result<()> {
    let open = open().await?;
    ensure!(whoami(&open.plane, HOOKED).await?.starts_with("hooked "));
    let path = open.webhook.to_str().context("path")?;
    let unseen = report(&open.plane, &[]).await?;
    unseen.shows("webhook", "yes", &["give a copy with --webhook-config"])?;
    unseen.finds("webhook", "medium", "works for up to another 30m")?;
    let seen = report(&open.plane, &["--webhook-config", path]).await?;
    seen.shows("webhook", "yes", &[" answers"])?;
    ensure!(seen.row("webhook")?["notChecked"] == json!([]) && !seen.text.contains("own-secret-token"));

    // Port 1 of loopback has no listener.
    let away = file("away.kubeconfig", &with_token("https://127.0.0.1:1", open.plane.ca_pem(), "x"))?;
    let gone = report(&open.plane, &["--webhook-config", away.to_str().context("path")?]).await?;
    gone.shows("webhook", "yes", &["https://127.0.0.1:1/ does not answer this machine"])?;
    gone.finds_no("webhook", "127.0.0.1:1")?;
    let plain = file("plain.kubeconfig", &with_token("http://127.0.0.1:1", "", "x"))?;
    let plain = report(&open.plane, &["--webhook-config", plain.to_str().context("path")?]).await?;
    plain.finds("webhook", "critical", "sees each token, and may be anybody")
}

#[tokio::test]
async fn a_proxy_of_any_name_is_found() -> Result<()> {
    let open = open().await?;
    let somebody = open.proxies.client("any-name", "nobody")?;
    let text = with_certificate(&open.plane.url(), open.plane.ca_pem(), &somebody);
    let mut config =
        kube::Config::from_custom_kubeconfig(Kubeconfig::from_yaml(&text)?, &KubeConfigOptions::default()).await?;
    config.headers.push(("x-remote-user".parse()?, "somebody".parse()?));
    let me = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let request = hyper::http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    let request = request.header("content-type", "application/json").body(serde_json::to_vec(&me)?)?;
    // The API server answers with what it made of the certificate and the header.
    let answer = kube::Client::try_from(config)?.request::<Value>(request).await?;
    ensure!(answer["status"]["userInfo"]["username"] == "somebody", "{answer}");

    let report = report(&open.plane, &[]).await?;
    report.shows("authenticating proxy", "yes", &["the requestheader CA proxies is believed until "])?;
    report.finds("authenticating proxy", "medium", "each certificate of the requestheader CA may act as any user")
}
