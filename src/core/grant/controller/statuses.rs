//! Statuses: which are due to be written, and what they say.

use ecow::eco_format;

use super::{Grants, Work};
use crate::{
    api::token_policy::TokenPolicyStatus,
    core::{
        Time,
        failure::Failure,
        grant::{
            event::{EVERY_ACCOUNT, GrantEvent, GrantNews},
            status::{self, Context, NamedAccount, Unrevoked},
        },
        id::{GrantKey, Key, Uid},
        kernel::controller::Outcome,
        meta::text,
        names,
        policy::PolicyState,
        reason::FailureReason,
        request::{self, Answer, Request},
    },
};

/// Statuses that are judged before a write goes out, or the loop looks up: most of many are as they were.
const MAX_JUDGED: usize = 256;

impl Grants {
    /// The status of this policy may have changed.
    pub(super) fn mark(&mut self, policy: u32, now: Time) {
        if self.policies.get(policy).is_some()
            && let Some(link) = self.policies.link(policy)
        {
            self.outbox.mark(policy, link.namespace, link.totals.working > 0, now);
        }
    }

    pub(super) fn mark_all(&mut self, now: Time) {
        let policies: Vec<u32> = self.policies.iter().map(|(id, ..)| id).collect();
        for id in policies {
            self.mark(id, now);
        }
    }

    /// The write of the next status that differs from the stored one, while fewer than `most` are under way.
    pub(super) fn next_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        self.note_late(now);
        for _ in 0..MAX_JUDGED {
            let id = self.outbox.take(most, now)?;
            if let Some(request) = self.status_request(id, now) {
                let uid = self.policies.get(id).map(PolicyState::uid).unwrap_or_default();
                return Some((self.calls.insert(Work::Status(id, uid)), request));
            }
            self.outbox.unchanged(id);
        }
        None
    }

    fn status_request(&mut self, id: u32, now: Time) -> Option<Request> {
        let (state, link) = (self.policies.get(id)?, self.policies.link(id)?);
        let namespace = self.namespaces.get(link.namespace)?;
        let opened = self.is_open(namespace.scope);
        let (concern, undone) = (self.concern(id, state), self.undone(id, state, now));
        let decided = opened && link.totals.undecided == 0;
        let known = decided || concern.is_some() && !(opened && state.readable().is_none());
        if !known && undone.is_none() {
            // Half a view says nothing; the policy is marked again when the lists are complete and each grant is decided.
            return None;
        }
        let stored = self.stored(id).unwrap_or_default();
        // The status of the schema says as much.
        if undone.is_none() && concern.is_none() && status::is_pending(&stored) && link.totals.have_just_begun() {
            self.policies.link_mut(id).into_iter().for_each(|link| link.judged = true);
            return None;
        }
        let status = self.summary(id, state, concern.as_ref(), undone.as_ref(), &stored, now);
        let key = Key::new(namespace.name.clone(), link.name.clone());
        let request = (status != stored)
            .then(|| request::apply_status("TokenPolicy", "tokenpolicies", &key, state.uid(), &status));
        self.report_once(id, 0, concern.map(GrantNews::Failing), GrantNews::Recovered);
        self.report_once(id, 1, undone.map(GrantNews::RevocationFailing), GrantNews::RevocationDone);
        if let Some(link) = self.policies.link_mut(id) {
            link.judged = true;
            link.written = request.as_ref().map(|_| Box::new(status)).or_else(|| link.written.take());
        }
        request
    }

    /// A status was written, or not: then it is tried again in a while, against the stored one. An object that is gone
    /// needs none, and what was written for it says nothing of another one in its row.
    pub(super) fn status_answered(&mut self, id: u32, uid: Uid, answer: Answer, now: Time) -> Outcome {
        if self.policies.get(id).map(PolicyState::uid) != Some(uid) {
            return Outcome::default();
        }
        // What was written counts until the watch shows it.
        if let Some(link) = self.policies.link_mut(id).filter(|_| answer.is_err()) {
            link.written = None;
        }
        self.outbox.answered(id, answer, now)
    }

    /// The status that is being written, or that the watch showed.
    fn stored(&self, id: u32) -> Option<TokenPolicyStatus> {
        let written = self.policies.link(id)?.written.as_deref();
        written.or_else(|| Some(&self.policies.get(id)?.head().status)).cloned()
    }

    /// The failure that keeps the operator from serving a policy as a whole.
    fn concern(&self, id: u32, state: &PolicyState) -> Option<Failure> {
        let link = self.policies.link(id)?;
        let scope = self.scopes.get(usize::from(self.namespaces.get(link.namespace)?.scope))?;
        let watch = scope.unhealthy.values().next();
        match (watch, state) {
            (Some(failure), _) if !scope.opened => Some(failure.clone()),
            (_, PolicyState::Unreadable(_, error)) => {
                let what = format!("TokenPolicy {} does not parse: {error}", self.policy_key(id));
                Some(Failure::new(FailureReason::PolicyUnreadable, &what))
            }
            // A watch that merely broke is begun anew by itself; a missing right stays until somebody grants it.
            (Some(failure), _) if failure.reason == FailureReason::Forbidden => Some(failure.clone()),
            _ => None,
        }
    }

    /// Why a revocation that somebody asked for on the policy is not carried out for any of its accounts.
    fn undone(&self, id: u32, state: &PolicyState, now: Time) -> Option<Failure> {
        let number = self.namespaces.get(self.policies.link(id)?.namespace)?.scope;
        let asked = match state.head().revocation.as_ref()? {
            Err(error) => {
                let what = format!("TokenPolicy {}: {error}", self.policy_key(id));
                return Some(Failure::new(FailureReason::RevocationTimeInvalid, &what));
            }
            Ok(asked) => asked,
        };
        let scope = self.scopes.get(usize::from(number)).filter(|_| !self.knows_secrets(number))?;
        let late = || self.late.then(|| Failure::unanswered("list Secrets", "the list is not complete yet"));
        let mut failure = scope.unhealthy.values().next().cloned().or_else(late).filter(|_| asked.before <= now)?;
        failure.message = eco_format!(
            "{}; whether tokens issued before {} live is not known, and none is revoked meanwhile; by hand: kubectl -n {} get secrets -l {}={} --sort-by=.metadata.creationTimestamp lists the anchors by age, and deleting one revokes its token",
            failure.message,
            text(asked.before),
            self.policy_key(id).namespace,
            names::POLICY_UID,
            state.uid()
        );
        Some(failure)
    }

    pub(super) fn policy_key(&self, id: u32) -> Key {
        let link = self.policies.link(id);
        let namespace = link.and_then(|link| self.namespaces.get(link.namespace));
        Key {
            namespace: namespace.map(|namespace| namespace.name.clone()).unwrap_or_default(),
            name: link.map(|link| link.name.clone()).unwrap_or_default(),
        }
    }

    /// Reports once when something is wrong with a policy as a whole, when it changes, and when it is over.
    fn report_once(&mut self, id: u32, kind: usize, news: Option<GrantNews>, over: GrantNews) {
        // The words of an unreachable server differ from try to try; what is forbidden, or does not parse, does not.
        let matter = news.as_ref().and_then(GrantNews::failure).map(|failure| match failure.reason {
            FailureReason::ApiUnavailable => failure.reason.into_str().to_owned(),
            _ => failure.message.to_string(),
        });
        let Some(link) = self.policies.link_mut(id).filter(|link| link.reported[kind] != matter) else { return };
        link.reported[kind] = matter;
        self.report_policy(id, news.unwrap_or(over));
    }

    /// Reports something that concerns every account of a policy.
    pub(super) fn report_policy(&mut self, id: u32, what: GrantNews) {
        let Key { namespace, name } = self.policy_key(id);
        let state = self.policies.get(id);
        let (policy_uid, generation) = state.map(|state| (state.uid(), state.head().generation)).unwrap_or_default();
        let grant = GrantKey { namespace, policy: name, account: EVERY_ACCOUNT.into() };
        self.events.push(GrantEvent { grant, policy_uid, generation, target: None, what });
    }

    fn summary(
        &self,
        id: u32,
        state: &PolicyState,
        concern: Option<&Failure>,
        undone: Option<&Failure>,
        stored: &TokenPolicyStatus,
        now: Time,
    ) -> TokenPolicyStatus {
        let Some(link) = self.policies.link(id) else { return stored.clone() };
        let totals = &link.totals;
        let mut failing: Vec<u32> = totals.failing().collect();
        // Numbers of grants differ from process to process.
        failing.sort_by_cached_key(|id| {
            self.grants.get(*id).map(|grant| (grant.counted.expires, self.key(grant).account))
        });
        let every = |failure: &Failure| Unrevoked { account: None, failure: failure.clone(), asked: true };
        let context = Context {
            now,
            skew: self.skew,
            address: &self.address,
            audience_refused: self.audience_refused.as_deref(),
            keys: &self.keys,
            concern,
            failing: failing.into_iter().filter_map(|grant| self.named(grant, now)).collect(),
            invalid: totals.first_invalid().and_then(|grant| self.named(grant, now)),
            unrevoked: undone.map(every).or_else(|| totals.first_unrevoked().and_then(|grant| self.unrevoked(grant))),
            outside: totals
                .first_outside()
                .and_then(|(due, grant)| Some((self.named(grant, now)?.account, due.time()))),
        };
        let opened = self.namespaces.get(link.namespace).is_some_and(|place| self.is_open(place.scope));
        match (state, concern.or(undone)) {
            (_, Some(failure)) if !opened => status::stalled(state.head(), failure, stored, &context),
            (PolicyState::Readable(policy), _) => status::summarise(policy, totals, stored, &context),
            (PolicyState::Unreadable(head, _), Some(failure)) => {
                status::frozen(head, failure, totals, stored, &context)
            }
            (PolicyState::Unreadable(..), None) => stored.clone(),
        }
    }

    fn named(&self, id: u32, now: Time) -> Option<NamedAccount> {
        let grant = self.grants.get(id)?;
        let rare = grant.rare.as_ref();
        let failure = rare.and_then(|rare| rare.failure.clone());
        let since = rare.and_then(|rare| rare.reported).map_or(now, |(_, since)| since.time());
        Some(NamedAccount { account: self.key(grant).account.to_string(), failure, since })
    }

    fn unrevoked(&self, id: u32) -> Option<Unrevoked> {
        let grant = self.grants.get(id)?;
        let (account, rare) = (Some(self.key(grant).account.to_string()), grant.rare.as_ref()?);
        match (&rare.unrevoked, &rare.failure) {
            (Some(failing), _) => Some(Unrevoked { account, failure: failing.failure.clone(), asked: failing.asked }),
            (None, failure) => Some(Unrevoked { account, failure: failure.clone()?, asked: true }),
        }
    }

    /// The status of every policy that this process has judged and that is not being deleted, for metrics.
    pub fn statuses(&self) -> impl Iterator<Item = (Key, &TokenPolicyStatus)> {
        let lives = |state: Option<&PolicyState>| state.is_none_or(|state| !state.head().terminating);
        let judged = self.policies.iter().filter(move |(_, state, link)| link.judged && lives(*state));
        judged.filter_map(|(id, state, link)| {
            Some((self.policy_key(id), link.written.as_deref().or_else(|| Some(&state?.head().status))?))
        })
    }
}
