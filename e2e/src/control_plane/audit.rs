//! The API server's audit log: one event per request at level Metadata, written before the request ends.

use chrono::{DateTime, Utc};
use serde::Deserialize;
use std::collections::BTreeMap;

pub(crate) const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules: [{level: Metadata}]
";

/// One line of the audit log.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Raw")]
pub struct AuditEvent {
    /// The same for all stages of one request.
    pub id: String,
    /// `ResponseStarted` (watches only), `ResponseComplete` or `Panic`.
    pub stage: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete` or `deletecollection`.
    pub verb: String,
    /// User name, for example `system:serviceaccount:tokenward-system:tokenward`.
    pub user: String,
    /// What the authenticator knows besides, for example the credential id.
    pub extra: BTreeMap<String, Vec<String>>,
    /// The program that asked.
    pub user_agent: String,
    /// Path and query.
    pub request_uri: String,
    /// API group, empty for the core group.
    pub group: String,
    /// Plural name of the kind, for example `secrets`; empty for requests that name no resource.
    pub resource: String,
    /// For example `token` or `status`, else empty.
    pub subresource: String,
    /// Empty for what is not namespaced.
    pub namespace: String,
    /// Empty for lists and for names that the server makes.
    pub name: String,
    /// HTTP status, 0 when the request has no answer yet.
    pub code: u16,
    /// When the request came in.
    pub received: DateTime<Utc>,
    /// When this stage was reached.
    pub at: DateTime<Utc>,
    /// What admission and the authorizer noted.
    pub annotations: BTreeMap<String, String>,
}

impl AuditEvent {
    /// The id of the token that authenticated the request, for a `ServiceAccount` token.
    #[must_use]
    pub fn credential_id(&self) -> Option<&str> {
        let ids = self.extra.get("authentication.kubernetes.io/credential-id")?;
        ids.first()?.strip_prefix("JTI=")
    }

    /// True once per request: at its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.stage == "ResponseComplete"
    }
}

/// The events in `text`; a last line that is still being written is left out.
pub(crate) fn parse(text: &str) -> serde_json::Result<Vec<AuditEvent>> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(serde_json::from_str).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: String,
    #[serde(rename = "requestURI")]
    request_uri: String,
    verb: String,
    user: User,
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    object_ref: ObjectRef,
    #[serde(default)]
    response_status: Status,
    request_received_timestamp: DateTime<Utc>,
    stage_timestamp: DateTime<Utc>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct User {
    #[serde(default)]
    username: String,
    #[serde(default)]
    extra: BTreeMap<String, Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ObjectRef {
    api_group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
}

impl From<Raw> for AuditEvent {
    fn from(raw: Raw) -> Self {
        Self {
            id: raw.audit_id,
            stage: raw.stage,
            verb: raw.verb,
            user: raw.user.username,
            extra: raw.user.extra,
            user_agent: raw.user_agent,
            request_uri: raw.request_uri,
            group: raw.object_ref.api_group,
            resource: raw.object_ref.resource,
            subresource: raw.object_ref.subresource,
            namespace: raw.object_ref.namespace,
            name: raw.object_ref.name,
            code: raw.response_status.code,
            received: raw.request_received_timestamp,
            at: raw.stage_timestamp,
            annotations: raw.annotations,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"a","stage":"ResponseComplete","requestURI":"/api/v1/namespaces/n/serviceaccounts/s/token","verb":"create","user":{"username":"u","extra":{"authentication.kubernetes.io/credential-id":["JTI=42"]}},"objectRef":{"resource":"serviceaccounts","namespace":"n","name":"s","apiVersion":"v1","subresource":"token"},"responseStatus":{"metadata":{},"code":201},"requestReceivedTimestamp":"2026-01-01T00:00:00.000001Z","stageTimestamp":"2026-01-01T00:00:00.000002Z"}"#;

    #[test]
    fn reads_an_event_and_skips_an_unfinished_line() {
        let events = parse(&format!("{LINE}\n{{\"kind\":\"Ev")).unwrap();
        let [event] = events.as_slice() else { panic!("{events:?}") };
        assert_eq!(
            (event.resource.as_str(), event.subresource.as_str(), event.code),
            ("serviceaccounts", "token", 201)
        );
        assert_eq!(event.credential_id(), Some("42"));
        assert!(event.is_complete());
    }

    #[test]
    fn a_broken_line_is_an_error() {
        assert!(parse("{}\n").is_err());
    }
}
