//! Kubeconfig files with everything embedded.

use crate::pki::Identity;
use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use std::path::Path;

/// The text of a kubeconfig that authenticates with a bearer token.
#[must_use]
pub fn with_token(server: &str, ca_pem: &str, token: &str) -> String {
    render(&cluster(server, ca_pem), &json!({ "token": token }), "")
}

/// The text of a kubeconfig that authenticates with the token in this file, which may change. Its context names this
/// namespace, unless that is empty.
#[must_use]
pub fn with_token_file(server: &str, ca_pem: &str, file: &Path, namespace: &str) -> String {
    render(&cluster(server, ca_pem), &json!({ "tokenFile": file }), namespace)
}

/// As [`with_token_file`], with the CA in a file as well.
#[must_use]
pub fn with_files(server: &str, ca: &Path, token: &Path, namespace: &str) -> String {
    render(&json!({"server": server, "certificate-authority": ca}), &json!({ "tokenFile": token }), namespace)
}

/// The text of a kubeconfig that authenticates with a client certificate.
#[must_use]
pub fn with_certificate(server: &str, ca_pem: &str, identity: &Identity) -> String {
    let user = json!({
        "client-certificate-data": BASE64_STANDARD.encode(&identity.certificate),
        "client-key-data": BASE64_STANDARD.encode(&identity.key),
    });
    render(&cluster(server, ca_pem), &user, "")
}

fn cluster(server: &str, ca_pem: &str) -> Value {
    let mut cluster = json!({"server": server});
    if !ca_pem.is_empty() {
        cluster["certificate-authority-data"] = BASE64_STANDARD.encode(ca_pem).into();
    }
    cluster
}

fn render(cluster: &Value, user: &Value, namespace: &str) -> String {
    let mut context = json!({"cluster": "e2e", "user": "e2e"});
    if !namespace.is_empty() {
        context["namespace"] = namespace.into();
    }
    // JSON is YAML, and needs no care for quoting.
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "e2e",
        "clusters": [{"name": "e2e", "cluster": cluster}],
        "users": [{"name": "e2e", "user": user}],
        "contexts": [{"name": "e2e", "context": context}],
    });
    format!("{config:#}\n")
}

/// Writes other certificates that are trusted into a kubeconfig of [`with_certificate`].
pub(crate) fn trust(path: &Path, ca_pem: &str) -> Result<()> {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
    config["clusters"][0]["cluster"]["certificate-authority-data"] = BASE64_STANDARD.encode(ca_pem).into();
    Ok(std::fs::write(path, format!("{config:#}\n"))?)
}

/// A client that uses the kubeconfig at `path`; it belongs to the runtime it was made in.
///
/// # Errors
/// When the file cannot be read or used.
pub async fn client(path: &Path) -> Result<kube::Client> {
    let text = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(text, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}
