//! From a token to the exact bytes of the Secrets. The same input always gives the same bytes.

pub mod kubeconfig;
pub mod read_back;
pub mod token;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{SecretSlice, SecretString};
use serde_json::{Value, json};

use super::{
    Time,
    claims::Claims,
    facts::{Policy, Previous, Site, text},
    grant::GrantKey,
    keys,
    managed::Owned,
};
use crate::crd::token_policy::FormatType;

/// Everything a target says.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Policy and account.
    pub grant: &'a GrantKey,
    /// The policy.
    pub policy: &'a Policy,
    /// UID of the account.
    pub account_uid: &'a str,
    /// Name of the Secret.
    pub name: &'a str,
    /// The token.
    pub token: &'a SecretString,
    /// What the token says.
    pub claims: &'a Claims,
    /// The anchor it is bound to: name and UID.
    pub anchor: (&'a str, &'a str),
    /// The rotate value it was issued under.
    pub rotate: &'a str,
    /// Older tokens.
    pub previous: &'a [Previous],
    /// Inputs it was issued under.
    pub token_inputs: &'a str,
}

/// What the write must find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No Secret of that name.
    Absent,
    /// This Secret in this version.
    Exactly {
        /// `metadata.uid`.
        uid: Box<str>,
        /// `metadata.resourceVersion`.
        resource_version: Box<str>,
    },
}

/// The body of the apply that writes a target.
#[must_use]
pub fn target(draft: &Draft<'_>, site: &Site, precondition: &Precondition) -> SecretString {
    let mut metadata = json!({
        "name": draft.name,
        "namespace": &*draft.grant.namespace,
        "labels": labels(draft.policy),
        "annotations": annotations(draft),
        "ownerReferences": owners(draft.grant, draft.policy),
    });
    match precondition {
        // "0" would mean any version and overwrite; "1" is a version no stored object has.
        Precondition::Absent => metadata["resourceVersion"] = "1".into(),
        Precondition::Exactly { uid, resource_version } => {
            metadata["uid"] = (**uid).into();
            metadata["resourceVersion"] = (**resource_version).into();
        }
    }
    let data: BTreeMap<_, _> =
        data(draft, site).into_iter().map(|(key, value)| (key, STANDARD.encode(value_bytes(&value)))).collect();
    let body = json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data});
    body.to_string().into()
}

fn value_bytes(value: &SecretSlice<u8>) -> &[u8] {
    use secrecy::ExposeSecret as _;
    value.expose_secret()
}

fn data(draft: &Draft<'_>, site: &Site) -> BTreeMap<&'static str, SecretSlice<u8>> {
    match draft.policy.spec.secret.format.kind {
        FormatType::Token => token::data(draft, site),
        FormatType::Kubeconfig => kubeconfig::data(draft, site),
    }
}

/// What our Apply entry owns after writing a target for this policy.
#[must_use]
pub fn owned(policy: &Policy) -> Owned {
    let data: &[&str] = match policy.spec.secret.format.kind {
        FormatType::Token => &token::KEYS,
        FormatType::Kubeconfig => &kubeconfig::KEYS,
    };
    let secret = &policy.spec.secret;
    Owned::expected(
        data.iter().copied(),
        keys::TARGET_LABELS.into_iter().chain(secret.labels.keys().map(String::as_str)),
        keys::TARGET_ANNOTATIONS.into_iter().chain(secret.annotations.keys().map(String::as_str)),
    )
}

fn labels(policy: &Policy) -> BTreeMap<&str, &str> {
    let mut labels: BTreeMap<&str, &str> =
        policy.spec.secret.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    labels.extend([
        (keys::ROLE, keys::TARGET_ROLE),
        (keys::POLICY_UID, &*policy.uid),
        (keys::MANAGED_BY, keys::MANAGER),
    ]);
    labels
}

fn annotations(draft: &Draft<'_>) -> BTreeMap<String, String> {
    let claims = draft.claims;
    let ours = [
        (keys::POLICY, draft.grant.policy.to_string()),
        (keys::TARGET, draft.name.to_owned()),
        (keys::SERVICE_ACCOUNT, draft.grant.account.to_string()),
        (keys::SERVICE_ACCOUNT_UID, draft.account_uid.to_owned()),
        (keys::TOKEN_ID, claims.token_id.clone()),
        (keys::KEY_ID, claims.key_id.clone()),
        (keys::ISSUER, claims.issuer.clone()),
        (keys::ISSUED_AT, text(claims.issued_at)),
        (keys::EXPIRES_AT, text(claims.expires_at)),
        (keys::ANCHOR, draft.anchor.0.to_owned()),
        (keys::ANCHOR_UID, draft.anchor.1.to_owned()),
        (keys::ROTATE, draft.rotate.to_owned()),
        (keys::PREVIOUS, json!(draft.previous).to_string()),
        (keys::TOKEN_INPUTS, draft.token_inputs.to_owned()),
        (keys::LAYOUT, draft.policy.layout.to_string()),
    ];
    let mut annotations = draft.policy.spec.secret.annotations.clone();
    annotations.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    annotations
}

/// Plain owner references: `controller` or `blockOwnerDeletion` would get in the way of others.
#[must_use]
pub fn owners(grant: &GrantKey, policy: &Policy) -> Value {
    if !policy.deletes() {
        return json!([]);
    }
    json!([{
        "apiVersion": "tokenward.dev/v1alpha1",
        "kind": "TokenPolicy",
        "name": &*grant.policy,
        "uid": policy.uid,
    }])
}

/// The labels and annotations of an anchor, and its owner: everything but its name.
#[must_use]
pub fn anchor_metadata(grant: &GrantKey, policy: &Policy, target: &str, now: Time) -> Value {
    let dies = now + policy.spec.token.duration.delta();
    json!({
        "namespace": &*grant.namespace,
        "labels": {(keys::ROLE): keys::ANCHOR_ROLE, (keys::POLICY_UID): policy.uid, (keys::MANAGED_BY): keys::MANAGER},
        "annotations": {
            (keys::POLICY): &*grant.policy,
            (keys::TARGET): target,
            (keys::SERVICE_ACCOUNT): &*grant.account,
            (keys::DIES_AT_LATEST): text(dies),
        },
        "ownerReferences": owners(grant, policy),
    })
}

/// The body that creates an anchor, with a name still to be put into `metadata.name`.
#[must_use]
pub fn anchor(grant: &GrantKey, policy: &Policy, target: &str, now: Time) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": keys::ANCHOR_TYPE,
        "immutable": true,
        "metadata": anchor_metadata(grant, policy, target, now),
    })
}

/// The body of a TokenRequest: for this UID of the account, bound to this anchor by name and UID.
#[must_use]
pub fn token_request(grant: &GrantKey, policy: &Policy, account_uid: &str, anchor: (&str, &str)) -> Value {
    let token = &policy.spec.token;
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": &*grant.account, "namespace": &*grant.namespace, "uid": account_uid},
        "spec": {
            "audiences": token.audiences,
            "expirationSeconds": token.duration.as_secs(),
            "boundObjectRef": {"apiVersion": "v1", "kind": "Secret", "name": anchor.0, "uid": anchor.1},
        },
    })
}
