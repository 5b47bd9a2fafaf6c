//! What people are told about bootstrap tokens.

use super::{Cap, Why};
use crate::core::{facts::text, failure::Failure, table::Key};

/// Something happened.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The Secret, or the ConfigMap that is signed.
    pub object: Key,
    /// Its UID, for the event's reference.
    pub uid: Box<str>,
    /// What.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum What {
    /// It was deleted.
    Deleted(Why),
    /// It would have been deleted.
    WouldDelete(Why),
    /// It got an earlier end.
    Capped(Cap),
    /// It cannot be deleted, capped or signed.
    Failing(Failure),
    /// Somebody else keeps changing the signatures; these are the field managers.
    Contested(Vec<String>),
    /// Signing goes on.
    Uncontested,
}

impl What {
    /// The event's reason.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Deleted(_) => "BootstrapTokenDeleted",
            Self::WouldDelete(_) => "BootstrapTokenExpired",
            Self::Capped(_) => "BootstrapTokenCapped",
            Self::Failing(failure) => failure.reason.as_str(),
            Self::Contested(_) => "SignaturesContested",
            Self::Uncontested => "Recovered",
        }
    }

    /// The event's action.
    #[must_use]
    pub const fn action(&self) -> &'static str {
        match self {
            Self::Deleted(_) | Self::WouldDelete(_) => "Delete",
            Self::Capped(_) | Self::Failing(_) => "Cap",
            Self::Contested(_) | Self::Uncontested => "Sign",
        }
    }

    /// The kind of object that it happened to.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Contested(_) | Self::Uncontested => "ConfigMap",
            Self::Deleted(_) | Self::WouldDelete(_) | Self::Capped(_) | Self::Failing(_) => "Secret",
        }
    }

    /// Whether it is worth an event; failures are logged and counted, and one lies in nobody's Secret.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        !matches!(self, Self::Failing(_))
    }

    /// Whether somebody should look.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        matches!(self, Self::WouldDelete(_) | Self::Failing(_) | Self::Contested(_))
    }
}

impl Notice {
    /// The text for people.
    #[must_use]
    pub fn message(&self) -> String {
        let name = &self.object.name;
        match &self.what {
            What::Deleted(why) => format!("bootstrap token {name} deleted: {why}"),
            What::WouldDelete(why) => {
                format!("bootstrap token {name} would be deleted: {why}; --bootstrap-token-cleaner=enforce deletes it")
            }
            What::Capped(Cap { until, policy }) => {
                format!(
                    "bootstrap token {name} now expires at {}, by maxAge of BootstrapTokenPolicy {policy}",
                    text(*until)
                )
            }
            What::Failing(failure) => failure.message.clone(),
            What::Contested(managers) => format!(
                "the signatures were changed again and again by {}; signing stops until they are left alone for 10 \
                 minutes: run one signer, or start the operator without --bootstrap-signer",
                if managers.is_empty() { "somebody else".to_owned() } else { managers.join(", ") }
            ),
            What::Uncontested => "the signatures are left alone; signing goes on".to_owned(),
        }
    }
}
