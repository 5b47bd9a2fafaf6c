//! On which connections to the API server the operator works at all.

use anyhow::{Context, Result};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use tokenward_e2e::control_plane::binaries::Binaries;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, token};
use tokenward_e2e::process::Process;
use tokenward_e2e::scene::{SOON, plane};
use tokenward_e2e::{ControlPlane, Operator, Options, eventually, kubeconfig};

/// Where this file's operators run.
async fn folder() -> Result<(&'static ControlPlane, PathBuf)> {
    let plane = plane().await?;
    let dir = plane.dir().join("connections");
    fs::create_dir_all(&dir)?;
    Ok((plane, dir))
}

/// An operator for the namespace `default` whose kubeconfig's cluster has this as well; `null` takes a field away.
async fn with(name: &str, cluster: Value, env: &[(&str, &str)]) -> Result<Operator> {
    let (plane, _) = folder().await?;
    let own = token(plane, NAMESPACE, ACCOUNT, Duration::from_hours(1)).await?;
    let text = kubeconfig::with_token(&plane.url(), plane.ca_pem(), own.expose_secret());
    let mut config: Value = serde_json::from_str(&text)?;
    for (field, value) in cluster.as_object().into_iter().flatten() {
        config["clusters"][0]["cluster"][field] = value.clone();
    }
    start(name, &config, env).await
}

async fn start(name: &str, config: &Value, env: &[(&str, &str)]) -> Result<Operator> {
    let (plane, dir) = folder().await?;
    let file = dir.join(format!("{name}.given"));
    fs::write(&file, config.to_string())?;
    let given = [("KUBECONFIG", file.to_str().context("a path that is no text")?)];
    let env = given.iter().chain(env).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let namespaces = vec!["default".to_owned()];
    Operator::start(plane, Options { name: name.to_owned(), dir, namespaces, env, ..Options::default() }).await
}

/// The one line with which it ends.
async fn last_words(operator: &Operator) -> Result<String> {
    let ended = async || operator.exited()?.context("it still runs");
    let status = eventually(SOON, "it ends", ended).await?;
    let log = operator.log()?;
    assert_eq!((status.code(), log.lines().count()), (Some(1), 1), "{log}");
    Ok(log)
}

#[tokio::test]
async fn an_unsafe_connection_ends_the_start_with_the_setting_and_the_cure() -> Result<()> {
    let url = plane().await?.url();
    let cases = [
        ("plain", json!({"server": "http://192.0.2.1:8080"}), ["plain http is accepted on loopback only", "`server`"]),
        ("plain-name", json!({"server": "http://localhost.example.com"}), ["could read tokens", "`server`"]),
        (
            "unverified",
            json!({"insecure-skip-tls-verify": true, "certificate-authority-data": null}),
            ["`insecure-skip-tls-verify` is set", "`certificate-authority-data`"],
        ),
        // With a CA beside it as well.
        ("unverified-ca", json!({"insecure-skip-tls-verify": true}), ["`insecure-skip-tls-verify`", url.as_str()]),
        ("proxied", json!({"proxy-url": "http://127.0.0.1:3128"}), ["`proxy-url` is set", "without a proxy"]),
    ];
    for (name, cluster, words) in cases {
        let operator = with(name, cluster, &[]).await?;
        let log = last_words(&operator).await.context(name)?;
        assert!(log.contains(r#""message":"the connection to the API server http"#), "{name}: {log}");
        assert!(words.iter().all(|word| log.contains(word)), "{name}: {log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_token_file_that_ends_in_a_newline_ends_the_start_with_its_name() -> Result<()> {
    let (plane, dir) = folder().await?;
    let own = token(plane, NAMESPACE, ACCOUNT, Duration::from_hours(1)).await?;
    let file = dir.join("given.token");
    fs::write(&file, format!("{}\n", own.expose_secret()))?;
    let text = kubeconfig::with_token_file(&plane.url(), plane.ca_pem(), &file, "default");
    let operator = start("with-newline", &serde_json::from_str(&text)?, &[]).await?;
    let log = last_words(&operator).await?;
    let told = format!("the token file {} of the kubeconfig has white space", file.display());
    assert!(log.contains(&told), "{log}");
    fs::write(&file, own.expose_secret())?;
    start("without-newline", &serde_json::from_str(&text)?, &[]).await?.ready().await?;
    Ok(())
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() -> Result<()> {
    let nowhere = "http://127.0.0.1:1";
    let names = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let operator = with("environment", json!({}), &names.map(|name| (name, nowhere))).await?;
    operator.ready().await?;
    assert!(operator.log()?.contains("HTTPS_PROXY is ignored"), "{}", operator.log()?);
    Ok(())
}

/// The address that kubectl proxy says it serves on.
async fn kubectl_proxy() -> Result<(Process, String)> {
    let plane = plane().await?;
    let log = plane.dir().join("kubectl-proxy.log");
    let mut kubectl = Command::new(Binaries::find()?.path("kubectl")?);
    kubectl.args(["proxy", "--port=0"]).env("KUBECONFIG", plane.kubeconfig());
    let process = Process::spawn("kubectl-proxy", &mut kubectl, &log)?;
    let address = async || {
        let text = fs::read_to_string(&log)?;
        let line = text.lines().rev().find_map(|line| line.strip_prefix("Starting to serve on "));
        Ok(line.context("it does not serve yet")?.trim().to_owned())
    };
    Ok((process, eventually(SOON, "kubectl proxy serves", address).await?))
}

#[tokio::test]
async fn kubectl_proxy_on_loopback_is_as_good_as_https() -> Result<()> {
    let (_proxy, address) = kubectl_proxy().await?;
    let operator = with("kubectl-proxy", json!({"server": format!("http://{address}")}), &[]).await?;
    operator.ready().await?;
    Ok(())
}
