//! A kubeconfig: format `Kubeconfig`, and what format `IstioRemoteSecret` wraps. Its shape is closed, so nothing a policy
//! says can become an `exec` plugin or another server.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::json;

use super::{Data, Format, Material};
use crate::{
    api::format::{KubeconfigOptions, OPAQUE},
    core::address::ClusterAddress,
};

/// The key, unless the policy asks for another.
const KEY: &str = "config";

/// The name that kubectl and kubeadm give to a cluster that has none of its own.
const CLUSTER_NAME: &str = "kubernetes";

pub(super) struct Kubeconfig<'a>(pub Option<&'a KubeconfigOptions>);

impl Kubeconfig<'_> {
    fn option(&self, option: fn(&KubeconfigOptions) -> Option<&str>) -> Option<&str> {
        self.0.and_then(option)
    }
}

impl Format for Kubeconfig<'_> {
    fn keys(&self) -> Vec<&str> {
        vec![self.option(|options| options.key.as_deref()).unwrap_or(KEY)]
    }

    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        let namespace = self.option(|options| options.namespace.as_deref());
        let names = ContextNames {
            cluster: self.option(|options| options.cluster_name.as_deref()).unwrap_or(CLUSTER_NAME),
            user: &material.key.account,
            namespace: Some(namespace.unwrap_or(&material.key.namespace)),
        };
        let key = self.keys().concat();
        Data::from([(key, text(names, material.token, address))])
    }

    fn secret_type(&self) -> &str {
        self.option(|options| options.secret_type.as_deref()).unwrap_or(OPAQUE)
    }
}

/// The names in a kubeconfig.
#[derive(Clone, Copy, Debug)]
pub(super) struct ContextNames<'a> {
    /// Of cluster and context.
    pub cluster: &'a str,
    /// Of the user.
    pub user: &'a str,
    /// Default namespace of the context, if it has one.
    pub namespace: Option<&'a str>,
}

/// One complete kubeconfig. JSON is YAML, and its bytes depend on nothing but the values.
pub(super) fn text(names: ContextNames<'_>, token: &SecretString, address: &ClusterAddress) -> SecretSlice<u8> {
    let ContextNames { cluster, user, namespace } = names;
    let mut context = json!({"cluster": cluster, "user": user});
    if let Some(namespace) = namespace {
        context["namespace"] = namespace.into();
    }
    let mut entry = json!({"server": address.server});
    if !address.ca.is_empty() {
        entry["certificate-authority-data"] = STANDARD.encode(&address.ca).into();
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster, "cluster": entry}],
        "users": [{"name": user, "user": {"token": token.expose_secret()}}],
        "contexts": [{"name": cluster, "context": context}],
        "current-context": cluster,
    });
    SecretSlice::from(format!("{config:#}\n").into_bytes())
}
