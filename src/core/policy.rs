//! A policy as far as decisions need it: what is asked, for whom, and the fingerprints that tell what an edit needs.

use std::{collections::BTreeMap, ops::Deref};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Selector, SelectorExt as _};

use super::{
    id::{Secs, Uid},
    layout, meta, names,
    object::Object,
    place::applied::{self, AppliedFields, Demanded},
    revocation::{InvalidInstant, Revocation},
    windows::Windows,
};
use crate::api::token_policy::{
    Binding, DeletionPolicy, TokenOptions, TokenPolicy, TokenPolicySpec, TokenPolicyStatus,
};

/// The finalizer by which the garbage collector knows that owned objects are to stay (`kubectl delete --cascade=orphan`).
const ORPHAN: &str = "orphan";

/// Everything of a policy but its spec. It can be read whatever the spec says, so revoking never depends on the spec.
#[derive(Clone, Debug)]
pub struct Head {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.creationTimestamp`: of two claims to one name the older wins.
    pub created: Secs,
    /// Deletion has begun.
    pub terminating: bool,
    /// It is deleted with `--cascade=orphan`: the garbage collector lets its Secrets go.
    pub orphans: bool,
    /// Annotation `tokenward.dev/rotate`.
    pub rotate: Option<String>,
    /// Annotation `tokenward.dev/revoke-issued-before`.
    pub revocation: Option<Result<Revocation, InvalidInstant>>,
    /// The status as stored, to write only differences.
    pub status: TokenPolicyStatus,
}

/// A `TokenPolicy` that says what to do.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Everything but the spec.
    pub head: Head,
    /// The words of the user.
    pub spec: TokenPolicySpec,
    /// Which labels select, unless accounts are named.
    pub selector: Option<Selector>,
    /// When its tokens are rather renewed.
    pub windows: Windows,
    /// Fingerprint of what needs a new token when it changes.
    pub token_inputs: Box<str>,
    /// Fingerprint of the spec's share in what needs only a new rendering when it changes.
    pub layout: Box<str>,
    /// Labels that the administrator demands on its Secrets.
    pub demanded: Demanded,
    /// The fields that our Apply entry owns after a write for this policy.
    pub applied: AppliedFields,
}

impl Deref for Policy {
    type Target = Head;

    fn deref(&self) -> &Head {
        &self.head
    }
}

/// A policy as the watch delivers it.
#[derive(Clone, Debug)]
pub enum PolicyState {
    /// It says what to do.
    Readable(Box<Policy>),
    /// It is stored but its spec does not parse, for this reason; nothing new is issued for it.
    Unreadable(Box<Head>, String),
}

impl PolicyState {
    /// Reads a policy.
    #[cfg(test)]
    #[must_use]
    pub fn read(policy: TokenPolicy, demanded: &Demanded) -> Self {
        Self::of(&policy.metadata, Ok(policy.spec), policy.status.unwrap_or_default(), demanded)
    }

    /// Reads a stored object field by field, so that a wrong one spoils no other. A spec that does not fit its schema, and a
    /// selector, window or format that is none, make it unreadable.
    #[must_use]
    pub fn parse(object: Object<TokenPolicy>, demanded: &Demanded) -> Self {
        let (meta, spec, status) = object.parts();
        Self::of(&meta, spec, status, demanded)
    }

    fn of(
        meta: &ObjectMeta,
        spec: Result<TokenPolicySpec, String>,
        status: TokenPolicyStatus,
        demanded: &Demanded,
    ) -> Self {
        let head = Head::read(meta, status);
        match spec.and_then(|spec| Ok((compile(&spec)?, spec))) {
            Ok((compiled, spec)) => Self::Readable(Box::new(Policy::new(head, spec, compiled, demanded))),
            Err(error) => Self::Unreadable(Box::new(head), error),
        }
    }

    /// Everything but its spec.
    #[must_use]
    pub fn head(&self) -> &Head {
        match self {
            Self::Readable(policy) => &policy.head,
            Self::Unreadable(head, _) => head,
        }
    }

    /// `metadata.uid`.
    #[must_use]
    pub fn uid(&self) -> Uid {
        self.head().uid
    }

    /// The policy, if it can be read.
    #[must_use]
    pub fn readable(&self) -> Option<&Policy> {
        match self {
            Self::Readable(policy) => Some(policy),
            Self::Unreadable(..) => None,
        }
    }

    /// Whether both ask for the same: they differ in nothing but their status.
    #[must_use]
    pub fn asks_as(&self, other: &Self) -> bool {
        self.head().asks_as(other.head()) && self.error() == other.error()
    }

    fn error(&self) -> Option<&str> {
        match self {
            Self::Readable(_) => None,
            Self::Unreadable(_, error) => Some(error),
        }
    }
}

impl Head {
    fn read(meta: &ObjectMeta, status: TokenPolicyStatus) -> Self {
        let rotate = meta::annotation(meta, names::ROTATE).map(str::to_owned);
        Self {
            uid: Uid::read(meta.uid.as_deref().unwrap_or_default()),
            generation: meta.generation.unwrap_or_default(),
            created: meta::created(meta),
            terminating: meta.deletion_timestamp.is_some(),
            orphans: meta.finalizers.iter().flatten().any(|finalizer| finalizer == ORPHAN),
            rotate: rotate.filter(|value| !value.is_empty()),
            revocation: Revocation::read(meta),
            status,
        }
    }

    /// The generation stands for the whole spec.
    fn asks_as(&self, other: &Self) -> bool {
        let asked = |head: &Self| (head.uid, head.generation, head.terminating, head.orphans);
        asked(self) == asked(other) && self.rotate == other.rotate && self.revocation == other.revocation
    }
}

impl Policy {
    fn new(
        head: Head,
        spec: TokenPolicySpec,
        (selector, windows): (Option<Selector>, Windows),
        demanded: &Demanded,
    ) -> Self {
        Self {
            selector,
            windows,
            token_inputs: token_inputs(&spec),
            layout: layout::of_spec(&spec.secret, demanded),
            applied: applied::after_apply(&head.uid, &spec.secret, demanded),
            demanded: demanded.clone(),
            head,
            spec,
        }
    }

    /// The bond of its tokens.
    #[must_use]
    pub fn binding(&self) -> Binding {
        self.spec.token.binding
    }

    /// Whether targets and anchors go when the policy or the selection goes.
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.spec.deletion_policy == DeletionPolicy::Delete && !self.orphans
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

/// The parts of a spec that its schema cannot check: the error names the field.
fn compile(spec: &TokenPolicySpec) -> Result<(Option<Selector>, Windows), String> {
    spec.secret.format.check().map_err(|error| format!("spec.secret.{error}"))?;
    let selector = spec.service_accounts.selector.clone().map(Selector::try_from).transpose();
    let selector = selector.map_err(|error| format!("spec.serviceAccounts.selector: {error}"))?;
    Ok((selector, Windows::read(&spec.rotation.windows)?))
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
    layout::versioned("v1", &inputs)
}
