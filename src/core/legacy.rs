//! Secrets with legacy ServiceAccount tokens, which never expire: what happens to one of them. Nobody reads a token for it:
//! metadata says all.

pub mod controller;
pub mod event;
pub mod policy;
pub mod references;
pub mod status;
pub mod token;

use std::collections::BTreeMap;

use strum::IntoStaticStr;

use super::{Time, id::Name};
use crate::api::legacy_token_policy::LegacyMode;
use policy::LegacyPolicy;
use token::{LegacyStep, LegacyToken, Quarantine};

/// The type of these Secrets.
pub const SECRET_TYPE: &str = "kubernetes.io/service-account-token";
/// Annotation: the account whose token it holds.
pub const ACCOUNT: &str = "kubernetes.io/service-account.name";
/// Label: the API server refuses the token while this has a value, whatever that is.
pub const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
/// Label: the day of the last use, which the API server writes, also when it has refused the token.
pub const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
/// The namespace of the ConfigMap that says since which day uses are recorded.
pub const TRACKING_NAMESPACE: &str = "kube-system";
/// Its name.
pub const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";

/// Why nobody knows since when a token is unused, and what to do.
const NO_RECORD: &str = "it has no label kubernetes.io/legacy-token-last-used, and no ConfigMap says since when uses are recorded: see the condition Ready";
const NO_DAY: &str = "its label kubernetes.io/legacy-token-last-used is no day: set it to today's, as YYYY-MM-DD; without the label, the day since when uses are recorded counts";
const NO_LIFT: &str = "nobody knows when its quarantine was lifted: delete the Secret if nobody needs it, else let spec.keep of the policy select it";
const NO_START: &str = "its label kubernetes.io/legacy-token-invalid-since is no day, so nobody knows since when it is quarantined: set it to a day, as YYYY-MM-DD, or to nothing to lift the quarantine";

/// What is known besides the Secret itself.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Now.
    pub now: Time,
    /// Since when uses are recorded, if anybody knows.
    pub tracked: Option<Time>,
    /// A pod refers to the Secret.
    pub mounted: bool,
    /// A policy that is for the Secret keeps it, this one or another.
    pub kept: bool,
    /// Everything is known that a write needs.
    pub acts: bool,
}

/// Each Secret is in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
pub enum LegacyState {
    /// The API server refuses the token.
    Quarantined,
    /// A pod refers to it.
    Mounted,
    /// A policy keeps it.
    Kept,
    /// Nobody knows when it was last used.
    Unknown,
    /// Used within the time that the policy allows.
    Used,
    /// Not used for longer.
    Unused,
}

/// The next act on a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LegacyAct {
    /// Nothing until then.
    Wait(Option<Time>),
    /// This, for this policy.
    Step(LegacyStep),
}

/// Since when a token is unused: the end of the day of its last use, else the first day on which uses were recorded; its
/// creation if that is later, as a copy or a restored backup has the label of the Secret before. One that somebody lifted
/// from quarantine counts as used then, and one that a pod referred to until that pod went.
///
/// # Errors
/// With the reason why nobody knows, and what to do.
pub fn idle_since(token: &LegacyToken, tracked: Option<Time>) -> Result<Time, &'static str> {
    let used = match &token.last_used {
        Some(day) => day.end.ok_or(NO_DAY)?,
        None => tracked.ok_or(NO_RECORD)?,
    };
    let lifted = if let Quarantine::Lifted(at) = token.quarantine { at.ok_or(NO_LIFT)? } else { used };
    Ok(used.max(token.created).max(lifted).max(token.released.unwrap_or(used)))
}

/// The state of a Secret by a policy.
#[must_use]
pub fn state(around: Surroundings, token: &LegacyToken, policy: &LegacyPolicy) -> LegacyState {
    match idle_since(token, around.tracked) {
        _ if matches!(token.quarantine, Quarantine::Since(_)) => LegacyState::Quarantined,
        _ if around.mounted => LegacyState::Mounted,
        _ if around.kept => LegacyState::Kept,
        Err(_) => LegacyState::Unknown,
        Ok(idle) if idle + policy.unused_for <= around.now => LegacyState::Unused,
        Ok(_) => LegacyState::Used,
    }
}

/// Decides about a Secret for one of its policies. One is never touched of which nobody knows when it was used, or that a pod
/// refers to or a policy keeps, also when somebody has just lifted its quarantine.
#[must_use]
pub fn decide(around: Surroundings, token: &LegacyToken, name: &Name, policy: &LegacyPolicy) -> LegacyAct {
    let idle = idle_since(token, around.tracked).ok().filter(|_| !token.terminating && !around.mounted && !around.kept);
    let Some(idle) = idle else { return LegacyAct::Wait(None) };
    let unused_at = idle + policy.unused_for;
    let act = |at: Time, least: LegacyMode, step: LegacyStep| {
        if at > around.now {
            LegacyAct::Wait(Some(at))
        } else if around.acts && policy.mode >= least {
            LegacyAct::Step(step)
        } else {
            LegacyAct::Wait(None)
        }
    };
    match token.quarantine {
        _ if token.was_lifted => act(around.now, LegacyMode::Quarantine, LegacyStep::Lift),
        // Since nobody knows when.
        Quarantine::Since(None) => LegacyAct::Wait(None),
        Quarantine::Since(Some(since)) => {
            let since = since.max(token.created);
            let step = LegacyStep::Delete { policy: name.clone(), since };
            act(unused_at.max(since + policy.delete_after), LegacyMode::Delete, step)
        }
        Quarantine::No | Quarantine::Lifted(_) => {
            let step = LegacyStep::Quarantine { policy: name.clone(), idle, today: around.now.date_naive() };
            act(unused_at, LegacyMode::Quarantine, step)
        }
    }
}

/// What the policies that are for a Secret want: the step of the first of them, by name, that takes one, else the earliest wait.
#[must_use]
pub fn decide_all<'a>(
    around: Surroundings,
    token: &LegacyToken,
    policies: impl Iterator<Item = (&'a Name, &'a LegacyPolicy)>,
) -> LegacyAct {
    let mut until = None;
    let policies: BTreeMap<&Name, &LegacyPolicy> = policies.collect();
    for (name, policy) in policies {
        match decide(around, token, name, policy) {
            LegacyAct::Wait(at) => until = until.into_iter().chain(at).min(),
            step @ LegacyAct::Step(_) => return step,
        }
    }
    LegacyAct::Wait(until)
}

#[cfg(test)]
mod tests;
