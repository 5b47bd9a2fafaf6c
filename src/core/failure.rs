//! Why something did not work, from a closed list, and what to do about it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::redact;

/// The closed list of reasons. Each is a condition reason, an event reason and a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
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

impl Reason {
    /// The word in conditions, events and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AccountNotFound => "AccountNotFound",
            Self::AccountTerminating => "AccountTerminating",
            Self::NamespaceTerminating => "NamespaceTerminating",
            Self::TargetConflict => "TargetConflict",
            Self::TargetNotOwned => "TargetNotOwned",
            Self::TargetImmutable => "TargetImmutable",
            Self::TargetNameInvalid => "TargetNameInvalid",
            Self::PolicyUnreadable => "PolicyUnreadable",
            Self::Forbidden => "Forbidden",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::AdmissionDenied => "AdmissionDenied",
            Self::Invalid => "Invalid",
            Self::TokenRejected => "TokenRejected",
            Self::Conflict => "Conflict",
            Self::ApiUnavailable => "ApiUnavailable",
            Self::MintBudgetExhausted => "MintBudgetExhausted",
            Self::RevocationTimeInvalid => "RevocationTimeInvalid",
            Self::RevocationUnsupported => "RevocationUnsupported",
        }
    }

    /// Whether the cause lies in the namespace, so that one grant can probe for all.
    #[must_use]
    pub const fn shared(self) -> bool {
        matches!(self, Self::Forbidden | Self::QuotaExceeded | Self::NamespaceTerminating | Self::ApiUnavailable)
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

    /// What to do, as the end of a message.
    const fn cure(self) -> &'static str {
        match self {
            Self::AccountNotFound => "create the ServiceAccount or correct spec.serviceAccounts",
            Self::AccountTerminating => "wait until the ServiceAccount is gone and create it again",
            Self::NamespaceTerminating => "nothing is issued in a namespace that is being deleted",
            Self::TargetConflict => "choose another secret.name in one of the policies",
            Self::TargetNotOwned => "delete that Secret or choose another secret.name",
            Self::TargetImmutable => "delete it or choose another secret.name",
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

/// The API server says no more than "Unauthorized".
const UNAUTHORIZED: &str =
    "the operator's own token is not accepted: it has expired, is of another cluster, or its ServiceAccount is gone";

/// A reason with the text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// From the closed list.
    pub reason: Reason,
    /// What happened, to which object, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure whose text is `what`, made safe, and the cure.
    #[must_use]
    pub fn new(reason: Reason, what: &str) -> Self {
        Self { reason, message: format!("{}; {}", redact::message(what), reason.cure()) }
    }

    /// Reads the API server's refusal of `operation` (as in "create Secret ci/x").
    #[must_use]
    pub fn refused(operation: &str, status: &Status) -> Self {
        let message = status.message.as_deref().unwrap_or("no reason given");
        // What an admission policy says is worth the room; which policy and binding said so is not.
        let policy = message.split_once("ValidatingAdmissionPolicy");
        let said = policy.and_then(|(_, rest)| rest.split_once(" denied request: ")).map_or(message, |(_, said)| said);
        let said = if status.code == Some(401) { UNAUTHORIZED } else { said };
        Self::new(classify(status), &format!("{operation}: {said}"))
    }

    /// `operation` got no answer, or one that is not the API server's.
    #[must_use]
    pub fn unanswered(operation: &str, error: &str) -> Self {
        Self::new(Reason::ApiUnavailable, &format!("{operation}: {error}"))
    }
}

/// Which reason a refusal has. RBAC, quota and admission all answer 403: only the text tells them apart, and
/// the order here is from the most to the least specific mark.
fn classify(status: &Status) -> Reason {
    let message = status.message.as_deref().unwrap_or_default();
    let code = status.code.unwrap_or_default();
    let text = |mark| message.contains(mark);
    match code {
        403 if has_cause(status, "NamespaceTerminating") => Reason::NamespaceTerminating,
        403 if text("exceeded quota") || text("failed quota") => Reason::QuotaExceeded,
        403 if text("cannot ") && text(" resource ") => Reason::Forbidden,
        403 => Reason::AdmissionDenied,
        _ if text("admission webhook") || text("ValidatingAdmissionPolicy") => Reason::AdmissionDenied,
        404 if kind(status) == "serviceaccounts" => Reason::AccountNotFound,
        404 if kind(status) == "namespaces" => Reason::NamespaceTerminating,
        404 | 409 => Reason::Conflict,
        422 if text("immutable") => Reason::TargetImmutable,
        // How a failed `test` of a JSON patch is answered: the object is another one by now.
        422 if text("rejected our request due to an error in our request") => Reason::Conflict,
        422 if has_field(status, "metadata.uid") => Reason::Conflict,
        400 | 413 | 422 => Reason::Invalid,
        401 => Reason::Forbidden,
        _ => Reason::ApiUnavailable,
    }
}

fn kind(status: &Status) -> &str {
    status.details.as_ref().and_then(|details| details.kind.as_deref()).unwrap_or_default()
}

fn causes(status: &Status) -> impl Iterator<Item = &k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusCause> {
    status.details.iter().flat_map(|details| details.causes.iter().flatten())
}

fn has_cause(status: &Status, reason: &str) -> bool {
    causes(status).any(|cause| cause.reason.as_deref() == Some(reason))
}

fn has_field(status: &Status, field: &str) -> bool {
    causes(status).any(|cause| cause.field.as_deref() == Some(field))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reason(status: Value) -> Reason {
        classify(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn tells_the_403s_apart() {
        for (message, wanted) in [
            (
                r#"secrets is forbidden: User "system:serviceaccount:t:t" cannot create resource "secrets" in API group """#,
                Reason::Forbidden,
            ),
            (
                "secrets \"x\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1",
                Reason::QuotaExceeded,
            ),
            (
                "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                Reason::AdmissionDenied,
            ),
        ] {
            assert_eq!(reason(json!({"code": 403, "message": message})), wanted);
        }
        let terminating = json!({"code": 403, "message": "because it is being terminated",
            "details": {"causes": [{"reason": "NamespaceTerminating"}]}});
        assert_eq!(reason(terminating), Reason::NamespaceTerminating);
    }

    #[test]
    fn reads_the_rest() {
        let other_uid = json!({"code": 422, "message": "x", "details": {"causes": [{"field": "metadata.uid"}]}});
        assert_eq!(reason(other_uid), Reason::Conflict);
        assert_eq!(
            reason(json!({"code": 422, "message": "data: Forbidden: field is immutable when `immutable` is set"})),
            Reason::TargetImmutable
        );
        assert_eq!(reason(json!({"code": 422, "message": "spec.expirationSeconds: Invalid value"})), Reason::Invalid);
        assert_eq!(reason(json!({"code": 404, "details": {"kind": "serviceaccounts"}})), Reason::AccountNotFound);
        assert_eq!(reason(json!({"code": 500})), Reason::ApiUnavailable);
        assert_eq!(reason(json!({"code": 429})), Reason::ApiUnavailable);
    }

    #[test]
    fn what_an_admission_policy_says_is_told_without_its_name() {
        let denied = r#"serviceaccounts "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: token.duration 200h is over the limit 168h"#;
        let status = serde_json::from_value(json!({"code": 403, "message": denied})).unwrap();
        let failure = Failure::refused("request a token for ServiceAccount ci/a", &status);
        let told =
            "request a token for ServiceAccount ci/a: token.duration 200h is over the limit 168h; change the limit";
        assert!(failure.message.starts_with(told), "{}", failure.message);
        assert_eq!(failure.reason, Reason::AdmissionDenied);
    }

    #[test]
    fn unauthorized_is_told_as_what_it_is() {
        let status = serde_json::from_value(json!({"code": 401, "message": "Unauthorized"})).unwrap();
        let failure = Failure::refused("get ConfigMap kube-public/cluster-info", &status);
        let told = "get ConfigMap kube-public/cluster-info: the operator's own token is not accepted: ";
        assert!(failure.message.starts_with(told), "{}", failure.message);
        assert_eq!(failure.reason, Reason::Forbidden);
    }

    #[test]
    fn a_message_names_the_object_and_says_what_to_do() {
        let status = serde_json::from_value(json!({"code": 409, "message": "object was modified"})).unwrap();
        let failure = Failure::refused("apply Secret ci/x", &status);
        assert_eq!(failure.message, "apply Secret ci/x: object was modified; it is read again and decided again");
    }
}
