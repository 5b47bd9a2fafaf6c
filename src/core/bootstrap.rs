//! Bootstrap tokens: what happens to one of them. The in-tree `tokencleaner` decides what is deleted, fact by fact;
//! a [`Cap`] adds an earlier end to tokens that live too long.

pub mod cluster_info;
pub mod controller;
pub mod event;
pub mod policy;
pub mod rfc3339;
pub mod status;
pub mod token;

use chrono::{SubsecRound as _, TimeDelta};

use super::{Time, grant::status::MAX_SKEW, id::Name, meta::text};
use policy::BootstrapPolicy;
use token::BootstrapToken;

/// The namespace that the API server reads bootstrap tokens from.
pub const NAMESPACE: &str = "kube-system";
/// The type of their Secrets.
pub const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// When a token ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiration {
    /// There is no value, or an empty one.
    Never,
    /// At this instant.
    At(Time),
    /// Go's parser refuses the value, so it counts as expired.
    Unparsable,
}

impl Expiration {
    /// Reads the raw value.
    #[must_use]
    pub fn read(raw: &[u8]) -> Self {
        if raw.is_empty() { Self::Never } else { rfc3339::parse(raw).map_or(Self::Unparsable, Self::At) }
    }

    /// Why a token with it is to be deleted, if it is, by the in-tree cleaner's rule (`cluster-bootstrap/util/secrets`): the
    /// very instant of expiry counts as expired.
    #[must_use]
    pub fn ended(self, now: Time) -> Option<Expiry> {
        match self {
            Self::Never => None,
            Self::At(at) => (at <= now).then_some(Expiry::Expired(at)),
            Self::Unparsable => Some(Expiry::Unparsable),
        }
    }
}

/// Why a token is to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// It ended then.
    Expired(Time),
    /// Its end cannot be read.
    Unparsable,
}

impl std::fmt::Display for Expiry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Expired(at) => write!(f, "expired at {}", text(*at)),
            // The value is not quoted: whoever mixed up two keys would find the token's secret in the log.
            Self::Unparsable => f.write_str("its expiration is not an RFC 3339 time, which counts as expired"),
        }
    }
}

/// The cleaner's mode for tokens that are to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleaner {
    /// It deletes them.
    Enforce,
    /// It tells of them.
    Report,
    /// Nothing.
    Off,
}

/// The next act on a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenAct {
    /// Nothing.
    Keep,
    /// Tell that it would be deleted.
    Tell(Expiry),
    /// This.
    Step(TokenStep),
}

/// What can be done to a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenStep {
    /// Delete it.
    Delete(Expiry),
    /// Give it an earlier end.
    Cap(Cap),
}

/// An earlier end for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// When it shall end, in whole seconds as kubeadm writes it.
    pub until: Time,
    /// Name of the policy whose `maxAge` says so.
    pub policy: Name,
}

/// Decides about a token. A terminating one is left alone: only its finalizers hold it, and a second delete would
/// not remove these.
#[must_use]
pub fn decide<'a>(
    now: Time,
    token: &BootstrapToken,
    cleaner: Cleaner,
    policies: impl Iterator<Item = (&'a Name, &'a BootstrapPolicy)>,
) -> TokenAct {
    if token.terminating {
        return TokenAct::Keep;
    }
    match (token.expiration.ended(now), cleaner) {
        (Some(why), Cleaner::Enforce) => TokenAct::Step(TokenStep::Delete(why)),
        (Some(why), Cleaner::Report) => TokenAct::Tell(why),
        (Some(_), Cleaner::Off) => TokenAct::Keep,
        (None, _) => cap(now, token, policies).map_or(TokenAct::Keep, |cap| TokenAct::Step(TokenStep::Cap(cap))),
    }
}

/// The strictest of the policies that enforce, if the token outlives it. What is immutable can only be deleted, and a
/// cap never deletes; the status says so.
fn cap<'a>(
    now: Time,
    token: &BootstrapToken,
    policies: impl Iterator<Item = (&'a Name, &'a BootstrapPolicy)>,
) -> Option<Cap> {
    if token.immutable {
        return None;
    }
    let enforced = policies.filter(|(_, policy)| policy.enforces && !policy.keeps(token));
    let (age, policy) = enforced.filter_map(|(name, policy)| Some((policy.max_age?, name))).min()?;
    outlives(now, token, age).then(|| Cap { until: (now + age).trunc_subsecs(0), policy: policy.clone() })
}

/// Whether a token ends later than `age` from now. Clocks that differ by less than [`MAX_SKEW`] are right: whoever
/// extends a token to exactly the allowed age by such a clock is left alone.
#[must_use]
pub fn outlives(now: Time, token: &BootstrapToken, age: TimeDelta) -> bool {
    match token.expiration {
        Expiration::Never => true,
        Expiration::At(at) => at > now + age + MAX_SKEW,
        Expiration::Unparsable => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::bootstrap::{policy::tests::policy, token::tests::token};

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn decides_as_the_in_tree_cleaner() {
        for (raw, expiration, ended) in [
            ("", Expiration::Never, None),
            (" ", Expiration::Unparsable, Some(Expiry::Unparsable)),
            ("never", Expiration::Unparsable, Some(Expiry::Unparsable)),
            ("2027-01-15T08:00:00Z", Expiration::At(at(0)), Some(Expiry::Expired(at(0)))),
            ("2027-01-15T07:59:59Z", Expiration::At(at(-1)), Some(Expiry::Expired(at(-1)))),
            ("2027-01-15T08:00:01Z", Expiration::At(at(1)), None),
        ] {
            let read = Expiration::read(raw.as_bytes());
            assert_eq!((read, read.ended(at(0))), (expiration, ended), "{raw:?}");
        }
        let last_nanosecond = Expiration::read(b"2027-01-15T08:00:00.000000001Z");
        assert_eq!(last_nanosecond.ended(at(0)), None);
    }

    #[test]
    fn the_flag_says_what_happens_to_expired_ones() {
        let expired = token("2027-01-15T07:00:00Z");
        let why = Expiry::Expired(at(-3600));
        for (cleaner, act) in [
            (Cleaner::Enforce, TokenAct::Step(TokenStep::Delete(why))),
            (Cleaner::Report, TokenAct::Tell(why)),
            (Cleaner::Off, TokenAct::Keep),
        ] {
            assert_eq!(decide(at(0), &expired, cleaner, std::iter::empty()), act);
        }
        let terminating = BootstrapToken { terminating: true, ..expired };
        assert_eq!(decide(at(0), &terminating, Cleaner::Enforce, std::iter::empty()), TokenAct::Keep);
    }

    fn capped(now: Time, token: &BootstrapToken, policies: &[(Name, BootstrapPolicy)]) -> Option<(Time, String)> {
        let policies = policies.iter().map(|(name, policy)| (name, policy));
        match decide(now, token, Cleaner::Enforce, policies) {
            TokenAct::Step(TokenStep::Cap(cap)) => Some((cap.until, cap.policy.to_string())),
            _ => None,
        }
    }

    #[test]
    fn a_cap_ends_what_would_outlive_it_and_nothing_else() {
        let hour = [("hour".into(), policy(r#"{"mode":"Enforce","maxAge":"1h"}"#))];
        let end = Some((at(3600), "hour".into()));
        assert_eq!(capped(at(0), &token(""), &hour), end);
        assert_eq!(capped(at(0), &token("2027-01-15T10:00:00Z"), &hour), end);
        assert_eq!(capped(at(0), &token("2027-01-15T09:00:00Z"), &hour), None);
        assert_eq!(capped(at(0), &token("2027-01-15T08:00:10Z"), &hour), None);
        assert_eq!(capped(at(0), &token("garbage"), &hour), None);
        assert_eq!(capped(at(0), &BootstrapToken { immutable: true, ..token("") }, &hour), None);
        let capped_token = BootstrapToken { expiration: Expiration::At(at(3600)), ..token("") };
        assert_eq!(capped(at(-2), &capped_token, &hour), None, "a clock that went back a little is no violation");
    }

    #[test]
    fn the_strictest_enforced_policy_that_does_not_keep_the_token_counts() {
        let day = || ("day".into(), policy(r#"{"mode":"Enforce","maxAge":"24h"}"#));
        let hour = ("hour".into(), policy(r#"{"mode":"Enforce","maxAge":"1h"}"#));
        let report = ("report".into(), policy(r#"{"maxAge":"10m"}"#));
        let keeping =
            ("keeping".into(), policy(r#"{"mode":"Enforce","maxAge":"30m","keep":{"matchLabels":{"keep":"me"}}}"#));
        let mut kept = token("");
        kept.labels.insert("keep".into(), "me".into());
        assert_eq!(capped(at(0), &token(""), &[day(), hour]), Some((at(3600), "hour".into())));
        assert_eq!(capped(at(0), &token(""), &[report]), None);
        assert_eq!(capped(at(0), &kept, &[day(), keeping]), Some((at(86_400), "day".into())));
    }
}
