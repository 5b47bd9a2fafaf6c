//! All bootstrap tokens and their policies: which call comes next, and what its answer means.

mod sign;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Cap, Cleaner, Expiration, Expiry, NAMESPACE, SECRET_TYPE, TokenAct, Verdict,
    cluster_info::ClusterInfoSigner,
    decide,
    event::{BootstrapEvent, BootstrapNews},
    policy::BootstrapPolicyState,
    status::{self, BootstrapContext},
    token::{BootstrapSecret, BootstrapToken},
    verdict,
};
use crate::{
    api::bootstrap_token_policy::BootstrapTokenPolicyStatus,
    core::{
        Time,
        failure::Failure,
        id::{Key, Name, Uid},
        kernel::{
            controller::{Controller, Outcome},
            outbox::Outbox,
            queue::{Lane, Queue},
            slab::Slab,
            store::{Changed, Store, WatchEvent},
        },
        meta,
        reason::FailureReason,
        request::{self, Answer, Request, Verb, secret_path},
        schedule::quick_retry,
    },
};
use sign::Signing;

/// Longest pause after a failed delete: what could not be deleted is gone 4 s after it can be.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(4);
/// Longest pause after a cap that failed: nothing is late by it.
const LONGEST_CAP_PAUSE: TimeDelta = TimeDelta::minutes(1);
/// All work is in one namespace and of one kind.
const LANE: Lane = Lane { namespace: 0, kind: 0 };

/// Name of the watch of the tokens.
pub const TOKENS: &str = "secrets (bootstrap tokens)";
/// Name of calls about single tokens.
const CALLS: &str = "calls";

/// A step of a watch.
#[derive(Debug)]
pub enum BootstrapChange {
    /// Of a bootstrap token.
    Token(WatchEvent<BootstrapToken>),
    /// Of a policy.
    Policy(WatchEvent<BootstrapPolicyState>),
    /// Of the ConfigMap that is signed.
    ClusterInfo,
}

/// How one token is being handled.
#[derive(Debug)]
struct TokenLink {
    name: Name,
    busy: bool,
    failures: u32,
    /// When it is judged again.
    due: Option<Time>,
    /// The object of which it was reported that it would be deleted.
    reported: Option<Uid>,
}

/// The link beside a policy.
#[derive(Debug)]
struct BootstrapPolicyLink {
    name: Name,
    written: Option<BootstrapTokenPolicyStatus>,
}

/// A call under way.
#[derive(Debug)]
enum BootstrapCall {
    Token(Box<TokenCall>),
    Sign(Signing),
    /// Of the policy in this row, which has this UID.
    Status(u32, Uid),
}

#[derive(Debug)]
struct TokenCall {
    id: u32,
    token: BootstrapToken,
    step: TokenStep,
    what: String,
}

#[derive(Debug)]
enum TokenStep {
    Delete(Expiry),
    Cap(Cap),
    /// It had changed: how is it now?
    Look,
}

/// How a call about a token ended.
#[derive(Clone, Copy)]
struct CallEnd {
    /// It was a cap.
    caps: bool,
    /// It looked at a token that had changed.
    conflicts: bool,
}

/// A count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A delete ended so.
    Deletion(&'static str),
    /// A pass of the signer ended so.
    Signing(&'static str),
}

/// Everything known.
#[derive(Debug)]
pub struct Bootstrap {
    cleaner: Cleaner,
    tokens: Store<BootstrapToken, TokenLink>,
    policies: Store<BootstrapPolicyState, BootstrapPolicyLink>,
    queue: Queue<u32, Time>,
    outbox: Outbox<u32>,
    calls: Slab<BootstrapCall>,
    pending: VecDeque<(u32, Request)>,
    /// Tokens whose last call failed.
    failing: BTreeSet<u32>,
    signer: Option<ClusterInfoSigner>,
    events: Vec<BootstrapEvent>,
    counts: Vec<Count>,
    /// Watches that fail, and calls of the kinds that fail.
    failures: BTreeMap<&'static str, Failure>,
    latest: Time,
}

impl Bootstrap {
    /// Nothing known. `seed` is random.
    #[must_use]
    pub fn new(cleaner: Cleaner, signs: bool, seed: u64) -> Self {
        Self {
            cleaner,
            tokens: Store::new(1, seed),
            policies: Store::new(1, seed),
            queue: Queue::default(),
            outbox: Outbox::default(),
            calls: Slab::default(),
            pending: VecDeque::new(),
            failing: BTreeSet::new(),
            signer: signs.then(ClusterInfoSigner::default),
            events: Vec::new(),
            counts: Vec::new(),
            failures: BTreeMap::new(),
            latest: Time::MIN_UTC,
        }
    }

    /// Whether the tokens have to be watched at all.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        self.cleaner != Cleaner::Off || self.signer.is_some() || self.policies.len() > 0
    }

    /// Counts since the last call.
    pub fn counts(&mut self) -> Vec<Count> {
        std::mem::take(&mut self.counts)
    }

    /// Whether somebody else fights about the signatures.
    #[must_use]
    pub fn is_contested(&self) -> bool {
        self.signer.as_ref().is_some_and(ClusterInfoSigner::is_contested)
    }

    /// How many tokens are in which state, by the metric's label.
    #[must_use]
    pub fn states(&self, now: Time) -> [(&'static str, i64); 4] {
        let mut counts = [("valid", 0), ("never_expires", 0), ("expired", 0), ("unparsable", 0)];
        for (_, token) in self.known() {
            let state = match verdict(now, token.expiration) {
                Verdict::KeepUntil(_) => 0,
                Verdict::Keep => 1,
                Verdict::Delete(Expiry::Expired(_)) => 2,
                Verdict::Delete(Expiry::Unparsable) => 3,
            };
            counts[state].1 += 1;
        }
        counts
    }

    /// Tokens that wait to be judged.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.queue.ready_count()
    }

    /// All tokens by name.
    fn known(&self) -> impl Iterator<Item = (Key, &BootstrapToken)> {
        let mut known: Vec<_> = self.tokens.iter().filter_map(|(_, token, link)| Some((&link.name, token?))).collect();
        known.sort_unstable_by_key(|(name, _)| *name);
        known.into_iter().map(|(name, token)| (Key::new(NAMESPACE, name.clone()), token))
    }

    fn token_step(&mut self, event: WatchEvent<BootstrapToken>, now: Time) {
        let listed = matches!(event, WatchEvent::Listed);
        let changed = self.tokens.apply(0, event, |key| TokenLink::new(&key.name));
        if changed.is_empty() && !listed {
            return;
        }
        for Changed { id, .. } in changed {
            self.schedule(id, now);
        }
        self.mark_statuses(now);
        self.sign_soon(now);
    }

    /// Every token is judged again: a cap may have come, gone or changed.
    fn policy_step(&mut self, event: WatchEvent<BootstrapPolicyState>, now: Time) {
        let listed = matches!(event, WatchEvent::Listed);
        let link = |key: &Key| BootstrapPolicyLink { name: key.name.clone(), written: None };
        let changed = self.policies.apply(0, event, link);
        if !listed && changed.iter().all(|changed| self.asks_as_before(changed)) {
            // Ours or somebody else's: the next look at it tells.
            for Changed { id, before } in changed {
                let after = self.policies.get(id).map(BootstrapPolicyState::status);
                if before.as_ref().map(BootstrapPolicyState::status) != after {
                    self.outbox.mark(id, 0, true, now);
                }
            }
            return;
        }
        for Changed { id, before } in changed {
            let uid = self.policies.get(id).map(|state| state.uid().to_owned());
            if before.is_some_and(|before| uid.as_deref() != Some(before.uid()))
                && let Some(link) = self.policies.link_mut(id)
            {
                link.written = None;
            }
            if uid.is_none() {
                self.outbox.forget(id);
                self.policies.release(id);
            }
        }
        let tokens: Vec<u32> = self.tokens.iter().map(|(id, ..)| id).collect();
        for id in tokens {
            self.schedule(id, now);
        }
        self.mark_statuses(now);
    }

    /// A policy that only got another status concerns nobody.
    fn asks_as_before(&self, changed: &Changed<BootstrapPolicyState>) -> bool {
        let after = self.policies.get(changed.id);
        changed.before.as_ref().zip(after).is_some_and(|(before, after)| before.asks_as(after))
    }

    fn sign_soon(&mut self, now: Time) {
        if let Some(signer) = &mut self.signer {
            signer.mark(now);
        }
    }

    /// A watch, or a kind of call, fails, or works again; the failure before.
    fn note_failure(&mut self, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        let before = match failure {
            Some(failure) => self.failures.insert(kind, failure),
            None => self.failures.remove(kind),
        };
        if before.as_ref() != self.failures.get(kind) {
            self.mark_statuses(now);
        }
        before
    }

    /// Lets a token be judged at `at`, or forgets it when it is gone. One that is being worked on is judged when that
    /// ends; one whose last call failed not before its pause is over.
    fn schedule(&mut self, id: u32, at: Time) {
        let gone = self.tokens.get(id).is_none();
        let Some(link) = self.tokens.link_mut(id).filter(|link| !link.busy) else { return };
        if gone {
            self.queue.remove(id);
            self.tokens.release(id);
            self.recovered(id, at);
        } else if link.failures == 0 || link.due.is_none_or(|due| due > at + LONGEST_PAUSE) {
            self.judge_at(id, at);
        }
    }

    fn judge_at(&mut self, id: u32, at: Time) {
        if let Some(link) = self.tokens.link_mut(id).filter(|link| !link.busy) {
            link.due = Some(at);
            self.queue.sleep(id, at);
        }
    }

    /// Pauses are short: when the clock goes back, none is waited for twice.
    fn follow_clock(&mut self, now: Time) {
        if now < self.latest {
            let failing = self.tokens.iter().filter(|(.., link)| link.failures > 0).map(|(id, ..)| id);
            for id in failing.collect::<Vec<u32>>() {
                self.judge_at(id, now);
            }
            self.sign_soon(now);
        }
        self.latest = now;
    }

    /// Decides about one token, and begins the call that it needs.
    fn judge(&mut self, id: u32, now: Time) {
        let Some(token) = self.tokens.get(id) else { return };
        let policies = self.policies.iter().filter_map(|(_, state, link)| Some((&link.name, state?.readable()?)));
        let act = decide(now, token, self.cleaner, policies);
        let token = token.clone();
        let expiration = token.expiration;
        if let Some(link) = self.tokens.link_mut(id) {
            link.due = None;
        }
        match act {
            TokenAct::Delete(why) => return self.call(id, token, TokenStep::Delete(why)),
            TokenAct::Cap(cap) => return self.call(id, token, TokenStep::Cap(cap)),
            TokenAct::Tell(why) => self.report_once(id, &token, why),
            TokenAct::Keep => {
                self.tokens.link_mut(id).into_iter().for_each(|link| link.failures = 0);
                self.recovered(id, now);
            }
        }
        // It is looked at again when the token ends; that also moves it to another state in the statuses.
        match verdict(now, expiration) {
            Verdict::KeepUntil(at) => self.judge_at(id, at),
            Verdict::Delete(_) => self.mark_statuses(now),
            Verdict::Keep => {}
        }
    }

    fn report_once(&mut self, id: u32, token: &BootstrapToken, why: Expiry) {
        let uid = Uid::read(&token.uid);
        let Some(link) = self.tokens.link_mut(id).filter(|link| link.reported != Some(uid)) else { return };
        link.reported = Some(uid);
        let object = Key::new(NAMESPACE, link.name.clone());
        self.events.push(BootstrapEvent { object, uid: token.uid.clone(), what: BootstrapNews::WouldDelete(why) });
    }

    fn call(&mut self, id: u32, token: BootstrapToken, step: TokenStep) {
        let Some(link) = self.tokens.link_mut(id) else { return };
        link.busy = true;
        let request = token_request(&link.name, &token, &step);
        let what = request.what.clone();
        let ticket = self.calls.insert(BootstrapCall::Token(Box::new(TokenCall { id, token, step, what })));
        self.pending.push_back((ticket, request));
    }

    fn token_answered(&mut self, call: TokenCall, answer: Answer, now: Time) -> Outcome {
        let TokenCall { id, token, step, what } = call;
        if let Some(link) = self.tokens.link_mut(id) {
            link.busy = false;
        }
        let counted = matches!(step, TokenStep::Delete(_));
        let caps = matches!(step, TokenStep::Cap(_));
        let (word, failure) = match answer {
            Ok(body) => match self.token_done(id, &token, step, &what, &body) {
                Ok(word) => (word, None),
                Err(failure) => ("failed", Some(failure)),
            },
            Err(refusal) if refusal.code == Some(404) => {
                self.gone(id, &token);
                ("gone", None)
            }
            // Somebody changed it a moment ago: it is read again before it is judged again.
            Err(refusal) if refusal.code == Some(409) && !matches!(step, TokenStep::Look) => {
                self.bump(id);
                self.counts.extend(counted.then_some(Count::Deletion("conflict")));
                self.call(id, token, TokenStep::Look);
                return Outcome::default();
            }
            Err(refusal) => ("failed", Some(refusal.failure)),
        };
        self.counts.extend(counted.then_some(Count::Deletion(word)));
        self.settle(id, &token, failure.clone(), CallEnd { caps, conflicts: word == "conflict" }, now);
        Outcome { failure, ..Outcome::default() }
    }

    /// Our own call says how things are before the watch does.
    fn token_done(
        &mut self,
        id: u32,
        token: &BootstrapToken,
        step: TokenStep,
        what: &str,
        body: &secrecy::SecretString,
    ) -> Result<&'static str, Failure> {
        match step {
            TokenStep::Delete(why) => {
                self.report(id, token, BootstrapNews::Deleted(why));
                self.gone(id, token);
                Ok("deleted")
            }
            TokenStep::Cap(cap) => {
                let resource_version: Box<str> =
                    request::metadata(what, body)?.resource_version.unwrap_or_default().into();
                let version = resource_version.parse().unwrap_or_default();
                let capped =
                    BootstrapToken { expiration: Expiration::At(cap.until), resource_version, ..token.clone() };
                self.learn(id, version, capped);
                self.report(id, token, BootstrapNews::Capped(cap));
                Ok("capped")
            }
            TokenStep::Look => {
                let found: SecretList<BootstrapSecret> = request::parse(what, body)?;
                match found.items.into_iter().next() {
                    Some(secret) => {
                        self.learn(id, meta::version(&secret.metadata), BootstrapToken::read(secret));
                    }
                    None => self.gone(id, token),
                }
                Ok("conflict")
            }
        }
    }

    fn learn(&mut self, id: u32, version: u64, token: BootstrapToken) {
        let Some(name) = self.tokens.link(id).map(|link| link.name.clone()) else { return };
        let key = Key::new(NAMESPACE, name);
        self.tokens.apply(0, WatchEvent::Applied(key, version, token), |key| TokenLink::new(&key.name));
    }

    /// A deleted token is gone, unless another of that name has come since.
    fn gone(&mut self, id: u32, token: &BootstrapToken) {
        let Some(name) = self.tokens.link(id).map(|link| link.name.clone()) else { return };
        let version = self.tokens.version(id);
        if self.tokens.get(id).is_some_and(|known| known.uid == token.uid) {
            let event = WatchEvent::Deleted(Key::new(NAMESPACE, name), version);
            self.tokens.apply(0, event, |key| TokenLink::new(&key.name));
        }
    }

    fn bump(&mut self, id: u32) {
        self.tokens.link_mut(id).into_iter().for_each(|link| link.failures += 1);
    }

    /// A call about a token has ended: it is judged again, after a pause if that failed.
    fn settle(&mut self, id: u32, token: &BootstrapToken, failure: Option<Failure>, end: CallEnd, now: Time) {
        let CallEnd { caps, conflicts } = end;
        let mut again = now;
        if let Some(failure) = failure {
            self.bump(id);
            let asked = failure.not_before(now);
            self.report_failure(failure, id, token, now);
            let longest = if caps { LONGEST_CAP_PAUSE } else { LONGEST_PAUSE };
            again = asked.max(now + quick_retry(self.tokens.link(id).map_or(1, |link| link.failures), longest));
        } else if conflicts {
            // The first is settled by the look. Later ones wait: the look may show less than the watch has shown.
            let again_and_again =
                self.tokens.link(id).map_or(0, |link| link.failures).checked_sub(1).filter(|n| *n > 0);
            again = again_and_again.map_or(now, |n| now + quick_retry(n, LONGEST_PAUSE));
        } else {
            self.tokens.link_mut(id).into_iter().for_each(|link| link.failures = 0);
            self.recovered(id, now);
        }
        if self.tokens.get(id).is_none() {
            self.queue.remove(id);
            self.tokens.release(id);
            self.recovered(id, now);
        } else {
            self.judge_at(id, again);
        }
        self.mark_statuses(now);
        self.sign_soon(now);
    }

    fn report(&mut self, id: u32, token: &BootstrapToken, what: BootstrapNews) {
        let name = self.tokens.link(id).map(|link| link.name.clone()).unwrap_or_default();
        self.events.push(BootstrapEvent { object: Key::new(NAMESPACE, name), uid: token.uid.clone(), what });
    }

    /// Ten thousand tokens that cannot be deleted for one reason are one piece of news.
    fn report_failure(&mut self, failure: Failure, id: u32, token: &BootstrapToken, now: Time) {
        self.failing.insert(id);
        if self.reason(CALLS) != Some(failure.reason) {
            self.report(id, token, BootstrapNews::Failing(failure.clone()));
        }
        self.note_failure(CALLS, Some(failure), now);
    }

    /// The failure is over when it is for the last of the tokens.
    fn recovered(&mut self, id: u32, now: Time) {
        if self.failing.remove(&id) && self.failing.is_empty() {
            self.note_failure(CALLS, None, now);
        }
    }

    fn reason(&self, kind: &str) -> Option<FailureReason> {
        self.failures.get(kind).map(|failure| failure.reason)
    }

    /// A status is made of all tokens, so each is computed once a second at most.
    fn mark_statuses(&mut self, now: Time) {
        let policies: Vec<u32> = self.policies.iter().map(|(id, ..)| id).collect();
        for id in policies {
            self.outbox.mark(id, 0, true, now);
        }
    }

    fn status(&self, id: u32, now: Time) -> Option<BootstrapTokenPolicyStatus> {
        let known = self.tokens.listed(0) || self.failures.contains_key(TOKENS);
        if !known || !self.policies.listed(0) {
            return None;
        }
        let (state, link) = (self.policies.get(id)?, self.policies.link(id)?);
        // The status that is being written, or that the watch showed.
        let stored = link.written.as_ref().unwrap_or_else(|| state.status());
        let status = match state {
            BootstrapPolicyState::Readable(policy) => {
                status::summarise(policy, stored, self.known(), self.context(now))
            }
            BootstrapPolicyState::Unreadable { error, .. } => status::unreadable(&link.name, error, stored, now),
        };
        (*stored != status).then_some(status)
    }

    fn context(&self, now: Time) -> BootstrapContext<'_> {
        let policies = self.policies.iter().filter_map(|(_, state, link)| Some((link, state?.readable()?)));
        let enforced = policies.filter(|(_, policy)| policy.enforces);
        BootstrapContext {
            now,
            policies: self.policies.len(),
            strictest: enforced.filter_map(|(link, policy)| Some((policy.max_age?, &*link.name))).min(),
            failure: self.failures.values().next(),
        }
    }

    /// An object that is gone needs no status, and one that was re-created in its row has another.
    fn status_answered(&mut self, id: u32, uid: Uid, answer: Answer, now: Time) -> Outcome {
        if self.policies.get(id).map(|state| Uid::read(state.uid())) != Some(uid) {
            return Outcome::default();
        }
        let failure = answer.err().filter(|refusal| !matches!(refusal.code, Some(404 | 409)));
        let failure = failure.map(|refusal| refusal.failure);
        if let Some(link) = self.policies.link_mut(id) {
            link.written = None;
        }
        self.outbox.written(id, failure.as_ref(), now);
        Outcome { failure, silent: true, ..Outcome::default() }
    }
}

impl TokenLink {
    fn new(name: &Name) -> Self {
        Self { name: name.clone(), busy: false, failures: 0, due: None, reported: None }
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct SecretList<T> {
    metadata: ListMeta,
    items: Vec<T>,
}

#[derive(Deserialize)]
struct ListMeta {
    #[serde(default, rename = "continue")]
    more: String,
}

fn page<T: DeserializeOwned>(what: &str, body: &secrecy::SecretString) -> Result<(Vec<T>, String), Failure> {
    let SecretList { metadata, items } = request::parse(what, body)?;
    Ok((items, metadata.more))
}

/// The UID saves another Secret of this name, the resourceVersion one that was extended a moment ago.
fn token_request(name: &str, token: &BootstrapToken, step: &TokenStep) -> Request {
    let (version, uid) = (token.resource_version.parse().ok(), Uid::read(&token.uid));
    match step {
        TokenStep::Delete(_) => {
            let what = format!("delete bootstrap token Secret {NAMESPACE}/{name}");
            Request { what, ..Request::delete_secret(NAMESPACE, name, uid, version) }
        }
        TokenStep::Cap(cap) => {
            let what = format!("patch the expiration of bootstrap token Secret {NAMESPACE}/{name}");
            let body = json!({
                "metadata": {"uid": token.uid, "resourceVersion": token.resource_version},
                "data": {"expiration": STANDARD.encode(meta::text(cap.until))},
            });
            Request::write(Verb::MergePatch, &secret_path(NAMESPACE, name), body.to_string().into(), what)
        }
        // A list of one: the Role has no `get`, as a name could be that of any Secret.
        TokenStep::Look => Request::read(
            format!("list bootstrap token Secret {NAMESPACE}/{name}"),
            format!(
                "/api/v1/namespaces/{NAMESPACE}/secrets?fieldSelector=type%3D{SECRET_TYPE}%2Cmetadata.name%3D{name}"
            ),
        ),
    }
}

impl Controller for Bootstrap {
    type Change = BootstrapChange;
    type News = BootstrapEvent;

    fn observe(&mut self, _: u16, change: BootstrapChange, now: Time) {
        match change {
            BootstrapChange::Token(event) => self.token_step(event, now),
            BootstrapChange::Policy(event) => self.policy_step(event, now),
            BootstrapChange::ClusterInfo => self.sign_soon(now),
        }
    }

    fn watch_health(&mut self, _: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        self.note_failure(kind, failure, now)
    }

    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        self.follow_clock(now);
        self.begin_pass(now);
        while let Some(id) = self.queue.woken(now) {
            self.queue.ready(id, LANE, now);
        }
        loop {
            if let Some(call) = self.pending.pop_front() {
                return Some(call);
            }
            if *decisions == 0 {
                return None;
            }
            let (id, _) = self.queue.take()?;
            *decisions -= 1;
            self.judge(id, now);
        }
    }

    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        while let Some(id) = self.outbox.take(most, now) {
            let uid = self.policies.get(id).map(BootstrapPolicyState::uid).map(Uid::read);
            let (Some(status), Some(uid), Some(link)) = (self.status(id, now), uid, self.policies.link_mut(id)) else {
                self.outbox.unchanged(id);
                continue;
            };
            let key = Key::new("", link.name.clone());
            let request = request::apply_status("BootstrapTokenPolicy", "bootstraptokenpolicies", &key, uid, &status);
            link.written = Some(status);
            return Some((self.calls.insert(BootstrapCall::Status(id, uid)), request));
        }
        None
    }

    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        match self.calls.remove(ticket) {
            Some(BootstrapCall::Token(call)) => self.token_answered(*call, answer, now),
            Some(BootstrapCall::Sign(signing)) => self.sign_answered(signing, answer, now),
            Some(BootstrapCall::Status(id, uid)) => self.status_answered(id, uid, answer, now),
            None => Outcome::default(),
        }
    }

    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        let ready = free && (self.queue.ready_count() > 0 || !self.pending.is_empty());
        let signer = self.signer.as_ref().and_then(ClusterInfoSigner::next_wake);
        let due = self.queue.next_wake().into_iter().chain(signer).filter(|_| free);
        ready.then_some(now).into_iter().chain(due).chain(self.outbox.next_wake(writes, now)).min()
    }

    fn news(&mut self) -> Vec<BootstrapEvent> {
        std::mem::take(&mut self.events)
    }

    fn lead(&mut self, _: Time) {}
}

#[cfg(test)]
mod tests;
