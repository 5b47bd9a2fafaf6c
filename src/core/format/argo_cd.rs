//! Format `ArgoCDCluster`: a cluster of Argo CD's declarative setup. Argo CD finds it by its label.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice};
use serde_json::json;

use super::{Data, Format, Material};
use crate::{api::format::ArgoCdClusterOptions, core::address::ClusterAddress};

pub(super) struct ArgoCdCluster<'a>(pub Option<&'a ArgoCdClusterOptions>);

impl Format for ArgoCdCluster<'_> {
    fn keys(&self) -> Vec<&str> {
        let has = |option: fn(&ArgoCdClusterOptions) -> bool| self.0.is_some_and(option);
        let optional = [
            ("namespaces", has(|options| !options.namespaces.is_empty())),
            // Argo CD reads it with `namespaces` only.
            ("clusterResources", has(|options| options.cluster_resources.is_some() && !options.namespaces.is_empty())),
            ("project", has(|options| options.project.is_some())),
            ("shard", has(|options| options.shard.is_some())),
        ];
        let optional = optional.into_iter().filter_map(|(key, there)| there.then_some(key));
        ["name", "server", "config"].into_iter().chain(optional).collect()
    }

    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        let options = self.0.cloned().unwrap_or_default();
        let tls = if address.ca.is_empty() { json!({}) } else { json!({"caData": STANDARD.encode(&address.ca)}) };
        let config = json!({"bearerToken": material.token.expose_secret(), "tlsClientConfig": tls});
        let value = |key| match key {
            "name" => options.cluster_name.clone().unwrap_or_else(|| material.key.policy.to_string()),
            "server" => address.server.clone(),
            "namespaces" => options.namespaces.join(","),
            "clusterResources" => options.cluster_resources.unwrap_or_default().to_string(),
            "project" => options.project.clone().unwrap_or_default(),
            "shard" => options.shard.unwrap_or_default().to_string(),
            _ => config.to_string(),
        };
        self.keys().into_iter().map(|key| (key.to_owned(), SecretSlice::from(value(key).into_bytes()))).collect()
    }

    fn label(&self) -> Option<(&'static str, &'static str)> {
        Some(("argocd.argoproj.io/secret-type", "cluster"))
    }
}
