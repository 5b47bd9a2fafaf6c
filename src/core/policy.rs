//! A policy as far as decisions need it: what is asked, for whom, and the fingerprints that tell what an edit needs.

use std::collections::BTreeMap;

use kube::core::{Selector, SelectorExt as _};

use super::{
    Time,
    address::ClusterAddress,
    id::{Secs, Uid, stable_hash},
    meta, names,
    place::applied::{self, AppliedFields},
    revocation::{InvalidInstant, Revocation},
    windows::Windows,
};
use crate::{
    api::{
        format::FormatOptions,
        token_policy::{Binding, DeletionPolicy, TokenOptions, TokenPolicy, TokenPolicySpec, TokenPolicyStatus},
    },
    core::format,
};

/// A `TokenPolicy` that says what to do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`: of two claims to one name the older wins.
    pub created: Secs,
    /// Deletion has begun.
    pub terminating: bool,
    /// The words of the user.
    pub spec: TokenPolicySpec,
    /// Which labels select, unless accounts are named.
    pub selector: Option<Selector>,
    /// When its tokens are rather renewed.
    pub windows: Windows,
    /// Annotation `tokenward.dev/rotate`.
    pub rotate: Option<String>,
    /// Annotation `tokenward.dev/revoke-issued-before`.
    pub revocation: Option<Result<Revocation, InvalidInstant>>,
    /// Fingerprint of what needs a new token when it changes.
    pub token_inputs: Box<str>,
    /// Fingerprint of what needs only a new rendering when it changes.
    pub layout: Box<str>,
    /// The fields that our Apply entry owns after a write for this policy.
    pub applied: AppliedFields,
    /// The status as stored, to write only differences.
    pub status: TokenPolicyStatus,
}

/// A policy as the watch delivers it.
#[derive(Clone, Debug)]
pub enum PolicyState {
    /// It says what to do.
    Readable(Box<Policy>),
    /// It is stored but does not parse; its grants freeze.
    Unreadable {
        /// `metadata.uid`.
        uid: Uid,
        /// `metadata.generation`.
        generation: i64,
        /// Why it does not parse.
        error: String,
    },
}

impl PolicyState {
    /// Reads a policy; a selector or window that does not compile makes it unreadable.
    #[must_use]
    pub fn read(policy: TokenPolicy, address: &ClusterAddress) -> Self {
        let uid = Uid::read(policy.metadata.uid.as_deref().unwrap_or_default());
        let generation = policy.metadata.generation.unwrap_or_default();
        match Policy::read(policy, uid, address) {
            Ok(policy) => Self::Readable(Box::new(policy)),
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
    pub fn uid(&self) -> Uid {
        match self {
            Self::Readable(policy) => policy.uid,
            Self::Unreadable { uid, .. } => *uid,
        }
    }

    /// The policy, if it can be read.
    #[must_use]
    pub fn readable(&self) -> Option<&Policy> {
        match self {
            Self::Readable(policy) => Some(policy),
            Self::Unreadable { .. } => None,
        }
    }

    /// Its status, if it can be read.
    #[must_use]
    pub fn status(&self) -> Option<&TokenPolicyStatus> {
        self.readable().map(|policy| &policy.status)
    }

    /// Whether both ask for the same: they differ in nothing but their status.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Readable(one), Self::Readable(two)) => one.asks_as(two),
            (Self::Unreadable { uid, generation, error }, Self::Unreadable { uid: u, generation: g, error: e }) => {
                (uid, generation, error) == (u, g, e)
            }
            _ => false,
        }
    }
}

impl Policy {
    fn read(policy: TokenPolicy, uid: Uid, address: &ClusterAddress) -> Result<Self, String> {
        let TokenPolicy { metadata, spec, status } = policy;
        let selector = spec.service_accounts.selector.clone().map(Selector::try_from).transpose();
        let rotate = meta::annotation(&metadata, names::ROTATE).map(str::to_owned);
        Ok(Self {
            uid,
            generation: metadata.generation.unwrap_or_default(),
            created: meta::created(&metadata),
            terminating: metadata.deletion_timestamp.is_some(),
            rotate: rotate.filter(|value| !value.is_empty()),
            revocation: Revocation::read(&metadata),
            selector: selector.map_err(|error| format!("spec.serviceAccounts.selector: {error}"))?,
            windows: Windows::read(&spec.rotation.windows)?,
            token_inputs: token_inputs(&spec),
            layout: layout(&spec, address),
            applied: applied::after_apply(&uid, &spec.secret),
            spec,
            status: status.unwrap_or_default(),
        })
    }

    /// The generation stands for the whole spec.
    fn asks_as(&self, other: &Self) -> bool {
        let asked = |policy: &Self| (policy.uid, policy.generation, policy.terminating);
        asked(self) == asked(other) && self.rotate == other.rotate && self.revocation == other.revocation
    }

    /// The bond of its tokens.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.spec.token.binding
    }

    /// Whether targets and anchors go when the policy or the selection goes.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.spec.deletion_policy == DeletionPolicy::Delete
    }

    /// The accounts that it names; none for a policy that selects by labels.
    #[must_use]
    pub fn names(&self) -> &[String] {
        self.spec.service_accounts.names.as_deref().unwrap_or_default()
    }

    /// Whether the policy governs an account with this name and these labels. Named accounts are selected whether they
    /// exist or not.
    #[must_use]
    pub fn selects(&self, name: &str, labels: Option<&BTreeMap<String, String>>) -> bool {
        match (&self.selector, labels) {
            (Some(selector), Some(labels)) => selector.matches(labels),
            (Some(_), None) => false,
            (None, _) => self.names().iter().any(|wanted| wanted == name),
        }
    }
}

/// Hash over the fields that need a new token when they change. Defaults are left out, so that an upgrade
/// that adds a field changes nothing.
fn token_inputs(spec: &TokenPolicySpec) -> Box<str> {
    let default = TokenOptions::default();
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
fn layout(spec: &TokenPolicySpec, address: &ClusterAddress) -> Box<str> {
    let chosen = format::of(&spec.secret.format).server().map(str::to_owned);
    let mut inputs = vec![
        format!("server={}", chosen.as_deref().unwrap_or(&address.server)),
        format!("ca={:016x}", stable_hash([String::from_utf8_lossy(&address.ca).as_ref()])),
    ];
    inputs.extend(spec.secret.labels.iter().map(|(key, value)| format!("label={key}={value}")));
    inputs.extend(spec.secret.annotations.iter().map(|(key, value)| format!("annotation={key}={value}")));
    if spec.secret.format != FormatOptions::default() {
        // As JSON with sorted keys, in which fields that are not set do not appear.
        inputs.push(format!("format={}", serde_json::json!(spec.secret.format)));
    }
    versioned(&inputs)
}

/// The version in front lets a later release tell its own hashes from these.
fn versioned(inputs: &[String]) -> Box<str> {
    format!("v1:{:016x}", stable_hash(inputs.iter().map(String::as_str))).into()
}

/// When a revocation was asked for that is still to come.
#[must_use]
pub fn scheduled(policy: &Policy, now: Time) -> Option<Time> {
    let asked = policy.revocation.as_ref()?.as_ref().ok()?;
    Some(asked.before).filter(|before| *before > now)
}
