//! From what is known of the Secrets to the status of a policy.

use super::{
    LegacyState, Surroundings, TRACKING, TRACKING_NAMESPACE, idle_since, policy::LegacyPolicy, references::References,
    state, token::LegacyToken,
};
use crate::{
    api::legacy_token_policy::{LegacyMode, LegacyTokenCounts, LegacyTokenFinding, LegacyTokenPolicyStatus},
    core::{Time, condition::Draft, failure::Failure, id::Key, meta::text},
};

/// Secrets listed at most: a status must stay readable and small.
const MAX_FINDINGS: usize = 50;
/// Referrers of each that are listed at most: a Deployment may have a thousand pods.
const MAX_REFERRERS: usize = 8;

/// The policy as a whole.
#[derive(Clone, Copy, Debug)]
pub struct LegacyContext<'a> {
    /// Now.
    pub now: Time,
    /// The policy's generation.
    pub generation: i64,
    /// Since when uses are recorded.
    pub tracked: Option<Time>,
    /// Who refers to Secrets.
    pub references: &'a References,
    /// Everything is known that a write needs.
    pub acts: bool,
    /// A watch or a write that fails.
    pub failure: Option<&'a Failure>,
}

/// Computes the status of a policy over the Secrets that it is for. Condition times move only when a status flips, compared to
/// `before`.
#[must_use]
pub fn summarise<'a>(
    policy: &LegacyPolicy,
    before: &LegacyTokenPolicyStatus,
    secrets: impl Iterator<Item = (&'a Key, &'a LegacyToken)>,
    context: LegacyContext<'_>,
) -> LegacyTokenPolicyStatus {
    let LegacyContext { now, tracked, references, acts, .. } = context;
    let mut counts = LegacyTokenCounts::default();
    let mut known = Vec::new();
    for (key, token) in secrets {
        let around = Surroundings { now, tracked, mounted: references.is_mounted(key), acts };
        let state = state(around, token, policy);
        count(&mut counts, state);
        // One whose age nobody knows comes last.
        known.push((idle_since(token, tracked).unwrap_or(Time::MAX_UTC), key, token, state));
    }
    known.sort_unstable_by_key(|(idle, key, ..)| (*idle, *key));
    known.truncate(MAX_FINDINGS);
    let findings = known.into_iter().map(|(_, key, token, state)| finding(references, key, token, state)).collect();
    let conditions = [Some(ready(policy, &counts, context)), context.failure.map(stalled)];
    let since = |draft: Draft| draft.since(&before.conditions, context.generation, now);
    LegacyTokenPolicyStatus {
        observed_generation: Some(context.generation),
        conditions: conditions.into_iter().flatten().map(since).collect(),
        tokens: Some(counts),
        findings,
    }
}

fn count(counts: &mut LegacyTokenCounts, state: LegacyState) {
    counts.total += 1;
    *match state {
        LegacyState::Quarantined => &mut counts.quarantined,
        LegacyState::Mounted => &mut counts.mounted,
        LegacyState::Kept => &mut counts.kept,
        LegacyState::Unknown => &mut counts.unknown,
        LegacyState::Used => &mut counts.used,
        LegacyState::Unused => &mut counts.unused,
    } += 1;
}

fn finding(references: &References, key: &Key, token: &LegacyToken, state: LegacyState) -> LegacyTokenFinding {
    LegacyTokenFinding {
        namespace: key.namespace.to_string(),
        secret: key.name.to_string(),
        service_account: token.account.0.to_string(),
        state: <&str>::from(state).into(),
        created: text(token.created),
        last_used: token.last_used.as_ref().map(|day| day.text.to_string()),
        referred_by: references.to(key).take(MAX_REFERRERS).map(ToString::to_string).collect(),
    }
}

fn stalled(failure: &Failure) -> Draft {
    Draft::new("Stalled", true, failure.reason.into_str(), &failure.message)
}

fn ready(policy: &LegacyPolicy, counts: &LegacyTokenCounts, context: LegacyContext<'_>) -> Draft {
    if let Some(failure) = context.failure {
        let until = if context.acts { "" } else { "; until then nothing is quarantined or deleted" };
        return Draft::new("Ready", false, failure.reason.into_str(), &format!("{}{until}", failure.message));
    }
    if context.tracked.is_none() && policy.mode > LegacyMode::Report {
        let message = format!(
            "ConfigMap {TRACKING_NAMESPACE}/{TRACKING} does not say since which day uses are recorded, so nothing is \
             quarantined or deleted; the API server writes it again within half an hour, and then counts from that day: find \
             out who removes it"
        );
        return Draft::new("Ready", false, "UsesNotRecorded", &message);
    }
    let LegacyTokenCounts { total, unused, quarantined, .. } = counts;
    let message = format!("{total} Secrets with legacy tokens, {unused} unused, {quarantined} quarantined");
    Draft::new("Ready", true, "Evaluated", &message)
}
