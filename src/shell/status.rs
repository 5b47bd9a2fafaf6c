//! Writes the status of a policy.

use http::Method;
use serde::Serialize;
use serde_json::json;
use tracing::warn;

use super::api::{APPLY, Api, Call, METADATA};
use crate::core::{keys, render, table::Key};

/// The object whose status is written.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    /// Kind.
    pub kind: &'a str,
    /// Plural name of the kind.
    pub plural: &'a str,
    /// Namespace, empty for a cluster-scoped kind, and name.
    pub key: &'a Key,
    /// Keeps the status off an object that was re-created meanwhile.
    pub uid: &'a str,
}

/// Applies a status, and returns whether that is done with. An object that is gone needs none.
pub async fn apply(api: &Api, object: Object<'_>, status: &impl Serialize) -> bool {
    let Key { namespace, name } = object.key;
    let place = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    let what = format!("apply the status of {} {}", object.kind, object.key);
    let path = format!(
        "/apis/tokenward.dev/v1alpha1/{place}{}/{name}/status?fieldManager={}&force=true",
        object.plural,
        keys::MANAGER
    );
    let mut metadata = json!({"name": &**name, "uid": object.uid});
    if !namespace.is_empty() {
        metadata["namespace"] = (&**namespace).into();
    }
    let body = render::apply_body(&json!({
        "apiVersion": "tokenward.dev/v1alpha1", "kind": object.kind, "metadata": metadata, "status": status,
    }));
    let call = Call { what: &what, method: &Method::PATCH, path: &path, accept: METADATA, content: APPLY, body: &body };
    match api.call(call).await {
        Ok(_) => true,
        Err(error) if matches!(error.code, Some(404 | 409)) => true,
        Err(error) => {
            warn!("{}", error.failure.message);
            false
        }
    }
}
