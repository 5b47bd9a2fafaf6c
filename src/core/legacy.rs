//! Secrets with legacy ServiceAccount tokens, which never expire: what happens to one of them. Nobody reads a token for it:
//! metadata says all.

pub mod controller;
pub mod event;
pub mod policy;
pub mod references;
pub mod status;
pub mod token;

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

/// What is known besides the Secret itself.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Now.
    pub now: Time,
    /// Since when uses are recorded, if anybody knows.
    pub tracked: Option<Time>,
    /// A pod refers to the Secret.
    pub mounted: bool,
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
    /// The policy keeps it.
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
/// from quarantine counts as used then, and nobody knows when that was if the Secret does not say.
#[must_use]
pub fn idle_since(token: &LegacyToken, tracked: Option<Time>) -> Option<Time> {
    let used = match &token.last_used {
        Some(day) => day.end?,
        None => tracked?,
    };
    let used = used.max(token.created);
    if let Quarantine::Lifted(at) = token.quarantine { Some(used.max(at?)) } else { Some(used) }
}

/// The state of a Secret by a policy.
#[must_use]
pub fn state(around: Surroundings, token: &LegacyToken, policy: &LegacyPolicy) -> LegacyState {
    match idle_since(token, around.tracked) {
        _ if matches!(token.quarantine, Quarantine::Since(_)) => LegacyState::Quarantined,
        _ if around.mounted => LegacyState::Mounted,
        _ if policy.keeps(token) => LegacyState::Kept,
        None => LegacyState::Unknown,
        Some(idle) if idle + policy.unused_for <= around.now => LegacyState::Unused,
        Some(_) => LegacyState::Used,
    }
}

/// Decides about a Secret for one of its policies. One of which nobody knows when it was used is never touched.
#[must_use]
pub fn decide(around: Surroundings, token: &LegacyToken, name: &Name, policy: &LegacyPolicy) -> LegacyAct {
    let idle = idle_since(token, around.tracked).filter(|_| !token.terminating);
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
    match (state(around, token, policy), token.quarantine) {
        _ if token.was_lifted => act(around.now, LegacyMode::Quarantine, LegacyStep::Lift),
        (LegacyState::Quarantined, Quarantine::Since(Some(since))) if !around.mounted && !policy.keeps(token) => {
            let since = since.max(token.created);
            let step = LegacyStep::Delete { policy: name.clone(), since };
            act(unused_at.max(since + policy.delete_after), LegacyMode::Delete, step)
        }
        (LegacyState::Used | LegacyState::Unused, _) => {
            let step = LegacyStep::Quarantine { policy: name.clone(), idle, today: around.now.date_naive() };
            act(unused_at, LegacyMode::Quarantine, step)
        }
        _ => LegacyAct::Wait(None),
    }
}

/// What the policies that are for a Secret want: the first step that one of them takes, else the earliest wait.
#[must_use]
pub fn decide_all<'a>(
    around: Surroundings,
    token: &LegacyToken,
    policies: impl Iterator<Item = (&'a Name, &'a LegacyPolicy)>,
) -> LegacyAct {
    let mut until = None;
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
