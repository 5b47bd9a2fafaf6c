//! Format `ArgoCDCluster`: a cluster of Argo CD's declarative setup. Argo CD finds it by its label.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde_json::json;

use super::{Data, Format, Material};
use crate::{api::format::ArgoCdClusterOptions, core::address::ClusterAddress};

pub(super) struct ArgoCdCluster<'a>(pub Option<&'a ArgoCdClusterOptions>);

impl Format for ArgoCdCluster<'_> {
    fn keys(&self) -> Vec<&str> {
        let namespaces = self.0.is_some_and(|options| !options.namespaces.is_empty()).then_some("namespaces");
        let project = self.0.is_some_and(|options| options.project.is_some()).then_some("project");
        ["name", "server", "config"].into_iter().chain(namespaces).chain(project).collect()
    }

    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        let options = self.0.cloned().unwrap_or_default();
        let config = json!({
            "bearerToken": material.token.expose_secret(),
            "tlsClientConfig": {"caData": STANDARD.encode(&address.ca)},
        });
        let value = |key| match key {
            "name" => options.cluster_name.clone().unwrap_or_else(|| material.key.policy.to_string()),
            "server" => address.server.clone(),
            "namespaces" => options.namespaces.join(","),
            "project" => options.project.clone().unwrap_or_default(),
            _ => config.to_string(),
        };
        self.keys().into_iter().map(|key| (key.to_owned(), SecretSlice::from(value(key).into_bytes()))).collect()
    }

    fn label(&self) -> Option<(&'static str, &'static str)> {
        Some(("argocd.argoproj.io/secret-type", "cluster"))
    }

    fn server(&self) -> Option<&str> {
        self.0.and_then(|options| options.server.as_deref())
    }
}
