//! All that a decision about one grant is made of.

use std::{
    cell::OnceCell,
    collections::{HashMap, HashSet},
    ops::Deref,
};

use chrono::TimeDelta;

use super::{Account, Attempt, Failing, Grant, Retirement};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        address::ClusterAddress,
        credential::keys::TokenKeys,
        failure::Failure,
        id::{GrantKey, Name, Secs, Uid},
        layout::{self, AddressPrints},
        place::{
            record::{Bond, Token},
            secret::{Anchor, Fence, Target},
        },
        policy::{Policy, PolicyState},
        schedule::{self, Renewal},
        windows::Due,
    },
};

/// So many anchors are searched one by one: a grant has two or three.
const FEW: usize = 16;
/// An account must be unselected this long before its tokens go: editing a selector in two steps must not
/// revoke anything.
pub const UNSELECTED_FOR: TimeDelta = TimeDelta::seconds(10);

/// An object with its name and resourceVersion.
#[derive(Debug)]
pub struct Placed<'a, T> {
    /// `metadata.name`.
    pub name: Name,
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// The object.
    pub object: &'a T,
}

impl<T> Clone for Placed<'_, T> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), version: self.version, object: self.object }
    }
}

impl<T> Deref for Placed<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.object
    }
}

/// An anchor of the grant.
#[derive(Debug)]
pub struct PlacedAnchor<'a> {
    /// The anchor.
    pub anchor: Placed<'a, Anchor>,
    /// When this process first saw it.
    pub seen: Secs,
    /// How many this process saw later: the server's instants are whole seconds.
    pub nth: usize,
    /// The token bound to it, where a target named it once and does no more.
    pub token_id: Option<Uid>,
    /// That target was deleted.
    pub target_deleted: bool,
}

impl Deref for PlacedAnchor<'_> {
    type Target = Anchor;

    fn deref(&self) -> &Anchor {
        &self.anchor
    }
}

/// Proofs about the policy by live GETs. They are the policy's, so that a thousand grants cost one GET.
#[derive(Clone, Copy, Debug, Default)]
pub struct PolicyProof {
    /// No policy of this name exists.
    pub absent: bool,
    /// A GET is under way.
    pub looking: bool,
    /// When it was last looked at and was there.
    pub seen: Option<Time>,
}

/// All that a decision is made of.
#[derive(Debug)]
pub struct View<'a> {
    /// Now.
    pub now: Time,
    /// Policy and account.
    pub key: GrantKey,
    /// Where consumers reach the API server.
    pub address: &'a ClusterAddress,
    /// Fingerprints of that.
    pub prints: &'a AddressPrints,
    /// Keys and issuers.
    pub keys: &'a TokenKeys,
    /// The policy, if one of that name is known.
    pub policy: Option<&'a PolicyState>,
    /// Proofs about it.
    pub policy_proof: PolicyProof,
    /// Digests of the UIDs of the namespace's policies.
    pub living: Option<&'a HashSet<u32>>,
    /// The account, if one of that name is known.
    pub account: Option<&'a Account>,
    /// The name the policy wants, or why it cannot have it.
    pub name: Result<Name, Failure>,
    /// The name that its policy gives to its target, whether it can be had or not.
    pub home: Option<Name>,
    /// The target under that name, whoever's it is.
    pub occupant: Option<Placed<'a, Target>>,
    /// The policy and account that it names, if these are others and keep it.
    pub occupied_by: Option<GrantKey>,
    /// Name of the Secret that this other grant wants instead by now.
    pub makes_way_for: Option<Name>,
    /// It is taken over in place from another grant, which does not want it any more: the account of that.
    pub leaver: Option<Name>,
    /// Another account of the policy takes the Secret over in place.
    pub succeeded: bool,
    /// Targets of this grant under other names.
    pub old: Vec<Placed<'a, Target>>,
    /// Anchors of this grant.
    pub anchors: Vec<PlacedAnchor<'a>>,
    /// The anchors by name, once somebody has made many of them.
    pub by_name: OnceCell<HashMap<Name, usize>>,
    /// The memory of the process.
    pub grant: &'a Grant,
    /// A name for the next anchor.
    pub fresh: Name,
}

impl<'a> View<'a> {
    /// The policy, if it says what to do.
    #[must_use]
    pub fn readable(&self) -> Option<&'a Policy> {
        self.policy.and_then(PolicyState::readable)
    }

    /// Whether the policy cannot be read, and its tokens only live on.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        matches!(self.policy, Some(PolicyState::Unreadable(..)))
    }

    /// The layout of a Secret that is written now.
    #[must_use]
    pub fn layout(&self, policy: &Policy) -> Name {
        layout::annotation(&policy.layout, self.prints.told_by(&policy.spec.secret.format)).into()
    }

    /// Whether the target under the wanted name is still another grant's, which leaves it to this one.
    #[must_use]
    pub fn taken_over(&self) -> bool {
        self.leaver.is_some()
    }

    /// The target under the wanted name, if it is this grant's.
    #[must_use]
    pub fn target(&self) -> Option<&Placed<'a, Target>> {
        self.occupant.as_ref().filter(|_| self.occupied_by.is_none())
    }

    /// Every target of this grant, the wanted one first.
    pub fn targets(&self) -> impl Iterator<Item = &Placed<'a, Target>> {
        self.target().into_iter().chain(&self.old)
    }

    /// Spreads grants over time; the same in every process.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let account = self.account.map(|account| account.uid);
        schedule::spread(self.policy.map(PolicyState::uid).unwrap_or_default(), account.unwrap_or_default())
    }

    /// The issue under way.
    #[must_use]
    pub fn attempt(&self) -> Option<&'a Attempt> {
        self.grant.attempt()
    }

    /// Tries that failed in a row.
    #[must_use]
    pub fn failing(&self) -> Option<&'a Failing> {
        self.grant.failing()
    }

    /// Retirements under way.
    #[must_use]
    pub fn retiring(&self) -> &'a [Retirement] {
        self.grant.rare.as_ref().map_or(&[], |rare| &rare.retiring)
    }

    /// The anchor of this name.
    #[must_use]
    pub fn anchor(&self, name: &str) -> Option<&PlacedAnchor<'a>> {
        if self.anchors.len() <= FEW {
            return self.anchors.iter().find(|anchor| anchor.anchor.name == name);
        }
        let names = self.anchors.iter().map(|anchor| anchor.anchor.name.clone());
        let by_name = self.by_name.get_or_init(|| names.zip(0..).collect());
        self.anchors.get(*by_name.get(name)?)
    }

    /// Whether this anchor is there.
    #[must_use]
    pub fn lives(&self, bond: &Bond) -> bool {
        self.anchor(&bond.name).is_some_and(|anchor| anchor.uid == bond.uid)
    }

    /// Whether the Secret that the token is bound to is there.
    #[must_use]
    pub fn is_bound(&self, policy: &Policy, target: &Target, token: &Token) -> bool {
        match policy.binding() {
            Binding::Anchor => self.lives(&token.bond),
            Binding::Target => token.bond.uid == target.uid,
            Binding::None => true,
        }
    }

    /// Whether the API server accepts tokens of the account.
    #[must_use]
    pub fn is_account_alive(&self) -> bool {
        self.account.is_some_and(|account| account.dies().is_none_or(|dies| dies > self.now))
    }

    /// Whether the token in a target is alive, whatever its policy asks for.
    #[must_use]
    pub fn is_alive(&self, target: &Target) -> bool {
        let Some(token) = &target.token else { return false };
        let Bond { uid, .. } = &token.bond;
        let bound = uid.is_empty() || *uid == target.uid || self.lives(&token.bond);
        let known = self.account.is_some_and(|account| account.uid.digest() == target.account_uid);
        bound && known && self.is_account_alive() && token.expires.time() > self.now
    }

    /// When the published token of a target is replaced.
    #[must_use]
    pub fn due(&self, target: &Target) -> Option<Due> {
        let (token, policy) = (target.token.as_ref()?, self.readable()?);
        let renewal = self.renewal(policy, token.issued.time(), token.expires.time());
        Some(policy.windows.place(self.now, &renewal, self.hash()))
    }

    /// The renewal of a token of this policy.
    #[must_use]
    pub fn renewal(&self, policy: &Policy, issued: Time, expires: Time) -> Renewal {
        schedule::renewal(issued, expires, &policy.spec.rotation, self.hash())
    }

    /// Whether this is the digest of the UID of a policy that is gone.
    #[must_use]
    pub fn is_dangling(&self, owner: u32) -> bool {
        owner != 0 && !self.living.is_some_and(|living| living.contains(&owner))
    }

    /// Whether Secrets of an ended grant are removed. Where the spec cannot say, the owner reference decides: one to this
    /// policy, or a dangling one, meant `Delete`; none meant `Retain`; and one to another living policy means that somebody
    /// changed the annotations.
    #[must_use]
    pub fn deletes(&self, owner: u32) -> bool {
        match self.policy {
            Some(PolicyState::Readable(policy)) => policy.deletes(),
            Some(PolicyState::Unreadable(head, _)) => {
                !head.orphans && (owner == head.uid.digest() || self.is_dangling(owner))
            }
            None => self.is_dangling(owner),
        }
    }
}

impl Placed<'_, Target> {
    /// A write to exactly this Secret.
    #[must_use]
    pub fn fence(&self) -> Fence {
        Fence::Exactly { uid: self.uid, version: self.version }
    }
}
