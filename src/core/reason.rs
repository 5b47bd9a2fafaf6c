//! Why something happens, from closed lists: the words in conditions, events, logs and metrics.

use strum::{EnumIter, IntoStaticStr};

/// Why a Secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(const_into_str)]
pub enum IssueReason {
    /// There was none before.
    FirstIssue,
    /// The target was deleted.
    TargetDeleted,
    /// The target describes no token.
    TargetEmpty,
    /// The target was written for a policy of another UID: re-created, or restored from a backup.
    PolicyRecreated,
    /// The account has another UID than the token.
    AccountRecreated,
    /// The token's anchor was deleted: the token was revoked.
    AnchorDeleted,
    /// The token is issued in the future: the API server's clock was set back, or somebody forged the annotations.
    NotYetValid,
    /// Somebody asked for the revocation of every token issued before an instant.
    Revoked,
    /// The API server does not publish the key any more that the token is signed with.
    SigningKeyGone,
    /// The API server calls itself otherwise than in the token.
    IssuerChanged,
    /// The spec asks for another token.
    SpecChanged,
    /// The Secret of another account or policy, which does not want it any more, is taken over in place.
    TakenOver,
    /// The rotate annotation has a new value.
    RotationRequested,
    /// Somebody else wrote our keys of the Secret.
    DataChanged,
    /// The schedule says so.
    Due,
    /// Labels or annotations of ours were changed.
    MetadataChanged,
    /// Owner references were changed.
    OwnersChanged,
    /// An anchor got a finalizer.
    FinalizersChanged,
    /// The spec asks for another layout.
    LayoutChanged,
    /// Consumers reach the API server elsewhere, or by another CA.
    AddressChanged,
}

impl IssueReason {
    /// Whether somebody else undid our work; the pace of such repairs slows down while one repeats.
    #[must_use]
    pub const fn is_repair(self) -> bool {
        matches!(
            self,
            Self::PolicyRecreated
                | Self::AccountRecreated
                | Self::AnchorDeleted
                | Self::TargetDeleted
                | Self::TargetEmpty
                | Self::DataChanged
                | Self::NotYetValid
                | Self::MetadataChanged
                | Self::OwnersChanged
                | Self::FinalizersChanged
        )
    }
}

/// Why an anchor is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(const_into_str)]
pub enum RetireReason {
    /// Its token was replaced long enough ago.
    OverlapEnded,
    /// Its token was replaced and nobody remembers it, or more than eight were remembered.
    Superseded,
    /// It was left behind by a crash or a failed request.
    Lost,
    /// Its token has expired.
    Expired,
    /// The policy goes.
    PolicyDeleted,
    /// The policy does not select the account any more.
    Unselected,
    /// Its token was minted and then not needed.
    Discarded,
    /// The target that named it was deleted.
    TargetDeleted,
    /// Somebody else deleted it, to revoke its token.
    ByHand,
    /// Somebody asked for it with the annotation of this name.
    RevokeIssuedBefore,
}

impl RetireReason {
    /// The end that was planned when the successor was published: no news.
    #[must_use]
    pub const fn is_planned(self) -> bool {
        matches!(self, Self::OverlapEnded | Self::Expired)
    }
}

/// Why the address that Secrets carry is contested. Each is a condition reason and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(const_into_str)]
pub enum AddressReason {
    /// `cluster-info` holds no kubeconfig with a cluster.
    ClusterInfoUnreadable,
    /// The server in `cluster-info` is no https URL that consumers can be given.
    ClusterInfoServerInvalid,
    /// `cluster-info` has no CA beside its server.
    ClusterInfoWithoutCa,
    /// The CA file cannot be read, or is no PEM bundle of certificates.
    CaFileUnreadable,
    /// The API server does not tell whether there is a `cluster-info`.
    ClusterInfoUnknown,
}

impl AddressReason {
    /// The cure, as the end of a message.
    #[must_use]
    pub const fn cure(self) -> &'static str {
        match self {
            Self::ClusterInfoUnreadable | Self::ClusterInfoServerInvalid | Self::ClusterInfoWithoutCa => {
                "correct that ConfigMap, or start the operator with --cluster-server and --cluster-ca-file"
            }
            Self::CaFileUnreadable => {
                "write the whole bundle to that file, best by renaming; the file is read at the start and every minute after it"
            }
            Self::ClusterInfoUnknown => "Secrets keep the address last known, and it is asked again every minute",
        }
    }
}

/// Why something does not work. Each is a condition reason, an event reason and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[strum(const_into_str)]
pub enum FailureReason {
    /// A named account does not exist.
    AccountNotFound,
    /// The account is being deleted.
    AccountTerminating,
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// Another policy has the better claim to the Secret's name.
    TargetConflict,
    /// A Secret of that name exists and is not ours.
    TargetNotOwned,
    /// A Secret of ours cannot be changed: immutable, or of another type.
    TargetImmutable,
    /// The Secret's name would not be a legal one.
    TargetNameInvalid,
    /// The stored policy does not parse.
    PolicyUnreadable,
    /// RBAC refused a verb.
    Forbidden,
    /// A resource quota refused.
    QuotaExceeded,
    /// An admission policy or webhook refused.
    AdmissionDenied,
    /// The API server calls the request invalid.
    Invalid,
    /// The answer was not the token that was asked for.
    TokenRejected,
    /// Somebody else changed the object at the same time.
    Conflict,
    /// The API server did not answer, or answered with an error of its own.
    ApiUnavailable,
    /// The same repair repeats; the pace is limited.
    MintBudgetExhausted,
    /// An annotation that asks for a revocation says no instant.
    RevocationTimeInvalid,
    /// A revocation was asked for that is not possible.
    RevocationUnsupported,
}

impl FailureReason {
    /// Whether the cause lies in the namespace, so that one grant can probe for all.
    #[must_use]
    pub const fn shared(self) -> bool {
        matches!(self, Self::Forbidden | Self::QuotaExceeded | Self::NamespaceTerminating | Self::ApiUnavailable)
    }

    /// Whether it is a revocation that is asked for in vain.
    #[must_use]
    pub const fn is_unheard(self) -> bool {
        matches!(self, Self::RevocationTimeInvalid | Self::RevocationUnsupported)
    }

    /// Whether it is a state of objects, and no call failed.
    #[must_use]
    pub const fn is_state(self) -> bool {
        matches!(
            self,
            Self::AccountNotFound
                | Self::AccountTerminating
                | Self::TargetConflict
                | Self::TargetNotOwned
                | Self::TargetNameInvalid
                | Self::PolicyUnreadable
                | Self::MintBudgetExhausted
                | Self::RevocationTimeInvalid
                | Self::RevocationUnsupported
        )
    }

    /// The cure, as the end of a message.
    #[must_use]
    pub const fn cure(self) -> &'static str {
        match self {
            Self::AccountNotFound => "create the ServiceAccount or correct spec.serviceAccounts",
            Self::AccountTerminating => "wait until the ServiceAccount is gone and create it again",
            Self::NamespaceTerminating => "nothing is issued in a namespace that is being deleted",
            Self::TargetConflict => "choose another secret.name in one of the policies",
            Self::TargetNotOwned => "delete that Secret or choose another secret.name",
            Self::TargetImmutable => {
                "choose another secret.name, or delete that Secret, which leaves its consumer without a token until the next is written"
            }
            Self::TargetNameInvalid => "change secret.name, or the name of the policy or account",
            Self::PolicyUnreadable => {
                "correct that field of the policy; if it is right, install the CRD that fits this release"
            }
            Self::Forbidden => "apply config/rbac of this release, or grant the verb",
            Self::QuotaExceeded => "raise the quota or delete Secrets; it is tried again every minute",
            Self::AdmissionDenied => {
                "change the limit that the message names, the admission policy or webhook, or the policy's spec"
            }
            Self::Invalid => "change the field that the message names",
            Self::TokenRejected => "check what changes TokenRequests on their way; no token was published",
            Self::Conflict => "it is read again and decided again",
            Self::ApiUnavailable => "check the API server; it is tried again",
            Self::MintBudgetExhausted => {
                "find out who keeps changing the Secret (kubectl get secret -o yaml --show-managed-fields)"
            }
            Self::RevocationUnsupported => {
                "delete the ServiceAccount and create it again, or choose token.binding Anchor for the tokens to come"
            }
            Self::RevocationTimeInvalid => "write it in RFC 3339, as in 2026-11-22T10:00:00Z",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::IntoEnumIterator as _;

    use super::*;

    const REFERENCE: &str = include_str!("../../docs/reference.md");
    const TROUBLESHOOTING: &str = include_str!("../../docs/troubleshooting.md");

    /// The words in backquotes that a page explains: in its headings and in the first cells of its tables.
    fn explained(page: &str) -> BTreeSet<&str> {
        let heads = page.lines().filter_map(|line| match line.strip_prefix('|') {
            Some(row) => row.split('|').next(),
            None => line.starts_with('#').then_some(line),
        });
        heads.flat_map(|head| head.split('`').skip(1).step_by(2)).collect()
    }

    fn assert_explained<T: Into<&'static str>>(page: &str, reasons: impl Iterator<Item = T>) {
        let explained = explained(page);
        let missing: Vec<&str> = reasons.map(Into::into).filter(|reason| !explained.contains(reason)).collect();
        assert!(missing.is_empty(), "no heading and no row explains {missing:?}");
    }

    #[test]
    fn each_reason_is_explained() {
        assert_explained(REFERENCE, FailureReason::iter());
        assert_explained(REFERENCE, IssueReason::iter());
        assert_explained(REFERENCE, RetireReason::iter());
        assert_explained(REFERENCE, AddressReason::iter());
    }

    #[test]
    fn each_failure_has_its_cure_in_the_documents() {
        assert_explained(TROUBLESHOOTING, FailureReason::iter());
        assert_explained(TROUBLESHOOTING, AddressReason::iter());
    }
}
