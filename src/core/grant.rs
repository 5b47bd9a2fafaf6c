//! A grant is one policy applied to one account. What the process remembers of it besides the objects.

use std::{fmt, sync::Arc};

use secrecy::SecretString;

use super::{
    Time,
    claims::{Claims, ObjectRef},
    failure::{Failure, Reason},
    plan::Why,
    schedule::Budget,
    table::Key,
};

/// Policy and account, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantKey {
    /// Namespace of both.
    pub namespace: Arc<str>,
    /// Name of the policy.
    pub policy: Arc<str>,
    /// Name of the account.
    pub account: Arc<str>,
}

impl GrantKey {
    /// Key of the policy.
    #[must_use]
    pub fn policy_key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.policy.clone() }
    }

    /// Key of the account.
    #[must_use]
    pub fn account_key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.account.clone() }
    }
}

impl fmt::Display for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} for {}", self.namespace, self.policy, self.account)
    }
}

/// A token being issued: perhaps what it is bound to exists, and perhaps it has been minted and waits to be published.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The Secret it is bound to: an anchor or the target. Not yet known at the beginning, and never with `binding: None`.
    pub bound: Option<ObjectRef>,
    /// Why it is issued.
    pub why: Why,
    /// UID of the account it is for.
    pub account_uid: Box<str>,
    /// Hash of the inputs it is asked under.
    pub token_inputs: Box<str>,
    /// The policy's rotate value it is asked under.
    pub rotate: Option<String>,
    /// The token, once minted.
    pub token: Option<Minted>,
    /// The living token that was published when this one was minted.
    pub replaces: Option<Predecessor>,
    /// A request for its token failed or its anchor was deleted: a repeated request could leave a second live
    /// token, so the next try begins with a fresh anchor.
    pub spent: bool,
}

/// A published token that is being replaced.
#[derive(Clone, Copy, Debug)]
pub struct Predecessor {
    /// Its `iat`.
    pub issued_at: Time,
    /// Its `exp`.
    pub expires_at: Time,
    /// Since when it was due, if that is why it is replaced.
    pub due: Option<Time>,
}

/// A token in memory, minted or read back.
#[derive(Clone, Debug)]
pub struct Minted {
    /// The token itself.
    pub secret: SecretString,
    /// What it says about itself.
    pub claims: Claims,
}

/// A published token read back, to write its Secret again.
#[derive(Clone, Debug)]
pub struct Copy {
    /// The token.
    pub token: Minted,
    /// The Secret's resourceVersion at that moment.
    pub resource_version: Box<str>,
}

/// What live GETs have shown. Absence needs proof; presence goes into the index.
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// No Secret of the wanted name exists. The first write refuses to overwrite, so this cannot go stale.
    pub target_absent: bool,
    /// A Secret of the wanted name exists and does not say that it is ours.
    pub target_foreign: bool,
    /// A write was refused or not answered: the Secret may be other than we know.
    pub target_doubtful: bool,
    /// When the wanted Secret was last looked at.
    pub target_seen: Option<Time>,
    /// No anchor of this name exists.
    pub anchor_absent: Option<Box<str>>,
    /// No policy of this name exists.
    pub policy_absent: bool,
    /// The account is still not selected.
    pub unselected: bool,
    /// The token in the Secret of this resourceVersion is not the one its annotations name.
    pub token_lost: Option<Box<str>>,
    /// The account changed under a TokenRequest: look before the next one.
    pub account_doubtful: bool,
}

/// Tries that failed in a row.
#[derive(Clone, Debug)]
pub struct Failing {
    /// The last failure.
    pub failure: Failure,
    /// When this reason was first seen.
    pub since: Time,
    /// How many in a row.
    pub count: u32,
    /// The next try. Grants that wait for another one's probe are told when it succeeds.
    pub retry_at: Time,
}

/// Conflicts in a row that are answered at once: reading again is their cure, waiting is not.
const PROMPT_CONFLICTS: u32 = 5;

impl Failing {
    /// Nobody needs to be told of a conflict that the next call will settle.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        self.failure.reason == Reason::Conflict && self.count <= PROMPT_CONFLICTS
    }
}

/// What the process remembers of a grant. Most of it is rare, and boxed to cost nothing while it is not there.
#[derive(Clone, Debug)]
pub struct Memory {
    /// Issue under way.
    pub attempt: Option<Box<Attempt>>,
    /// Repair under way.
    pub copy: Option<Box<Copy>>,
    /// What live GETs have shown.
    pub proof: Proof,
    /// Tries that failed.
    pub failing: Option<Box<Failing>>,
    /// No retirement is tried before this.
    pub retire_after: Option<Time>,
    /// How many tokens it may still mint.
    pub budget: Budget,
    /// Since when the policy does not select the account any more.
    pub unselected_since: Option<Time>,
    /// A target of this grant has been seen that held a token.
    pub published: bool,
    /// UIDs of anchors that a target has named and none does any more, with the ids of their tokens.
    pub unnamed: Vec<(Box<str>, Box<str>)>,
}

impl Memory {
    /// Nothing remembered.
    #[must_use]
    pub fn new(now: Time) -> Self {
        Self {
            attempt: None,
            copy: None,
            proof: Proof::default(),
            failing: None,
            retire_after: None,
            budget: Budget::new(now),
            unselected_since: None,
            published: false,
            unnamed: Vec::new(),
        }
    }
}
