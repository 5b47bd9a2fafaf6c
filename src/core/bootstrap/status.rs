//! From what is known of the bootstrap tokens to the status of a policy.

use super::{
    Expiration, Expiry, NAMESPACE, controller::TOKENS, outlives, policy::BootstrapPolicy, token::BootstrapToken,
};
use crate::{
    api::{
        bootstrap_token_policy::{BootstrapTokenPolicyStatus, TokenCounts, TokenFinding},
        duration::Duration,
    },
    core::{
        Time,
        condition::{Draft, conditions},
        failure::Failure,
        id::Key,
        kernel::{policies::Policies, tended::Tending},
        meta::text,
        redact,
    },
};

/// Findings listed at most: a status must stay readable and small.
const MAX_FINDINGS: usize = 20;

/// Computes the status of the policy in this row, once the tokens are listed or their watch fails. Condition times move only
/// when a status flips.
pub(super) fn status(
    tokens: &Tending<BootstrapToken>,
    policies: &Policies<BootstrapPolicy>,
    id: u32,
    now: Time,
) -> Option<BootstrapTokenPolicyStatus> {
    let (_, stored, before) = policies.get(id)?;
    if !tokens.listed() && !policies.failures().contains_key(TOKENS) {
        return None;
    }
    let policy = stored.asks.as_ref().ok()?;
    let calls = tokens.failures().map(|(_, failure)| failure);
    let failure = policies.failures().values().chain(calls).next();
    let (counts, findings) = inventory(policy, tokens.iter(), now);
    let drafts = [
        Some(ready(&counts, failure)),
        failure.map(|failure| Draft::failure("Stalled", true, failure)),
        overlapping(policies),
    ];
    Some(BootstrapTokenPolicyStatus {
        observed_generation: Some(stored.generation),
        conditions: conditions(drafts.into_iter().flatten(), &before.conditions, stored.generation, now),
        tokens: Some(counts),
        findings,
    })
}

fn inventory<'a>(
    policy: &BootstrapPolicy,
    tokens: impl Iterator<Item = (&'a Key, &'a BootstrapToken)>,
    now: Time,
) -> (TokenCounts, Vec<TokenFinding>) {
    let (mut counts, mut findings) = (TokenCounts::default(), Vec::new());
    let mut known: Vec<_> = tokens.collect();
    known.sort_unstable_by_key(|(key, _)| *key);
    for (key, token) in known {
        count(&mut counts, token.expiration, now);
        let found = problems(now, policy, token);
        counts.with_findings += i32::from(!found.is_empty());
        findings.extend(found.into_iter().map(|(reason, message)| finding(key, reason, &message)));
        // The first by name are shown; the counts go on.
        findings.truncate(MAX_FINDINGS);
    }
    (counts, findings)
}

/// Counts one more token.
pub(super) fn count(counts: &mut TokenCounts, expiration: Expiration, now: Time) {
    counts.total += 1;
    *match (expiration, expiration.ended(now)) {
        (_, Some(Expiry::Expired(_))) => &mut counts.expired,
        (_, Some(Expiry::Unparsable)) => &mut counts.unparsable,
        (Expiration::At(_), None) => &mut counts.valid,
        (_, None) => &mut counts.never_expires,
    } += 1;
}

fn finding(key: &Key, reason: &str, message: &str) -> TokenFinding {
    TokenFinding { secret: key.name.to_string(), reason: reason.into(), message: redact::message(message) }
}

/// Everything that is wrong with a token, in the words of the API and for people.
fn problems(now: Time, policy: &BootstrapPolicy, token: &BootstrapToken) -> Vec<(&'static str, String)> {
    let mut found = Vec::from_iter(lifetime(now, policy, token));
    if token.immutable {
        for (_, message) in &mut found {
            message.push_str("; the Secret is immutable: delete it");
        }
    }
    if !token.well_named {
        let message =
            "the name is not bootstrap-token- and the token-id, so nobody can join with it; delete the Secret";
        found.push(("NameMismatch", message.into()));
    }
    found.extend(groups(policy, token).map(|message| ("GroupNotAllowed", message)));
    found
}

fn lifetime(now: Time, policy: &BootstrapPolicy, token: &BootstrapToken) -> Option<(&'static str, String)> {
    let over = |age: &chrono::TimeDelta| outlives(now, token, *age) && !policy.keeps(token);
    match (token.expiration, token.expiration.ended(now)) {
        (_, Some(why @ Expiry::Expired(_))) => Some(("Expired", format!("{why}; the token cleaner deletes it"))),
        (_, Some(why @ Expiry::Unparsable)) => Some(("Unparsable", format!("{why}; delete the Secret or correct it"))),
        (Expiration::At(at), None) => policy.max_age.filter(over).map(|age| {
            let age = Duration::from_secs(u32::try_from(age.num_seconds()).unwrap_or(u32::MAX));
            ("BeyondMaxAge", format!("it expires at {}, more than {age} from when it was seen", text(at)))
        }),
        (_, None) => Some(("NeverExpires", "it has no expiration; anyone who holds it can join nodes for ever".into())),
    }
}

fn groups(policy: &BootstrapPolicy, token: &BootstrapToken) -> Option<String> {
    let allowed = policy.allowed_groups.as_ref()?;
    let group = token.groups.iter().find(|group| !allowed.iter().any(|allowed| **allowed == ***group))?;
    Some(format!("it gives the group {group}, which spec.allowedGroups does not name"))
}

fn ready(counts: &TokenCounts, failure: Option<&Failure>) -> Draft {
    if let Some(failure) = failure {
        return Draft::failure("Ready", false, failure);
    }
    let message = format!("{} bootstrap tokens in {NAMESPACE}, {} with findings", counts.total, counts.with_findings);
    Draft::new("Ready", true, "Evaluated", &message)
}

/// Several policies are legal, but rarely meant.
fn overlapping(policies: &Policies<BootstrapPolicy>) -> Option<Draft> {
    let enforced = policies.acting().filter(|(_, policy)| policy.enforces);
    let strictest = enforced.filter_map(|(name, policy)| Some((policy.max_age?, name))).min();
    let strictest = strictest.map_or_else(
        || "none of them enforces a maxAge".to_owned(),
        |(_, name)| format!("the smallest maxAge that applies to a token counts; the strictest is that of {name}"),
    );
    let message = format!("there are {} BootstrapTokenPolicies; {strictest}", policies.len());
    (policies.len() > 1).then(|| Draft::new("Overlapping", true, "SeveralPolicies", &message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::bootstrap::{policy::tests::policy, token::tests::token};

    fn at(seconds: i64) -> Time {
        Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
    }

    fn inventory(spec: &str, tokens: &[(&str, BootstrapToken)]) -> (TokenCounts, Vec<TokenFinding>) {
        let tokens: Vec<(Key, &BootstrapToken)> =
            tokens.iter().map(|(name, token)| (Key::new(NAMESPACE, *name), token)).collect();
        super::inventory(&policy(spec), tokens.iter().map(|(key, token)| (key, *token)), at(0))
    }

    fn reasons((_, findings): &(TokenCounts, Vec<TokenFinding>)) -> Vec<&str> {
        findings.iter().map(|finding| finding.reason.as_str()).collect()
    }

    #[test]
    fn counts_each_token_in_one_state() {
        let tokens = ["", "", "x", "2027-01-15T07:00:00Z", "2027-01-15T09:00:00Z"].map(|raw| ("a", token(raw)));
        let counts = inventory("{}", &tokens).0;
        assert_eq!((counts.total, counts.never_expires, counts.unparsable), (5, 2, 1));
        assert_eq!((counts.expired, counts.valid, counts.with_findings), (1, 1, 4));
    }

    #[test]
    fn finds_what_is_wrong() {
        let good = token("2027-01-15T09:00:00Z");
        let spec = r#"{"maxAge":"30m","allowedGroups":["system:bootstrappers:a"]}"#;
        let odd = BootstrapToken { well_named: false, ..good.clone() };
        let grouped = |group: &str| BootstrapToken { groups: vec![group.into()], ..token("") };
        assert_eq!(reasons(&inventory(spec, &[("a", good.clone())])), ["BeyondMaxAge"]);
        assert_eq!(reasons(&inventory("{}", &[("a", good)])), Vec::<&str>::new());
        let (_, immutable) = inventory("{}", &[("a", BootstrapToken { immutable: true, ..token("") })]);
        assert!(immutable[0].message.ends_with("immutable: delete it"), "{immutable:?}");
        assert_eq!(reasons(&inventory("{}", &[("a", odd)])), ["NameMismatch"]);
        assert_eq!(reasons(&inventory(spec, &[("a", grouped("system:bootstrappers:a"))])), ["NeverExpires"]);
        let broad = inventory(spec, &[("a", grouped("system:masters"))]);
        assert_eq!(reasons(&broad), ["NeverExpires", "GroupNotAllowed"]);
    }

    #[test]
    fn lists_twenty_and_counts_all() {
        let tokens: Vec<(&str, BootstrapToken)> = (0..50).map(|_| ("a", token(""))).collect();
        let (counts, findings) = inventory("{}", &tokens);
        assert_eq!((findings.len(), counts.with_findings), (20, 50));
    }
}
