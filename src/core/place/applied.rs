//! The last writer of each field, read from `metadata.managedFields`: an edit of a token is visible here
//! without reading the token.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

use crate::{
    api::token_policy::Secret,
    core::{
        format,
        id::{Uid, short_hash},
        names::{self, MANAGER},
    },
};

/// Labels that the administrator demands on every Secret.
pub type Demanded = Arc<BTreeMap<String, String>>;

/// Hashes over the sorted field names that our Apply entry owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AppliedFields {
    /// Keys of `data`.
    pub data: u32,
    /// Keys of `metadata.labels` and `metadata.annotations`.
    pub metadata: u32,
}

impl AppliedFields {
    /// The fields that we own right after an apply of these keys.
    #[must_use]
    pub fn expected<'a>(
        data: impl IntoIterator<Item = &'a str>,
        labels: impl IntoIterator<Item = &'a str>,
        annotations: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self { data: set_hash(data), metadata: set_hash(labels).wrapping_add(set_hash(annotations)) }
    }

    /// The fields that our Apply entry owns now; none if there is no such entry.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Self {
        let fields = apply_entry(meta);
        Self::expected(
            owned_keys(fields, "/f:data"),
            owned_keys(fields, "/f:metadata/f:labels"),
            owned_keys(fields, "/f:metadata/f:annotations"),
        )
    }
}

/// Whether we have ever applied the object.
#[must_use]
pub fn has_applied(meta: &ObjectMeta) -> bool {
    apply_entry(meta).is_some()
}

/// Whether our Apply entry owns this key of `data`.
#[must_use]
pub fn owns_data(meta: &ObjectMeta, key: &str) -> bool {
    owned_keys(apply_entry(meta), "/f:data").any(|owned| owned == key)
}

/// Whether our Apply entry owns each of these annotations.
#[must_use]
pub fn owns_annotations(meta: &ObjectMeta, keys: &[&str]) -> bool {
    let owned: Vec<&str> = owned_keys(apply_entry(meta), "/f:metadata/f:annotations").collect();
    keys.iter().all(|key| owned.contains(key))
}

/// The fields that our Apply entry owns after writing a target for this policy.
#[must_use]
pub fn after_apply(policy_uid: &Uid, options: &Secret, demanded: &Demanded) -> AppliedFields {
    let annotations = annotations(options);
    AppliedFields::expected(
        format::of(&options.format).keys(),
        labels(policy_uid, options, demanded).keys().map(String::as_str),
        names::TARGET_ANNOTATIONS.into_iter().chain(annotations.keys().map(String::as_str)),
    )
}

/// The labels of a target: those that the policy asks for, that the administrator demands, that the format needs, and
/// ours, each winning over the one before.
#[must_use]
pub fn labels(policy_uid: &Uid, options: &Secret, demanded: &Demanded) -> BTreeMap<String, String> {
    let mut labels = options.labels.clone();
    labels.extend(BTreeMap::clone(demanded));
    labels.extend(format::of(&options.format).label().map(|(key, value)| (key.to_owned(), value.to_owned())));
    marked(labels, names::TARGET_ROLE, policy_uid)
}

/// Labels with ours.
#[must_use]
pub fn marked(mut labels: BTreeMap<String, String>, role: &str, policy_uid: &Uid) -> BTreeMap<String, String> {
    let own = [(names::ROLE, role), (names::POLICY_UID, &policy_uid.to_string()), (names::MANAGED_BY, names::MANAGER)];
    labels.extend(own.map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels
}

/// The annotations that the policy asks for and its format needs.
#[must_use]
pub fn annotations(options: &Secret) -> BTreeMap<String, String> {
    let mut annotations = options.annotations.clone();
    annotations.extend(format::of(&options.format).annotation());
    annotations
}

fn set_hash<'a>(keys: impl IntoIterator<Item = &'a str>) -> u32 {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable();
    keys.dedup();
    short_hash(keys)
}

fn apply_entry(meta: &ObjectMeta) -> Option<&Value> {
    meta.managed_fields
        .iter()
        .flatten()
        .find(|entry| {
            entry.manager.as_deref() == Some(MANAGER)
                && entry.operation.as_deref() == Some("Apply")
                && entry.subresource.as_deref().unwrap_or_default().is_empty()
        })
        .and_then(|entry| entry.fields_v1.as_ref())
        .map(|fields| &fields.0)
}

fn owned_keys<'a>(fields: Option<&'a Value>, pointer: &str) -> impl Iterator<Item = &'a str> {
    fields
        .and_then(|fields| fields.pointer(pointer))
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(|keys| keys.keys())
        .filter_map(|key| key.strip_prefix("f:"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta(entries: &Value) -> ObjectMeta {
        serde_json::from_value(json!({ "managedFields": entries })).unwrap()
    }

    #[test]
    fn reads_only_our_apply_entry() {
        let fields =
            json!({"f:data": {".": {}, "f:token": {}, "f:ca.crt": {}}, "f:metadata": {"f:labels": {"f:a": {}}}});
        let other = json!({"manager": "kubectl-edit", "operation": "Update", "fieldsV1": {"f:data": {"f:x": {}}}});
        let ours = meta(&json!([other, {"manager": "tokenward", "operation": "Apply", "fieldsV1": fields}]));
        assert_eq!(AppliedFields::read(&ours), AppliedFields::expected(["token", "ca.crt"], ["a"], []));
        assert!(owns_data(&ours, "token") && !owns_data(&ours, "x"));
        let update = meta(&json!([{"manager": "tokenward", "operation": "Update", "fieldsV1": fields}]));
        assert_eq!(AppliedFields::read(&update), AppliedFields::expected([], [], []));
    }

    #[test]
    fn an_edit_by_others_changes_what_we_own() {
        let before = AppliedFields::expected(["token", "ca.crt"], [], []);
        let edited =
            meta(&json!([{"manager": "tokenward", "operation": "Apply", "fieldsV1": {"f:data": {"f:ca.crt": {}}}}]));
        assert_ne!(AppliedFields::read(&edited).data, before.data);
    }
}
