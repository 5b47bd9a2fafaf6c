//! Secrets of this cluster: targets and anchors as they are read, and the bodies that write them. The same input always
//! gives the same bytes.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    applied::{self, AppliedFields, has_applied},
    record::{Previous, Record, Token, object},
};
use crate::core::{
    Time,
    address::ClusterAddress,
    credential::keys::Signer,
    format::{self, Data, Material},
    id::{GrantKey, Name, Secs, Uid},
    layout::Written,
    meta, names,
    policy::Policy,
    revocation::{InvalidInstant, Revocation},
};

/// A Secret that carries a target's annotations and its own name in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.creationTimestamp`.
    pub created: Secs,
    /// Digest of the UID of the account it was written for.
    pub account_uid: u32,
    /// The token, if the annotations describe one.
    pub token: Option<Token>,
    /// The parts that most targets have in common.
    pub make: Arc<Make>,
    /// Empty in most targets.
    pub more: Option<Box<More>>,
}

#[cfg(test)]
thread_local! {
    /// How often the older tokens of any target were gone through.
    pub static READS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The parts of a target that say how it was made: the same for most targets of equal policies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Make {
    /// Hash of the fingerprint that the token was issued under.
    pub token_inputs: u32,
    /// The layout that it was written under.
    pub layout: Written,
    /// The fields that our Apply entry owns.
    pub applied: AppliedFields,
    /// Who wrote it, whatever its annotations say.
    pub author: Author,
    /// Has the label that the watch selects by.
    pub marked: bool,
    /// Digest of the UID of the policy it was written for; 0 where the label is missing.
    pub policy_uid: u32,
    /// Its owners.
    pub owners: Owners,
    /// `kid` and `iss` of its token.
    pub signer: Option<Arc<Signer>>,
}

impl Deref for Target {
    type Target = Make;

    fn deref(&self) -> &Make {
        &self.make
    }
}

/// Who wrote a Secret, by its managed fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Author {
    /// It has no Apply entry of ours.
    Others,
    /// We did, and somebody else has changed an annotation of ours since.
    Edited,
    /// We did.
    Operator,
}

impl Author {
    fn read(meta: &ObjectMeta) -> Self {
        match (has_applied(meta), applied::owns_annotations(meta, &names::TARGET_ANNOTATIONS)) {
            (false, _) => Self::Others,
            (true, false) => Self::Edited,
            (true, true) => Self::Operator,
        }
    }
}

/// The parts that few targets have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct More {
    /// Its name, unless that is the one that its policy gives to its account.
    pub name: Option<Name>,
    /// The rotate value it was issued under; empty for none.
    pub rotate: Name,
    /// Older tokens.
    pub previous: Vec<Previous>,
    /// Annotation `tokenward.dev/revoke-issued-before`, which somebody else puts there.
    pub revocation: Option<Result<Revocation, InvalidInstant>>,
}

/// The owner references, as far as they matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owners {
    /// Digest of the UID in a plain reference to a `TokenPolicy`; 0 without one.
    pub policy: u32,
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
        let policy = all.iter().find(ours).map_or(0, |owner| Uid::read(&owner.uid).digest());
        Self { foreign: all.len() > usize::from(policy != 0), policy }
    }

    /// Whether these are exactly the owners that the policy wants.
    #[must_use]
    pub fn fit(self, policy: &Policy) -> bool {
        !self.foreign && self.policy == if policy.deletes() { policy.uid.digest() } else { 0 }
    }
}

/// A hash of a fingerprint. Its text is known wherever it is written.
#[must_use]
pub fn fingerprint(text: &str) -> u32 {
    crate::core::id::short_hash([text])
}

impl Target {
    /// Reads a Secret, with its record. `None` when it is no target of ours, or is being deleted: a finalizer holds up its
    /// end, but somebody wants its tokens dead.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<(Record, Self)> {
        let record = Record::read(meta).filter(|_| meta.deletion_timestamp.is_none())?;
        let more = More {
            name: meta.name.as_deref().map(Into::into),
            rotate: record.rotate.clone(),
            previous: record.previous.clone(),
            revocation: Revocation::read(meta),
        };
        let make = Make {
            token_inputs: fingerprint(&record.token_inputs),
            layout: Written::read(&record.layout),
            applied: AppliedFields::read(meta),
            author: Author::read(meta),
            marked: meta::label(meta, names::ROLE) == Some(names::TARGET_ROLE),
            policy_uid: Uid::read(meta::label(meta, names::POLICY_UID).unwrap_or_default()).digest(),
            owners: Owners::read(meta),
            signer: record.signer.clone(),
        };
        let target = Self {
            uid: Uid::read(meta.uid.as_deref()?),
            created: meta::created(meta),
            account_uid: record.account_uid.digest(),
            token: record.token.clone(),
            make: Arc::new(make),
            more: Some(Box::new(more)),
        };
        Some((record, target))
    }

    /// Whether we have ever written it.
    #[must_use]
    pub fn written(&self) -> bool {
        self.author != Author::Others
    }

    /// Older tokens.
    #[must_use]
    pub fn previous(&self) -> &[Previous] {
        #[cfg(test)]
        READS.set(READS.get() + 1);
        self.more.as_ref().map_or(&[], |more| &more.previous)
    }

    /// The rotate value it was issued under; empty for none.
    #[must_use]
    pub fn rotate(&self) -> &str {
        self.more.as_ref().map_or("", |more| &more.rotate)
    }

    /// The revocation that somebody asked for on the Secret itself.
    #[must_use]
    pub fn revocation(&self) -> Option<&Result<Revocation, InvalidInstant>> {
        self.more.as_ref().and_then(|more| more.revocation.as_ref())
    }

    /// The bond of each of its tokens, with the token's id, and its account where that is another one than the Secret's.
    pub fn bonds(&self) -> impl Iterator<Item = (&super::record::Bond, Uid, Option<&Name>)> {
        let current = self.token.iter().map(|token| (&token.bond, token.id, None));
        current.chain(self.previous().iter().map(|entry| (&entry.bond, entry.id, entry.account.as_deref())))
    }

    /// Each of its tokens that may be alive: UID of its bond, issue, end, and account where that is another one.
    fn living(&self, now: Time) -> impl Iterator<Item = (Uid, Secs, Secs, Option<&Name>)> {
        let current = self.token.iter().map(|token| (token.bond.uid, token.issued, token.expires, None));
        let previous = self.previous().iter();
        let previous = previous.map(|entry| (entry.bond.uid, entry.issued, entry.retires, entry.account.as_deref()));
        current.chain(previous).filter(move |(_, _, end, _)| end.time() > now)
    }

    /// Whether a token is alive that was issued before this instant.
    #[must_use]
    pub fn issued_before(&self, at: Time, now: Time) -> bool {
        self.living(now).any(|(_, issued, ..)| issued.time() < at)
    }

    /// Whether a token is alive that is bound to this very Secret, as far as is known here.
    #[must_use]
    pub fn binds_tokens(&self, now: Time) -> bool {
        self.living(now).any(|(bond, ..)| bond == self.uid)
    }

    /// When each token was issued that is bound to nothing and alive, and its account where that is another one.
    pub fn irrevocable(&self, now: Time) -> impl Iterator<Item = (Time, Option<&Name>)> {
        let unbound = self.living(now).filter(|(bond, ..)| bond.is_empty());
        unbound.map(|(_, issued, _, account)| (issued.time(), account))
    }
}

/// An anchor: an empty, immutable Secret of our type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.creationTimestamp`.
    pub created: Secs,
    /// No token bound to it outlives this.
    pub dies_at_latest: Option<Secs>,
    /// Digest of policy and account as its annotations name them.
    pub owner: u32,
    /// Digest of the UID of the policy that owns it; 0 without one.
    owned_by: u32,
    /// None of most anchors.
    pub odd: Option<Box<Odd>>,
}

/// The parts of an anchor that few have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Odd {
    /// Name of the target it was made for, unless that is the one that its policy gives to its account.
    pub target: Option<Name>,
    /// An annotation or the label that people list anchors by is missing.
    stripped: bool,
    /// Somebody gave it a finalizer.
    finalizers: bool,
    /// See [`Owners::foreign`].
    foreign: bool,
}

/// Digest of the grant that an anchor's annotations name.
#[must_use]
pub fn owner_digest(policy: &str, account: &str) -> u32 {
    crate::core::id::short_hash([policy, account])
}

impl Anchor {
    /// Reads an anchor from the metadata of a Secret whose type is known to be the anchors', with the names of policy and
    /// account that it was made for, empty where somebody removed them. `None` for a name that is not ours, and for an
    /// anchor that only a finalizer still holds: the API server takes no token that is bound to it from 60 s after its
    /// deletion on.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<(Name, Name, Self)> {
        meta.name.as_deref().filter(|name| name.starts_with(names::ANCHOR_PREFIX))?;
        if meta.deletion_timestamp.is_some() {
            return None;
        }
        let (policy, account) = (object(meta, names::POLICY), object(meta, names::SERVICE_ACCOUNT));
        let target = object(meta, names::TARGET);
        let dies = meta::annotation(meta, names::DIES_AT_LATEST).and_then(meta::time).map(Secs::of);
        let marked = meta::label(meta, names::ROLE) == Some(names::ANCHOR_ROLE);
        let owners = Owners::read(meta);
        let odd = Odd {
            stripped: !marked || target.is_empty() || dies.is_none(),
            target: Some(target).filter(|name| !name.is_empty()),
            finalizers: meta.finalizers.as_ref().is_some_and(|finalizers| !finalizers.is_empty()),
            foreign: owners.foreign,
        };
        let anchor = Self {
            uid: Uid::read(meta.uid.as_deref()?),
            created: meta::created(meta),
            dies_at_latest: dies,
            owner: owner_digest(&policy, &account),
            owned_by: owners.policy,
            odd: Some(Box::new(odd)),
        };
        Some((policy, account, anchor))
    }

    /// The owners.
    #[must_use]
    pub fn owners(&self) -> Owners {
        Owners { policy: self.owned_by, foreign: self.odd.as_ref().is_some_and(|odd| odd.foreign) }
    }

    /// Name of the target it was made for, unless that is the one that its policy gives to its account.
    #[must_use]
    pub fn target(&self) -> Option<&Name> {
        self.odd.as_ref()?.target.as_ref()
    }

    /// An annotation or the label that people list anchors by is missing.
    #[must_use]
    pub fn is_stripped(&self) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.stripped)
    }

    /// Somebody gave it a finalizer.
    #[must_use]
    pub fn has_finalizers(&self) -> bool {
        self.odd.as_ref().is_some_and(|odd| odd.finalizers)
    }

    /// Leaves out the name of its target where that is the one that its policy gives to its account.
    pub fn leave_out(&mut self, home: Option<&Name>) {
        if let Some(odd) = &mut self.odd {
            odd.target.take_if(|name| Some(&*name) == home);
        }
        self.odd.take_if(|odd| **odd == Odd::default());
    }
}

/// The state that the write must find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// No Secret of that name.
    Absent,
    /// This Secret in this version.
    Exactly {
        /// `metadata.uid`.
        uid: Uid,
        /// `metadata.resourceVersion`.
        version: u64,
    },
}

/// The body of the apply that writes a target; without a token that of the empty one that `binding: Target` begins with.
#[must_use]
pub fn target(
    key: &GrantKey,
    policy: &Policy,
    name: &str,
    record: &Record,
    token: Option<&SecretString>,
    address: &ClusterAddress,
    fence: Fence,
) -> SecretString {
    let options = &policy.spec.secret;
    let format = format::of(&options.format);
    let mut annotations = if record.token.is_some() { applied::annotations(options) } else { BTreeMap::new() };
    annotations.extend(record.annotations(name).into_iter().map(|(key, value)| (key.to_owned(), value)));
    let told = format::told(&options.format, address);
    let filled = token.zip(record.token.as_ref());
    let filled =
        filled.map(|(token, recorded)| format.data(&Material { key, token, expires: recorded.expires }, &told));
    let data = filled.unwrap_or_else(|| format.empty());
    let mut metadata = json!({
        "name": name,
        "namespace": &*key.namespace,
        "labels": applied::labels(&policy.uid, options, &policy.demanded),
        "annotations": annotations,
        "ownerReferences": owners(key, policy),
    });
    match fence {
        // "0" would mean any version and overwrite; "1" is a version no stored object has.
        Fence::Absent => metadata["resourceVersion"] = "1".into(),
        // The resourceVersion alone would create an absent object.
        Fence::Exactly { uid, version } => {
            metadata["uid"] = uid.to_string().into();
            metadata["resourceVersion"] = version.to_string().into();
        }
    }
    let kind = format.secret_type();
    apply_body(
        &json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": base64(&data)}),
    )
}

fn base64(data: &Data) -> BTreeMap<&str, String> {
    data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value.expose_secret()))).collect()
}

/// The body of a server-side apply. The API server reads it as YAML, which takes some characters only escaped that JSON
/// takes as they are.
#[must_use]
pub fn apply_body(body: &Value) -> SecretString {
    let json = body.to_string();
    let refused =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    if !json.contains(refused) {
        return json.into();
    }
    let escaped = |c| if refused(c) { format!("\\u{:04x}", u32::from(c)) } else { String::from(c) };
    json.chars().map(escaped).collect::<String>().into()
}

/// Plain owner references: `controller` or `blockOwnerDeletion` would get in the way of others.
#[must_use]
pub fn owners(key: &GrantKey, policy: &Policy) -> Value {
    if !policy.deletes() {
        return json!([]);
    }
    json!([{
        "apiVersion": "tokenward.dev/v1alpha1",
        "kind": "TokenPolicy",
        "name": &*key.policy,
        "uid": policy.uid.to_string(),
    }])
}

/// The labels and annotations of an anchor, and its owner: everything but its name.
#[must_use]
pub fn anchor_metadata(key: &GrantKey, policy: &Policy, target: &str, dies: Time) -> Value {
    json!({
        "namespace": &*key.namespace,
        "labels": applied::marked(BTreeMap::clone(&policy.demanded), names::ANCHOR_ROLE, &policy.uid),
        "annotations": {
            (names::POLICY): &*key.policy,
            (names::TARGET): target,
            (names::SERVICE_ACCOUNT): &*key.account,
            (names::DIES_AT_LATEST): meta::text(dies),
        },
        "ownerReferences": owners(key, policy),
    })
}

/// The body that creates an anchor of this name.
#[must_use]
pub fn anchor(key: &GrantKey, policy: &Policy, name: &str, target: &str, now: Time) -> SecretString {
    let mut metadata = anchor_metadata(key, policy, target, now + policy.spec.token.duration.delta());
    metadata["name"] = name.into();
    let kind = names::ANCHOR_TYPE;
    let body = json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "immutable": true, "metadata": metadata});
    body.to_string().into()
}
