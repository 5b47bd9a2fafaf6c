//! Events of Secrets with legacy tokens. Each says the way back.

use chrono::TimeDelta;

use super::{INVALID_SINCE, token::LegacyStep};
use crate::core::{
    Time,
    failure::Failure,
    id::{Key, Name},
    meta::text,
};

/// Something happened.
#[derive(Clone, Debug)]
pub struct LegacyEvent {
    /// The Secret.
    pub secret: Key,
    /// Its UID, for the event's reference.
    pub uid: Box<str>,
    /// The account whose token it holds, and its UID.
    pub account: (Name, Box<str>),
    /// What.
    pub what: LegacyNews,
}

/// The event.
#[derive(Clone, Debug)]
pub enum LegacyNews {
    /// A step was done.
    Done(LegacyStep),
    /// A step cannot be done.
    Failing(Failure),
}

impl LegacyNews {
    /// The event's reason and action.
    #[must_use]
    pub fn reason_and_action(&self) -> (&'static str, &'static str) {
        match self {
            Self::Done(step @ LegacyStep::Quarantine { .. }) => ("LegacyTokenQuarantined", step.into()),
            Self::Done(step @ LegacyStep::Lift) => ("LegacyTokenLifted", step.into()),
            Self::Done(step @ LegacyStep::Delete { .. }) => ("LegacyTokenDeleted", step.into()),
            Self::Failing(failure) => (failure.reason.into_str(), "Write"),
        }
    }
}

/// The last day of a time that ends with it.
fn day(end: Time) -> String {
    (end - TimeDelta::seconds(1)).date_naive().to_string()
}

impl LegacyEvent {
    /// The text for people.
    #[must_use]
    pub fn message(&self) -> String {
        let Key { namespace, name } = &self.secret;
        let account = if self.account.0.is_empty() { "that nobody knows" } else { &*self.account.0 };
        let head = format!("Secret {namespace}/{name} with a token of ServiceAccount {account}");
        match &self.what {
            LegacyNews::Done(LegacyStep::Quarantine { policy, idle, .. }) => {
                let idle = text(*idle);
                format!(
                    "{head} quarantined by LegacyTokenPolicy {policy}: unused since {idle}, and the API server refuses the \
                     token now; lift it with: kubectl -n {namespace} label secret {name} --overwrite {INVALID_SINCE}="
                )
            }
            LegacyNews::Done(LegacyStep::Lift) => {
                format!("{head} was lifted from quarantine by hand; its token works, and counts as used today")
            }
            LegacyNews::Done(LegacyStep::Delete { policy, since }) => format!(
                "{head} deleted by LegacyTokenPolicy {policy}: quarantined on {} and not used since; its token is lost, and a \
                 consumer that still needs one gets it by a TokenPolicy",
                day(*since)
            ),
            LegacyNews::Failing(failure) => failure.message.to_string(),
        }
    }
}
