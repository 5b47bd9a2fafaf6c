//! All bootstrap tokens and their policies: which call comes next, and what its answer means.

mod sign;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::TimeDelta;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{
    Cleaner, Expiration, Expiry, NAMESPACE, SECRET_TYPE, TokenAct, TokenStep,
    cluster_info::ClusterInfoSigner,
    decide,
    event::{BootstrapEvent, BootstrapNews},
    policy::BootstrapPolicy,
    status::{self, status},
    token::{BootstrapSecret, BootstrapToken},
};
use crate::{
    api::bootstrap_token_policy::TokenCounts,
    core::{
        Time,
        failure::Failure,
        id::{Key, Uid},
        kernel::{
            controller::{Controller, Outcome},
            policies::{Policies, Stored},
            slab::Slab,
            store::WatchEvent,
            tended::{End, Ended, Found, LONGEST_PAUSE, Tended, Tending},
        },
        meta,
        request::{self, Answer, Request, Verb, secret_path},
    },
};
use sign::Signing;

/// Longest pause after a cap that failed: nothing is late by it.
const LONGEST_CAP_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// Name of the watch of the tokens.
pub const TOKENS: &str = "secrets (bootstrap tokens)";

/// A step of a watch.
#[derive(Debug)]
pub enum BootstrapChange {
    /// Of a bootstrap token.
    Token(WatchEvent<BootstrapToken>),
    /// Of a policy.
    Policy(WatchEvent<Stored<BootstrapPolicy>>),
    /// Of the ConfigMap that is signed.
    ClusterInfo,
}

/// A call under way.
#[derive(Debug)]
enum BootstrapCall {
    /// About a token, under its own ticket.
    Token(u32),
    Sign(Signing),
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
    tokens: Tending<BootstrapToken>,
    policies: Policies<BootstrapPolicy>,
    calls: Slab<BootstrapCall>,
    signer: Option<ClusterInfoSigner>,
    /// The next call of the signer.
    signing: Option<(u32, Request)>,
    events: Vec<BootstrapEvent>,
    counts: Vec<Count>,
}

impl Bootstrap {
    /// Nothing known. `seed` is random.
    #[must_use]
    pub fn new(cleaner: Cleaner, signs: bool, seed: u64) -> Self {
        Self {
            cleaner,
            tokens: Tending::new(seed),
            policies: Policies::new(seed),
            calls: Slab::default(),
            signer: signs.then(ClusterInfoSigner::default),
            signing: None,
            events: Vec::new(),
            counts: Vec::new(),
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

    /// How many tokens are in which state.
    #[must_use]
    pub fn states(&self, now: Time) -> TokenCounts {
        let mut counts = TokenCounts::default();
        self.tokens.iter().for_each(|(_, token)| status::count(&mut counts, token.expiration, now));
        counts
    }

    /// Tokens that wait to be judged.
    #[must_use]
    pub fn queue_length(&self) -> usize {
        self.tokens.waiting()
    }

    fn token_step(&mut self, event: WatchEvent<BootstrapToken>, now: Time) {
        if self.tokens.observe(event, now) {
            self.changed(now);
        }
    }

    /// Something about tokens has changed.
    fn changed(&mut self, now: Time) {
        self.policies.mark_all(now);
        self.sign_soon(now);
    }

    fn sign_soon(&mut self, now: Time) {
        if let Some(signer) = &mut self.signer {
            signer.mark(now);
        }
    }

    /// Decides about one token, and begins the call that it needs.
    fn judge(&mut self, id: u32, now: Time) {
        let Some((_, token)) = self.tokens.get(id) else { return };
        let expiration = token.expiration;
        match decide(now, token, self.cleaner, self.policies.acting()) {
            TokenAct::Step(step) => return self.tokens.step(id, step),
            TokenAct::Tell(why) => self.report_once(id, why),
            TokenAct::Keep => {}
        }
        // It is looked at again when the token ends; that also moves it to another state in the statuses.
        let has_ended = expiration.ended(now).is_some();
        let until = if let Expiration::At(at) = expiration { Some(at).filter(|_| !has_ended) } else { None };
        if self.tokens.rest(id, until) || has_ended {
            self.policies.mark_all(now);
        }
    }

    fn report_once(&mut self, id: u32, why: Expiry) {
        let Some(key) = self.tokens.get(id).map(|(key, _)| key.clone()) else { return };
        if let Some(token) = self.tokens.get_mut(id).filter(|token| token.reported != Some(token.uid)) {
            token.reported = Some(token.uid);
            let what = BootstrapNews::WouldDelete(why);
            self.events.push(BootstrapEvent { object: key, uid: token.uid, what });
        }
    }

    fn token_answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        let Some(Ended { key, object, step, end, is_news }) = self.tokens.answered(ticket, answer, now) else {
            return Outcome::default();
        };
        if let Some(TokenStep::Delete(_)) = step {
            self.counts.push(Count::Deletion(match end {
                End::Done => "deleted",
                End::Gone => "gone",
                End::Conflict => "conflict",
                End::Failed(_) => "failed",
            }));
        }
        let failure = if let End::Failed(failure) = &end { Some(failure.clone()) } else { None };
        let what = match (end, step) {
            (End::Done, Some(step)) => Some(BootstrapNews::Done(step)),
            (End::Failed(failure), _) if is_news => Some(BootstrapNews::Failing(failure)),
            _ => None,
        };
        self.events.extend(what.map(|what| BootstrapEvent { object: key, uid: object.uid, what }));
        self.changed(now);
        Outcome { failure, ..Outcome::default() }
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

fn page<T: DeserializeOwned>(what: &str, body: &SecretString) -> Result<(Vec<T>, String), Failure> {
    let SecretList { metadata, items } = request::parse(what, body)?;
    Ok((items, metadata.more))
}

impl Tended for BootstrapToken {
    type Step = TokenStep;

    fn uid(&self) -> Uid {
        self.uid
    }

    fn follow(&mut self, before: &Self) {
        self.reported = before.reported;
    }

    /// The UID saves another Secret of this name, the resourceVersion one that was extended a moment ago.
    fn request(&self, Key { name, .. }: &Key, step: &TokenStep) -> Request {
        match step {
            TokenStep::Delete(_) => {
                let what = format!("delete bootstrap token Secret {NAMESPACE}/{name}");
                Request { what, ..Request::delete_secret(NAMESPACE, name, self.uid, Some(self.version)) }
            }
            TokenStep::Cap(cap) => {
                let what = format!("patch the expiration of bootstrap token Secret {NAMESPACE}/{name}");
                let body = json!({
                    "metadata": {"uid": self.uid.to_string(), "resourceVersion": self.version.to_string()},
                    "data": {"expiration": STANDARD.encode(meta::text(cap.until))},
                });
                Request::write(Verb::MergePatch, &secret_path(NAMESPACE, name), body.to_string().into(), what)
            }
        }
    }

    /// A list of one: the Role has no `get`, as a name could be that of any Secret.
    fn look(Key { name, .. }: &Key) -> Request {
        Request::read(
            format!("list bootstrap token Secret {NAMESPACE}/{name}"),
            format!(
                "/api/v1/namespaces/{NAMESPACE}/secrets?fieldSelector=type%3D{SECRET_TYPE}%2Cmetadata.name%3D{name}"
            ),
        )
    }

    fn after(&self, step: &TokenStep, what: &str, body: &SecretString) -> Result<Found<Self>, Failure> {
        let TokenStep::Cap(cap) = step else { return Ok(None) };
        let version = meta::version(&request::metadata(what, body)?);
        let expiration = Expiration::At(cap.until);
        Ok(Some((version, Self { version, expiration, ..self.clone() })))
    }

    fn found(what: &str, body: &SecretString) -> Result<Found<Self>, Failure> {
        let found: SecretList<BootstrapSecret> = request::parse(what, body)?;
        Ok(found.items.into_iter().next().map(|secret| (meta::version(&secret.metadata), Self::read(secret))))
    }

    fn longest_pause(step: Option<&TokenStep>) -> TimeDelta {
        if matches!(step, Some(TokenStep::Cap(_))) { LONGEST_CAP_PAUSE } else { LONGEST_PAUSE }
    }
}

impl Controller for Bootstrap {
    type Change = BootstrapChange;
    type News = BootstrapEvent;

    fn observe(&mut self, _: u16, change: BootstrapChange, now: Time) {
        match change {
            BootstrapChange::Token(event) => self.token_step(event, now),
            // Every token is judged again: a cap may have come, gone or changed.
            BootstrapChange::Policy(event) => {
                if self.policies.observe(event, now) {
                    self.tokens.judge_all(now);
                }
            }
            BootstrapChange::ClusterInfo => self.sign_soon(now),
        }
    }

    fn watch_health(&mut self, _: u16, kind: &'static str, failure: Option<Failure>, now: Time) -> Option<Failure> {
        self.policies.note(kind, failure, now)
    }

    fn take(&mut self, decisions: &mut usize, now: Time) -> Option<(u32, Request)> {
        if self.tokens.wake(now) {
            self.sign_soon(now);
        }
        self.begin_pass(now);
        loop {
            if let Some(call) = self.signing.take() {
                return Some(call);
            }
            if let Some((ticket, request)) = self.tokens.call() {
                return Some((self.calls.insert(BootstrapCall::Token(ticket)), request));
            }
            let id = self.tokens.due(decisions)?;
            self.judge(id, now);
        }
    }

    fn take_status(&mut self, most: usize, now: Time) -> Option<(u32, Request)> {
        self.policies.take(most, now, |policies, id| status(&self.tokens, policies, id, now))
    }

    fn answered(&mut self, ticket: u32, answer: Answer, now: Time) -> Outcome {
        self.policies.answered(ticket, answer, now).unwrap_or_else(|answer| match self.calls.remove(ticket) {
            Some(BootstrapCall::Token(ticket)) => self.token_answered(ticket, answer, now),
            Some(BootstrapCall::Sign(signing)) => self.sign_answered(signing, answer, now),
            None => Outcome::default(),
        })
    }

    fn next_wake(&self, free: bool, writes: usize, now: Time) -> Option<Time> {
        let signing = self.signing.as_ref().map(|_| now);
        let signer = self.signer.as_ref().and_then(ClusterInfoSigner::next_wake);
        let due = self.tokens.next_wake(now).into_iter().chain(signing).chain(signer).filter(|_| free);
        due.chain(self.policies.next_wake(writes, now)).min()
    }

    fn news(&mut self) -> Vec<BootstrapEvent> {
        std::mem::take(&mut self.events)
    }

    fn lead(&mut self, _: Time) {}
}

#[cfg(test)]
mod tests;
