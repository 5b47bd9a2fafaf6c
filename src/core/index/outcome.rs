//! What our own calls have shown. It enters the index at once: the watch may be late.

use std::{collections::BTreeSet, sync::Arc};

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{GrantKey, Index, Job, Trouble};
use crate::{
    core::{
        Time,
        claims::{Claims, ObjectRef},
        facts::{Account, Anchor, PolicyState, Target, version},
        failure::{Failure, Reason},
        grant::{Attempt, Copy, Failing, Minted, Predecessor, Proof},
        managed::stable_hash,
        notice::{Replaced, What},
        plan::{Look, Retirement, Why},
        schedule,
        table::Key,
    },
    crd::token_policy::Binding,
};

/// What one call has shown.
#[expect(clippy::large_enum_variant, reason = "one at a time, and none is kept")]
#[derive(Debug)]
pub enum Outcome {
    /// An anchor, or a target that is one itself, was deleted or was gone already, or not.
    Retired(Retirement, Result<(), Failure>),
    /// A live GET.
    Looked(Look, Found),
    /// An anchor was created.
    AnchorCreated(ObjectMeta),
    /// A target was created without a token.
    TargetCreated(ObjectMeta),
    /// A token was minted for the attempt.
    Minted(Minted),
    /// The target was written.
    Published(Why, ObjectMeta),
    /// The target was read whole.
    ReadBack(Why, ObjectMeta, Option<Minted>),
    /// The metadata of a target or an anchor was patched.
    Patched(Why, ObjectMeta),
    /// The target of this name was deleted.
    Removed(String),
    /// A call failed.
    Failed(Step, Failure),
}

/// What a look found.
#[expect(clippy::large_enum_variant, reason = "one at a time, and none is kept")]
#[derive(Debug)]
pub enum Found {
    /// Nothing.
    Absent,
    /// A Secret.
    Secret(ObjectMeta),
    /// The policy, with its resourceVersion.
    Policy(u64, PolicyState),
    /// The account, with its resourceVersion.
    Account(u64, Account),
}

/// Which call failed, as far as that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One that left nothing behind.
    Harmless,
    /// A TokenRequest: its anchor is used up.
    Mint,
    /// A write to an existing object: it may be other than we know.
    Write,
}

/// Pause after an anchor could not be deleted.
const RETIRE_AGAIN: TimeDelta = TimeDelta::seconds(2);
/// The server signs with its own clock, and authenticates with this leeway.
const LEEWAY: TimeDelta = TimeDelta::seconds(60);

impl Index {
    /// Takes the outcomes of a job in, and returns what the same grant has to do next, if anything.
    pub fn finish(&mut self, key: &GrantKey, outcomes: Vec<Outcome>, now: Time) -> Option<Job> {
        if let Some(grant) = self.grants.get_mut(key) {
            grant.retiring.clear();
        }
        for outcome in outcomes {
            self.outcome(key, outcome, now);
        }
        if let Some(grant) = self.grants.get_mut(key) {
            grant.busy = None;
        }
        self.queue.remove(key);
        let next = self.decide(key, now);
        if next.is_none() {
            self.queue.stopped(key);
            self.forget_empty(key, now);
        }
        next
    }

    fn forget_empty(&mut self, key: &GrantKey, now: Time) {
        let empty = self.grants.get(key).is_some_and(|grant| grant.targets.is_empty() && grant.anchors.is_empty());
        if empty && !self.selects(key) {
            self.settle(key, now);
        }
    }

    fn outcome(&mut self, key: &GrantKey, outcome: Outcome, now: Time) {
        match outcome {
            Outcome::Retired(retirement, result) => self.retired(key, retirement, result, now),
            Outcome::Looked(look, found) => self.looked(key, look, found, now),
            Outcome::AnchorCreated(meta) => self.anchor_created(key, &meta, now),
            Outcome::TargetCreated(meta) => self.target_created(key, &meta, now),
            Outcome::Minted(token) => self.minted(key, token, now),
            Outcome::Published(why, meta) => self.published(key, why, &meta, now),
            Outcome::ReadBack(why, meta, token) => self.read_back(key, why, &meta, token, now),
            Outcome::Patched(why, meta) => self.patched(key, why, &meta, now),
            Outcome::Removed(name) => {
                self.target_absent(key, name.as_str().into(), now);
                self.notify_about(key, Some(name), What::Removed);
            }
            Outcome::Failed(step, failure) => self.failed(key, step, failure, now),
        }
    }

    fn retired(&mut self, key: &GrantKey, retirement: Retirement, result: Result<(), Failure>, now: Time) {
        match result {
            Ok(()) => {
                // Names of Secrets are names of one kind, so it is neither of the two any more.
                self.anchor_absent(key, &(*retirement.secret).into(), now);
                self.target_absent(key, (*retirement.secret).into(), now);
                self.notify(key, What::Retired(retirement));
            }
            Err(failure) => {
                self.grant(key, now).memory.retire_after = Some(now + RETIRE_AGAIN);
                self.notify(key, What::Failing(failure));
            }
        }
    }

    fn looked(&mut self, key: &GrantKey, look: Look, found: Found, now: Time) {
        match (look, found) {
            (Look::Target(name), Found::Secret(meta)) => self.target_found(key, name.into(), &meta, now),
            (Look::Target(name), _) => {
                let absent = self.target_absent(key, name.into(), now);
                self.seen(key, now).target_absent = absent;
            }
            (Look::Anchor(_), Found::Secret(meta)) if Anchor::read(&meta).is_some() => {
                self.anchor_found(key, &meta, now);
            }
            (Look::Anchor(name), _) => {
                self.anchor_absent(key, &name.as_str().into(), now);
                self.grant(key, now).memory.proof.anchor_absent = Some(name.into());
            }
            (Look::Policy, found) => self.policy_looked(key, found, now),
            (Look::Account, found) => self.account_looked(key, found, now),
        }
    }

    fn policy_looked(&mut self, key: &GrantKey, found: Found, now: Time) {
        let place = key.policy_key();
        let changed = match found {
            Found::Policy(version, policy) => {
                self.policies.answer(&self.scope(&key.namespace), place.clone(), version, policy)
            }
            _ => self.policies.deleted(place.clone(), self.known_before(key).policies),
        };
        self.policies_changed(changed, now);
        let absent = self.policies.get(&place).is_none();
        let unselected = !self.selects(key);
        let proof = &mut self.grant(key, now).memory.proof;
        proof.policy_absent = absent;
        proof.unselected = unselected;
    }

    fn account_looked(&mut self, key: &GrantKey, found: Found, now: Time) {
        let place = key.account_key();
        let changed = match found {
            Found::Account(version, account) => {
                self.accounts.answer(&self.scope(&key.namespace), place, version, account)
            }
            _ => self.accounts.deleted(place, self.known_before(key).accounts),
        };
        self.accounts_changed(changed, now);
        let unselected = !self.selects(key);
        let proof = &mut self.grant(key, now).memory.proof;
        proof.account_doubtful = false;
        proof.unselected = unselected;
    }

    fn seen(&mut self, key: &GrantKey, now: Time) -> &mut Proof {
        let proof = &mut self.grant(key, now).memory.proof;
        proof.target_seen = Some(now);
        proof.target_doubtful = false;
        proof.target_foreign = false;
        proof
    }

    fn target_found(&mut self, key: &GrantKey, name: Arc<str>, meta: &ObjectMeta, now: Time) {
        if let Some(target) = Target::read(meta) {
            self.target_answer(key, target, meta, now);
            self.seen(key, now);
        } else {
            let what = format!("Secret {}/{name} exists and does not carry this policy's annotations", key.namespace);
            self.target_absent(key, name, now);
            let proof = self.seen(key, now);
            proof.target_absent = false;
            proof.target_foreign = true;
            self.fail(key, Failure::new(Reason::TargetNotOwned, &what), now);
        }
    }

    fn target_answer(&mut self, key: &GrantKey, target: Target, meta: &ObjectMeta, now: Time) {
        let place = Key::new(key.namespace.clone(), meta.name.as_deref().unwrap_or_default());
        let changed = self.targets.answer(&self.scope(&key.namespace), place, version(meta), target);
        self.targets_changed(changed, now);
    }

    /// Whether there is still none: another may have come since.
    fn target_absent(&mut self, key: &GrantKey, name: Arc<str>, now: Time) -> bool {
        let place = Key { namespace: key.namespace.clone(), name };
        let changed = self.targets.deleted(place.clone(), self.known_before(key).targets);
        self.targets_changed(changed, now);
        self.targets.get(&place).is_none()
    }

    fn anchor_found(&mut self, key: &GrantKey, meta: &ObjectMeta, now: Time) {
        let Some(anchor) = Anchor::read(meta) else { return };
        let place = Key::new(key.namespace.clone(), meta.name.as_deref().unwrap_or_default());
        let changed = self.anchors.answer(&self.scope(&key.namespace), place.clone(), version(meta), anchor);
        self.anchors_changed(changed, now);
        // A target of this grant names it, whatever its own annotations say.
        self.anchor_joined(key, &place.name, now);
    }

    fn anchor_absent(&mut self, key: &GrantKey, name: &Arc<str>, now: Time) {
        let place = Key { namespace: key.namespace.clone(), name: name.clone() };
        let changed = self.anchors.deleted(place.clone(), self.known_before(key).anchors);
        self.anchors_changed(changed, now);
        if self.anchors.get(&place).is_none() {
            self.grant(key, now).anchors.retain(|(known, _)| known != name);
        }
    }

    fn anchor_created(&mut self, key: &GrantKey, meta: &ObjectMeta, now: Time) {
        self.anchor_found(key, meta, now);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        if let Some(attempt) = &mut self.grant(key, now).memory.attempt {
            attempt.bound = Some(ObjectRef { name: text(&meta.name), uid: text(&meta.uid) });
        }
    }

    fn target_created(&mut self, key: &GrantKey, meta: &ObjectMeta, now: Time) {
        self.seen(key, now);
        if let Some(target) = Target::read(meta) {
            self.target_answer(key, target, meta, now);
        }
    }

    fn minted(&mut self, key: &GrantKey, token: Minted, now: Time) {
        let audiences =
            self.policy(&key.policy_key()).map(|policy| policy.spec.token.audiences.clone()).unwrap_or_default();
        // The watch may show the new token before the answer to its publication comes.
        let replaces = self.predecessor(key, now);
        let Some(attempt) = self.grant(key, now).memory.attempt.as_mut() else {
            return;
        };
        match verify(key, attempt, &audiences, &token.claims, now) {
            Ok(()) => {
                let why = attempt.why;
                attempt.token = Some(token);
                attempt.replaces =
                    replaces.map(|token| Predecessor { due: token.due.filter(|_| why == Why::Due), ..token });
                self.grant(key, now).memory.budget.spend(now, why.repair());
            }
            Err(what) => {
                let what = format!("TokenRequest for ServiceAccount {}: {what}", key.account_key());
                self.failed(key, Step::Mint, Failure::new(Reason::TokenRejected, &what), now);
            }
        }
    }

    fn published(&mut self, key: &GrantKey, why: Why, meta: &ObjectMeta, now: Time) {
        let memory = &mut self.grant(key, now).memory;
        let attempt = memory.attempt.take();
        let replaced = attempt.as_ref().and_then(|attempt| attempt.replaces).map(|token| replaced(token, now));
        let minted = attempt.and_then(|attempt| attempt.token);
        let (copy, failing) = (memory.copy.take(), memory.failing.take());
        memory.proof = Proof { target_seen: Some(now), ..Proof::default() };
        if let Some(target) = Target::read(meta) {
            self.target_answer(key, target, meta, now);
        }
        match (minted, copy) {
            (_, Some(_)) => self.notify(key, What::Repaired { why }),
            (Some(token), None) => self.notify(key, What::Issued { why, claims: Box::new(token.claims), replaced }),
            (None, None) => {}
        }
        if failing.is_some() {
            self.release(key, None);
        }
    }

    /// The living token that the grant has published.
    fn predecessor(&self, key: &GrantKey, now: Time) -> Option<Predecessor> {
        let facts = self.facts(key)?;
        let target = facts.target().filter(|target| facts.is_valid(target, now))?;
        let token = target.token.as_ref()?;
        let due = facts.due(now, target).map(|due| due.at);
        Some(Predecessor { issued_at: token.issued_at, expires_at: token.expires_at, due })
    }

    fn read_back(&mut self, key: &GrantKey, why: Why, meta: &ObjectMeta, token: Option<Minted>, now: Time) {
        if let Some(target) = Target::read(meta) {
            self.target_answer(key, target, meta, now);
        }
        let resource_version: Box<str> = meta.resource_version.as_deref().unwrap_or_default().into();
        self.seen(key, now);
        let memory = &mut self.grant(key, now).memory;
        memory.budget.spend(now, why.repair());
        match token {
            Some(token) => {
                memory.copy = Some(Box::new(Copy { token, resource_version }));
            }
            None => memory.proof.token_lost = Some(resource_version),
        }
    }

    fn patched(&mut self, key: &GrantKey, why: Why, meta: &ObjectMeta, now: Time) {
        self.grant(key, now).memory.budget.spend(now, why.repair());
        match Target::read(meta) {
            Some(target) => self.target_answer(key, target, meta, now),
            None => self.anchor_found(key, meta, now),
        }
        self.notify(key, What::Repaired { why });
    }

    fn failed(&mut self, key: &GrantKey, step: Step, failure: Failure, now: Time) {
        let doubtful = matches!(failure.reason, Reason::Conflict | Reason::AccountNotFound);
        let unclear = matches!(failure.reason, Reason::Conflict | Reason::ApiUnavailable);
        let on_target = self.policy(&key.policy_key()).is_some_and(|policy| policy.binding() == Binding::Target);
        let memory = &mut self.grant(key, now).memory;
        match step {
            Step::Harmless => {}
            Step::Mint => {
                memory.proof.account_doubtful |= doubtful;
                memory.proof.target_doubtful |= doubtful && on_target;
                if let Some(attempt) = &mut memory.attempt {
                    attempt.spent = true;
                }
            }
            Step::Write => {
                memory.proof.target_doubtful |= unclear;
                memory.proof.target_absent &= !unclear;
            }
        }
        self.fail(key, failure, now);
    }

    /// Counts a failure and sets the next try.
    fn fail(&mut self, key: &GrantKey, failure: Failure, now: Time) {
        let expires = Some(self.deadline(key)).filter(|deadline| *deadline > now);
        let hash = stable_hash([&*key.namespace, &*key.policy, &*key.account]);
        let waits = failure.reason.shared() && !self.probes(key, failure.reason);
        let memory = &mut self.grant(key, now).memory;
        let before = memory.failing.take().filter(|failing| failing.failure.reason == failure.reason);
        let (since, count) = before.map_or((now, 1), |failing| (failing.since, failing.count + 1));
        // The probe will tell; should it fail for a reason of its own, the longest pause is the bound.
        let pauses = if waits { u32::MAX } else { count };
        let mut failing = Failing { failure, since, count, retry_at: schedule::retry_at(now, pauses, expires, hash) };
        if failing.is_prompt() {
            failing.retry_at = now;
        }
        memory.failing = Some(Box::new(failing));
    }

    /// Whether this grant is the one that probes its namespace for this reason; else it is entered as waiting.
    fn probes(&mut self, key: &GrantKey, reason: Reason) -> bool {
        let place = (key.namespace.clone(), reason);
        let trouble =
            self.troubles.entry(place).or_insert_with(|| Trouble { probe: key.clone(), waiting: BTreeSet::new() });
        let probes = trouble.probe == *key;
        if !probes {
            trouble.waiting.insert(key.clone());
        }
        probes
    }

    /// The grant does not fail any more for any reason but `still`: those that waited for its probe try now.
    pub(super) fn release(&mut self, key: &GrantKey, still: Option<Reason>) {
        let over = |(namespace, reason): &(Arc<str>, Reason), trouble: &mut Trouble| {
            *namespace == key.namespace && trouble.probe == *key && Some(*reason) != still
        };
        let released: Vec<GrantKey> = self.troubles.extract_if(over).flat_map(|(_, trouble)| trouble.waiting).collect();
        for waiting in released {
            if let Some(failing) = self.grants.get_mut(&waiting).and_then(|grant| grant.memory.failing.as_mut()) {
                failing.retry_at = Time::MIN_UTC;
            }
            self.wake(&waiting);
        }
    }
}

/// How a token stands at the publication of its successor.
fn replaced(token: Predecessor, now: Time) -> Replaced {
    let Predecessor { issued_at, expires_at, due } = token;
    let left = (expires_at - now).as_seconds_f64() / (expires_at - issued_at).as_seconds_f64();
    Replaced { late: due.map(|due| (now - due).max(TimeDelta::zero())), left: left.max(0.0) }
}

/// The token is the one that was asked for. Servers before 1.34 do not check the account's UID, so its own claim
/// is compared; a token that is not bound to our anchor could not be revoked.
fn verify(
    key: &GrantKey,
    attempt: &Attempt,
    audiences: &[String],
    claims: &Claims,
    now: Time,
) -> Result<(), &'static str> {
    let asked = audiences.iter().all(|audience| claims.audiences.contains(audience));
    match claims {
        Claims { namespace, .. } if *namespace != *key.namespace => Err("the token is for another namespace"),
        Claims { account, .. } if *account.name != *key.account => Err("the token is for another account"),
        Claims { account, .. } if *account.uid != *attempt.account_uid => {
            Err("the token is for an earlier account of this name")
        }
        Claims { secret, .. } if *secret != attempt.bound => Err("the token is bound to something else"),
        Claims { .. } if !asked || (audiences.len() != claims.audiences.len() && !audiences.is_empty()) => {
            Err("the token is for other audiences")
        }
        Claims { expires_at, .. } if *expires_at <= now => Err("the token has expired already"),
        Claims { issued_at, .. } if *issued_at > now + LEEWAY => {
            Err("the token is issued in the future; check the clocks")
        }
        _ => Ok(()),
    }
}
