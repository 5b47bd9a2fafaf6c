//! Format `DockerConfigJson`: the token as the password at registries that ask the API server about it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::{Map, Value, json};

use super::{Data, Format, Material};
use crate::{api::format::DockerConfigJsonOptions, core::address::ClusterAddress};

/// The key that the type of the Secret demands.
const KEY: &str = ".dockerconfigjson";

/// Registries that only check the token do not look at the name, but clients demand one.
const USERNAME: &str = "serviceaccount";

pub(super) struct DockerConfigJson<'a>(pub Option<&'a DockerConfigJsonOptions>);

impl Format for DockerConfigJson<'_> {
    fn keys(&self) -> Vec<&str> {
        vec![KEY]
    }

    fn data(&self, material: &Material<'_>, _: &ClusterAddress) -> Data {
        let username = self.0.and_then(|options| options.username.as_deref()).unwrap_or(USERNAME);
        let registries = self.0.map(|options| options.registries.as_slice()).unwrap_or_default();
        let auths: Map<String, Value> =
            registries.iter().map(|registry| (registry.clone(), credentials(username, material.token))).collect();
        Data::from([(KEY.into(), SecretSlice::from(json!({"auths": auths}).to_string().into_bytes()))])
    }

    fn empty(&self) -> Data {
        Data::from([(KEY.into(), SecretSlice::from(br#"{"auths":{}}"#.to_vec()))])
    }

    fn secret_type(&self) -> &'static str {
        "kubernetes.io/dockerconfigjson"
    }

    /// Registries are told no server.
    fn tells_server(&self) -> bool {
        false
    }
}

fn credentials(username: &str, token: &SecretString) -> Value {
    let password = token.expose_secret();
    json!({"username": username, "password": password, "auth": STANDARD.encode(format!("{username}:{password}"))})
}
