//! Events of bootstrap tokens.

use super::{Cap, Expiry, TokenStep};
use crate::core::{
    failure::Failure,
    id::{Key, Uid},
    meta::text,
};

/// Something happened.
#[derive(Clone, Debug)]
pub struct BootstrapEvent {
    /// The Secret, or the ConfigMap that is signed.
    pub object: Key,
    /// Its UID, for the event's reference.
    pub uid: Uid,
    /// What.
    pub what: BootstrapNews,
}

/// The event.
#[derive(Clone, Debug)]
pub enum BootstrapNews {
    /// A step was done.
    Done(TokenStep),
    /// It would have been deleted.
    WouldDelete(Expiry),
    /// It cannot be deleted, capped or signed.
    Failing(Failure),
    /// Somebody else keeps changing the signatures; these are the field managers.
    Contested(Vec<String>),
    /// Signing goes on.
    Uncontested,
}

impl BootstrapNews {
    /// The kind of object that it happened to, the event's reason and action, and whether somebody should look.
    #[must_use]
    pub const fn fields(&self) -> (&'static str, &'static str, &'static str, bool) {
        match self {
            Self::Done(TokenStep::Delete(_)) => ("Secret", "BootstrapTokenDeleted", "Delete", false),
            Self::WouldDelete(_) => ("Secret", "BootstrapTokenExpired", "Delete", true),
            Self::Done(TokenStep::Cap(_)) => ("Secret", "BootstrapTokenCapped", "Cap", false),
            Self::Failing(failure) => ("Secret", failure.reason.into_str(), "Cap", true),
            Self::Contested(_) => ("ConfigMap", "SignaturesContested", "Sign", true),
            Self::Uncontested => ("ConfigMap", "Recovered", "Sign", false),
        }
    }

    /// Whether it is worth an event. Failures are logged and counted only: they do not belong to a single Secret.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        !matches!(self, Self::Failing(_))
    }
}

impl BootstrapEvent {
    /// The text for people.
    #[must_use]
    pub fn message(&self) -> String {
        let name = &self.object.name;
        match &self.what {
            BootstrapNews::Done(TokenStep::Delete(why)) => format!("bootstrap token {name} deleted: {why}"),
            BootstrapNews::WouldDelete(why) => {
                format!("bootstrap token {name} would be deleted: {why}; --bootstrap-token-cleaner=enforce deletes it")
            }
            BootstrapNews::Done(TokenStep::Cap(Cap { until, policy })) => {
                format!(
                    "bootstrap token {name} now expires at {}, by maxAge of BootstrapTokenPolicy {policy}",
                    text(*until)
                )
            }
            BootstrapNews::Failing(failure) => failure.message.to_string(),
            BootstrapNews::Contested(managers) => format!(
                "the signatures were changed again and again by {}; signing stops until they are left alone for 10 \
                 minutes: run one signer, or start the operator without --bootstrap-signer",
                if managers.is_empty() { "somebody else".to_owned() } else { managers.join(", ") }
            ),
            BootstrapNews::Uncontested => "the signatures are left alone; signing goes on".to_owned(),
        }
    }
}
