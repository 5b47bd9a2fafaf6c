//! Who last wrote which field, read from `metadata.managedFields`: an edit of a token is visible here
//! without reading the token.

use std::hash::Hasher as _;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use siphasher::sip::SipHasher13;

use super::keys::MANAGER;

/// A hash that is the same in every process and on every platform, for jitter and for comparing sets.
/// Each part is followed by a byte that no UTF-8 text holds, so `["ab","c"]` and `["a","bc"]` differ.
#[must_use]
pub fn stable_hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

/// Hashes over the sorted field names that our Apply entry owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Keys of `data`.
    pub data: u64,
    /// Keys of `metadata.labels` and `metadata.annotations`.
    pub metadata: u64,
}

impl Owned {
    /// What we own right after an apply of these keys.
    #[must_use]
    pub fn expected<'a>(
        data: impl IntoIterator<Item = &'a str>,
        labels: impl IntoIterator<Item = &'a str>,
        annotations: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self { data: set_hash(data), metadata: set_hash(labels).wrapping_add(set_hash(annotations)) }
    }

    /// What our Apply entry owns now; nothing if there is no such entry.
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

fn set_hash<'a>(keys: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut keys: Vec<_> = keys.into_iter().collect();
    keys.sort_unstable();
    keys.dedup();
    stable_hash(keys)
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
        assert_eq!(Owned::read(&ours), Owned::expected(["token", "ca.crt"], ["a"], []));
        assert!(owns_data(&ours, "token") && !owns_data(&ours, "x"));
        let update = meta(&json!([{"manager": "tokenward", "operation": "Update", "fieldsV1": fields}]));
        assert_eq!(Owned::read(&update), Owned::expected([], [], []));
    }

    #[test]
    fn an_edit_by_others_changes_what_we_own() {
        let before = Owned::expected(["token", "ca.crt"], [], []);
        let edited =
            meta(&json!([{"manager": "tokenward", "operation": "Apply", "fieldsV1": {"f:data": {"f:ca.crt": {}}}}]));
        assert_ne!(Owned::read(&edited).data, before.data);
    }

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        assert_eq!(stable_hash(["a", "b"]), stable_hash(["a", "b"]));
        assert_ne!(stable_hash(["ab", "c"]), stable_hash(["a", "bc"]));
        assert_eq!(format!("{:016x}", stable_hash(["tokenward"])), "2e7b4175078681df");
    }
}
