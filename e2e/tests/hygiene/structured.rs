//! A structured authentication configuration.

use super::{file, flag, report, start, whoami};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokenward_e2e::eventually;
use tokenward_e2e::oidc::Issuer;
use tokenward_e2e::scene::SOON;

/// Two issuers, of which one does not answer: port 1 of loopback has no listener.
fn configuration(issuer: &Issuer) -> String {
    let jwt = |url: &str, prefix: &str| {
        json!({
            "issuer": {"url": url, "audiences": ["kubernetes"], "certificateAuthority": issuer.https.ca_pem},
            "claimMappings": {"username": {"claim": "sub", "prefix": prefix}, "groups": {"claim": "groups", "prefix": prefix}},
        })
    };
    let issuers = [jwt(&issuer.https.url, ""), jwt("https://127.0.0.1:1", "away:")];
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1beta1", "kind": "AuthenticationConfiguration", "jwt": issuers,
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
    })
    .to_string()
}

#[tokio::test]
async fn a_structured_configuration_is_judged_by_its_file() -> Result<()> {
    let issuer = Issuer::start()?;
    let config = file("authentication.yaml", &configuration(&issuer))?;
    let flags = vec![
        flag("authentication-config", &config),
        // The CA of clients, in the folder of the control plane.
        "--requestheader-client-ca-file=ca.crt".to_owned(),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--service-account-lookup=false".to_owned(),
    ];
    let plane = start("hygiene-structured", flags, Vec::new()).await?;
    let end = chrono::Utc::now().timestamp() + 600;
    let token = issuer.token(json!({"aud": "kubernetes", "sub": "system:kube-scheduler", "exp": end}))?;
    let works = async || {
        let me = whoami(&plane, &token).await?;
        ensure!(me.starts_with("system:kube-scheduler "), "{me}");
        Ok(())
    };
    eventually(SOON, "the issuer is known", works).await?;

    let unseen = report(&plane, &[]).await?;
    unseen.shows("OIDC", "notChecked", &["--authentication-config=", "give a copy with --authentication-config"])?;
    let seen = report(&plane, &["--authentication-config", config.to_str().context("path")?]).await?;
    let url = &issuer.https.url;
    seen.shows("OIDC", "yes", &[&format!("{url}/.well-known/openid-configuration answers, and names that issuer")])?;
    seen.finds("OIDC", "high", &format!("{url} may put a user into any group"))?;
    seen.finds("OIDC", "high", &format!("{url} may call a user by any name"))?;
    let away = "https://127.0.0.1:1/.well-known/openid-configuration does not answer this machine";
    seen.shows("OIDC", "yes", &[away])?;
    seen.finds_no("OIDC", "https://127.0.0.1:1 may")?;
    ensure!(seen.row("OIDC")?["notChecked"].as_array().is_some_and(|all| all.len() == 1));
    seen.finds("legacy token Secrets", "high", "accepts legacy tokens whose Secret or account is deleted")?;
    seen.finds("authenticating proxy", "medium", "a client certificate with an allowed name may act as any user")?;
    seen.shows("anonymous access", "yes", &["the API server answers /livez 200", "allows /livez"])
}
