//! Forged requests with the operator's own identity.

use super::caller::{Caller, Wanted::Refused};
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What RBAC says; everything else is refused by the belts.
pub const RBAC: &str = "cannot ";
/// The belt on Secrets says this.
pub const FOREIGN: &str = "is not one of Tokenward";
/// The same of legacy and bootstrap tokens.
pub const OF_KUBERNETES: &str = "is a token of Kubernetes";
/// No limit but the belts say this.
pub const BELT: &str = "no setting changes that";

/// A forged request and the words that refuse it.
pub struct Forged {
    pub what: &'static str,
    pub verb: &'static str,
    pub path: String,
    pub body: Value,
    pub words: &'static str,
}

/// One of them.
pub fn forged(what: &'static str, verb: &'static str, path: String, body: Value, words: &'static str) -> Forged {
    Forged { what, verb, path, body, words }
}

/// Sends them all; each must be refused with its words.
pub async fn all_refused(thief: &Caller, calls: &[Forged]) -> Result<()> {
    for call in calls {
        thief.gets(call.verb, &call.path, &call.body, Refused(call.words)).await.context(call.what)?;
    }
    Ok(())
}

/// The annotations of a target of this name.
pub fn marks(name: &str) -> Value {
    json!({"tokenward.dev/target": name, "tokenward.dev/policy": "p", "tokenward.dev/service-account": "deployer"})
}

/// A Secret that is marked as a target of ours.
pub fn marked(name: &str, kind: &str) -> Value {
    let labels = json!({"tokenward.dev/role": "target"});
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": kind});
    secret["metadata"] = json!({"name": name, "labels": labels, "annotations": marks(name)});
    secret
}

/// A TokenRequest.
pub fn request(spec: &Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}
