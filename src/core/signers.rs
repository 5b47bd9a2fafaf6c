//! What the API server signs tokens with and how it calls itself, as it publishes both, and the tokens signed so.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Time, facts::TokenFacts, plan::Why};

/// A key or issuer that was published is gone when so many polls in a row lack it: sets flicker, as several API
/// servers answer and each changes in its own time.
const POLLS: u32 = 3;

/// Keys and issuers, published and in use.
#[derive(Debug, Default)]
pub struct Signers {
    keys: Published,
    issuers: Published,
    /// How many published tokens each key has signed.
    tokens: BTreeMap<Box<str>, usize>,
    /// When the youngest token was issued, and by whom.
    newest: Option<(Time, Signer)>,
}

/// Key id and issuer.
type Signer = (Box<str>, Box<str>);

/// One kind of value, poll by poll.
#[derive(Debug, Default)]
struct Published(HashMap<Box<str>, Seen>);

#[derive(Debug)]
struct Seen {
    last: Time,
    missing: u32,
}

impl Published {
    /// Takes one answer in, and returns whether a value is gone by it. An empty set says nothing.
    fn observe(&mut self, values: &BTreeSet<String>, now: Time) -> bool {
        if values.is_empty() {
            return false;
        }
        for (value, seen) in &mut self.0 {
            seen.missing = if values.contains(&**value) { 0 } else { seen.missing.saturating_add(1) };
        }
        self.0.extend(values.iter().map(|value| (value.as_str().into(), Seen { last: now, missing: 0 })));
        self.0.values().any(|seen| seen.missing == POLLS)
    }

    /// Whether a value has gone since `issued`. One that was not published after that is unknown: the set may lack the
    /// newest key, and a token that was issued after its key had gone is not issued again for it.
    fn has_gone(&self, value: &str, issued: Time) -> bool {
        self.0.get(value).is_some_and(|seen| seen.missing >= POLLS && seen.last >= issued)
    }
}

impl Signers {
    /// Takes the answers of one poll in, `None` for one that failed, and returns whether a key or issuer is gone by it.
    pub fn observe(&mut self, keys: Option<&BTreeSet<String>>, issuer: Option<&str>, now: Time) -> bool {
        let keys_gone = keys.is_some_and(|keys| self.keys.observe(keys, now));
        let issuer: BTreeSet<String> = issuer.into_iter().filter(|issuer| !issuer.is_empty()).map(Into::into).collect();
        let issuer_gone = self.issuers.observe(&issuer, now);
        keys_gone || issuer_gone
    }

    /// Why a token does not authenticate any more, if its key or its issuer is gone.
    #[must_use]
    pub fn gone(&self, token: &TokenFacts) -> Option<Why> {
        if self.keys.has_gone(&token.key_id, token.issued_at) {
            return Some(Why::SigningKeyGone);
        }
        self.issuers.has_gone(&token.issuer, token.issued_at).then_some(Why::IssuerChanged)
    }

    /// Counts a published token instead of the one before it, and returns whether the signer in use has changed.
    pub fn published(&mut self, before: Option<&TokenFacts>, after: Option<&TokenFacts>) -> bool {
        if let Some(count) = before.and_then(|token| self.tokens.get_mut(&token.key_id)) {
            *count -= 1;
        }
        let Some(token) = after else { return false };
        *self.tokens.entry(token.key_id.clone()).or_default() += 1;
        if self.newest.as_ref().is_some_and(|(issued, _)| *issued >= token.issued_at) {
            return false;
        }
        let signer = (token.key_id.clone(), Box::from(&*token.issuer));
        let before = self.newest.replace((token.issued_at, signer.clone()));
        before.is_some_and(|(_, before)| before != signer)
    }

    /// Whether another key or issuer is in use by now than this token's, or its own is gone.
    #[must_use]
    pub fn is_old(&self, token: &TokenFacts) -> bool {
        let other = |(_, (key, issuer)): &(Time, Signer)| *key != token.key_id || **issuer != *token.issuer;
        self.newest.as_ref().is_some_and(other) || self.gone(token).is_some()
    }

    /// Id of the key that the youngest token is signed with.
    #[must_use]
    pub fn key_in_use(&self) -> Option<&str> {
        self.newest.as_ref().map(|(_, (key, _))| &**key)
    }

    /// How many published tokens each key has signed; 0 for one that has none any more.
    pub fn tokens(&self) -> impl Iterator<Item = (&str, usize)> {
        self.tokens.iter().map(|(key, count)| (&**key, *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn token(key: &str, issuer: &str, issued: i64) -> TokenFacts {
        TokenFacts {
            id: "id".into(),
            key_id: key.into(),
            issuer: issuer.into(),
            issued_at: at(issued),
            expires_at: at(issued + 3600),
            anchor: "tw-1".into(),
            anchor_uid: "u".into(),
        }
    }

    /// One poll a minute, the first at 0; each is the set of keys as words, or "?" for an answer that is none.
    fn polled(polls: &[&str]) -> Signers {
        let mut signers = Signers::default();
        for (n, poll) in (0..).zip(polls) {
            let keys: BTreeSet<String> = poll.split_whitespace().map(Into::into).collect();
            signers.observe(Some(&keys).filter(|_| *poll != "?"), Some("i"), at(n * 60));
        }
        signers
    }

    #[test]
    fn a_key_is_gone_after_three_polls_without_it() {
        for (polls, gone, why) in [
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
            assert_eq!(polled(polls).gone(&token("a", "i", -10)).is_some(), gone, "{why}: {polls:?}");
        }
    }

    #[test]
    fn a_token_that_is_younger_than_the_last_sight_of_its_key_is_left_alone() {
        let signers = polled(&["a", "b", "b", "b"]);
        assert_eq!(signers.gone(&token("a", "i", 0)), Some(Why::SigningKeyGone));
        assert_eq!(signers.gone(&token("a", "i", 90)), None, "issued again once for this change");
    }

    #[test]
    fn an_issuer_changes_like_a_key() {
        let mut signers = Signers::default();
        let keys = BTreeSet::from(["a".to_owned()]);
        let gone: Vec<bool> = [Some("old"), Some("new"), None, Some("new"), Some(""), Some("new")]
            .into_iter()
            .zip(0..)
            .map(|(issuer, n)| signers.observe(Some(&keys), issuer, at(n * 60)))
            .collect();
        assert_eq!(gone, [false, false, false, false, false, true]);
        assert_eq!(signers.gone(&token("a", "old", -5)), Some(Why::IssuerChanged));
        assert_eq!(signers.gone(&token("a", "new", 100)), None);
    }

    #[test]
    fn the_youngest_token_tells_which_key_is_in_use() {
        let mut signers = Signers::default();
        let (old, new) = (token("a", "i", 0), token("b", "i", 60));
        assert!(!signers.published(None, Some(&old)) && !signers.is_old(&old));
        assert!(signers.published(None, Some(&new)), "another key is in use");
        assert!(signers.is_old(&old) && !signers.is_old(&new));
        assert!(!signers.published(Some(&old), Some(&token("b", "i", 61))));
        assert_eq!(signers.tokens().collect::<Vec<_>>(), [("a", 0), ("b", 2)]);
        assert_eq!(signers.key_in_use(), Some("b"));
    }
}
