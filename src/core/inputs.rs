//! Hashes over what was asked for. What differs in them tells what an edit of a policy needs.

use super::{facts::Site, managed::stable_hash};
use crate::crd::{
    format::Format,
    token_policy::{Binding, DeletionPolicy, Token, TokenPolicySpec},
};

/// Hash over the fields that need a new token when they change. Defaults are left out, so that an upgrade
/// that adds a field changes nothing.
#[must_use]
pub fn token(spec: &TokenPolicySpec) -> Box<str> {
    let default = Token::default();
    let mut inputs: Vec<String> = spec.token.audiences.iter().map(|audience| format!("audience={audience}")).collect();
    if spec.token.duration != default.duration {
        inputs.push(format!("duration={}", spec.token.duration));
    }
    if spec.token.binding != Binding::default() {
        inputs.push(format!("binding={:?}", spec.token.binding));
    }
    if spec.deletion_policy != DeletionPolicy::default() {
        inputs.push("deletionPolicy=Retain".into());
    }
    versioned(&inputs)
}

/// Hash over the fields that need only a new rendering when they change.
#[must_use]
pub fn layout(spec: &TokenPolicySpec, site: &Site) -> Box<str> {
    let mut inputs = vec![
        format!("server={}", spec.secret.format.server().unwrap_or(&site.server)),
        format!("ca={:016x}", stable_hash([String::from_utf8_lossy(&site.ca).as_ref()])),
    ];
    inputs.extend(spec.secret.labels.iter().map(|(key, value)| format!("label={key}={value}")));
    inputs.extend(spec.secret.annotations.iter().map(|(key, value)| format!("annotation={key}={value}")));
    if spec.secret.format != Format::default() {
        // As JSON with sorted keys, in which fields that are not set do not appear.
        inputs.push(format!("format={}", serde_json::json!(spec.secret.format)));
    }
    versioned(&inputs)
}

/// The version in front lets a later release tell its own hashes from these.
fn versioned(inputs: &[String]) -> Box<str> {
    format!("v1:{:016x}", stable_hash(inputs.iter().map(String::as_str))).into()
}
