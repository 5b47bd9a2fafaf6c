//! Answers to calls. An object in an answer enters as one that a watch shows; only a refusal is news of another kind.

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use secrecy::SecretString;

use super::{GrantCall, Grants, Work, trouble::Kind};
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        credential::token::{self, Minted},
        failure::Failure,
        format::{self, read_back},
        grant::{
            Attempt, Grant, Predecessor, Proof, ReadBack, Retirement,
            call::Step,
            checks::Case,
            event::{GrantNews, Replaced},
            look::{Found, Look},
        },
        id::{Key, Name, Secs, Uid},
        kernel::{controller::Outcome, store::WatchEvent},
        meta,
        place::{
            record::Bond,
            secret::{Anchor, Target},
        },
        policy::PolicyState,
        reason::{FailureReason, IssueReason},
        request::{self, Answer},
    },
};

impl Grants {
    /// Takes an answer in. The grant goes on at once.
    pub(super) fn take_answer(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        match self.calls.remove(ticket) {
            Some(Work::Grant(call)) => self.grant_answered(&call, answer, now),
            Some(Work::Status(policy, uid)) => self.status_answered(policy, uid, answer, now),
            None => Outcome::default(),
        }
    }

    fn grant_answered(&mut self, call: &GrantCall, answer: Answer, now: Time) -> Outcome {
        let id = call.grant;
        self.queue.stopped(call.lane);
        let Some(grant) = self.grants.get_mut(id) else { return Outcome::default() };
        grant.busy &= matches!(call.step, Step::Retire(_));
        let minted = matches!(call.step, Step::Mint) && answer.is_ok();
        let failure = match &call.step {
            Step::Retire(retirement) => self.retired(call, retirement, answer, now).err(),
            _ => self.done(call, answer, now).err().inspect(|failure| self.failed(call, failure.clone(), now)),
        };
        if let Some(grant) = self.grants.get_mut(id) {
            // Not before: a grant without calls may be forgotten with the last of its objects.
            grant.calls -= 1;
            if grant.calls == 0 {
                self.calls_ended(id);
            }
        }
        self.queue.remove(id);
        self.decide(id, call.lane, now);
        self.forget_empty(id, now);
        Outcome { minted: minted && failure.is_none(), failure, silent: false }
    }

    fn done(&mut self, call: &GrantCall, answer: Answer, now: Time) -> Result<(), Failure> {
        let id = call.grant;
        if let Step::Look(look) = &call.step {
            let found = look.read(&call.key, answer, &self.demanded);
            return self.looked(call, look, found, now);
        }
        let absent = answer.as_ref().is_err_and(|refusal| refusal.code == Some(404));
        let body = answer.map_err(|refusal| refusal.failure);
        let meta = |body: Result<SecretString, Failure>| request::metadata(&call.what, &body?);
        match &call.step {
            Step::Mint => {
                let minted = token::answer(&body?).map_err(|error| request::rejected(&call.what, &error))?;
                return self.minted(call, minted, now);
            }
            Step::ReadBack { why } => {
                let read = read_back::read(&body?).map_err(|error| request::rejected(&call.what, error))?;
                self.read_back(call, *why, read, now);
            }
            Step::CreateAnchor => self.anchor_created(call, &meta(body.map_err(Failure::of_anchor))?, now),
            Step::CreateTarget => {
                let meta = meta(body)?;
                self.seen(id, now);
                self.see_target(call, &meta, now);
            }
            Step::Publish { why } => self.published(call, *why, &meta(body)?, now),
            Step::Patch { why } => self.patched(call, *why, &meta(body)?, now),
            Step::Remove { name } => {
                if !absent {
                    body?;
                }
                self.target_absent(call, name, now);
                self.report_about(id, Some(name.clone()), GrantNews::Removed);
            }
            Step::Look(_) | Step::Retire(_) => {}
        }
        Ok(())
    }

    fn patched(&mut self, call: &GrantCall, why: IssueReason, meta: &ObjectMeta, now: Time) {
        self.spend(call.grant, why, now);
        if !self.see_target(call, meta, now) {
            self.see_anchor(call, meta, now);
        }
        let secret = meta.name.clone().unwrap_or_default();
        self.report(call.grant, GrantNews::Repaired { secret, why });
    }

    fn retired(&mut self, call: &GrantCall, retirement: &Retirement, answer: Answer, now: Time) -> Result<(), Failure> {
        let id = call.grant;
        // A Secret that is gone, or another one by now, is as good as deleted.
        let conflict = answer.as_ref().is_err_and(|refusal| refusal.code == Some(409));
        let refused = answer.err().filter(|refusal| !matches!(refusal.code, Some(404 | 409)));
        if let Some(refusal) = refused {
            self.retirement_ended(id, retirement);
            self.fail_to_revoke(id, &call.key, retirement, refusal.failure.clone(), now);
            return Err(refusal.failure);
        }
        // The deleted Secret may have been an anchor or a target; it is in one of the tables. One that changed is told anew.
        // While the retirement is under way, its end is not taken for somebody else's deed.
        self.anchor_absent(call, &retirement.secret, now);
        self.target_absent(call, &retirement.secret, now);
        self.retirement_ended(id, retirement);
        self.release(id, |_, kind| kind == Kind::Issue, now);
        // One was served, so it waits for nobody's probe any more: the others are tried as well.
        self.try_now(id, Kind::Revoke, now);
        if !(conflict && retirement.version.is_some()) {
            self.report(id, GrantNews::Retired(retirement.clone()));
        }
        Ok(())
    }

    fn looked(
        &mut self,
        call: &GrantCall,
        look: &Look,
        found: Result<Found, Failure>,
        now: Time,
    ) -> Result<(), Failure> {
        let id = call.grant;
        if *look == Look::Policy {
            return self.policy_looked(call, found, now);
        }
        match (look, found?) {
            (Look::Target(name), Found::Secret(meta)) => return self.target_found(call, name, &meta, now),
            (Look::Target(name), _) => {
                let absent = self.target_absent(call, name, now);
                self.seen(id, now).into_iter().for_each(|proof| proof.target_absent = absent);
            }
            (Look::Anchor(name), found) => {
                match found {
                    Found::Secret(meta) if Anchor::read(&meta).is_some() => self.see_anchor(call, &meta, now),
                    _ => self.anchor_absent(call, name, now),
                }
                // An anchor that belongs to another grant is as good as absent.
                let of = |grant: &Grant| self.anchors_of(grant).any(|anchor| self.is_called(anchor, name));
                let absent = !self.grants.get(id).is_some_and(of);
                if let Some(grant) = self.grants.get_mut(id).filter(|_| absent) {
                    grant.rare().anchor_absent = Some(name.clone());
                }
            }
            (Look::Account, found) => self.account_looked(call, found, now),
            (Look::Policy, _) => {}
        }
        Ok(())
    }

    /// A proof about a policy holds for all of its grants.
    fn policy_looked(&mut self, call: &GrantCall, found: Result<Found, Failure>, now: Time) -> Result<(), Failure> {
        let Some(row) = self.grants.get(call.grant).map(|grant| grant.policy) else { return Ok(()) };
        if let Some(link) = self.policies.link_mut(row) {
            link.proof.looking = false;
        }
        let event = match found? {
            Found::Policy(version, state) => WatchEvent::Applied(call.key.policy_key(), version, state),
            _ => WatchEvent::Deleted(call.key.policy_key(), call.known.policies),
        };
        self.policy_event(self.scope_of(call), event, now);
        let absent = self.policies.get(row).is_none();
        if let Some(link) = self.policies.link_mut(row) {
            link.proof.absent = absent;
            link.proof.seen = if absent { None } else { Some(now) };
        }
        for member in self.grants_of_policy(row) {
            let unselected = |grant: &Grant| grant.unselected_since().is_some();
            let waits =
                self.grants.get(member).is_some_and(|grant| absent || unselected(grant) || self.is_released(grant));
            if waits && member != call.grant {
                self.wake(member, now);
            }
        }
        Ok(())
    }

    /// Whether a Secret of the grant has no reference to its policy.
    fn is_released(&self, grant: &Grant) -> bool {
        let targets = self.targets_of(grant).filter_map(|id| self.targets.get(id)).map(|target| target.owners);
        let anchors = self.anchors_of(grant).filter_map(|id| self.anchors.get(id)).map(Anchor::owners);
        targets.chain(anchors).any(|owners| owners.policy == 0)
    }

    fn account_looked(&mut self, call: &GrantCall, found: Found, now: Time) {
        let event = match found {
            Found::Account(version, account) => WatchEvent::Applied(call.key.account_key(), version, account),
            _ => WatchEvent::Deleted(call.key.account_key(), call.known.accounts),
        };
        self.account_event(self.scope_of(call), event, now);
        if let Some(grant) = self.grants.get_mut(call.grant) {
            grant.proof.account_doubtful = false;
            grant.proof.unselected = !grant.selected;
        }
    }

    fn seen(&mut self, id: u32, now: Time) -> Option<&mut Proof> {
        let grant = self.grants.get_mut(id)?;
        grant.target_seen = Secs::of(now);
        let proof = &mut grant.proof;
        (proof.target_doubtful, proof.target_foreign, proof.target_refused) = (false, false, false);
        Some(proof)
    }

    fn target_found(&mut self, call: &GrantCall, name: &Name, meta: &ObjectMeta, now: Time) -> Result<(), Failure> {
        if self.see_target(call, meta, now) {
            self.seen(call.grant, now);
            return Ok(());
        }
        let place = format!("Secret {}/{name}", call.key.namespace);
        let finalizers = || meta.finalizers.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let terminating = meta.deletion_timestamp.is_some();
        let (reason, what) = if terminating {
            let what = format!("{place} is being deleted and held by its finalizers ({})", finalizers());
            (FailureReason::TargetTerminating, what)
        } else {
            (FailureReason::TargetNotOwned, format!("{place} exists and does not carry this policy's annotations"))
        };
        self.target_absent(call, name, now);
        if let Some(proof) = self.seen(call.grant, now) {
            proof.target_absent = false;
            proof.target_foreign |= !terminating;
        }
        Err(Failure::new(reason, &what))
    }

    /// Takes a target in as an answer shows it; whether it is one.
    fn see_target(&mut self, call: &GrantCall, meta: &ObjectMeta, now: Time) -> bool {
        let Some(seen) = Target::read(meta) else { return false };
        let place = Key::new(call.key.namespace.clone(), meta.name.as_deref().unwrap_or_default());
        let event = WatchEvent::Applied(place, meta::version(meta), Box::new(seen));
        self.target_event(self.scope_of(call), event, now);
        true
    }

    /// Takes in that a target was not there; whether there is still none: another may have come since.
    fn target_absent(&mut self, call: &GrantCall, name: &Name, now: Time) -> bool {
        let (scope, place) = (self.scope_of(call), Key::new(call.key.namespace.clone(), name.clone()));
        self.target_event(scope, WatchEvent::Deleted(place, call.known.targets), now);
        let row = self.targets.find(scope, &call.key.namespace, name);
        row.is_none_or(|id| self.targets.get(id).is_none())
    }

    /// Takes an anchor in as an answer shows it. A target of this grant names it, whatever its own annotations say.
    fn see_anchor(&mut self, call: &GrantCall, meta: &ObjectMeta, now: Time) {
        let Some(seen) = Anchor::read(meta) else { return };
        let place = Key::new(call.key.namespace.clone(), meta.name.as_deref().unwrap_or_default());
        let (other, anchor) = self.seen_anchor(&place, seen, now);
        let event = WatchEvent::Applied(place, meta::version(meta), anchor);
        self.anchor_step(self.scope_of(call), event, Some(call.grant), now);
        other.into_iter().filter(|other| *other != call.grant).for_each(|other| self.forget_empty(other, now));
    }

    fn anchor_absent(&mut self, call: &GrantCall, name: &Name, now: Time) {
        let place = Key::new(call.key.namespace.clone(), name.clone());
        self.anchor_event(self.scope_of(call), WatchEvent::Deleted(place, call.known.anchors), now);
        self.wake(call.grant, now);
    }

    fn scope_of(&self, call: &GrantCall) -> u16 {
        self.by_scope.get(&call.key.namespace).copied().unwrap_or_default()
    }

    fn anchor_created(&mut self, call: &GrantCall, meta: &ObjectMeta, now: Time) {
        self.see_anchor(call, meta, now);
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let bond = Bond { name: text(&meta.name).into(), uid: Uid::read(&text(&meta.uid)) };
        if let Some(attempt) = self.attempt(call.grant) {
            attempt.bond = Some(bond);
        }
    }

    fn attempt(&mut self, id: u32) -> Option<&mut Attempt> {
        self.grants.get_mut(id)?.rare.as_mut()?.attempt.as_deref_mut()
    }

    fn minted(&mut self, call: &GrantCall, minted: Minted, now: Time) -> Result<(), Failure> {
        let (id, key) = (call.grant, &call.key);
        let policy = self.grants.get(id).and_then(|grant| self.policies.get(grant.policy)?.readable());
        let audiences = policy.map(|policy| policy.spec.token.audiences.clone()).unwrap_or_default();
        // The watch may show the new token before the answer to its publication comes.
        let replaces = self.predecessor(id, now);
        let claims = minted.claims.clone();
        let Some(attempt) = self.attempt(id) else { return Ok(()) };
        let checked = token::verify(key, attempt.account_uid, attempt.bond.as_ref(), &audiences, &claims, now);
        checked.map_err(|what| {
            request::rejected(&format!("TokenRequest for ServiceAccount {}", key.account_key()), what)
        })?;
        let why = attempt.why;
        attempt.token = Some(Box::new(minted));
        let because_due = |due: &Time| why == IssueReason::Due && *due <= now;
        attempt.replaces = replaces.map(|token| Predecessor { due: token.due.filter(because_due), ..token });
        self.held.insert(id);
        self.spend(id, why, now);
        if self.keys.minted(Secs::of(claims.issued_at), claims.signer.clone()) {
            self.mark_all(now);
        }
        Ok(())
    }

    fn spend(&mut self, id: u32, why: IssueReason, now: Time) {
        if let Some(grant) = self.grants.get_mut(id) {
            grant.budget.spend(now, Some(why));
        }
    }

    /// The living token that the grant has published.
    fn predecessor(&self, id: u32, now: Time) -> Option<Predecessor> {
        let view = self.view(id, Name::default(), now)?;
        let case = Case::of(&view);
        let target = view.target().filter(|_| case.is_valid())?;
        let token = target.object.token.as_ref()?;
        let due = view.due(target).map(|due| due.at);
        Some(Predecessor { issued_at: token.issued.time(), expires_at: token.expires.time(), due })
    }

    fn published(&mut self, call: &GrantCall, why: IssueReason, meta: &ObjectMeta, now: Time) {
        let id = call.grant;
        let Some(grant) = self.grants.get_mut(id) else { return };
        (grant.proof, grant.target_seen) = (Proof::default(), Secs::of(now));
        let rare = grant.rare();
        let (attempt, read_back, failing) = (rare.attempt.take(), rare.read_back.take(), rare.failing.take());
        (rare.anchor_absent, rare.token_lost) = (None, None);
        self.held.remove(&id);
        self.see_target(call, meta, now);
        let replaced = attempt.as_ref().and_then(|attempt| attempt.replaces).map(|token| replaced(token, now));
        match (attempt.and_then(|attempt| attempt.token), read_back) {
            (_, Some(_)) => {
                let secret = meta.name.clone().unwrap_or_default();
                self.report(id, GrantNews::Repaired { secret, why });
            }
            (Some(token), None) => {
                self.report(id, GrantNews::Issued { why, claims: Box::new(token.claims), replaced });
            }
            (None, None) => {}
        }
        if failing.is_some() {
            self.release(id, |_, kind| kind == Kind::Revoke, now);
        }
    }

    fn read_back(&mut self, call: &GrantCall, why: IssueReason, read: read_back::StoredToken, now: Time) {
        let id = call.grant;
        let version = meta::version(&read.meta);
        let refused = self.grants.get(id).is_some_and(|grant| grant.proof.target_refused);
        self.see_target(call, &read.meta, now);
        self.seen(id, now);
        if refused {
            return self.explain(call, &read);
        }
        self.spend(id, why, now);
        let Some(grant) = self.grants.get_mut(id) else { return };
        match read.token {
            Some(token) => grant.rare().read_back = Some(Box::new(ReadBack { token, version })),
            None => grant.rare().token_lost = Some(version),
        }
    }

    /// Tells what stands in the way of a write: the API server names only the type that it refuses.
    fn explain(&mut self, call: &GrantCall, read: &read_back::StoredToken) {
        let namespace = &call.key.namespace;
        let Some(grant) = self.grants.get_mut(call.grant) else { return };
        let Some(policy) = self.policies.get(grant.policy).and_then(PolicyState::readable) else { return };
        let format = format::of(&policy.spec.secret.format);
        let (wanted, name) = (format.secret_type(), read.meta.name.as_deref().unwrap_or_default());
        let what = if read.kind == wanted {
            format!("Secret {namespace}/{name} is immutable")
        } else {
            format!(
                "Secret {namespace}/{name} has the type {:.100?}, which cannot change, and spec.secret.format needs {wanted:?}",
                read.kind
            )
        };
        if let Some(failing) = grant.rare().failing.as_mut() {
            failing.failure = Failure::new(FailureReason::TargetImmutable, &what);
        }
    }

    /// Notes what a failed call leaves in doubt.
    fn failed(&mut self, call: &GrantCall, mut failure: Failure, now: Time) {
        let (id, step) = (call.grant, &call.step);
        let doubtful = matches!(failure.reason, FailureReason::Conflict | FailureReason::AccountNotFound);
        let unclear = matches!(failure.reason, FailureReason::Conflict | FailureReason::ApiUnavailable);
        let policy = self.grants.get(id).and_then(|grant| self.policies.get(grant.policy));
        let on_target =
            policy.and_then(PolicyState::readable).is_some_and(|policy| policy.binding() == Binding::Target);
        let Some(grant) = self.grants.get_mut(id) else { return };
        match step {
            Step::Look(_) | Step::CreateAnchor | Step::Retire(_) => {}
            Step::Mint => {
                grant.proof.account_doubtful |= doubtful;
                grant.proof.target_doubtful |= doubtful && on_target;
                if let Some(attempt) = self.attempt(id) {
                    attempt.spent = true;
                }
            }
            // The refusal of the write stays the failure, and its back-off runs.
            Step::ReadBack { .. } if grant.proof.target_refused => return grant.proof.target_refused = false,
            _ => {
                grant.proof.target_doubtful |= unclear;
                grant.proof.target_absent &= !unclear;
                grant.proof.target_refused = failure.reason == FailureReason::TargetImmutable
                    && matches!(step, Step::Publish { .. } | Step::CreateTarget);
                // The last explanation stands until the next.
                let before = grant.failing().map(|failing| &failing.failure).filter(|_| grant.proof.target_refused);
                if let Some(before) = before.filter(|before| before.reason == failure.reason) {
                    failure = before.clone();
                }
            }
        }
        self.fail(id, failure, now);
    }
}

/// How a token stands at the publication of its successor.
fn replaced(token: Predecessor, now: Time) -> Replaced {
    let Predecessor { issued_at, expires_at, due } = token;
    let left = (expires_at - now).as_seconds_f64() / (expires_at - issued_at).as_seconds_f64();
    Replaced { late: due.map(|due| (now - due).max(TimeDelta::zero())), left: left.max(0.0) }
}
