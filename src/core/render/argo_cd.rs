//! Format `ArgoCDCluster`: a cluster of Argo CD's declarative setup. Argo CD finds it by its label.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde_json::json;

use super::{Data, Draft};
use crate::{core::facts::Site, crd::format::ArgoCdCluster};

/// The label that makes a Secret a cluster.
pub const LABEL: (&str, &str) = ("argocd.argoproj.io/secret-type", "cluster");

/// The keys this format writes.
pub fn keys(options: Option<&ArgoCdCluster>) -> impl Iterator<Item = &'static str> {
    let namespaces = options.is_some_and(|options| !options.namespaces.is_empty()).then_some("namespaces");
    let project = options.is_some_and(|options| options.project.is_some()).then_some("project");
    ["name", "server", "config"].into_iter().chain(namespaces).chain(project)
}

/// The data of the Secret.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site, options: &ArgoCdCluster) -> Data {
    let config = json!({
        "bearerToken": draft.token.expose_secret(),
        "tlsClientConfig": {"caData": STANDARD.encode(&site.ca)},
    });
    let value = |key| match key {
        "name" => options.cluster_name.clone().unwrap_or_else(|| draft.grant.policy.to_string()),
        "server" => site.server.clone(),
        "namespaces" => options.namespaces.join(","),
        "project" => options.project.clone().unwrap_or_default(),
        _ => config.to_string(),
    };
    keys(Some(options)).map(|key| (key.to_owned(), SecretSlice::from(value(key).into_bytes()))).collect()
}
