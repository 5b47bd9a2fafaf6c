//! Why something happens, from closed lists: the words in conditions, events, logs and metrics.

use strum::{EnumIter, EnumMessage, EnumString, IntoStaticStr};

/// Why a Secret is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, IntoStaticStr)]
#[cfg_attr(test, derive(EnumMessage))]
#[strum(const_into_str)]
pub enum IssueReason {
    /// There was no Secret before.
    FirstIssue,
    /// The Secret was deleted.
    TargetDeleted,
    /// The Secret describes no token.
    TargetEmpty,
    /// The Secret was written for a policy of another UID: the policy was re-created, or restored from a backup.
    PolicyRecreated,
    /// The account has another UID than the token.
    AccountRecreated,
    /// The published token was revoked by the deletion of its anchor.
    AnchorDeleted,
    /// The published token claims to be issued more than a minute in the future: the API server's clock was set back,
    /// or somebody forged the annotations.
    NotYetValid,
    /// The published token was issued before the instant of `tokenward.dev/revoke-issued-before`.
    Revoked,
    /// The API server no longer publishes the key that signed the token.
    SigningKeyGone,
    /// The API server's issuer is no longer the one in the token.
    IssuerChanged,
    /// The policy asks for another token.
    SpecChanged,
    /// The Secret of another account or policy, which no longer wants it, is taken over in place.
    TakenOver,
    /// The annotation `tokenward.dev/rotate` has a new value.
    RotationRequested,
    /// Somebody else wrote or removed the operator's keys of the Secret.
    DataChanged,
    /// The schedule says so: the token was due.
    Due,
    /// Labels or annotations of the operator were changed; repaired with the same token.
    MetadataChanged,
    /// Owner references were changed; repaired with the same token.
    OwnersChanged,
    /// An anchor got a finalizer; the operator takes it off.
    FinalizersChanged,
    /// The policy asks for another layout; written again with the same token.
    LayoutChanged,
    /// Consumers reach the API server at another address, or by another CA; written again with the same token.
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
#[cfg_attr(test, derive(EnumMessage))]
#[strum(const_into_str)]
pub enum RetireReason {
    /// The overlap is over, as planned.
    OverlapEnded,
    /// A later token is published, and the Secret does not remember this one, or remembered more than eight.
    Superseded,
    /// A crash or a failed request left the anchor behind.
    Lost,
    /// The token has expired, as planned.
    Expired,
    /// The policy is being deleted.
    PolicyDeleted,
    /// The policy has not selected the account for 10 s.
    Unselected,
    /// The token was requested and then not needed.
    Discarded,
    /// The Secret that held the token was deleted.
    TargetDeleted,
    /// Somebody else deleted the anchor, to revoke its token.
    ByHand,
    /// The annotation `tokenward.dev/revoke-issued-before` asked for it. If `tokenward.dev/revoke-reason` is set, its
    /// word stands in event, log and metric instead.
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
#[cfg_attr(test, derive(EnumMessage))]
#[strum(const_into_str)]
pub enum AddressReason {
    /// `kube-public/cluster-info` has no key `kubeconfig`, or its kubeconfig has no cluster.
    ClusterInfoUnreadable,
    /// The server in `kube-public/cluster-info` is no https URL that consumers can use.
    ClusterInfoServerInvalid,
    /// `kube-public/cluster-info` has no `certificate-authority-data` beside its server, or no valid CA in it.
    ClusterInfoWithoutCa,
    /// The CA file cannot be read, or is no PEM bundle of certificates.
    CaFileUnreadable,
    /// The API server does not answer whether there is a `kube-public/cluster-info`.
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
                "write the whole bundle to that file, best by renaming; the operator reads it at the start and every minute after"
            }
            Self::ClusterInfoUnknown => "Secrets keep the last known address, and the operator asks again every minute",
        }
    }
}

/// Why something does not work. Each is a condition reason, an event reason and a metric label.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, EnumIter, EnumMessage, EnumString, IntoStaticStr,
)]
#[strum(const_into_str)]
pub enum FailureReason {
    /// A named account does not exist. The Secret stays as it is.
    #[strum(message = "create the ServiceAccount or correct spec.serviceAccounts")]
    AccountNotFound,
    /// The account is being deleted.
    #[strum(message = "wait until the ServiceAccount is gone and create it again")]
    AccountTerminating,
    /// The namespace is being deleted.
    #[strum(message = "nothing is issued in a namespace that is being deleted")]
    NamespaceTerminating,
    /// Another policy has the better claim to the Secret's name: the one that the Secret was written for, else the
    /// older.
    #[strum(message = "choose another secret.name in one of the policies")]
    TargetConflict,
    /// A Secret of that name exists and is not this policy's. The operator does not touch it.
    #[strum(message = "delete that Secret or choose another secret.name")]
    TargetNotOwned,
    /// The Secret is being deleted, and a finalizer holds it. Its tokens are dead or about to be; a fresh one can be written
    /// when it is gone.
    #[strum(
        message = "take its finalizers off, or wait for whoever put them there; a fresh token follows when the Secret is gone"
    )]
    TargetTerminating,
    /// The Secret is immutable, or of another type than its format needs.
    #[strum(
        message = "choose another secret.name, or delete that Secret, which leaves its consumer without a token until the next is written"
    )]
    TargetImmutable,
    /// The name made from `secret.name` is too long, is not valid, or belongs to others (`bootstrap-token-…`,
    /// `sh.helm.release.…`).
    #[strum(message = "change secret.name, or the name of the policy or account")]
    TargetNameInvalid,
    /// The stored policy does not parse, the schedule or time zone of a window is invalid, or a format breaks a rule of
    /// the CRD. The policy gets no fresh token; its status, revocations and other policies go on.
    #[strum(message = "correct that field of the policy; if it is right, install the CRD that fits this release")]
    PolicyUnreadable,
    /// RBAC refused a verb, which the message names.
    #[strum(message = "apply the overlay or Helm chart that you installed with again, or grant the verb")]
    Forbidden,
    /// A `ResourceQuota` refused a Secret. Where it refused the anchor, no token was requested.
    #[strum(message = "raise the quota or delete Secrets; the operator tries again every minute")]
    QuotaExceeded,
    /// An administrator's limit, another admission policy or a webhook refused.
    #[strum(message = "change the limit that the message names, the admission policy or webhook, or the policy's spec")]
    AdmissionDenied,
    /// The API server calls the request invalid, or the Secret would have more than 1 MiB of data; then no token is requested.
    #[strum(message = "change the field that the message names")]
    Invalid,
    /// The answer was not the requested token: another account, audience or binding. It was not published.
    #[strum(message = "check what changes TokenRequests on their way; no token was published")]
    TokenRejected,
    /// Somebody else changed the Secret at the same time.
    #[strum(message = "the operator reads it again and decides again")]
    Conflict,
    /// The API server did not answer, or answered with an error of its own.
    #[strum(message = "check the API server; the operator tries again")]
    ApiUnavailable,
    /// The same repair is needed again and again, because somebody keeps undoing it. Its pace is limited, to one in ten
    /// minutes at worst.
    #[strum(message = "find out who keeps changing the Secret (kubectl get secret -o yaml --show-managed-fields)")]
    MintBudgetExhausted,
    /// The annotation `tokenward.dev/revoke-issued-before` is no RFC 3339 time. Nothing was revoked; everything else
    /// goes on.
    #[strum(message = "write it in RFC 3339, as in 2026-11-22T10:00:00Z")]
    RevocationTimeInvalid,
    /// The annotation `tokenward.dev/revoke-issued-before` covers a token that was issued with `token.binding: None`.
    /// That token was not revoked.
    #[strum(
        message = "delete the ServiceAccount and create it again, or choose token.binding Anchor for the tokens to come"
    )]
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
                | Self::TargetTerminating
                | Self::TargetNameInvalid
                | Self::PolicyUnreadable
                | Self::MintBudgetExhausted
                | Self::RevocationTimeInvalid
                | Self::RevocationUnsupported
        )
    }

    /// The cure, as the end of a message.
    #[must_use]
    pub fn cure(self) -> &'static str {
        self.get_message().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator as _;

    use super::*;

    const RUNBOOK: &str = include_str!("../../docs/runbooks/reasons.md");

    #[test]
    fn each_failure_has_a_section_with_its_cure() {
        let failures = FailureReason::iter().map(<&str>::from).chain(AddressReason::iter().map(Into::into));
        let has_section =
            |reason: &&str| RUNBOOK.lines().any(|line| line.trim_start_matches('#') == format!(" `{reason}`"));
        let missing: Vec<&str> = failures.filter(|reason| !has_section(reason)).collect();
        assert!(missing.is_empty(), "no section of docs/runbooks/reasons.md is about {missing:?}");
        assert!(FailureReason::iter().all(|reason| !reason.cure().is_empty()));
    }
}
