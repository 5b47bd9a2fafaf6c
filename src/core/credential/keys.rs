//! The API server's keys and issuer, as it publishes both, and the tokens signed with them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use chrono::TimeDelta;

use crate::core::{
    Time,
    id::Secs,
    pool::{Pool, Tally, tally},
    reason::IssueReason,
};

/// A key or issuer that was published is gone when so many polls in a row lack it: sets flicker, as several API
/// servers answer and each changes in its own time.
const POLLS: u32 = 3;
/// A signer stays in use for so long at least: a rolling update of API servers takes a few minutes.
const CALM: TimeDelta = TimeDelta::minutes(1);
/// Keys and issuers that are remembered of each: an API server publishes a few at a time.
const REMEMBERED: usize = 64;

/// Key and issuer of a token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signer {
    /// `kid`.
    pub key_id: Box<str>,
    /// `iss`.
    pub issuer: Box<str>,
}

/// Keys and issuers, published and in use.
#[derive(Debug, Default)]
pub struct TokenKeys {
    keys: Published,
    issuers: Published,
    /// Every signer that a target names, once.
    pool: Pool<Signer>,
    /// How many published tokens each key has signed.
    tokens: Tally<Box<str>>,
    /// The signer in use, and the first token that this process was given of it.
    minted: Option<(Secs, Arc<Signer>)>,
}

/// One kind of value, poll by poll.
#[derive(Debug, Default)]
struct Published(HashMap<Box<str>, Sight>);

#[derive(Debug)]
struct Sight {
    last: Time,
    missing: u32,
}

impl Published {
    /// Takes one answer in, and returns whether a value is gone by it. An empty set says nothing.
    fn observe(&mut self, values: &BTreeSet<String>, now: Time) -> bool {
        if values.is_empty() {
            return false;
        }
        for (value, sight) in &mut self.0 {
            sight.missing = if values.contains(&**value) { 0 } else { sight.missing.saturating_add(1) };
        }
        self.0.extend(values.iter().map(|value| (value.as_str().into(), Sight { last: now, missing: 0 })));
        while self.0.len() > REMEMBERED.max(values.len())
            && let Some(oldest) = self.0.iter().max_by_key(|(_, sight)| sight.missing).map(|(value, _)| value.clone())
        {
            self.0.remove(&oldest);
        }
        self.0.values().any(|sight| sight.missing == POLLS)
    }

    /// Whether a value has gone since `issued`. A key counts as gone only if it was seen published after the token was
    /// issued: the set may lack the newest key.
    fn has_gone(&self, value: &str, issued: Secs) -> bool {
        self.0.get(value).is_some_and(|sight| sight.missing >= POLLS && sight.last >= issued.time())
    }
}

impl TokenKeys {
    /// Takes the answers of one poll in, `None` for one that failed, and returns whether a key or issuer is gone by it.
    pub fn observe(&mut self, keys: Option<&BTreeSet<String>>, issuer: Option<&str>, now: Time) -> bool {
        let keys_gone = keys.is_some_and(|keys| self.keys.observe(keys, now));
        let issuer: BTreeSet<String> = issuer.into_iter().filter(|issuer| !issuer.is_empty()).map(Into::into).collect();
        let issuer_gone = self.issuers.observe(&issuer, now);
        keys_gone || issuer_gone
    }

    /// Why a token does not authenticate any more, if its key or its issuer is gone.
    #[must_use]
    pub fn gone(&self, signer: &Signer, issued: Secs) -> Option<IssueReason> {
        if self.keys.has_gone(&signer.key_id, issued) {
            return Some(IssueReason::SigningKeyGone);
        }
        self.issuers.has_gone(&signer.issuer, issued).then_some(IssueReason::IssuerChanged)
    }

    /// The one copy of this signer.
    pub fn share(&mut self, signer: Arc<Signer>) -> Arc<Signer> {
        self.pool.share(signer)
    }

    /// Every signer that is held.
    #[cfg(test)]
    pub fn signers(&self) -> impl Iterator<Item = &Signer> {
        self.pool.iter()
    }

    /// Counts a published token of a grant.
    pub fn count(&mut self, signer: &Signer) {
        tally(&mut self.tokens, signer.key_id.clone(), 1);
    }

    /// Ends what [`TokenKeys::count`] began.
    pub fn uncount(&mut self, signer: &Signer) {
        tally(&mut self.tokens, signer.key_id.clone(), -1);
    }

    /// A token was issued to this process; whether another signer is in use by that. Only such a token is proof: anybody
    /// can write annotations. While two API servers sign with different keys, the one in use changes at most once in
    /// [`CALM`].
    pub fn minted(&mut self, issued: Secs, signer: Arc<Signer>) -> bool {
        let same = self.minted.as_ref().is_some_and(|(_, known)| *known == signer);
        let early = |(since, _): &(Secs, Arc<Signer>)| issued.time() < since.time() + CALM;
        if same || self.minted.as_ref().is_some_and(early) {
            return false;
        }
        self.minted = Some((issued, self.share(signer)));
        true
    }

    /// The signer of the youngest token that this process was given.
    #[must_use]
    pub fn in_use(&self) -> Option<&Arc<Signer>> {
        self.minted.as_ref().map(|(_, signer)| signer)
    }

    /// How many published tokens each key has signed, by name as far as the API server publishes it: anybody can write
    /// annotations. Without a name are those of all other keys, unless nothing is known of what it publishes.
    pub fn tokens(&self) -> impl Iterator<Item = (Option<&str>, usize)> {
        let known = |key: &str| self.keys.0.is_empty() || self.keys.0.contains_key(key);
        self.tokens.iter().map(move |(key, count)| (Some(&**key).filter(|key| known(key)), *count as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn signer(key: &str, issuer: &str) -> Signer {
        Signer { key_id: key.into(), issuer: issuer.into() }
    }

    fn gone(keys: &TokenKeys, key: &str, issuer: &str, issued: i64) -> Option<IssueReason> {
        keys.gone(&signer(key, issuer), Secs::of(at(issued)))
    }

    /// One poll a minute, the first at 0; each is the set of keys as words, or "?" for an answer that is none.
    fn polled(polls: &[&str]) -> TokenKeys {
        let mut token_keys = TokenKeys::default();
        for (n, poll) in (0..).zip(polls) {
            let keys: BTreeSet<String> = poll.split_whitespace().map(Into::into).collect();
            token_keys.observe(Some(&keys).filter(|_| *poll != "?"), Some("i"), at(n * 60));
        }
        token_keys
    }

    #[test]
    fn a_key_is_gone_after_three_polls_without_it() {
        for (polls, expected, why) in [
            (&["a", "a b", "a b", "a b", "a b"][..], false, "kept beside the new one"),
            (&["a", "b", "b"], false, "two polls are a flicker"),
            (&["a", "b", "b", "b"], true, "dropped"),
            (&["a", "b", "b", "a", "b", "b"], false, "it flickers"),
            (&["a", "b", "?", "b", "?", "b"], true, "errors say nothing, and do not undo what was seen"),
            (&["a", "?", "?", "?", "?"], false, "errors alone prove nothing"),
            (&["a", "", "", "", ""], false, "an empty set proves nothing"),
            (&["b", "b", "b", "b", "b"], false, "the set lacks the newest key"),
            (&["?", "b", "b", "b"], false, "never seen since the start"),
            (&["a", "b", "b", "b", "a"], false, "it is back"),
        ] {
            assert_eq!(gone(&polled(polls), "a", "i", -10).is_some(), expected, "{why}: {polls:?}");
        }
    }

    #[test]
    fn a_token_that_is_younger_than_the_last_sight_of_its_key_is_left_alone() {
        let keys = polled(&["a", "b", "b", "b"]);
        assert_eq!(gone(&keys, "a", "i", 0), Some(IssueReason::SigningKeyGone));
        assert_eq!(gone(&keys, "a", "i", 90), None, "issued again once for this change");
    }

    #[test]
    fn an_issuer_changes_like_a_key() {
        let mut token_keys = TokenKeys::default();
        let keys = BTreeSet::from(["a".to_owned()]);
        let changes: Vec<bool> = [Some("old"), Some("new"), None, Some("new"), Some(""), Some("new")]
            .into_iter()
            .zip(0..)
            .map(|(issuer, n)| token_keys.observe(Some(&keys), issuer, at(n * 60)))
            .collect();
        assert_eq!(changes, [false, false, false, false, false, true]);
        assert_eq!(gone(&token_keys, "a", "old", -5), Some(IssueReason::IssuerChanged));
        assert_eq!(gone(&token_keys, "a", "new", 100), None);
    }

    #[test]
    fn the_youngest_token_that_was_issued_here_tells_which_key_is_in_use() {
        let mut keys = TokenKeys::default();
        let mut minted = |n, key| keys.minted(Secs::of(at(n)), Arc::new(signer(key, "i")));
        assert!(minted(0, "a") && !minted(1, "a"));
        assert!(minted(60, "b"), "another key is in use");
        assert!(!minted(30, "a"), "an older answer that came late");
        assert!(!minted(90, "a"), "two API servers sign with different keys");
        assert_eq!(keys.in_use().map(|signer| &*signer.key_id), Some("b"));
    }

    #[test]
    fn a_key_that_is_not_published_has_no_name() {
        let mut keys = TokenKeys::default();
        let (real, forged) = (signer("real", "i"), signer("forged", "i"));
        keys.count(&real);
        keys.count(&forged);
        assert!(keys.tokens().all(|(key, _)| key.is_some()), "nothing is known of what is published");
        keys.observe(Some(&BTreeSet::from(["real".to_owned()])), None, at(0));
        assert_eq!(keys.tokens().collect::<Vec<_>>(), [(None, 1), (Some("real"), 1)]);
    }

    #[test]
    fn what_nobody_names_any_more_is_forgotten() {
        let mut keys = TokenKeys::default();
        for n in 0..10_000 {
            let signer = keys.share(Arc::new(signer(&format!("k{n}"), "i")));
            keys.count(&signer);
            keys.uncount(&signer);
            keys.observe(Some(&BTreeSet::from([n.to_string()])), None, at(n));
        }
        assert!(keys.signers().count() <= 2 * REMEMBERED, "{}", keys.signers().count());
        assert_eq!((keys.tokens().count(), keys.keys.0.len()), (0, REMEMBERED));
    }
}
