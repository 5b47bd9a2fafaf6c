//! Format `DockerConfigJson`: the token as the password at registries that ask the API server about it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::{Map, Value, json};

use super::{Data, Draft};
use crate::crd::format::DockerConfigJson;

/// The type of the Secret, which the API server demands the key of.
pub const TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The key that this type demands.
pub const KEY: &str = ".dockerconfigjson";

/// Registries that only check the token do not look at the name, but clients demand one.
const USERNAME: &str = "serviceaccount";

/// The data of the Secret.
#[must_use]
pub fn data(draft: &Draft<'_>, options: &DockerConfigJson) -> Data {
    let username = options.username.as_deref().unwrap_or(USERNAME);
    let auths: Map<String, Value> =
        options.registries.iter().map(|registry| (registry.clone(), credentials(username, draft.token))).collect();
    Data::from([(KEY.into(), SecretSlice::from(json!({"auths": auths}).to_string().into_bytes()))])
}

fn credentials(username: &str, token: &SecretString) -> Value {
    let password = token.expose_secret();
    json!({"username": username, "password": password, "auth": STANDARD.encode(format!("{username}:{password}"))})
}

/// What the API server accepts for this type while there is no token yet.
#[must_use]
pub fn empty() -> Data {
    Data::from([(KEY.into(), SecretSlice::from(br#"{"auths":{}}"#.to_vec()))])
}
