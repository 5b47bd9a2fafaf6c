//! `tokenward.dev/revoke-issued-before`, on a policy or on one target: every token issued before that instant is dead.

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Time, meta, names, reason::RetireReason};

/// A token that is issued at the very instant may be signed a moment before it: our clock follows the server's to a
/// second, and a token tells its issue in whole seconds.
const CLOCKS_AGREE: TimeDelta = TimeDelta::seconds(1);
/// Longest reason that is taken over; what is longer is no word.
const MAX_REASON: usize = 63;

/// A revocation that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Tokens issued before this are revoked once it is reached.
    pub before: Time,
    /// Why, in a word of theirs.
    pub reason: Box<str>,
}

/// The annotation says no instant; the text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("annotation tokenward.dev/revoke-issued-before is {0:.40?} and no time, so nothing is revoked")]
pub struct InvalidInstant(Box<str>);

impl Revocation {
    /// Reads the annotations of a policy or target; `None` when nothing is asked for.
    #[must_use]
    pub fn read(meta: &ObjectMeta) -> Option<Result<Self, InvalidInstant>> {
        let before = meta::annotation(meta, names::REVOKE_ISSUED_BEFORE).filter(|text| !text.is_empty())?;
        let reason = meta::annotation(meta, names::REVOKE_REASON).filter(|reason| is_word(reason));
        let reason = reason.unwrap_or(RetireReason::RevokeIssuedBefore.into_str()).into();
        Some(meta::time(before).map(|before| Self { before, reason }).ok_or_else(|| InvalidInstant(before.into())))
    }

    /// The first instant at which a new token cannot seem to be issued before it.
    #[must_use]
    pub fn replace_at(&self) -> Time {
        let whole = Time::from_timestamp(self.before.timestamp(), 0).unwrap_or(self.before);
        let up = if whole == self.before { whole } else { whole + TimeDelta::seconds(1) };
        up + CLOCKS_AGREE
    }
}

/// The instant of a revocation that was asked for.
#[must_use]
pub fn instant(asked: Option<&Result<Revocation, InvalidInstant>>) -> Option<Time> {
    Some(asked?.as_ref().ok()?.before)
}

/// Reasons become labels of metrics, so they are short and of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn is_word(reason: &str) -> bool {
    let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=MAX_REASON).contains(&reason.len()) && reason.chars().all(letters)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(before: &str, reason: &str) -> Option<Result<Revocation, InvalidInstant>> {
        let annotations = json!({(names::REVOKE_ISSUED_BEFORE): before, (names::REVOKE_REASON): reason});
        Revocation::read(&serde_json::from_value(json!({"annotations": annotations})).unwrap())
    }

    fn at(text: &str) -> Time {
        meta::time(text).unwrap()
    }

    #[test]
    fn reads_instant_and_reason() {
        let revocation = read("2026-11-22T10:00:00+01:00", "leaked-in-log").unwrap().unwrap();
        assert_eq!((revocation.before, &*revocation.reason), (at("2026-11-22T09:00:00Z"), "leaked-in-log"));
        assert_eq!(&*read("2026-11-22T10:00:00Z", "two words\n").unwrap().unwrap().reason, "RevokeIssuedBefore");
        assert_eq!(read("", "x"), None);
    }

    #[test]
    fn what_is_no_instant_is_said() {
        let error = read("yesterday", "x").unwrap().unwrap_err().to_string();
        assert!(error.contains("revoke-issued-before is \"yesterday\""), "{error}");
    }

    #[test]
    fn a_replacement_waits_until_its_whole_second_is_after_the_instant() {
        for (before, replace) in [
            ("2026-11-22T10:00:00Z", "2026-11-22T10:00:01Z"),
            ("2026-11-22T10:00:00.001Z", "2026-11-22T10:00:02Z"),
            ("2026-11-22T10:00:00.999Z", "2026-11-22T10:00:02Z"),
        ] {
            assert_eq!(read(before, "x").unwrap().unwrap().replace_at(), at(replace), "{before}");
        }
    }
}
