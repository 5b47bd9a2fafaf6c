//! A grant is one policy applied to one account: the unit of all work. It owns one target and a chain of tokens.
//!
//! ```text
//! watch or answer ──▶ controller ──▶ view ──▶ checks ──▶ next ──▶ Request ──▶ (the shell) ──▶ answer
//! ```

pub mod call;
pub mod checks;
pub mod claims;
pub mod controller;
pub mod event;
#[cfg(test)]
mod growth;
pub mod look;
#[cfg(test)]
mod model;
pub mod next;
pub mod repair;
pub mod retire;
pub mod revoke;
pub mod status;
#[cfg(test)]
mod upgrade;
pub mod view;

use chrono::TimeDelta;

use super::{
    Time,
    credential::token::Minted,
    failure::Failure,
    id::{Name, Ref, Secs, Uid},
    meta::instant,
    place::record::Bond,
    reason::{FailureReason, IssueReason, RetireReason},
    schedule::Budget,
};

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`, each key and value followed by a line break, which neither can hold: a map takes half a
    /// kilobyte for its first entry.
    pub labels: Name,
    /// When deletion began; 1970 while it has not.
    terminating: Secs,
}

/// The API server accepts tokens of a ServiceAccount that is being deleted for so long (`jwt.DefaultLeeway` in its
/// `pkg/serviceaccount/claims.go`).
const ACCEPTED_FOR: TimeDelta = TimeDelta::seconds(60);

impl Account {
    /// Reads an account's metadata.
    #[must_use]
    pub fn read(meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Self {
        let labels = meta.labels.iter().flatten().map(|(key, value)| format!("{key}\n{value}\n"));
        Self {
            uid: Uid::read(meta.uid.as_deref().unwrap_or_default()),
            labels: labels.collect::<String>().into(),
            terminating: meta.deletion_timestamp.as_ref().map(instant).map(Secs::of).unwrap_or_default(),
        }
    }

    /// When the API server refuses its tokens because it is being deleted.
    #[must_use]
    pub fn dies(&self) -> Option<Time> {
        (self.terminating != Secs::default()).then(|| self.terminating.time() + ACCEPTED_FOR)
    }

    /// `metadata.labels`.
    #[must_use]
    pub fn labels(&self) -> std::collections::BTreeMap<String, String> {
        let mut lines = self.labels.lines();
        std::iter::from_fn(|| Some((lines.next()?.to_owned(), lines.next()?.to_owned()))).collect()
    }
}

/// A grant: its place in the tables, and what this process remembers of it. There are a hundred thousand of these, so all
/// that is rare is boxed.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and a set would need as many names")]
#[derive(Debug)]
pub struct Grant {
    /// Row of the policy.
    pub policy: u32,
    /// Row of the account.
    pub account: u32,
    /// The next grant of the same account.
    pub next_of_account: Ref,
    /// The first of its targets.
    pub targets: Ref,
    /// The first of its anchors.
    pub anchors: Ref,
    /// Calls of it that wait or are under way.
    pub calls: u8,
    /// One of these is a step of an issue or a repair.
    pub busy: bool,
    /// Its policy can be read and selects its account.
    pub selected: bool,
    /// It wants its target's name.
    pub claims: bool,
    /// A target of it has been seen that held a token.
    pub published: bool,
    /// Answers of live GETs. Absence needs proof; presence goes into the tables.
    pub proof: Proof,
    /// When the wanted Secret was last looked at.
    pub target_seen: Secs,
    /// How many tokens it may still mint.
    pub budget: Budget,
    /// How it stands, as its policy's status counts it.
    pub counted: status::Counted,
    /// Rarely there.
    pub rare: Option<Box<Rare>>,
}

impl Grant {
    /// A grant of which nothing is known.
    #[must_use]
    pub fn new(policy: u32, account: u32, now: Time) -> Self {
        Self {
            policy,
            account,
            next_of_account: Ref::NONE,
            targets: Ref::NONE,
            anchors: Ref::NONE,
            calls: 0,
            busy: false,
            selected: false,
            claims: false,
            published: false,
            proof: Proof::default(),
            target_seen: Secs::default(),
            budget: Budget::new(now),
            counted: status::Counted::default(),
            rare: None,
        }
    }

    /// The rare part, to be changed.
    pub fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Frees what is not needed any more.
    pub fn tidy(&mut self) {
        self.rare.take_if(|rare| rare.is_empty());
    }

    /// The issue under way.
    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        self.rare.as_ref()?.attempt.as_deref()
    }

    /// Tries that failed in a row.
    #[must_use]
    pub fn failing(&self) -> Option<&Failing> {
        self.rare.as_ref()?.failing.as_deref()
    }

    /// The failure that was reported last, until it is over.
    #[must_use]
    pub fn reported(&self) -> Option<FailureReason> {
        self.rare.as_ref()?.reported.map(|(reason, _)| reason)
    }

    /// Since when the policy does not select the account any more.
    #[must_use]
    pub fn unselected_since(&self) -> Option<Time> {
        self.rare.as_ref()?.unselected_since
    }

    /// The clock went back to `now`.
    pub fn rewind(&mut self, now: Time) {
        self.budget.rewind(now);
        self.target_seen = self.target_seen.min(Secs::of(now));
        let Some(rare) = &mut self.rare else { return };
        for failing in [&mut rare.failing, &mut rare.unrevoked].into_iter().flatten() {
            failing.retry_at = now.min(failing.retry_at);
        }
        rare.unselected_since = rare.unselected_since.map(|since| now.min(since));
    }

    /// Whether nothing of it exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets == Ref::NONE && self.anchors == Ref::NONE && self.calls == 0
    }
}

/// The part of a grant that most do not have. In an outage all may have it, so that the larger parts are boxed.
#[derive(Debug, Default)]
pub struct Rare {
    /// Issue under way.
    pub attempt: Option<Box<Attempt>>,
    /// Repair under way.
    pub read_back: Option<Box<ReadBack>>,
    /// Tries that failed.
    pub failing: Option<Box<Failing>>,
    /// Retirements that failed.
    pub unrevoked: Option<Box<Failing>>,
    /// Retirements under way.
    pub retiring: Vec<Retirement>,
    /// How it stands, when something is wrong.
    pub failure: Option<Failure>,
    /// The failure that was reported last, until it is over, and since when it fails for that reason.
    pub reported: Option<(FailureReason, Secs)>,
    /// Since when the policy does not select the account any more.
    pub unselected_since: Option<Time>,
    /// No anchor of this name exists.
    pub anchor_absent: Option<Name>,
    /// The token in the Secret of this resourceVersion is not the one its annotations name.
    pub token_lost: Option<u64>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        let Self { attempt, read_back, failing, unrevoked, retiring, failure, .. } = self;
        attempt.is_none()
            && read_back.is_none()
            && failing.is_none()
            && unrevoked.is_none()
            && retiring.is_empty()
            && failure.is_none()
            && self.reported.is_none()
            && self.unselected_since.is_none()
            && self.anchor_absent.is_none()
            && self.token_lost.is_none()
    }
}

/// One Secret to delete, because the token that is bound to it is to die: an anchor, or a target with
/// `binding: Target`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Its name.
    pub secret: Name,
    /// Its UID: a Secret re-created under the same name is another one.
    pub uid: Uid,
    /// The only version to delete, where what this version says is the reason.
    pub version: Option<u64>,
    /// The token bound to it, where known.
    pub token_id: Option<Uid>,
    /// Why.
    pub cause: RetireReason,
    /// The word in `revoke-reason`, where that is the cause.
    pub reason: Option<Box<str>>,
    /// When it was decided.
    pub since: Time,
    /// The token's account, where that is another one than the grant's.
    pub account: Option<Name>,
}

impl Retirement {
    /// Whether a person waits for it.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        use RetireReason::{PolicyDeleted, RevokeIssuedBefore, TargetDeleted};
        matches!(self.cause, RevokeIssuedBefore | TargetDeleted | PolicyDeleted)
    }

    /// Whether it only clears away what a crash, a refused request or a lost race left behind: no Secret was ever seen
    /// to hold a token that is bound to it.
    #[must_use]
    pub const fn is_sweep(&self) -> bool {
        matches!(self.cause, RetireReason::Lost | RetireReason::Superseded | RetireReason::Discarded)
            && self.token_id.is_none()
    }

    /// The word for people and metrics: the reason that somebody gave, else the cause.
    #[must_use]
    pub fn why(&self) -> &str {
        self.reason.as_deref().unwrap_or(self.cause.into_str())
    }
}

/// Answers of live GETs.
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Proof {
    /// No Secret of the wanted name exists. The first write refuses to overwrite, so this cannot go stale.
    pub target_absent: bool,
    /// A Secret of the wanted name exists and does not say that it is ours.
    pub target_foreign: bool,
    /// A write was refused or not answered: the Secret may be other than we know.
    pub target_doubtful: bool,
    /// A write was refused because the Secret is immutable or of another type, and it is not yet known which.
    pub target_refused: bool,
    /// The account is still not selected.
    pub unselected: bool,
    /// The account changed under a TokenRequest: look before the next one.
    pub account_doubtful: bool,
}

/// A token being issued: perhaps its anchor exists, and perhaps it has been minted and waits to be published.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The Secret it is bound to: an anchor or the target. Not yet known at the beginning, and never with `binding: None`.
    pub bond: Option<Bond>,
    /// Why it is issued.
    pub why: IssueReason,
    /// UID of the account it is for.
    pub account_uid: Uid,
    /// Fingerprint of the inputs it is asked under.
    pub token_inputs: Name,
    /// The policy's rotate value it is asked under.
    pub rotate: Option<String>,
    /// The token, once minted.
    pub token: Option<Box<Minted>>,
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

/// A published token read back, to write its Secret again.
#[derive(Clone, Debug)]
pub struct ReadBack {
    /// The token.
    pub token: Minted,
    /// The Secret's resourceVersion at that moment.
    pub version: u64,
}

/// Tries that failed in a row.
#[derive(Clone, Debug)]
pub struct Failing {
    /// The last failure.
    pub failure: Failure,
    /// How many in a row.
    pub count: u32,
    /// The next try. Grants that wait for another one's probe are woken when it succeeds.
    pub retry_at: Time,
    /// Somebody asked for the work that fails.
    pub asked: bool,
}

/// Conflicts in a row that are answered at once: reading again is their cure, waiting is not.
const PROMPT_CONFLICTS: u32 = 5;

impl Failing {
    /// Nobody needs to hear of a conflict that the next call will settle.
    #[must_use]
    pub fn is_prompt(&self) -> bool {
        self.failure.reason == FailureReason::Conflict && self.count <= PROMPT_CONFLICTS
    }
}
