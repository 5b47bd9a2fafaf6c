//! The administrator's limits: an annotation of the namespace overrides the `ConfigMap` of `config/admission`.

use super::Scene;
use anyhow::Result;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

impl Scene {
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
