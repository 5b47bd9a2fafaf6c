//! A kubeconfig: format `Kubeconfig`, and what format `IstioRemoteSecret` wraps. Its shape is closed, so nothing a policy
//! says can become an `exec` plugin or another server.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::json;

use super::{Data, Draft};
use crate::{core::facts::Site, crd::format::Kubeconfig};

/// The key, unless the policy asks for another.
pub const KEY: &str = "config";

/// What kubectl and kubeadm call a cluster that has no name of its own.
const CLUSTER_NAME: &str = "kubernetes";

/// The names in a kubeconfig.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// Of cluster and context.
    pub cluster: &'a str,
    /// Of the user.
    pub user: &'a str,
    /// Default namespace of the context, if it has one.
    pub namespace: Option<&'a str>,
}

/// The data of the Secret.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site, options: &Kubeconfig) -> Data {
    let names = Names {
        cluster: options.cluster_name.as_deref().unwrap_or(CLUSTER_NAME),
        user: &draft.grant.account,
        namespace: Some(options.namespace.as_deref().unwrap_or(&draft.grant.namespace)),
    };
    Data::from([(options.key.clone().unwrap_or_else(|| KEY.into()), text(names, draft.token, site))])
}

/// One complete kubeconfig. JSON is YAML, and its bytes depend on nothing but the values.
#[must_use]
pub fn text(names: Names<'_>, token: &SecretString, site: &Site) -> SecretSlice<u8> {
    let Names { cluster, user, namespace } = names;
    let mut context = json!({"cluster": cluster, "user": user});
    if let Some(namespace) = namespace {
        context["namespace"] = namespace.into();
    }
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": cluster,
            "cluster": {"server": site.server, "certificate-authority-data": STANDARD.encode(&site.ca)},
        }],
        "users": [{"name": user, "user": {"token": token.expose_secret()}}],
        "contexts": [{"name": cluster, "context": context}],
        "current-context": cluster,
    });
    SecretSlice::from(format!("{config:#}\n").into_bytes())
}
