//! All bootstrap tokens, when to look at each of them, and what is under way.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::TimeDelta;

use super::{
    Act, Cap, Cleaner, Expiration, NAMESPACE, Verdict, Why, decide,
    notice::{Notice, What},
    policy::PolicyState,
    signer::{self, Pass, Signer, Turn},
    status::{self, Context},
    token::Token,
    verdict,
};
use crate::{
    core::{
        Time,
        failure::{Failure, Reason},
        table::{Event, Key, Scope, Table},
    },
    crd::bootstrap_token_policy::BootstrapTokenPolicyStatus,
};

/// First pause after a failed call: as the in-tree controllers' rate limiter.
const FIRST_PAUSE: TimeDelta = TimeDelta::milliseconds(5);
/// Longest pause: what could not be deleted is gone 5 s after it can be.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(4);
/// Longest pause after a cap that failed: nothing is late by it.
const LONGEST_CAP_PAUSE: TimeDelta = TimeDelta::minutes(1);
/// Statuses are computed over all tokens, so at most once in this time.
const BETWEEN_STATUSES: TimeDelta = TimeDelta::seconds(1);

/// What the watch of the tokens is called.
pub const TOKENS: &str = "secrets (bootstrap tokens)";

/// What calls about single tokens are called.
const CALLS: &str = "calls";

/// The pause after so many failures in a row.
#[must_use]
pub fn back_off(failures: u32) -> TimeDelta {
    doubled(failures).min(LONGEST_PAUSE)
}

fn doubled(failures: u32) -> TimeDelta {
    FIRST_PAUSE * 2_i32.saturating_pow(failures.saturating_sub(1).min(16))
}

/// What a watch has told.
#[derive(Debug)]
pub enum Change {
    /// About a bootstrap token.
    Token(Event<Token>),
    /// About a policy.
    Policy(Event<PolicyState>),
    /// About the ConfigMap that is signed.
    ClusterInfo,
}

/// One call, or a pass of the signer.
#[derive(Clone, Debug)]
pub enum Job {
    /// Delete this Secret as it was seen, or give it an earlier end.
    Token {
        /// The Secret.
        key: Key,
        /// As it was seen.
        token: Token,
        /// Delete or cap.
        act: Act,
    },
    /// Sign the ConfigMap, or only look whether its signatures are right.
    Sign {
        /// Whether to write.
        write: bool,
    },
}

/// What came of a job.
#[derive(Debug)]
pub enum Outcome {
    /// It was deleted.
    Deleted(Why),
    /// It was gone.
    Gone,
    /// It had changed; this is what it is now, if it still is.
    Changed(Option<(u64, Token)>),
    /// It ends earlier now, and has this resourceVersion.
    Capped(Cap, Box<str>),
    /// The call failed.
    Failed(Failure),
}

impl Outcome {
    /// The metric's label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Deleted(_) => "deleted",
            Self::Gone => "gone",
            Self::Changed(_) => "conflict",
            Self::Capped(..) => "capped",
            Self::Failed(_) => "failed",
        }
    }
}

/// A status to be written.
#[derive(Debug)]
pub struct StatusWrite {
    /// The policy.
    pub policy: Key,
    /// Its UID.
    pub uid: Box<str>,
    /// The status.
    pub status: BootstrapTokenPolicyStatus,
}

/// How one token is being handled.
#[derive(Debug, Default)]
struct Work {
    due: Option<Time>,
    busy: bool,
    failures: u32,
    caps: bool,
    /// People were told that this object would be deleted.
    told: Option<Box<str>>,
}

/// All of it.
#[derive(Debug)]
pub struct Index {
    cleaner: Cleaner,
    scope: Scope,
    tokens: Table<Token>,
    policies: Table<PolicyState>,
    agenda: BTreeSet<(Time, Key)>,
    work: HashMap<Key, Work>,
    /// Tokens whose last call failed.
    failing: BTreeSet<Key>,
    signer: Option<Signer>,
    notices: Vec<Notice>,
    /// Watches that fail, and calls of the kinds that fail.
    failures: BTreeMap<&'static str, Failure>,
    written: HashMap<Key, BootstrapTokenPolicyStatus>,
    statuses_due: Option<Time>,
    latest: Time,
}

impl Index {
    /// An empty index.
    #[must_use]
    pub fn new(cleaner: Cleaner, signs: bool) -> Self {
        Self {
            cleaner,
            scope: Some(NAMESPACE.into()),
            tokens: Table::default(),
            policies: Table::default(),
            agenda: BTreeSet::new(),
            work: HashMap::new(),
            failing: BTreeSet::new(),
            signer: signs.then(Signer::default),
            notices: Vec::new(),
            failures: BTreeMap::new(),
            written: HashMap::new(),
            statuses_due: None,
            latest: Time::MIN_UTC,
        }
    }

    /// Whether the tokens have to be watched at all.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        self.cleaner != Cleaner::Off || self.signer.is_some() || self.policies.iter().next().is_some()
    }

    /// Takes a step of a watch in.
    pub fn apply(&mut self, change: Change, now: Time) {
        match change {
            Change::Token(event) => {
                let listed = matches!(event, Event::Listed);
                let changed = self.tokens.apply(&self.scope, event);
                self.tokens_changed(changed, listed, now);
            }
            Change::Policy(event) => {
                let listed = matches!(event, Event::Listed);
                let changed = self.policies.apply(&None, event);
                if listed || !changed.is_empty() {
                    self.policies_changed(now);
                }
            }
            Change::ClusterInfo => self.sign(now),
        }
    }

    fn tokens_changed(&mut self, changed: Vec<(Key, Option<Token>)>, listed: bool, now: Time) {
        if changed.is_empty() && !listed {
            return;
        }
        for (key, _) in changed {
            self.schedule(&key, now);
        }
        self.mark_statuses(now);
        self.sign(now);
    }

    /// Every token is judged again: a cap may have come, gone or changed.
    fn policies_changed(&mut self, now: Time) {
        let keys: Vec<Key> = self.tokens.iter().map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.schedule(&key, now);
        }
        self.written.retain(|key, _| self.policies.get(key).is_some());
        self.mark_statuses(now);
    }

    fn sign(&mut self, now: Time) {
        if let Some(signer) = &mut self.signer {
            signer.mark(now);
        }
    }

    /// A watch, or a kind of call, fails, or works again.
    pub fn health(&mut self, kind: &'static str, failure: Option<Failure>, now: Time) {
        let before = match failure {
            Some(failure) => self.failures.insert(kind, failure),
            None => self.failures.remove(kind),
        };
        if before.as_ref() != self.failures.get(kind) {
            self.mark_statuses(now);
        }
    }

    /// Lets a token be judged at `at`, or forgets it when it is gone. One that is being worked on is judged when that
    /// ends; one whose last call failed not before its pause is over.
    fn schedule(&mut self, key: &Key, at: Time) {
        let gone = self.tokens.get(key).is_none();
        let work = self.work.entry(key.clone()).or_default();
        if work.failures > 0 && !gone && work.due.is_some_and(|due| due <= at + LONGEST_PAUSE) {
            return;
        }
        if let Some(due) = work.due.take() {
            self.agenda.remove(&(due, key.clone()));
        }
        if gone && !work.busy {
            self.work.remove(key);
            self.recovered(key, at);
        } else if !gone && !work.busy {
            work.due = Some(at);
            self.agenda.insert((at, key.clone()));
        }
    }

    /// The next job, if one is due.
    pub fn take(&mut self, now: Time) -> Option<Job> {
        self.follow_clock(now);
        if let Some(write) = self.signer.as_mut().and_then(|signer| signer.take(now)) {
            return Some(Job::Sign { write });
        }
        while self.agenda.first().is_some_and(|(at, _)| *at <= now) {
            let (_, key) = self.agenda.pop_first()?;
            if let Some(job) = self.judge(key, now) {
                return Some(job);
            }
        }
        None
    }

    /// Pauses are short: when the clock goes back, none is waited for twice.
    fn follow_clock(&mut self, now: Time) {
        if now < self.latest {
            let failing: Vec<Key> =
                self.work.iter().filter(|(_, work)| work.failures > 0).map(|(key, _)| key.clone()).collect();
            for key in failing {
                self.postpone(&key, now);
            }
            self.sign(now);
            self.statuses_due = self.statuses_due.map(|due| due.min(now + BETWEEN_STATUSES));
        }
        self.latest = now;
    }

    fn judge(&mut self, key: Key, now: Time) -> Option<Job> {
        let token = self.tokens.get(&key)?;
        let policies = self.policies.iter().filter_map(|(key, state)| Some((&key.name, state.readable()?)));
        let act = decide(now, token, self.cleaner, policies);
        let token = token.clone();
        let work = self.work.entry(key.clone()).or_default();
        work.due = None;
        match act {
            Act::Delete(_) | Act::Cap(_) => {
                work.busy = true;
                work.caps = matches!(act, Act::Cap(_));
                return Some(Job::Token { key, token, act });
            }
            Act::Tell(why) => self.tell_once(&key, &token, why),
            Act::Keep => {
                work.failures = 0;
                self.recovered(&key, now);
            }
        }
        self.wait(&key, token.expiration, now);
        None
    }

    /// Looks again when the token ends; that also moves it to another state in the statuses.
    fn wait(&mut self, key: &Key, expiration: Expiration, now: Time) {
        match verdict(now, expiration) {
            Verdict::KeepUntil(at) => self.postpone(key, at),
            Verdict::Delete(_) => self.mark_statuses(now),
            Verdict::Keep => {}
        }
    }

    fn postpone(&mut self, key: &Key, at: Time) {
        let Some(work) = self.work.get_mut(key).filter(|work| !work.busy) else { return };
        if let Some(due) = work.due.replace(at) {
            self.agenda.remove(&(due, key.clone()));
        }
        self.agenda.insert((at, key.clone()));
    }

    fn tell_once(&mut self, key: &Key, token: &Token, why: Why) {
        let work = self.work.entry(key.clone()).or_default();
        if work.told.as_ref() != Some(&token.uid) {
            work.told = Some(token.uid.clone());
            self.notices.push(Notice { object: key.clone(), uid: token.uid.clone(), what: What::WouldDelete(why) });
        }
    }

    /// Takes in what came of a token's job.
    pub fn finish(&mut self, key: &Key, token: &Token, outcome: Outcome, now: Time) {
        let work = self.work.entry(key.clone()).or_default();
        work.busy = false;
        work.failures = if matches!(outcome, Outcome::Failed(_) | Outcome::Changed(_)) { work.failures + 1 } else { 0 };
        let longest = if work.caps { LONGEST_CAP_PAUSE } else { LONGEST_PAUSE };
        let again = now + doubled(work.failures).min(longest);
        match &outcome {
            Outcome::Failed(failure) => self.tell_failure(failure.clone(), key, token, now),
            _ => self.recovered(key, now),
        }
        self.learn(key, token, outcome);
        self.settle(key, again, now);
    }

    /// Our own call says how things are before the watch does.
    fn learn(&mut self, key: &Key, token: &Token, outcome: Outcome) {
        let notice = |what| Notice { object: key.clone(), uid: token.uid.clone(), what };
        match outcome {
            Outcome::Deleted(why) => {
                self.notices.push(notice(What::Deleted(why)));
                self.gone(key, token);
            }
            Outcome::Gone | Outcome::Changed(None) => self.gone(key, token),
            Outcome::Changed(Some((version, token))) => {
                self.tokens.answer(&self.scope, key.clone(), version, token);
            }
            Outcome::Capped(cap, resource_version) => {
                self.capped(key, token, cap.until, resource_version);
                self.notices.push(notice(What::Capped(cap)));
            }
            Outcome::Failed(_) => {}
        }
    }

    fn settle(&mut self, key: &Key, again: Time, now: Time) {
        let failing = self.work.get(key).is_some_and(|work| work.failures > 0);
        if self.tokens.get(key).is_none() {
            self.work.remove(key);
        } else {
            self.postpone(key, if failing { again } else { now });
        }
        self.mark_statuses(now);
        self.sign(now);
    }

    /// What was deleted is gone, unless another of that name has come since.
    fn gone(&mut self, key: &Key, token: &Token) {
        if self.tokens.get(key).is_some_and(|known| known.uid == token.uid) {
            self.tokens.remove(key.clone());
        }
    }

    fn capped(&mut self, key: &Key, token: &Token, until: Time, resource_version: Box<str>) {
        let version = resource_version.parse().unwrap_or_default();
        let token = Token { expiration: Expiration::At(until), resource_version, ..token.clone() };
        self.tokens.answer(&self.scope, key.clone(), version, token);
    }

    /// Ten thousand tokens that cannot be deleted for one reason are one piece of news.
    fn tell_failure(&mut self, failure: Failure, key: &Key, token: &Token, now: Time) {
        self.failing.insert(key.clone());
        if self.reason(CALLS) != Some(failure.reason) {
            let what = What::Failing(failure.clone());
            self.notices.push(Notice { object: key.clone(), uid: token.uid.clone(), what });
        }
        self.health(CALLS, Some(failure), now);
    }

    /// The failure is over when it is for the last of the tokens.
    fn recovered(&mut self, key: &Key, now: Time) {
        if self.failing.remove(key) && self.failing.is_empty() {
            self.health(CALLS, None, now);
        }
    }

    fn reason(&self, kind: &str) -> Option<Reason> {
        self.failures.get(kind).map(|failure| failure.reason)
    }

    /// Takes in how a pass of the signer ended.
    pub fn signed(&mut self, pass: Pass, now: Time) {
        const SIGNER: &str = "signer";
        let Some(signer) = &mut self.signer else { return };
        let turn = signer.finish(&pass, now).map(|turn| match turn {
            Turn::Began(managers) => What::Contested(managers),
            Turn::Ended => What::Uncontested,
        });
        let before = self.reason(SIGNER);
        let failing = match pass {
            Pass::Failed(failure) => Some(failure),
            _ => None,
        };
        let news = failing.clone().filter(|failure| before != Some(failure.reason)).map(What::Failing);
        let object = Key::new(signer::NAMESPACE, signer::NAME);
        self.notices.extend(turn.into_iter().chain(news).map(|what| Notice {
            object: object.clone(),
            uid: "".into(),
            what,
        }));
        match failing {
            Some(failure) => drop(self.failures.insert(SIGNER, failure)),
            None => drop(self.failures.remove(SIGNER)),
        }
    }

    /// When [`Index::take`] or [`Index::statuses`] has something to do if nothing changes.
    #[must_use]
    pub fn next_wake(&self) -> Option<Time> {
        let agenda = self.agenda.first().map(|(at, _)| *at);
        let signer = self.signer.as_ref().and_then(Signer::next_wake);
        agenda.into_iter().chain(signer).chain(self.statuses_due).min()
    }

    /// What happened since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// How many tokens are in which state, by the metric's label.
    #[must_use]
    pub fn states(&self, now: Time) -> [(&'static str, i64); 4] {
        let mut counts = [("valid", 0), ("never_expires", 0), ("expired", 0), ("unparsable", 0)];
        for (_, token) in self.tokens.iter() {
            let state = match verdict(now, token.expiration) {
                Verdict::KeepUntil(_) => 0,
                Verdict::Keep => 1,
                Verdict::Delete(Why::Expired(_)) => 2,
                Verdict::Delete(Why::Unparsable) => 3,
            };
            counts[state].1 += 1;
        }
        counts
    }

    /// Whether somebody else fights about the signatures.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.signer.as_ref().is_some_and(Signer::is_contested)
    }

    fn mark_statuses(&mut self, now: Time) {
        self.statuses_due.get_or_insert(now + BETWEEN_STATUSES);
    }

    /// The statuses that differ from what is stored, once a second at most.
    pub fn statuses(&mut self, now: Time) -> Vec<StatusWrite> {
        if self.statuses_due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.statuses_due = None;
        let known = self.tokens.listed(&self.scope) || self.failures.contains_key(TOKENS);
        if !known || !self.policies.listed(&None) {
            return Vec::new();
        }
        let writes: Vec<StatusWrite> =
            self.policies.iter().filter_map(|(key, state)| self.status(key, state, now)).collect();
        for write in &writes {
            self.written.insert(write.policy.clone(), write.status.clone());
        }
        writes
    }

    fn status(&self, key: &Key, state: &PolicyState, now: Time) -> Option<StatusWrite> {
        let (stored, status) = match state {
            PolicyState::Readable(policy) => {
                let stored = self.written.get(key).unwrap_or(&policy.status);
                (Some(stored), status::summarise(policy, stored, self.tokens.iter(), self.context(now)))
            }
            PolicyState::Unreadable { error, .. } => (self.written.get(key), status::unreadable(error, now)),
        };
        let write = StatusWrite { policy: key.clone(), uid: state.uid().into(), status };
        (stored != Some(&write.status)).then_some(write)
    }

    fn context(&self, now: Time) -> Context<'_> {
        let policies = self.policies.iter().filter_map(|(key, state)| Some((key, state.readable()?)));
        let enforced = policies.filter(|(_, policy)| policy.enforces);
        Context {
            now,
            policies: self.policies.iter().count(),
            strictest: enforced.filter_map(|(key, policy)| Some((policy.max_age?, &*key.name))).min(),
            failure: self.failures.values().next(),
        }
    }

    /// A status could not be written: it is computed again.
    pub fn status_failed(&mut self, policy: &Key, now: Time) {
        self.written.remove(policy);
        self.statuses_due = Some(now + LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::bootstrap::{policy::tests::policy, token::tests::token};

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn key(name: &str) -> Key {
        Key::new(NAMESPACE, name)
    }

    fn seen(index: &mut Index, version: u64, expiration: &str, now: Time) {
        let token = Token { resource_version: version.to_string().into(), ..token(expiration) };
        index.apply(Change::Token(Event::Applied(key("a"), version, token)), now);
    }

    fn deletion(job: Option<Job>) -> Option<Token> {
        match job {
            Some(Job::Token { token, act: Act::Delete(_), .. }) => Some(token),
            _ => None,
        }
    }

    const NINE: &str = "2027-01-15T09:00:00Z";

    #[test]
    fn a_token_is_deleted_at_its_end_and_not_before() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, NINE, at(0));
        assert!(index.take(at(3599)).is_none());
        assert_eq!(index.next_wake().max(Some(at(3600))), Some(at(3600)));
        let token = deletion(index.take(at(3600))).unwrap();
        assert!(index.take(at(3600)).is_none(), "one call at a time");
        index.finish(&key("a"), &token, Outcome::Deleted(Why::Expired(at(3600))), at(3600));
        assert!(matches!(index.notices()[..], [Notice { what: What::Deleted(_), .. }]));
        assert!(index.take(at(9999)).is_none());
    }

    #[test]
    fn an_edit_while_scheduled_counts() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, NINE, at(0));
        assert!(index.take(at(0)).is_none());
        seen(&mut index, 2, "2027-01-15T10:00:00Z", at(10));
        assert!(index.take(at(3601)).is_none());
        seen(&mut index, 3, "2027-01-15T08:30:00Z", at(3602));
        assert!(deletion(index.take(at(3602))).is_some());
    }

    #[test]
    fn failed_deletes_are_tried_again_for_ever() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, "x", at(0));
        let mut now = at(0);
        for n in 1..100 {
            let token = deletion(index.take(now)).unwrap_or_else(|| panic!("try {n}"));
            index.finish(&key("a"), &token, Outcome::Failed(Failure::new(Reason::ApiUnavailable, "no")), now);
            assert!(index.take(now).is_none());
            now += back_off(n);
        }
        assert_eq!(index.notices().len(), 1, "one reason is told once");
    }

    #[test]
    fn one_that_works_does_not_end_the_failure_of_another() {
        let mut index = Index::new(Cleaner::Enforce, false);
        let fail = |index: &mut Index, now| {
            let job = deletion(index.take(now)).unwrap();
            index.finish(&key("a"), &job, Outcome::Failed(Failure::new(Reason::Forbidden, "no")), now);
        };
        seen(&mut index, 1, "x", at(0));
        fail(&mut index, at(0));
        index.apply(Change::Token(Event::Applied(key("b"), 2, token("x"))), at(0));
        let other = deletion(index.take(at(0))).unwrap();
        index.finish(&key("b"), &other, Outcome::Deleted(Why::Unparsable), at(0));
        fail(&mut index, at(10));
        let told = index.notices().into_iter().filter(|notice| matches!(notice.what, What::Failing(_))).count();
        assert_eq!((told, index.failures.len()), (1, 1));
        index.apply(Change::Token(Event::Deleted(key("a"), 9)), at(11));
        assert_eq!(index.failures.len(), 0, "what is gone does not fail");
    }

    #[test]
    fn a_clock_that_goes_back_delays_no_retry() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, "x", at(0));
        let token = deletion(index.take(at(0))).unwrap();
        index.finish(&key("a"), &token, Outcome::Failed(Failure::new(Reason::ApiUnavailable, "no")), at(0));
        assert!(deletion(index.take(at(-86_400))).is_some());
    }

    #[test]
    fn a_conflict_is_looked_at_and_decided_again() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, "x", at(0));
        let stale = deletion(index.take(at(0))).unwrap();
        let extended = (2, Token { resource_version: "2".into(), ..token(NINE) });
        index.finish(&key("a"), &stale, Outcome::Changed(Some(extended)), at(0));
        assert!(index.take(at(100)).is_none());
        assert!(deletion(index.take(at(3600))).is_some());
    }

    #[test]
    fn a_new_object_of_the_same_name_is_not_taken_for_the_deleted_one() {
        let mut index = Index::new(Cleaner::Enforce, false);
        seen(&mut index, 1, "x", at(0));
        let old = deletion(index.take(at(0))).unwrap();
        let new = Token { uid: "new".into(), ..token("y") };
        index.apply(Change::Token(Event::Applied(key("a"), 2, new)), at(0));
        index.finish(&key("a"), &old, Outcome::Deleted(Why::Unparsable), at(0));
        assert_eq!(deletion(index.take(at(0))).map(|token| token.uid), Some("new".into()));
    }

    #[test]
    fn a_deletion_that_the_watch_missed_is_found_by_the_next_list() {
        let mut index = Index::new(Cleaner::Enforce, true);
        seen(&mut index, 1, NINE, at(0));
        assert!(matches!(index.take(at(0)), Some(Job::Sign { write: true })));
        index.signed(Pass::Conflict, at(0));
        index.apply(Change::Token(Event::Listing), at(100));
        index.apply(Change::Token(Event::Listed), at(100));
        assert!(matches!(index.take(at(100)), Some(Job::Sign { .. })), "signatures are checked");
        index.signed(Pass::Conflict, at(100));
        assert!(deletion(index.take(at(3600))).is_none());
    }

    #[test]
    fn report_tells_once_per_secret() {
        let mut index = Index::new(Cleaner::Report, false);
        for version in 1..5 {
            seen(&mut index, version, "x", at(0));
            assert!(index.take(at(0)).is_none());
        }
        assert!(matches!(index.notices()[..], [Notice { what: What::WouldDelete(Why::Unparsable), .. }]));
    }

    fn add_policy(index: &mut Index, name: &str, spec: &str) {
        index.apply(Change::Policy(Event::Listing), at(0));
        index.apply(
            Change::Policy(Event::Item(Key::new("", name), 1, PolicyState::Readable(Arc::new(policy(spec))))),
            at(0),
        );
        index.apply(Change::Policy(Event::Listed), at(0));
        index.apply(Change::Token(Event::Listing), at(0));
        index.apply(Change::Token(Event::Listed), at(0));
    }

    #[test]
    fn a_cap_is_written_once_and_the_token_ends_by_it() {
        let mut index = Index::new(Cleaner::Enforce, false);
        add_policy(&mut index, "p", r#"{"mode":"Enforce","maxAge":"1h"}"#);
        seen(&mut index, 1, "", at(0));
        let Some(Job::Token { token, act: Act::Cap(cap), .. }) = index.take(at(0)) else { panic!("no cap") };
        index.finish(&key("a"), &token, Outcome::Capped(cap, "2".into()), at(0));
        assert!(index.take(at(3599)).is_none());
        assert!(deletion(index.take(at(3600))).is_some());
    }

    #[test]
    fn statuses_are_written_when_they_differ() {
        let mut index = Index::new(Cleaner::Report, false);
        add_policy(&mut index, "p", "{}");
        seen(&mut index, 1, NINE, at(0));
        assert!(index.take(at(0)).is_none());
        assert_eq!(index.statuses(at(1)).len(), 1);
        seen(&mut index, 2, NINE, at(2));
        assert!(index.take(at(2)).is_none());
        assert!(index.statuses(at(4)).is_empty());
        assert!(index.take(at(3600)).is_none());
        let expired = index.statuses(at(3602));
        assert_eq!(expired[0].status.tokens.as_ref().map(|counts| counts.expired), Some(1));
    }

    #[test]
    fn without_cleaner_policy_and_signer_no_token_is_watched() {
        let mut index = Index::new(Cleaner::Off, false);
        assert!(!index.needs_tokens());
        add_policy(&mut index, "p", "{}");
        assert!(index.needs_tokens());
    }
}
