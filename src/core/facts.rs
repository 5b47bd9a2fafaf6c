//! What is known of the objects, read from the API's answers into small owned values.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, SecondsFormat};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::core::{Selector, SelectorExt as _};
use serde::{Deserialize, Serialize};

use super::{
    Time, inputs, keys,
    managed::{Owned, has_applied},
    revocation::{InvalidInstant, Revocation},
    select::is_object_name,
    windows::Windows,
};
use crate::crd::token_policy::{Binding, DeletionPolicy, TokenPolicy, TokenPolicySpec, TokenPolicyStatus};

/// What the operator writes into every target besides the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// URL of the API server as consumers reach it.
    pub server: String,
    /// The CA bundle of that server, PEM.
    pub ca: Vec<u8>,
    /// Whether `server` is only reachable from inside the cluster.
    pub internal: bool,
}

/// A `TokenPolicy` as far as decisions need it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`: of two claims to one name the older wins.
    pub created: Time,
    /// Deletion has begun.
    pub terminating: bool,
    /// What the user asked for.
    pub spec: TokenPolicySpec,
    /// Which labels select, unless accounts are named.
    pub selector: Option<Selector>,
    /// When its tokens are rather renewed.
    pub windows: Windows,
    /// Annotation `tokenward.dev/rotate`.
    pub rotate: Option<String>,
    /// Annotation `tokenward.dev/revoke-issued-before`.
    pub revocation: Option<Result<Revocation, InvalidInstant>>,
    /// What must be equal for a token to still be the one asked for.
    pub token_inputs: Box<str>,
    /// What must be equal for a target to look as asked for.
    pub layout: Box<str>,
    /// The status as stored, to write only differences.
    pub status: TokenPolicyStatus,
}

/// A policy as the watch delivers it.
#[derive(Clone, Debug)]
pub enum PolicyState {
    /// It says what to do.
    Readable(Arc<Policy>),
    /// It is stored but does not parse; its grants freeze.
    Unreadable {
        /// `metadata.uid`.
        uid: Box<str>,
        /// `metadata.generation`.
        generation: i64,
        /// What is wrong with it.
        error: String,
    },
}

impl PolicyState {
    /// Reads a policy; a selector or window that does not compile makes it unreadable.
    #[must_use]
    pub fn read(policy: TokenPolicy, site: &Site) -> Self {
        let uid: Box<str> = policy.metadata.uid.clone().unwrap_or_default().into();
        let generation = policy.metadata.generation.unwrap_or_default();
        match Policy::read(policy, uid.clone(), site) {
            Ok(policy) => Self::Readable(Arc::new(policy)),
            Err(error) => Self::Unreadable { uid, generation, error },
        }
    }

    /// `metadata.generation`.
    #[must_use]
    pub fn generation(&self) -> i64 {
        match self {
            Self::Readable(policy) => policy.generation,
            Self::Unreadable { generation, .. } => *generation,
        }
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> &str {
        match self {
            Self::Readable(policy) => &policy.uid,
            Self::Unreadable { uid, .. } => uid,
        }
    }

    /// The policy, if it can be read.
    #[must_use]
    pub fn readable(&self) -> Option<&Arc<Policy>> {
        match self {
            Self::Readable(policy) => Some(policy),
            Self::Unreadable { .. } => None,
        }
    }
}

impl Policy {
    fn read(policy: TokenPolicy, uid: Box<str>, site: &Site) -> Result<Self, String> {
        let TokenPolicy { metadata, spec, status } = policy;
        let selector = spec.service_accounts.selector.clone().map(Selector::try_from).transpose();
        Ok(Self {
            uid,
            generation: metadata.generation.unwrap_or_default(),
            created: created(&metadata),
            terminating: metadata.deletion_timestamp.is_some(),
            rotate: annotation(&metadata, keys::ROTATE).map(str::to_owned).filter(|value| !value.is_empty()),
            revocation: Revocation::read(&metadata),
            selector: selector.map_err(|error| format!("spec.serviceAccounts.selector: {error}"))?,
            windows: Windows::read(&spec.rotation.windows)?,
            token_inputs: inputs::token(&spec),
            layout: inputs::layout(&spec, site),
            spec,
            status: status.unwrap_or_default(),
        })
    }

    /// What its tokens are bound to.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.spec.token.binding
    }

    /// Whether targets and anchors go when the policy or the selection goes.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.spec.deletion_policy == DeletionPolicy::Delete
    }

    /// Whether the policy governs an account with this name and these labels.
    #[must_use]
    pub fn selects(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        match (&self.spec.service_accounts.names, &self.selector) {
            (Some(names), _) => names.iter().any(|wanted| wanted == name),
            (None, Some(selector)) => selector.matches(labels),
            (None, None) => false,
        }
    }
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Deletion has begun.
    pub terminating: bool,
}

impl Account {
    /// Reads an account's metadata.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Self {
        Self {
            uid: meta.uid.clone().unwrap_or_default().into(),
            labels: meta.labels.clone().unwrap_or_default(),
            terminating: meta.deletion_timestamp.is_some(),
        }
    }
}

/// What is known of a published token without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// `jti`.
    pub id: Box<str>,
    /// `kid`.
    pub key_id: Box<str>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `iat`.
    pub issued_at: Time,
    /// `exp`.
    pub expires_at: Time,
    /// Name of the Secret it is bound to: its anchor, or the target itself; empty for none.
    pub anchor: Box<str>,
    /// UID of that Secret.
    pub anchor_uid: Box<str>,
}

/// An older token that may still be valid.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Previous {
    /// Name of the Secret it is bound to: its anchor, or the target itself; empty for none.
    pub anchor: Box<str>,
    /// UID of that Secret.
    pub uid: Box<str>,
    /// `jti`.
    pub token_id: Box<str>,
    /// `iat`. An earlier release did not write it; then it is the epoch, and every revocation covers the token.
    #[serde(default, with = "instant")]
    pub issued_at: Time,
    /// When its anchor is deleted; fixed when its successor was published.
    #[serde(with = "instant")]
    pub retires_at: Time,
}

/// Instants as RFC 3339 text in whole seconds.
mod instant {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(time: &super::Time, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::text(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::time(&text).ok_or_else(|| D::Error::custom("not RFC 3339"))
    }
}

/// A Secret that carries a target's annotations and its own name in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
    /// `metadata.creationTimestamp`.
    pub created: Time,
    /// Name of the policy it was written for.
    pub policy: Box<str>,
    /// UID of that policy.
    pub policy_uid: Box<str>,
    /// Name of the account.
    pub service_account: Box<str>,
    /// UID of that account.
    pub account_uid: Box<str>,
    /// The token, if the annotations describe one.
    pub token: Option<TokenFacts>,
    /// The rotate value it was issued under; empty for none.
    pub rotate: Box<str>,
    /// Older tokens.
    pub previous: Vec<Previous>,
    /// Annotation `tokenward.dev/revoke-issued-before`, which somebody else puts there.
    pub revocation: Option<Box<Result<Revocation, InvalidInstant>>>,
    /// Hash the token was issued under.
    pub token_inputs: Box<str>,
    /// Hash the Secret was written under.
    pub layout: Box<str>,
    /// What our Apply entry owns.
    pub owned: Owned,
    /// There is an Apply entry of ours: we wrote it, whatever its annotations say.
    pub written: bool,
    /// Has the label that the watch selects by.
    pub marked: bool,
    /// The owners.
    pub owners: Owners,
}

/// Whether the owner references are as we write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners {
    /// UID in a plain reference to a `TokenPolicy`, if there is one.
    pub policy: Option<Box<str>>,
    /// There are other references, or ours was given powers it must not have.
    pub foreign: bool,
}

impl Owners {
    fn read(meta: &ObjectMeta) -> Self {
        let all = meta.owner_references.as_deref().unwrap_or_default();
        let ours = |owner: &&OwnerReference| {
            owner.kind == "TokenPolicy"
                && owner.api_version.starts_with("tokenward.dev/")
                && owner.controller != Some(true)
                && owner.block_owner_deletion != Some(true)
        };
        let policy = all.iter().find(ours).map(|owner| owner.uid.clone().into());
        Self { foreign: all.len() > usize::from(policy.is_some()), policy }
    }

    /// Whether these are exactly the owners that a policy of this UID wants.
    #[must_use]
    pub fn fit(&self, policy: &Policy) -> bool {
        !self.foreign && self.policy.as_deref() == policy.deletes().then_some(&*policy.uid)
    }
}

impl Target {
    /// UIDs of everything that its tokens are bound to, with their ids.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, &str)> {
        let current = self.token.iter().map(|token| (&*token.anchor_uid, &*token.id));
        current.chain(self.previous.iter().map(|entry| (&*entry.uid, &*entry.token_id)))
    }

    /// Whether a token is alive that is bound to this very Secret, as far as is known here.
    #[must_use]
    pub fn binds_tokens(&self, now: Time) -> bool {
        let current = self.token.as_ref().map(|token| (&token.anchor_uid, token.expires_at));
        let previous = self.previous.iter().map(|entry| (&entry.uid, entry.retires_at));
        current.into_iter().chain(previous).any(|(uid, end)| *uid == self.uid && end > now)
    }

    /// When each token was issued that is bound to nothing and alive.
    pub fn irrevocable(&self, now: Time) -> impl Iterator<Item = Time> {
        let current = self.token.iter().map(|token| (&token.anchor_uid, token.issued_at, token.expires_at));
        let previous = self.previous.iter().map(|entry| (&entry.uid, entry.issued_at, entry.retires_at));
        current.chain(previous).filter(move |(uid, _, end)| uid.is_empty() && *end > now).map(|(_, issued, _)| issued)
    }

    /// Reads a target from a Secret's metadata. `None` means the Secret is not a target of ours, whatever its
    /// labels say: its annotations name no policy and account, or another Secret.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<Self> {
        let name = meta.name.as_deref()?;
        let text = |key| annotation(meta, key).unwrap_or_default();
        let (policy, service_account) = (object(meta, keys::POLICY), object(meta, keys::SERVICE_ACCOUNT));
        if text(keys::TARGET) != name || policy.is_empty() || service_account.is_empty() {
            return None;
        }
        Some(Self {
            uid: meta.uid.as_deref()?.into(),
            resource_version: meta.resource_version.as_deref()?.into(),
            created: created(meta),
            policy: policy.into(),
            policy_uid: label(meta, keys::POLICY_UID).unwrap_or_default().into(),
            service_account: service_account.into(),
            account_uid: text(keys::SERVICE_ACCOUNT_UID).into(),
            token: token(meta),
            rotate: text(keys::ROTATE).into(),
            previous: serde_json::from_str(text(keys::PREVIOUS)).unwrap_or_default(),
            revocation: Revocation::read(meta).map(Box::new),
            token_inputs: text(keys::TOKEN_INPUTS).into(),
            layout: text(keys::LAYOUT).into(),
            owned: Owned::read(meta),
            written: has_applied(meta),
            marked: label(meta, keys::ROLE) == Some(keys::TARGET_ROLE),
            owners: Owners::read(meta),
        })
    }
}

fn token(meta: &ObjectMeta) -> Option<TokenFacts> {
    let text = |key| annotation(meta, key);
    Some(TokenFacts {
        id: text(keys::TOKEN_ID)?.into(),
        key_id: text(keys::KEY_ID)?.into(),
        issuer: text(keys::ISSUER)?.into(),
        issued_at: time(text(keys::ISSUED_AT)?)?,
        expires_at: time(text(keys::EXPIRES_AT)?)?,
        anchor: object(meta, keys::ANCHOR).into(),
        anchor_uid: text(keys::ANCHOR_UID)?.into(),
    })
}

/// An anchor: an empty, immutable Secret of our type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`.
    pub resource_version: Box<str>,
    /// `metadata.creationTimestamp`.
    pub created: Time,
    /// Annotation `policy`; empty when somebody removed it.
    pub policy: Box<str>,
    /// Annotation `service-account`; empty when somebody removed it.
    pub service_account: Box<str>,
    /// Annotation `target`; empty when somebody removed it.
    pub target: Box<str>,
    /// No token bound to it outlives this.
    pub dies_at_latest: Option<Time>,
    /// Has the label that people list anchors by.
    pub marked: bool,
    /// Somebody gave it a finalizer.
    pub finalizers: bool,
    /// The owners.
    pub owners: Owners,
}

impl Anchor {
    /// Reads an anchor from the metadata of a Secret whose type is known to be the anchors'. `None` for a
    /// name that is not ours, and for an anchor that only a finalizer still holds: the API server takes no token that is
    /// bound to it from 60 s after its deletion on.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<Self> {
        meta.name.as_deref().filter(|name| name.starts_with(keys::ANCHOR_PREFIX))?;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        Some(Self {
            uid: meta.uid.as_deref()?.into(),
            resource_version: meta.resource_version.as_deref()?.into(),
            created: created(meta),
            policy: object(meta, keys::POLICY).into(),
            service_account: object(meta, keys::SERVICE_ACCOUNT).into(),
            target: object(meta, keys::TARGET).into(),
            dies_at_latest: annotation(meta, keys::DIES_AT_LATEST).and_then(time),
            marked: label(meta, keys::ROLE) == Some(keys::ANCHOR_ROLE),
            finalizers: meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()),
            owners: Owners::read(meta),
        })
    }
}

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

/// The resourceVersion as a number; the API promises that these compare (KEP-5504).
#[must_use]
pub fn version(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or_default()
}

pub(super) fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// An annotation that names an object; empty when it is not there or no object can be called so.
fn object<'a>(meta: &'a ObjectMeta, key: &str) -> &'a str {
    annotation(meta, key).filter(|name| is_object_name(name)).unwrap_or_default()
}

fn label<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(key).map(String::as_str)
}

fn created(meta: &ObjectMeta) -> Time {
    let seconds = meta.creation_timestamp.as_ref().map(|time| time.0.as_second());
    seconds.and_then(|seconds| DateTime::from_timestamp(seconds, 0)).unwrap_or(DateTime::UNIX_EPOCH)
}
