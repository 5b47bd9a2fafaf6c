//! Events of a grant: each becomes a log line, a count and perhaps an Event object.

use chrono::TimeDelta;

use super::Retirement;
use crate::core::{
    Time,
    credential::token::Claims,
    failure::Failure,
    id::{GrantKey, Uid},
    meta::text,
    reason::IssueReason,
};

/// Stands for the account in a notice that concerns a policy as a whole; no object can be called so.
pub const EVERY_ACCOUNT: &str = "*";

/// Something happened to a grant.
#[derive(Clone, Debug)]
pub struct GrantEvent {
    /// Policy and account.
    pub grant: GrantKey,
    /// UID of the policy, for the event's reference; empty when it is gone.
    pub policy_uid: Uid,
    /// `metadata.generation` of the policy; 0 when it is gone.
    pub generation: i64,
    /// Name of the target, if it has one.
    pub target: Option<String>,
    /// The news.
    pub what: GrantNews,
}

/// How a token stood when its successor was published.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Replaced {
    /// How long it had been due, if that is why it was replaced.
    pub late: Option<TimeDelta>,
    /// Share of its life that was left, 0 to 1.
    pub left: f64,
}

/// News of a grant.
#[derive(Clone, Debug)]
pub enum GrantNews {
    /// A token was published.
    Issued {
        /// Why.
        why: IssueReason,
        /// The claims of the token.
        claims: Box<Claims>,
        /// The token that was published before it, if there was a living one.
        replaced: Option<Replaced>,
    },
    /// A Secret was written again with the same token, or its metadata was mended.
    Repaired {
        /// Name of the Secret.
        secret: String,
        /// Why.
        why: IssueReason,
    },
    /// An anchor was deleted, and the token bound to it is dead.
    Retired(Retirement),
    /// A target was deleted.
    Removed,
    /// A revocation is asked for at an instant to come.
    RevocationScheduled(Time),
    /// A revocation is asked for, and every token was issued after its instant.
    NothingToRevoke(Time),
    /// It began to fail, or fails for another reason.
    Failing(Failure),
    /// Tokens that are to be revoked live on.
    RevocationFailing(Failure),
    /// Every token that was to be revoked is dead.
    RevocationDone,
    /// It stopped failing.
    Recovered,
}

impl GrantNews {
    /// The event's reason, and its action: what the operator was doing, in the words of events.k8s.io.
    #[must_use]
    pub const fn reason_and_action(&self) -> (&'static str, &'static str) {
        match self {
            Self::Issued { why: IssueReason::FirstIssue, .. } => ("TokenIssued", "Issue"),
            Self::Issued {
                why:
                    IssueReason::Due | IssueReason::RotationRequested | IssueReason::SpecChanged | IssueReason::TakenOver,
                ..
            } => ("TokenRotated", "Issue"),
            Self::Issued { .. } => ("TokenReissued", "Issue"),
            Self::Failing(failure) => (failure.reason.into_str(), "Issue"),
            Self::Recovered => ("Recovered", "Issue"),
            Self::Repaired { .. } => ("SecretRepaired", "Repair"),
            Self::Removed => ("SecretDeleted", "Delete"),
            Self::Retired(_) => ("TokenRevoked", "Revoke"),
            Self::RevocationScheduled(_) => ("RevocationScheduled", "Revoke"),
            Self::NothingToRevoke(_) => ("NothingToRevoke", "Revoke"),
            Self::RevocationFailing(failure) if failure.reason.is_unheard() => (failure.reason.into_str(), "Revoke"),
            Self::RevocationFailing(_) => ("RevocationFailing", "Revoke"),
            Self::RevocationDone => ("Recovered", "Revoke"),
        }
    }

    /// The failure, if it is one.
    #[must_use]
    pub const fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failing(failure) | Self::RevocationFailing(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether it is worth an event: the planned end of an old token is part of its rotation, which had one, and of
    /// what is cleared away nobody ever had a token.
    #[must_use]
    pub const fn is_news(&self) -> bool {
        !matches!(self, Self::Retired(retirement) if retirement.cause.is_planned() || retirement.is_sweep())
    }

    /// Whether somebody should look.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        self.failure().is_some()
    }
}

impl GrantEvent {
    /// The text for people.
    #[must_use]
    pub fn message(&self) -> String {
        let who = match &*self.grant.account {
            EVERY_ACCOUNT => "every account".to_owned(),
            account => format!("ServiceAccount {account}"),
        };
        match &self.what {
            GrantNews::Issued { why, claims, .. } => format!(
                "{who}: token {} published in Secret {}, expires {}, policy generation {} ({})",
                claims.token_id,
                self.target.as_deref().unwrap_or_default(),
                text(claims.expires_at),
                self.generation,
                why.into_str()
            ),
            GrantNews::Repaired { secret, why } => {
                format!("{who}: Secret {secret} mended, same token ({})", why.into_str())
            }
            GrantNews::Retired(retirement) => {
                let Retirement { secret, token_id, .. } = retirement;
                match token_id {
                    Some(id) => format!("{who}: token {id} revoked, Secret {secret} is gone ({})", retirement.why()),
                    None => format!("{who}: the token bound to Secret {secret} revoked ({})", retirement.why()),
                }
            }
            GrantNews::Removed => {
                format!("{who}: Secret {} deleted", self.target.as_deref().unwrap_or_default())
            }
            GrantNews::RevocationScheduled(at) => {
                format!("{who}: tokens issued before {} are revoked then, by the API server's clock", text(*at))
            }
            GrantNews::NothingToRevoke(at) => {
                format!(
                    "{who}: nothing is revoked, because every token was issued at {} or later; to revoke these, name a later instant",
                    text(*at)
                )
            }
            GrantNews::Failing(failure) => format!("{who}: {}", failure.message),
            GrantNews::RevocationFailing(failure) => {
                format!("{who}: a token that is to be revoked lives on: {}", failure.message)
            }
            GrantNews::Recovered => format!("{who}: works again"),
            GrantNews::RevocationDone => format!("{who}: no token that is to be revoked is left"),
        }
    }
}
