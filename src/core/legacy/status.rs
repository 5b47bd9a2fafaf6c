//! From what is known of the Secrets to the status of a policy.

use super::{
    LegacyState, NO_START, TRACKING, TRACKING_NAMESPACE,
    controller::Known,
    idle_since,
    policy::LegacyPolicy,
    state,
    token::{LegacyToken, Quarantine},
};
use crate::{
    api::legacy_token_policy::{LegacyMode, LegacyTokenCounts, LegacyTokenFinding, LegacyTokenPolicyStatus},
    core::{
        Time,
        condition::{Draft, conditions},
        failure::Failure,
        id::{Key, Name},
        kernel::policies::Policies,
        meta::text,
        reason::FailureReason,
    },
};

/// Secrets listed at most: a status must stay readable and small.
const MAX_FINDINGS: usize = 50;
/// Referrers of each that are listed at most: a Deployment may have a thousand pods.
const MAX_REFERRERS: usize = 8;

impl Known {
    /// Computes the status of the policy in this row, once everything is listed or a watch fails. Condition times move only when
    /// a status flips.
    pub(super) fn status(
        &self,
        policies: &Policies<LegacyPolicy>,
        id: u32,
        now: Time,
    ) -> Option<LegacyTokenPolicyStatus> {
        let (name, stored, before) = policies.get(id)?;
        let watch = policies.failures().values().next();
        if !self.listed() && watch.is_none() {
            return None;
        }
        let policy = stored.asks.as_ref().ok()?;
        let failure = watch.or_else(|| self.failure(policy));
        let (counts, findings) = self.inventory(policy, policies, now);
        let ready = self.ready(&counts, failure, policies);
        let drafts = [
            Some(ready),
            failure.map(|failure| Draft::failure("Stalled", true, failure)),
            self.overlapping(name, policy, policies),
        ];
        Some(LegacyTokenPolicyStatus {
            observed_generation: Some(stored.generation),
            conditions: conditions(drafts.into_iter().flatten(), &before.conditions, stored.generation, now),
            tokens: Some(counts),
            findings,
        })
    }

    /// A call about a Secret that this policy is to act on.
    fn failure(&self, policy: &LegacyPolicy) -> Option<&Failure> {
        let acts = policy.mode > LegacyMode::Report;
        let mut failures = self.tokens.failures().filter(|(key, _)| acts && self.is_for(policy, &key.namespace));
        Some(failures.next()?.1)
    }

    fn inventory(
        &self,
        policy: &LegacyPolicy,
        policies: &Policies<LegacyPolicy>,
        now: Time,
    ) -> (LegacyTokenCounts, Vec<LegacyTokenFinding>) {
        let mut counts = LegacyTokenCounts::default();
        let mut known = Vec::new();
        let around = self.around(policies, now);
        for (key, token) in self.tokens.iter().filter(|(key, _)| self.is_for(policy, &key.namespace)) {
            let around = around(key, token);
            let (state, idle) = (state(around, token, policy), idle_since(token, around.tracked));
            count(&mut counts, state);
            // One of which nobody knows may be unused since it was made.
            known.push((idle.unwrap_or(token.created), key, token, state));
        }
        // To sort a hundred thousand would take much longer.
        if known.len() > MAX_FINDINGS {
            known.select_nth_unstable_by_key(MAX_FINDINGS, |(idle, key, ..)| (*idle, *key));
            known.truncate(MAX_FINDINGS);
        }
        known.sort_unstable_by_key(|(idle, key, ..)| (*idle, *key));
        (counts, known.into_iter().map(|(_, key, token, state)| self.finding(key, token, state)).collect())
    }

    fn finding(&self, key: &Key, token: &LegacyToken, state: LegacyState) -> LegacyTokenFinding {
        let why = match (state, token.quarantine) {
            (LegacyState::Unknown, _) => idle_since(token, self.tracked()).err(),
            (_, Quarantine::Since(None)) => Some(NO_START),
            _ => None,
        };
        LegacyTokenFinding {
            namespace: key.namespace.to_string(),
            secret: key.name.to_string(),
            service_account: token.account.0.to_string(),
            state: <&str>::from(state).into(),
            created: text(token.created),
            last_used: token.last_used.as_ref().map(|day| day.text.to_string()),
            message: why.map(Into::into),
            referred_by: self.references.to(key).take(MAX_REFERRERS).map(ToString::to_string).collect(),
        }
    }

    fn ready(&self, counts: &LegacyTokenCounts, failure: Option<&Failure>, policies: &Policies<LegacyPolicy>) -> Draft {
        if let Some(failure) = failure {
            let until = if self.acts(policies) { "" } else { "; until then nothing is quarantined or deleted" };
            return Draft::new("Ready", false, failure.reason.into_str(), &format!("{}{until}", failure.message));
        }
        if let Some(name) = policies.unreadable() {
            let message = format!(
                "LegacyTokenPolicy {name} does not parse, and may keep Secrets of any namespace: mend or delete it; until then \
                 nothing is quarantined or deleted"
            );
            return Draft::new("Ready", false, FailureReason::PolicyUnreadable.into_str(), &message);
        }
        if self.tracked().is_none() {
            let message = format!(
                "ConfigMap {TRACKING_NAMESPACE}/{TRACKING} does not say since which day uses are recorded, so Secrets without a \
                 label of their last use are Unknown, and nothing is quarantined or deleted; the API server writes it again \
                 within half an hour, and then counts from that day: find out who removes it"
            );
            return Draft::new("Ready", false, "UsesNotRecorded", &message);
        }
        let LegacyTokenCounts { total, unused, quarantined, unknown, .. } = counts;
        let message = format!(
            "{total} Secrets with legacy tokens, {unused} unused, {quarantined} quarantined, {unknown} unknown"
        );
        Draft::new("Ready", true, "Evaluated", &message)
    }

    /// Several policies for a namespace are legal, but not always meant.
    fn overlapping(&self, name: &Name, policy: &LegacyPolicy, policies: &Policies<LegacyPolicy>) -> Option<Draft> {
        let namespaces = || self.namespaces.iter().filter_map(|(_, labels, _)| labels);
        let both = |other: &LegacyPolicy, labels| policy.is_for(|| Some(labels)) && other.is_for(|| Some(labels));
        let others = policies.acting().filter(|(it, _)| *it != name);
        let others = others.filter(|(_, other)| namespaces().any(|labels| both(other, labels)));
        let mut names: Vec<&str> = others.map(|(name, _)| &**name).collect();
        names.sort_unstable();
        let message = format!(
            "LegacyTokenPolicy {} is for some of the same namespaces: a Secret there is quarantined or deleted as soon as one \
             of the policies says so, and left alone if one of them keeps it",
            names.join(", ")
        );
        (!names.is_empty()).then(|| Draft::new("Overlapping", true, "SeveralPolicies", &message))
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
