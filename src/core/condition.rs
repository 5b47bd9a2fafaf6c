//! Conditions of a status, by Kubernetes' API conventions.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time as ApiTime},
    jiff::Timestamp,
};

use super::{Time, failure::Failure};

/// A condition without times.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its type.
    pub kind: &'static str,
    /// True or false.
    pub status: bool,
    /// Reason in one word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Draft {
    /// A condition of this type.
    #[must_use]
    pub fn new(kind: &'static str, status: bool, reason: &'static str, message: &str) -> Self {
        Self { kind, status, reason, message: message.to_owned() }
    }

    /// A condition that tells a failure.
    #[must_use]
    pub fn failure(kind: &'static str, status: bool, failure: &Failure) -> Self {
        Self::new(kind, status, failure.reason.into_str(), &failure.message)
    }

    fn since(self, before: &[Condition], generation: i64, now: Time) -> Condition {
        let status = if self.status { "True" } else { "False" };
        let same = before.iter().find(|old| old.type_ == self.kind && old.status == status);
        Condition {
            type_: self.kind.into(),
            status: status.into(),
            reason: self.reason.into(),
            message: self.message,
            observed_generation: Some(generation),
            last_transition_time: same.map_or_else(|| api_time(now), |old| old.last_transition_time.clone()),
        }
    }
}

/// The conditions of a status. The time of one moves only when its status flips, compared to `before`.
#[must_use]
pub fn conditions(
    drafts: impl IntoIterator<Item = Draft>,
    before: &[Condition],
    generation: i64,
    now: Time,
) -> Vec<Condition> {
    drafts.into_iter().map(|draft| draft.since(before, generation, now)).collect()
}

/// Nothing moves until somebody acts.
#[must_use]
pub fn stopped(failure: &Failure) -> [Draft; 2] {
    [Draft::failure("Ready", false, failure), Draft::failure("Stalled", true, failure)]
}

fn api_time(time: Time) -> ApiTime {
    ApiTime(Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::UNIX_EPOCH))
}
