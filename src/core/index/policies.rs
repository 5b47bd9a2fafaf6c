//! Statuses: which are due to be written, at what pace, and what they say.

use std::collections::{BTreeMap, HashMap};

use chrono::TimeDelta;

use super::{Grant, Index};
use crate::{
    core::{
        Time,
        facts::PolicyState,
        failure::{Failure, Reason},
        grant::GrantKey,
        notice::{EVERY_ACCOUNT, What},
        schedule,
        status::{self, Context, Row},
        table::Key,
    },
    crd::token_policy::TokenPolicyStatus,
};

/// One policy's status is written at most this often.
const PER_POLICY: TimeDelta = TimeDelta::seconds(1);
/// All statuses together are written at most 20 times a second.
const OVER_ALL: TimeDelta = TimeDelta::milliseconds(50);

/// Policies whose status may have changed.
#[derive(Debug, Default)]
pub(super) struct StatusQueue {
    due: BTreeMap<Key, Time>,
    written: HashMap<Key, (Time, TokenPolicyStatus)>,
    next: Option<Time>,
    /// The concern that people were told of last.
    told: HashMap<Key, String>,
    /// Writes that failed in a row.
    failures: HashMap<Key, u32>,
}

impl StatusQueue {
    /// The status of this policy may have changed.
    pub(super) fn mark(&mut self, key: Key, now: Time) {
        let earliest = self.written.get(&key).map_or(now, |(at, _)| now.max(*at + PER_POLICY));
        self.due.entry(key).or_insert(earliest);
    }

    /// The policy is gone; another of its name has a status of its own.
    pub(super) fn forget(&mut self, key: &Key) {
        self.written.remove(key);
        self.failures.remove(key);
        self.told.remove(key);
    }

    pub(super) fn next_wake(&self) -> Option<Time> {
        let first = self.due.values().min()?;
        Some(self.next.map_or(*first, |next| next.max(*first)))
    }

    fn pop(&mut self, now: Time) -> Option<Key> {
        if self.next.is_some_and(|next| next > now) {
            return None;
        }
        let key = self.due.iter().find(|(_, at)| **at <= now)?.0.clone();
        self.due.remove(&key);
        Some(key)
    }
}

/// Something that concerns a policy as a whole.
#[derive(Debug)]
struct Concern {
    failure: Failure,
    /// Nothing is done for the policy until it is over.
    stalls: bool,
}

/// A status to be written.
#[derive(Debug)]
pub struct StatusWrite {
    /// The policy.
    pub policy: Key,
    /// Its UID: a policy re-created meanwhile gets its own.
    pub uid: Box<str>,
    /// The status.
    pub status: TokenPolicyStatus,
}

impl Index {
    /// The next status that differs from what is stored and may be written now.
    pub fn take_status(&mut self, now: Time) -> Option<StatusWrite> {
        while let Some(key) = self.statuses.pop(now) {
            let Some(state) = self.policies.get(&key) else {
                continue;
            };
            let uid = state.uid().into();
            let stored = self.stored(&key, state);
            let concern = self.concern(&key, state);
            if concern.is_none() && !self.is_complete(&key.namespace) {
                // Half a view says nothing; the policy is marked again when the lists are complete.
                continue;
            }
            let status = self.summary(&key, state, concern.as_ref(), &stored, now);
            let differs = status != stored;
            self.tell_concern(&key, concern);
            self.statuses.written.insert(key.clone(), (now, status.clone()));
            if differs {
                self.statuses.next = Some(now + OVER_ALL);
                return Some(StatusWrite { policy: key, uid, status });
            }
        }
        None
    }

    /// A status was written, or not: then it is tried again in a while, against what is stored.
    pub fn status_written(&mut self, key: &Key, done: bool, now: Time) {
        if done {
            self.statuses.failures.remove(key);
            return;
        }
        let failures = self.statuses.failures.entry(key.clone()).or_default();
        *failures += 1;
        let again = schedule::retry_at(now, *failures, None, 0);
        self.statuses.written.remove(key);
        self.statuses.due.insert(key.clone(), again);
    }

    /// The difference between the local clock and the API server's.
    pub fn set_skew(&mut self, skew: TimeDelta, now: Time) {
        let flips = (self.skew.abs() > status::MAX_SKEW) != (skew.abs() > status::MAX_SKEW);
        self.skew = skew;
        if flips {
            self.mark_all(now);
        }
    }

    /// Something that concerns every account of a policy.
    pub(super) fn notify_policy(&mut self, key: &Key, what: What) {
        let grant =
            GrantKey { namespace: key.namespace.clone(), policy: key.name.clone(), account: EVERY_ACCOUNT.into() };
        self.notify_about(&grant, None, what);
    }

    /// What we wrote last, or what the watch showed.
    fn stored(&self, key: &Key, state: &PolicyState) -> TokenPolicyStatus {
        let written = self.statuses.written.get(key).map(|(_, status)| status.clone());
        written.or_else(|| state.readable().map(|policy| policy.status.clone())).unwrap_or_default()
    }

    /// What keeps the operator from serving a policy as a whole.
    fn concern(&self, key: &Key, state: &PolicyState) -> Option<Concern> {
        let watch = self.unhealthy(&key.namespace);
        match (watch, state) {
            (Some(failure), _) if !self.is_complete(&key.namespace) => {
                Some(Concern { failure: failure.clone(), stalls: true })
            }
            (_, PolicyState::Unreadable { error, .. }) => {
                let what = format!("TokenPolicy {key} does not parse: {error}");
                Some(Concern { failure: Failure::new(Reason::PolicyUnreadable, &what), stalls: true })
            }
            // A watch that merely broke is begun anew by itself; a missing right stays until somebody grants it.
            (Some(failure), _) if failure.reason == Reason::Forbidden => {
                Some(Concern { failure: failure.clone(), stalls: false })
            }
            (_, PolicyState::Readable(policy)) => {
                let error = policy.revocation.as_ref()?.as_ref().err()?;
                let failure = Failure::new(Reason::RevocationTimeInvalid, &error.to_string());
                Some(Concern { failure, stalls: false })
            }
        }
    }

    /// Tells once when a concern begins or changes, and when it is over.
    fn tell_concern(&mut self, key: &Key, concern: Option<Concern>) {
        // What an unreachable server says differs from try to try; what is forbidden, or does not parse, does not.
        let matter = concern.as_ref().map(|Concern { failure, .. }| match failure.reason {
            Reason::ApiUnavailable => failure.reason.as_str().to_owned(),
            _ => failure.message.clone(),
        });
        if self.statuses.told.get(key) == matter.as_ref() {
            return;
        }
        self.notify_policy(key, concern.map_or(What::Recovered, |concern| What::Failing(concern.failure)));
        match matter {
            Some(matter) => drop(self.statuses.told.insert(key.clone(), matter)),
            None => drop(self.statuses.told.remove(key)),
        }
    }

    fn summary(
        &self,
        key: &Key,
        state: &PolicyState,
        concern: Option<&Concern>,
        stored: &TokenPolicyStatus,
        now: Time,
    ) -> TokenPolicyStatus {
        match (state, concern) {
            (PolicyState::Readable(policy), None | Some(Concern { stalls: false, .. })) => {
                let rows = self.grants_of(key).filter_map(|grant| self.row(grant, now)).collect();
                let concern = concern.map(|concern| &concern.failure);
                let key_in_use = self.signers.key_in_use();
                let context = Context { now, skew: self.skew, site: &self.site, concern, key_in_use };
                status::summarise(policy, rows, stored, context)
            }
            (_, Some(concern)) => status::stalled(&concern.failure, stored, state.generation(), now),
            (PolicyState::Unreadable { .. }, None) => stored.clone(),
        }
    }

    fn row(&self, key: &GrantKey, now: Time) -> Option<Row> {
        let facts = self.facts(key).filter(|_| self.selects(key))?;
        let Grant { standing, since, .. } = self.grants.get(key)?;
        let target = facts.target();
        let token = target.and_then(|target| target.token.as_ref());
        Some(Row {
            account: key.account.to_string(),
            valid: target.is_some_and(|target| facts.is_valid(target, now)),
            standing: standing.clone(),
            since: *since,
            token: token.map(|token| (token.issued_at, token.expires_at)),
            due: target.and_then(|target| facts.due(now, target)),
            irrevocable: target.is_some_and(|target| target.irrevocable(now).next().is_some()),
            old_signer: token.is_some_and(|token| self.signers.is_old(token)),
        })
    }

    /// The status of every policy that has one, for metrics.
    pub fn statuses(&self) -> impl Iterator<Item = (&Key, &TokenPolicyStatus)> {
        self.statuses.written.iter().map(|(key, (_, status))| (key, status))
    }

    /// Tokens that were issued and wait to be published.
    #[must_use]
    pub fn tokens_held(&self) -> usize {
        let held = |grant: &&Grant| grant.memory.attempt.as_ref().is_some_and(|attempt| attempt.token.is_some());
        self.grants.values().filter(held).count()
    }

    /// Anchors there are.
    #[must_use]
    pub fn anchor_count(&self) -> usize {
        self.anchors.iter().count()
    }
}
