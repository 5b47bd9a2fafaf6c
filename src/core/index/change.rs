//! What the watches tell, and what follows for grants and their names.

use std::{collections::BTreeSet, sync::Arc};

use super::{Change, Index};
use crate::core::{
    Time,
    facts::{Account, Anchor, Policy, PolicyState, Target},
    grant::{Attempt, GrantKey},
    notice::What,
    plan::{Cause, Retirement},
    schedule::MAX_PREVIOUS,
    select,
    table::{Event, Key, Scope},
};

impl Index {
    /// Takes one step of a watch in.
    pub fn apply(&mut self, scope: &Scope, change: Change, now: Time) {
        let listed = matches!(
            change,
            Change::Policy(Event::Listed)
                | Change::Account(Event::Listed)
                | Change::Target(Event::Listed)
                | Change::Anchor(Event::Listed)
        );
        match change {
            Change::Policy(event) => {
                let changed = self.policies.apply(scope, event);
                self.policies_changed(changed, now);
            }
            Change::Account(event) => {
                let changed = self.accounts.apply(scope, event);
                self.accounts_changed(changed, now);
            }
            Change::Target(event) => {
                let changed = self.targets.apply(scope, event);
                self.targets_changed(changed, now);
            }
            Change::Anchor(event) => {
                let changed = self.anchors.apply(scope, event);
                for (key, before) in &changed {
                    self.revoked_by_hand(key, before.as_ref());
                }
                self.anchors_changed(changed, now);
            }
        }
        if listed {
            self.open(scope, now);
        }
    }

    pub(super) fn policies_changed(&mut self, changed: Vec<(Key, Option<PolicyState>)>, now: Time) {
        for (key, before) in changed {
            self.scheduled(&key, before.as_ref(), now);
            let uid = self.policies.get(&key).map(PolicyState::uid);
            if before.is_some_and(|before| uid != Some(before.uid())) {
                self.statuses.forget(&key);
            }
            let accounts = self.accounts.in_namespace(&key.namespace).map(|(account, _)| account.name.clone());
            let mut accounts: BTreeSet<Arc<str>> = accounts.collect();
            accounts.extend(self.policy(&key).into_iter().flat_map(|policy| named(policy)));
            accounts.extend(self.grants_of(&key).map(|grant| grant.account.clone()));
            for account in accounts {
                self.refresh(&GrantKey { namespace: key.namespace.clone(), policy: key.name.clone(), account }, now);
            }
            self.statuses.mark(key, now);
        }
    }

    /// Tells of a revocation to come when it is asked for: a mistaken time zone must not look like one that is done.
    fn scheduled(&mut self, key: &Key, before: Option<&PolicyState>, now: Time) {
        let asked = |policy: &Policy| Some(policy.revocation.as_ref()?.as_ref().ok()?.before);
        let at = self.policy(key).and_then(|policy| asked(policy)).filter(|at| *at > now);
        let known = before.and_then(PolicyState::readable).and_then(|policy| asked(policy));
        if let Some(at) = at.filter(|at| Some(*at) != known) {
            self.notify_policy(key, What::RevocationScheduled(at));
        }
    }

    pub(super) fn accounts_changed(&mut self, changed: Vec<(Key, Option<Account>)>, now: Time) {
        for (key, _) in changed {
            let policies: Vec<Arc<str>> =
                self.policies.in_namespace(&key.namespace).map(|(policy, _)| policy.name.clone()).collect();
            for policy in policies {
                let grant = GrantKey { namespace: key.namespace.clone(), policy, account: key.name.clone() };
                if let Some(grant) = self.grants.get_mut(&grant) {
                    grant.memory.proof.account_doubtful = false;
                }
                self.refresh(&grant, now);
            }
        }
    }

    pub(super) fn targets_changed(&mut self, changed: Vec<(Key, Option<Target>)>, now: Time) {
        for (key, before) in changed {
            self.signed(&key, before.as_ref(), now);
            let issued = self.targets.get(&key).is_some_and(|target| target.token.is_some());
            let after = self.targets.get(&key).map(|target| of_target(&key, target));
            if let Some(before) = &before {
                self.remember(&key, before, now);
            }
            let before = before.map(|target| of_target(&key, &target));
            if let Some(owner) = before.filter(|owner| Some(owner) != after.as_ref()) {
                let grant = self.grant(&owner, now);
                grant.targets.retain(|name| *name != key.name);
                // What names no anchor any more must be looked at again before an anchor counts as not named.
                grant.memory.proof.target_seen = None;
                self.settle(&owner, now);
            }
            if let Some(owner) = after {
                let grant = self.grant(&owner, now);
                if !grant.targets.contains(&key.name) {
                    grant.targets.push(key.name.clone());
                }
                grant.memory.published |= issued;
                self.settle(&owner, now);
            }
            let claimants: Vec<GrantKey> = self.claims.get(&key).into_iter().flatten().cloned().collect();
            for claimant in claimants {
                self.grant(&claimant, now).memory.proof.target_absent = false;
                self.wake(&claimant);
            }
        }
    }

    /// What a target no longer names is still to be told by its id when it is revoked.
    fn remember(&mut self, key: &Key, before: &Target, now: Time) {
        let named: Vec<&str> =
            self.targets.get(key).into_iter().flat_map(Target::tokens).map(|(anchor, _)| anchor).collect();
        let gone = before.tokens().filter(|(anchor, _)| !anchor.is_empty() && !named.contains(anchor));
        let gone: Vec<(Box<str>, Box<str>)> = gone.map(|(anchor, id)| (anchor.into(), id.into())).collect();
        if !gone.is_empty() {
            let unnamed = &mut self.grant(&of_target(key, before), now).memory.unnamed;
            unnamed.extend(gone);
            unnamed.drain(..unnamed.len().saturating_sub(2 * MAX_PREVIOUS));
        }
    }

    pub(super) fn anchors_changed(&mut self, changed: Vec<(Key, Option<Anchor>)>, now: Time) {
        for (key, before) in changed {
            let before_owner = before.as_ref().and_then(|anchor| of_anchor(&key, anchor));
            let after = self.anchors.get(&key);
            // With its annotations removed an anchor stays where it was known to belong.
            let after_owner =
                after.and_then(|anchor| of_anchor(&key, anchor)).or(before_owner.clone().filter(|_| after.is_some()));
            if let Some(owner) = before_owner.filter(|owner| Some(owner) != after_owner.as_ref()) {
                self.anchor_left(&owner, &key.name, before.as_ref(), now);
            }
            if let Some(owner) = after_owner {
                self.anchor_joined(&owner, &key.name, now);
            }
        }
    }

    pub(super) fn anchor_joined(&mut self, owner: &GrantKey, name: &Arc<str>, now: Time) {
        let anchors = &mut self.grant(owner, now).anchors;
        if !anchors.iter().any(|(known, _)| known == name) {
            anchors.push((name.clone(), now));
        }
        self.settle(owner, now);
    }

    pub(super) fn anchor_left(&mut self, owner: &GrantKey, name: &Arc<str>, anchor: Option<&Anchor>, now: Time) {
        let grant = self.grant(owner, now);
        grant.anchors.retain(|(known, _)| known != name);
        let attempt = grant.memory.attempt.as_mut();
        if let Some(attempt) = attempt.filter(|attempt| is_bound(attempt, anchor)) {
            attempt.spent = true;
        }
        self.settle(owner, now);
    }

    /// Tells when somebody else deleted an anchor that one of our targets names. The end of a policy takes them
    /// all, and is no news.
    pub(super) fn revoked_by_hand(&mut self, key: &Key, before: Option<&Anchor>) {
        let gone = before.filter(|_| self.anchors.get(key).is_none());
        let Some((anchor, owner)) = gone.and_then(|anchor| Some((anchor, of_anchor(key, anchor)?))) else { return };
        let retiring =
            self.grants.get(&owner).is_some_and(|grant| grant.retiring.iter().any(|name| **name == *key.name));
        let governed = self.policy(&owner.policy_key()).is_some_and(|policy| !policy.terminating);
        let token = self.facts(&owner).and_then(|facts| facts.token_of(&key.name, &anchor.uid));
        if let Some(token_id) = token.filter(|_| governed && !retiring) {
            let (secret, uid) = ((*key.name).into(), anchor.uid.clone());
            let retirement = Retirement { secret, uid, token_id: Some(token_id), cause: Cause::ByHand, reason: None };
            self.notify(&owner, What::Retired(retirement));
        }
    }

    /// Policy or account changed: selection, wanted name and due work follow.
    pub(super) fn refresh(&mut self, key: &GrantKey, now: Time) {
        let selected = self.selects(key);
        if !selected && !self.grants.contains_key(key) {
            return;
        }
        self.settle(key, now);
    }

    /// Brings everything derived of a grant up to date and makes it due; forgets it when nothing is left of it.
    pub(super) fn settle(&mut self, key: &GrantKey, now: Time) {
        let selected = self.selects(key);
        let readable = self.policy(&key.policy_key()).is_some();
        let known = self.policies.get(&key.policy_key()).is_some();
        let wanted = selected.then(|| self.wanted(key)).flatten();
        let grant = self.grant(key, now);
        grant.memory.unselected_since = match grant.memory.unselected_since {
            since if readable && !selected => since.or(Some(now)),
            _ => None,
        };
        grant.memory.proof.unselected &= !selected;
        grant.memory.proof.policy_absent &= !known;
        let empty = grant.targets.is_empty() && grant.anchors.is_empty() && grant.busy.is_none();
        let before = std::mem::replace(&mut grant.wanted, wanted.clone());
        if before != wanted {
            grant.memory.proof.target_absent = false;
            self.claim(key, before, wanted);
        }
        if empty && !selected && (readable || !known) {
            self.forget(key);
        } else {
            self.wake(key);
        }
        self.statuses.mark(key.policy_key(), now);
    }

    pub(super) fn wanted(&self, key: &GrantKey) -> Option<Arc<str>> {
        let policy = self.policy(&key.policy_key())?;
        select::target_name(&policy.spec.secret.name, &key.policy, &key.account).ok().map(Into::into)
    }

    /// Moves the grant's claim, and lets everybody who wants the old or the new name decide again.
    pub(super) fn claim(&mut self, key: &GrantKey, before: Option<Arc<str>>, after: Option<Arc<str>>) {
        let place = |name| Key { namespace: key.namespace.clone(), name };
        let mut rivals = BTreeSet::new();
        if let Some(before) = before.map(place) {
            let claims = self.claims.entry(before.clone()).or_default();
            claims.retain(|claimant| claimant != key);
            rivals.extend(claims.iter().cloned());
            if claims.is_empty() {
                self.claims.remove(&before);
            }
        }
        if let Some(after) = after.map(place) {
            let claims = self.claims.entry(after).or_default();
            rivals.extend(claims.iter().cloned());
            claims.push(key.clone());
        }
        for rival in &rivals {
            self.wake(rival);
        }
    }

    pub(super) fn forget(&mut self, key: &GrantKey) {
        if let Some(grant) = self.grants.remove(key) {
            self.claim(key, grant.wanted, None);
        }
        self.queue.remove(key);
        self.release(key, None);
    }
}

fn is_bound(attempt: &Attempt, anchor: Option<&Anchor>) -> bool {
    attempt.bound.as_ref().zip(anchor).is_some_and(|(bound, anchor)| *bound.uid == *anchor.uid)
}

fn named(policy: &Policy) -> impl Iterator<Item = Arc<str>> {
    policy.spec.service_accounts.names.iter().flatten().map(|name| name.as_str().into())
}

fn of_target(key: &Key, target: &Target) -> GrantKey {
    GrantKey {
        namespace: key.namespace.clone(),
        policy: (*target.policy).into(),
        account: (*target.service_account).into(),
    }
}

fn of_anchor(key: &Key, anchor: &Anchor) -> Option<GrantKey> {
    let known = !anchor.policy.is_empty() && !anchor.service_account.is_empty();
    known.then(|| GrantKey {
        namespace: key.namespace.clone(),
        policy: (*anchor.policy).into(),
        account: (*anchor.service_account).into(),
    })
}
