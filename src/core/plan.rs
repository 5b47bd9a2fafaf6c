//! What to do for one grant: which anchors to delete now, and the one call that comes next.
//!
//! `decide` is called again after every call with what that call has shown, so a crash between two calls
//! loses only what [`Memory`] holds.

mod issue;
mod repair;
mod retire;
mod revoke;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::Value;

use super::{
    Time,
    facts::{Account, Anchor, Policy, PolicyState, Site, Target, TokenFacts},
    failure::{Failure, Reason},
    grant::{Attempt, Failing, GrantKey, Memory},
    managed::stable_hash,
    render,
    schedule::{self, Renewal},
    signers::Signers,
    windows::Due,
};
use crate::crd::token_policy::Binding;
use issue::Case;
pub use issue::Why;
pub use retire::{Cause, Retirement};

/// An account must be unselected this long before its tokens go: editing a selector in two steps must not
/// revoke anything.
const UNSELECTED_FOR: TimeDelta = TimeDelta::seconds(10);

/// All that a decision is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Policy and account.
    pub key: &'a GrantKey,
    /// What goes into every target.
    pub site: &'a Site,
    /// What the API server signs with.
    pub signers: &'a Signers,
    /// The policy, if one of that name is known.
    pub policy: Option<&'a PolicyState>,
    /// UIDs of the namespace's policies, where there is no policy of the grant's name.
    pub living: Vec<&'a str>,
    /// The account, if one of that name is known.
    pub account: Option<&'a Account>,
    /// The name the policy wants, or why it cannot have it.
    pub name: Result<String, Failure>,
    /// What is known under that name, ours or not.
    pub occupant: Option<&'a Target>,
    /// Targets of this grant under other names.
    pub old: Vec<(&'a str, &'a Target)>,
    /// Anchors of this grant, with the instant each was first seen.
    pub anchors: BTreeMap<&'a str, (&'a Anchor, Time)>,
    /// What the process remembers.
    pub memory: &'a Memory,
}

/// A live GET of metadata: absence needs proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The Secret of this name.
    Target(String),
    /// The anchor of this name.
    Anchor(String),
    /// The policy.
    Policy,
    /// The account.
    Account,
}

/// The next call.
#[derive(Debug)]
pub enum Act {
    /// Nothing before this instant, or before something changes.
    Idle(Option<Time>),
    /// Look whether it is really not there.
    Look(Look),
    /// Create the anchor of the attempt; its name is drawn by whoever sends it.
    CreateAnchor {
        /// What begins.
        attempt: Box<Attempt>,
        /// The Secret, without a name.
        body: Value,
    },
    /// Create the target of the attempt without a token, to learn the UID that the token is bound to.
    CreateTarget {
        /// What begins.
        attempt: Box<Attempt>,
        /// Name of the Secret.
        name: String,
        /// The apply's body.
        body: SecretString,
    },
    /// Request the token of the attempt.
    Mint {
        /// What it belongs to.
        attempt: Box<Attempt>,
        /// The TokenRequest.
        body: Value,
    },
    /// Write the target.
    Publish {
        /// Name of the Secret.
        name: String,
        /// Why.
        why: Why,
        /// The apply's body, token included.
        body: SecretString,
    },
    /// Read the target whole, to write it again.
    ReadBack {
        /// Name of the Secret.
        name: String,
        /// Why.
        why: Why,
    },
    /// Patch the metadata of a Secret of ours with this body.
    Patch {
        /// Name of the Secret.
        name: String,
        /// A JSON patch (a list) or a merge patch (an object), fenced by the resourceVersion.
        body: Value,
        /// Why.
        why: Why,
    },
    /// Delete a target, in exactly this version.
    Remove {
        /// Name of the Secret.
        name: String,
        /// `metadata.uid`.
        uid: Box<str>,
        /// `metadata.resourceVersion`.
        resource_version: Box<str>,
    },
}

impl Act {
    /// The attempt that it begins or goes on with.
    #[must_use]
    pub fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::CreateAnchor { attempt, .. } | Self::CreateTarget { attempt, .. } | Self::Mint { attempt, .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }
}

/// How the grant stands, for status and events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A valid token of the current generation is published.
    Ready,
    /// One is being issued.
    Working,
    /// Something is wrong. A valid token may still be published.
    Failing(Failure),
    /// The policy does not count this account.
    Unselected,
}

/// What to do now.
#[derive(Debug)]
pub struct Decision {
    /// Anchors to delete now; nothing below holds this up.
    pub retire: Vec<Retirement>,
    /// The attempt in memory has no use any more.
    pub drop_attempt: bool,
    /// The next call.
    pub act: Act,
    /// For status and events.
    pub standing: Standing,
}

/// What one check concluded.
#[derive(Debug)]
struct Verdict {
    act: Act,
    standing: Standing,
    /// The grant goes on: an attempt in memory may be published later.
    active: bool,
}

impl Verdict {
    fn stop(standing: Standing) -> Self {
        Self { act: Act::Idle(None), standing, active: false }
    }

    fn failing(reason: Reason, what: &str) -> Self {
        Self::stop(Standing::Failing(Failure::new(reason, what)))
    }
}

impl<'a> Facts<'a> {
    fn readable(&self) -> Option<&'a Policy> {
        self.policy.and_then(|policy| policy.readable()).map(|policy| &**policy)
    }

    /// The target under the wanted name, if it is this grant's.
    #[must_use]
    pub fn target(&self) -> Option<&'a Target> {
        self.occupant.filter(|target| self.owns(target))
    }

    fn owns(&self, target: &Target) -> bool {
        *target.policy == *self.key.policy && *target.service_account == *self.key.account
    }

    /// Every target of this grant, the wanted one first.
    fn targets(&self) -> impl Iterator<Item = (&str, &'a Target)> {
        let wanted = self.name.as_deref().ok().zip(self.target());
        wanted.into_iter().chain(self.old.iter().copied())
    }

    /// Spreads grants over time; the same in every process.
    fn hash(&self) -> u64 {
        let policy = self.policy.map_or("", |policy| policy.uid());
        stable_hash([policy, self.account.map_or("", |account| &account.uid)])
    }

    /// Whether the target holds a live token that this generation of the policy asks for. Its age and a wish to
    /// rotate do not matter.
    #[must_use]
    pub fn is_valid(&self, target: &Target, now: Time) -> bool {
        let (Some(policy), Some(account), Some(token)) = (self.readable(), self.account, &target.token) else {
            return false;
        };
        token.expires_at > now
            && target.token_inputs == policy.token_inputs
            && target.layout == policy.layout
            && target.owned.data == render::owned(policy).data
            && account.uid == target.account_uid
            && self.is_bound(policy, target, token)
            && !self.is_revoked(now, policy, token)
            && self.signers.gone(token).is_none()
    }

    /// Whether what the token is bound to is there.
    fn is_bound(&self, policy: &Policy, target: &Target, token: &TokenFacts) -> bool {
        match policy.binding() {
            Binding::Anchor => self.alive(&token.anchor, &token.anchor_uid),
            Binding::Target => token.anchor_uid == target.uid,
            Binding::None => true,
        }
    }

    /// Whether somebody asked for the end of the token; one that is bound to nothing cannot be revoked.
    fn is_revoked(&self, now: Time, policy: &Policy, token: &TokenFacts) -> bool {
        policy.binding() != Binding::None && revoke::covers(now, self, token.issued_at)
    }

    /// Whether this anchor is there.
    fn alive(&self, name: &str, uid: &str) -> bool {
        self.anchors.get(name).is_some_and(|(anchor, _)| *anchor.uid == *uid)
    }

    /// Id of the token that is bound to this anchor, if a target of the grant names it.
    #[must_use]
    pub fn token_of(&self, anchor: &str, uid: &str) -> Option<Box<str>> {
        retire::token_of(self, anchor, uid)
    }

    /// When the published token of a target is replaced.
    #[must_use]
    pub fn due(&self, now: Time, target: &Target) -> Option<Due> {
        let (token, policy) = (target.token.as_ref()?, self.readable()?);
        let renewal = self.renewal(policy, token.issued_at, token.expires_at);
        Some(policy.windows.place(now, &renewal, self.hash()))
    }

    fn renewal(&self, policy: &Policy, issued: Time, expires: Time) -> Renewal {
        schedule::renewal(issued, expires, &policy.spec.rotation, self.hash())
    }
}

type Check = fn(Time, &Facts<'_>) -> Option<Verdict>;

/// Rows 1 to 4: checks that end or stop a grant, the first that fires wins.
const CHECKS: [Check; 4] = [
    // An end must come first: no fault of the objects below may keep a token alive.
    ended,
    // What cannot be read says nothing; going on with the last reading could issue what was forbidden since.
    frozen,
    // Without an account there is nothing to issue for.
    accountless,
    // A person asked for it.
    suspended,
];

/// Decides for one grant. Pure: the same facts at the same instant give the same decision.
#[must_use]
pub fn decide(now: Time, facts: &Facts<'_>) -> Decision {
    let verdict = CHECKS.iter().find_map(|check| check(now, facts)).unwrap_or_else(|| govern(now, facts));
    let drop_attempt = facts.memory.attempt.is_some() && !verdict.active;
    let retire = retire::due(now, facts, drop_attempt);
    let wake = retire::next(now, facts).into_iter().chain(revoke::next(now, facts)).min();
    let (act, standing) = (verdict.act, verdict.standing);
    let act = match act {
        Act::Idle(until) => match retire::look(now, facts) {
            Some(look) if retire.is_empty() => throttled(now, facts, Act::Look(look)),
            _ => Act::Idle(until.into_iter().chain(wake).min()),
        },
        act => act,
    };
    Decision { retire, drop_attempt, act, standing }
}

/// Row 1: the policy goes or is gone, or has not selected the account for 10 s.
fn ended(now: Time, facts: &Facts<'_>) -> Option<Verdict> {
    let ending = ending(now, facts)?;
    Some(match ending {
        Ending::Wait(until) => Verdict { act: Act::Idle(Some(until)), ..Verdict::stop(Standing::Unselected) },
        Ending::Prove(look) => {
            Verdict { act: throttled(now, facts, Act::Look(look)), ..Verdict::stop(Standing::Unselected) }
        }
        Ending::Sure => Verdict { act: throttled(now, facts, remove(facts)), ..Verdict::stop(Standing::Unselected) },
    })
}

/// How sure it is that a grant has ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Wait(Time),
    Prove(Look),
    Sure,
}

fn ending(now: Time, facts: &Facts<'_>) -> Option<Ending> {
    let proof = &facts.memory.proof;
    match facts.policy {
        None if proof.policy_absent => Some(Ending::Sure),
        None => Some(Ending::Prove(Look::Policy)),
        Some(PolicyState::Unreadable { .. }) => None,
        Some(PolicyState::Readable(policy)) if policy.terminating => Some(Ending::Sure),
        Some(PolicyState::Readable(policy)) => {
            let since = facts.memory.unselected_since?;
            if now < since + UNSELECTED_FOR {
                return Some(Ending::Wait(since + UNSELECTED_FOR));
            }
            // What took the account out of the selection is what has to be looked at: the names or the labels.
            let look = if policy.selector.is_some() { Look::Account } else { Look::Policy };
            Some(if proof.unselected { Ending::Sure } else { Ending::Prove(look) })
        }
    }
}

/// Whether Secrets of an ended grant are removed. With the policy gone, the owner reference decides: a dangling
/// one meant `Delete`, none meant `Retain`, and one to a living policy means that somebody changed the annotations.
fn deletes(facts: &Facts<'_>, owner: Option<&str>) -> bool {
    let dangles = owner.is_some_and(|uid| !facts.living.contains(&uid));
    facts.readable().map_or(dangles, Policy::deletes)
}

fn remove(facts: &Facts<'_>) -> Act {
    // Annotations alone must not make us delete what we never wrote.
    let mut targets = facts.targets();
    targets.find(|(_, target)| target.written && deletes(facts, target.owners.policy.as_deref())).map_or(
        Act::Idle(None),
        |(name, target)| Act::Remove {
            name: name.to_owned(),
            uid: target.uid.clone(),
            resource_version: target.resource_version.clone(),
        },
    )
}

/// Row 2: a stored policy that does not parse.
fn frozen(_: Time, facts: &Facts<'_>) -> Option<Verdict> {
    match facts.policy {
        Some(PolicyState::Unreadable { error, .. }) => {
            let what = format!("TokenPolicy {} does not parse: {error}", facts.key.policy_key());
            Some(Verdict::failing(Reason::PolicyUnreadable, &what))
        }
        _ => None,
    }
}

/// Row 3: the account is not there or is going. What is published stays.
fn accountless(now: Time, facts: &Facts<'_>) -> Option<Verdict> {
    let name = facts.key.account_key();
    match facts.account {
        None => {
            let verdict = Verdict::failing(Reason::AccountNotFound, &format!("ServiceAccount {name} does not exist"));
            Some(Verdict { act: keep_bonds(now, facts, None), ..verdict })
        }
        Some(account) if account.terminating => {
            Some(Verdict::failing(Reason::AccountTerminating, &format!("ServiceAccount {name} is being deleted")))
        }
        // The server said the account is another one by now: issuing for the one we know would fail again.
        Some(_) if facts.memory.proof.account_doubtful => {
            Some(Verdict { act: throttled(now, facts, Act::Look(Look::Account)), ..Verdict::stop(Standing::Working) })
        }
        Some(_) => None,
    }
}

/// Where nothing is issued, owners and finalizers are still kept as the policy wants them, under the budget of all repairs.
fn keep_bonds(now: Time, facts: &Facts<'_>, until: Option<Time>) -> Act {
    let ready_at = facts.memory.budget.ready_at(now);
    match facts.readable().and_then(|policy| repair::bonds(facts, policy)) {
        Some((_, act)) if ready_at <= now => throttled(now, facts, act),
        Some(_) => Act::Idle(Some(ready_at)),
        None => Act::Idle(until),
    }
}

/// Row 4: nothing is issued while suspended; status goes on telling when tokens die.
fn suspended(now: Time, facts: &Facts<'_>) -> Option<Verdict> {
    let policy = facts.readable()?;
    let valid = facts.target().filter(|target| facts.is_valid(target, now));
    // The end of the token is the next thing to tell.
    let end = valid.and_then(|target| target.token.as_ref()).map(|token| token.expires_at);
    let standing = if valid.is_some() { Standing::Ready } else { Standing::Working };
    policy.spec.suspend.then(|| Verdict { act: keep_bonds(now, facts, end), ..Verdict::stop(standing) })
}

/// Rows 5 to 11: the grant is alive.
fn govern(now: Time, facts: &Facts<'_>) -> Verdict {
    let (Some(policy), Some(account)) = (facts.readable(), facts.account) else {
        return Verdict::stop(Standing::Working);
    };
    let serve = |name: &str, target| issue::serve(&Case { now, facts, policy, account, name, target });
    let again = facts.memory.failing.as_ref().map(|failing| failing.retry_at);
    match (claimed(now, facts), facts.old.first()) {
        (Ok(name), _) => serve(&name, facts.target()),
        (Err(failure), None) => Verdict { act: Act::Idle(again), ..Verdict::stop(Standing::Failing(failure)) },
        // Row 10: the old target is kept fresh until the new name can be had.
        (Err(failure), Some((name, target))) => {
            Verdict { standing: Standing::Failing(failure), ..serve(name, Some(target)) }
        }
    }
}

/// Rows 5 and 6: the wanted name, or why this grant cannot have it.
fn claimed(now: Time, facts: &Facts<'_>) -> Result<String, Failure> {
    let name = facts.name.clone()?;
    let foreign = |failing: &&Failing| failing.failure.reason == Reason::TargetNotOwned && failing.retry_at > now;
    if let Some(failing) = facts.memory.failing.as_deref().filter(foreign) {
        return Err(failing.failure.clone());
    }
    match facts.occupant {
        Some(target) if !facts.owns(target) => {
            let what = format!(
                "Secret {}/{name} belongs to policy {} and account {}",
                facts.key.namespace, target.policy, target.service_account
            );
            Err(Failure::new(Reason::TargetNotOwned, &what))
        }
        _ => Ok(name),
    }
}

/// Row 7: a call waits while the back-off of the last failure runs.
fn throttled(now: Time, facts: &Facts<'_>, act: Act) -> Act {
    match &facts.memory.failing {
        Some(failing) if failing.retry_at > now => Act::Idle(Some(failing.retry_at)),
        _ => act,
    }
}

/// How a grant stands that needs something: the last failure if there is one.
fn standing(facts: &Facts<'_>, valid: bool) -> Standing {
    match facts.memory.failing.as_deref().filter(|failing| !failing.is_prompt()) {
        Some(failing) => Standing::Failing(failing.failure.clone()),
        None if valid => Standing::Ready,
        None => Standing::Working,
    }
}
