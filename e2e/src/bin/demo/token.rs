//! The token in a target, and what the API server makes of it.

use anyhow::{Context, Result};
use hyper::http::Request;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use kube::client::Body;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use std::collections::BTreeMap;
use tokenward_e2e::{Cluster, kubeconfig};

/// A published token: what may be shown of it, and a client that uses it.
pub struct Token {
    /// `jti`.
    pub id: String,
    /// `exp`.
    pub expires: String,
    annotations: BTreeMap<String, String>,
    client: Client,
}

impl Token {
    /// Reads the token in a target now.
    pub async fn read(cluster: &Cluster, namespace: &str, target: &str) -> Result<Self> {
        let secrets: Api<Secret> = Api::namespaced(cluster.client().await?, namespace);
        let secret = secrets.get(target).await?;
        let annotations = secret.metadata.annotations.unwrap_or_default();
        let data = secret.data.unwrap_or_default();
        let token = String::from_utf8(data.get("token").context("the Secret has no key token")?.0.clone())?;
        let config = Kubeconfig::from_yaml(&kubeconfig::with_token(&cluster.url(), cluster.ca_pem(), &token))?;
        let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
        let noted = |key: &str| note(&annotations, key);
        Ok(Self {
            id: noted("token-id")?,
            expires: noted("expires-at")?,
            client: Client::try_from(config)?,
            annotations,
        })
    }

    /// What the target says under `tokenward.dev/<key>`.
    pub fn note(&self, key: &str) -> Result<String> {
        note(&self.annotations, key)
    }

    /// The HTTP status of a GET with this token.
    pub async fn get(&self, path: &str) -> Result<u16> {
        let request = Request::get(path).body(Body::empty())?;
        Ok(self.client.send(request).await?.status().as_u16())
    }
}

fn note(annotations: &BTreeMap<String, String>, key: &str) -> Result<String> {
    let key = format!("tokenward.dev/{key}");
    annotations.get(&key).cloned().with_context(|| format!("the Secret has no annotation {key}"))
}
