//! Format `Kubeconfig`: one complete kubeconfig under the key `config`. The struct is closed, so nothing a
//! policy says can become an `exec` plugin or another server.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde_json::json;

use super::Draft;
use crate::core::facts::Site;

/// The keys this format writes.
pub const KEYS: [&str; 1] = ["config"];

/// What kubectl and kubeadm call a cluster that has no name of its own.
const CLUSTER_NAME: &str = "kubernetes";

/// The data of the Secret. JSON is YAML, and its bytes depend on nothing but the values.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site) -> BTreeMap<&'static str, SecretSlice<u8>> {
    let options = draft.policy.spec.secret.format.kubeconfig.clone().unwrap_or_default();
    let cluster = options.cluster_name.as_deref().unwrap_or(CLUSTER_NAME);
    let namespace = options.namespace.as_deref().unwrap_or(&draft.grant.namespace);
    let user = draft.grant.account.as_ref();
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": cluster,
            "cluster": {"server": site.server, "certificate-authority-data": STANDARD.encode(&site.ca)},
        }],
        "users": [{"name": user, "user": {"token": draft.token.expose_secret()}}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user, "namespace": namespace}}],
        "current-context": cluster,
    });
    let text = format!("{config:#}\n");
    BTreeMap::from([(KEYS[0], SecretSlice::from(text.into_bytes()))])
}
