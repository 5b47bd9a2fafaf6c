//! Objects as watches and answers are read: of `managedFields`, half of an object's text, only the part that decisions need.

use std::{borrow::Cow, collections::BTreeMap, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta, OwnerReference, Time};
use kube::core::Resource;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    id::stable_hash,
    names::{self, MANAGER},
};

/// An object of the kind `K`. One of which the API server is asked for metadata alone has neither spec nor status.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "")]
pub struct Object<K> {
    /// Standard metadata; of the managed fields only our own data, labels and annotations.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: Value,
    #[serde(skip)]
    kind: PhantomData<K>,
}

impl<K> Object<K> {
    /// Metadata, spec and status, field by field: a spec that does not fit its schema, for the reason given, spoils no status,
    /// and a status that does not fit counts as none.
    pub fn parts<S: DeserializeOwned, T: DeserializeOwned + Default>(self) -> (ObjectMeta, Result<S, String>, T) {
        let spec = serde_json::from_value(self.spec).map_err(|error| format!("spec: {error}"));
        (self.metadata, spec, serde_json::from_value(self.status).unwrap_or_default())
    }
}

impl<K: Resource> Resource for Object<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &K::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// The metadata that decisions need.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "annotations")]
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
    finalizers: Option<Vec<String>>,
    managed_fields: Option<Vec<Managed>>,
}

/// Longest annotation that is read as it is. Ours are shorter, and a foreign hand may have written a quarter of a megabyte.
const MAX_ANNOTATION: usize = 512;
/// The same for the list of older tokens: eight entries of at most 450 bytes.
const MAX_PREVIOUS: usize = 4096;

/// Of a longer text only a hash is kept: it is as good where texts are compared, and parses as nothing.
fn annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    let mut annotations = Option::<BTreeMap<String, String>>::deserialize(deserializer)?;
    for (key, text) in annotations.iter_mut().flatten() {
        let most = if key == names::PREVIOUS { MAX_PREVIOUS } else { MAX_ANNOTATION };
        if text.len() > most {
            *text = format!("{} bytes: {:016x}", text.len(), stable_hash([text.as_str()]));
        }
    }
    Ok(annotations)
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let read = Metadata::deserialize(deserializer)?;
    let ours = |entry: &Managed| entry.manager.as_deref() == Some(MANAGER);
    let entry = |entry: Managed| ManagedFieldsEntry {
        manager: entry.manager,
        operation: entry.operation,
        subresource: entry.subresource,
        fields_v1: entry.fields_v1.map(|fields| FieldsV1(json!(fields))),
        ..ManagedFieldsEntry::default()
    };
    Ok(ObjectMeta {
        name: read.name,
        namespace: read.namespace,
        uid: read.uid,
        resource_version: read.resource_version,
        generation: read.generation,
        creation_timestamp: read.creation_timestamp,
        deletion_timestamp: read.deletion_timestamp,
        labels: read.labels,
        annotations: read.annotations,
        owner_references: read.owner_references,
        finalizers: read.finalizers,
        managed_fields: read.managed_fields.map(|entries| entries.into_iter().filter(ours).map(entry).collect()),
        ..ObjectMeta::default()
    })
}

/// An entry of `managedFields`.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Managed {
    manager: Option<String>,
    operation: Option<String>,
    subresource: Option<String>,
    fields_v1: Option<Fields>,
}

/// The fields of an entry that decisions read: the keys of a Secret's data, labels and annotations.
#[derive(Deserialize, Serialize)]
struct Fields {
    #[serde(default, rename = "f:data", skip_serializing_if = "Value::is_null")]
    data: Value,
    #[serde(default, rename = "f:metadata", skip_serializing_if = "Value::is_null")]
    metadata: Value,
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use kube::core::PartialObjectMeta;

    use super::*;
    use crate::{
        api::token_policy::{TokenPolicy, TokenPolicySpec, TokenPolicyStatus},
        core::place::applied::AppliedFields,
    };

    /// An entry of `managedFields`, its manager before or behind the fields.
    fn managed(first: bool, manager: &str, fields: &Value) -> String {
        let (manager, fields) = (format!(r#""manager":"{manager}""#), format!(r#""fieldsV1":{fields}"#));
        let (one, other) = if first { (manager, fields) } else { (fields, manager) };
        format!(r#"{{{one},"operation":"Apply","apiVersion":"v1","time":"2026-01-01T00:00:00Z",{other}}}"#)
    }

    /// A Secret as the API server shows it, with fields of others before and behind ours.
    fn secret(first: bool) -> String {
        let others = json!({"f:data": {"f:x": {}}, "f:metadata": {"f:labels": {"f:y": {}}}});
        let ours = json!({
            "f:data": {".": {}, "f:token": {}}, "f:type": {},
            "f:metadata": {"f:labels": {"f:a": {}}, "f:annotations": {"f:b": {}}, "f:ownerReferences": {}},
        });
        let entries = [("kubectl", &others), ("tokenward", &ours), ("zz", &others)];
        let entries = entries.map(|(manager, fields)| managed(first, manager, fields)).join(",");
        let secret = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": {
            "name": "one", "namespace": "ci", "uid": "u", "resourceVersion": "7", "generation": 3, "generateName": "on",
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z", "finalizers": ["f"],
            "labels": {"a": "1"}, "annotations": {"b": "2"}, "managedFields": [],
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "n", "uid": "u"}],
        }});
        secret.to_string().replace(r#""managedFields":[]"#, &format!(r#""managedFields":[{entries}]"#))
    }

    fn read(object: &str) -> ObjectMeta {
        serde_json::from_str::<Object<PartialObjectMeta<Secret>>>(object).unwrap().metadata
    }

    #[test]
    fn everything_that_decisions_need_is_read() {
        for first in [true, false] {
            let whole: PartialObjectMeta<Secret> = serde_json::from_str(&secret(first)).unwrap();
            let metadata = read(&secret(first));
            assert_eq!(AppliedFields::read(&metadata), AppliedFields::read(&whole.metadata));
            let rest = |meta| ObjectMeta { managed_fields: None, generate_name: None, ..meta };
            assert_eq!(rest(metadata), rest(whole.metadata));
        }
    }

    #[test]
    fn the_fields_of_others_are_not_kept() {
        for first in [true, false] {
            let managed = json!(read(&secret(first)).managed_fields).to_string();
            assert!(managed.contains("f:token") && !managed.contains("f:x"), "{managed}");
        }
    }

    #[test]
    fn a_long_annotation_is_kept_as_a_hash() {
        let read = |key: &str, text: &str| {
            let mut annotations =
                read(&json!({"metadata": {"annotations": {key: text}}}).to_string()).annotations.unwrap();
            annotations.remove(key).unwrap()
        };
        let long = "x".repeat(250_000);
        assert_eq!(read(names::ROTATE, &long[..512]), long[..512]);
        assert!(read(names::ROTATE, &long).len() < 64 && read(names::PREVIOUS, &long).len() < 64);
        assert_ne!(read(names::ROTATE, &long), read(names::ROTATE, &long.replacen('x', "y", 1)));
        assert_eq!(read(names::PREVIOUS, &long[..4096]), long[..4096]);
    }

    #[test]
    fn nulls_and_absent_fields_are_none() {
        let empty = json!({"metadata": {"labels": null, "managedFields": null, "creationTimestamp": null}});
        assert_eq!(read(&empty.to_string()), ObjectMeta::default());
        assert_eq!(read("{}"), ObjectMeta::default());
        let none = json!({"metadata": {"managedFields": [{"manager": "tokenward", "fieldsV1": null}, {}]}});
        let managed = read(&none.to_string()).managed_fields.unwrap();
        assert_eq!((managed.len(), &managed[0].fields_v1), (1, &None));
    }

    #[test]
    fn a_spec_that_does_not_fit_spoils_no_status() {
        let policy =
            json!({"metadata": {"name": "p"}, "spec": {"serviceAccounts": 7}, "status": {"observedGeneration": 3}});
        let policy: Object<TokenPolicy> = serde_json::from_value(policy).unwrap();
        let (_, spec, status) = policy.parts::<TokenPolicySpec, TokenPolicyStatus>();
        assert!(spec.unwrap_err().starts_with("spec: invalid type"));
        assert_eq!(status.observed_generation, Some(3));
    }
}
