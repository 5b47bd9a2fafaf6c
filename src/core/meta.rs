//! Reading `metadata`, and instants as Kubernetes writes them.

use chrono::{DateTime, SecondsFormat};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time as ApiTime};

use super::{Time, id::Secs};

/// RFC 3339 in UTC and whole seconds, as Kubernetes writes instants.
#[must_use]
pub fn text(time: Time) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Reads RFC 3339.
#[must_use]
pub fn time(text: &str) -> Option<Time> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
}

/// The resourceVersion as a number. KEP-5504 promises from 1.35 on that these compare; etcd's revisions do in every
/// release.
#[must_use]
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

/// The annotation of this key.
#[must_use]
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The label of this key.
#[must_use]
pub fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

/// An instant as the API has it, in whole seconds.
#[must_use]
pub fn instant(time: &ApiTime) -> Time {
    DateTime::from_timestamp(time.0.as_second(), 0).unwrap_or_default()
}

/// `metadata.creationTimestamp`.
#[must_use]
pub fn created(meta: &ObjectMeta) -> Secs {
    Secs::of(meta.creation_timestamp.as_ref().map(instant).unwrap_or_default())
}
