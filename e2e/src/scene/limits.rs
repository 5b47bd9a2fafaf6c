//! The administrator's limits: an annotation of the namespace overrides the `ConfigMap` of `config/admission`.

use super::Scene;
use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// What most scenarios are not about: limits so wide that they never matter.
const WIDE: [(&str, &str); 4] =
    [("max-duration", "99999h"), ("audiences", "*"), ("servers", OTHER_SERVER), ("binding-none", "true")];
/// A server that policies may name.
pub const OTHER_SERVER: &str = "https://api.example.com:6443";

/// Takes the administrator's limits off a namespace.
pub async fn widen(client: &kube::Client, namespace: &str) -> Result<()> {
    for (name, value) in WIDE {
        limit(client, namespace, name, Some(value)).await?;
    }
    Ok(())
}

impl Scene {
    /// Puts the limits in force that are shipped.
    pub async fn shipped_limits(&self) -> Result<()> {
        for (name, _) in WIDE {
            self.limit(name, None).await?;
        }
        Ok(())
    }

    /// Sets the limit `tokenward.dev/<name>` of the namespace; `None` leaves it to the `ConfigMap`.
    pub async fn limit(&self, name: &str, value: Option<&str>) -> Result<()> {
        limit(&self.client, &self.namespace, name, value).await
    }
}

/// As [`Scene::limit`], in any namespace.
pub async fn limit(client: &kube::Client, namespace: &str, name: &str, value: Option<&str>) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let patch = Patch::Merge(json!({"metadata": {"annotations": {format!("tokenward.dev/{name}"): value}}}));
    namespaces.patch(namespace, &PatchParams::default(), &patch).await?;
    Ok(())
}
