//! Why something did not work, from a closed list, and what to do about it.

use chrono::TimeDelta;
use ecow::{EcoString, eco_format};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::{Time, names, reason::FailureReason, redact};

/// The API server says no more than "Unauthorized".
const UNAUTHORIZED: &str = "the operator's own token is not accepted: it has expired, is of another cluster, or its ServiceAccount is gone; renew the token or kubeconfig of the operator, or apply its ServiceAccount again";

/// The API server says no more than "404 page not found".
const NOT_SERVED: &str = "the API server does not serve this kind: its CustomResourceDefinition is missing; apply the CRDs of this release again (kubectl apply -k config/crd)";

/// The longest pause that is granted to an API server: tokens expire meanwhile.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(60);

/// A reason with the text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// From the closed list.
    pub reason: FailureReason,
    /// The event, its object, and the cure. Clones share it: a grant that fails holds it twice.
    pub message: EcoString,
    /// The pause that the API server asked for (`Retry-After`).
    pub retry_after: Option<TimeDelta>,
}

impl Failure {
    /// A failure whose text is `what`, made safe, and the cure.
    #[must_use]
    pub fn new(reason: FailureReason, what: &str) -> Self {
        Self { reason, message: eco_format!("{}; {}", redact::message(what), reason.cure()), retry_after: None }
    }

    /// Reads the API server's refusal of `operation` (as in "create Secret ci/x").
    #[must_use]
    pub fn refused(operation: &str, status: &Status) -> Self {
        let message = status.message.as_deref().unwrap_or("no reason given");
        // Messages of our own admission policies name what to change; of another one nobody knows more than its name.
        let ours = message.split_once("ValidatingAdmissionPolicy 'tokenward");
        let said = ours.and_then(|(_, rest)| rest.split_once(" denied request: ")).map_or(message, |(_, said)| said);
        let known = match status.code {
            Some(401) => Some((FailureReason::Forbidden, UNAUTHORIZED)),
            Some(404) if message.contains("page not found") => Some((FailureReason::ApiUnavailable, NOT_SERVED)),
            _ => None,
        };
        if let Some((reason, told)) = known {
            let message = eco_format!("{}: {told}", redact::message(operation));
            return Self { reason, message, retry_after: None };
        }
        Self::new(classify(status), &format!("{operation}: {said}"))
    }

    /// The same for the creation of an anchor, whose name differs from try to try: a status that tells of it would too.
    /// Whoever demands labels on every Secret refuses it for want of them.
    #[must_use]
    pub fn of_anchor(mut self) -> Self {
        self.message = names::without_anchors(&self.message).into();
        if self.reason == FailureReason::AdmissionDenied {
            self.message.push_str(
                "; if it is for a label on every Secret, start the operator with --secret-labels, or choose token.binding Target, which needs no anchor",
            );
        }
        self
    }

    /// `operation` got no answer, or one that is not the API server's.
    #[must_use]
    pub fn unanswered(operation: &str, error: &str) -> Self {
        Self::new(FailureReason::ApiUnavailable, &format!("{operation}: {error}"))
    }

    /// The earliest instant of the next try that the API server asked for.
    #[must_use]
    pub fn not_before(&self, now: Time) -> Time {
        now + self.retry_after.unwrap_or_default().clamp(TimeDelta::zero(), LONGEST_PAUSE)
    }
}

/// Which reason a refusal has. RBAC, quota and admission all answer 403: only the text tells them apart, and
/// the order here is from the most to the least specific mark.
fn classify(status: &Status) -> FailureReason {
    let message = status.message.as_deref().unwrap_or_default();
    let code = status.code.unwrap_or_default();
    let text = |mark| message.contains(mark);
    match code {
        403 if has_cause(status, "NamespaceTerminating") => FailureReason::NamespaceTerminating,
        403 if text("exceeded quota") || text("failed quota") => FailureReason::QuotaExceeded,
        403 if text("cannot ") && text(" resource ") => FailureReason::Forbidden,
        403 => FailureReason::AdmissionDenied,
        _ if text("admission webhook") || text("ValidatingAdmissionPolicy") => FailureReason::AdmissionDenied,
        404 if kind(status) == "serviceaccounts" => FailureReason::AccountNotFound,
        404 if kind(status) == "namespaces" => FailureReason::NamespaceTerminating,
        404 | 409 => FailureReason::Conflict,
        422 if text("immutable") => FailureReason::TargetImmutable,
        // The answer to a failed `test` of a JSON patch: the object is another one by now.
        422 if text("rejected our request due to an error in our request") => FailureReason::Conflict,
        422 if has_field(status, "metadata.uid") => FailureReason::Conflict,
        400 | 413 | 422 => FailureReason::Invalid,
        _ => FailureReason::ApiUnavailable,
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

    fn reason(status: Value) -> FailureReason {
        classify(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn tells_the_403s_apart() {
        for (message, wanted) in [
            (
                r#"secrets is forbidden: User "system:serviceaccount:t:t" cannot create resource "secrets" in API group """#,
                FailureReason::Forbidden,
            ),
            (
                "secrets \"x\" is forbidden: exceeded quota: q, requested: secrets=1, used: secrets=1",
                FailureReason::QuotaExceeded,
            ),
            (
                "secrets \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
                FailureReason::AdmissionDenied,
            ),
        ] {
            assert_eq!(reason(json!({"code": 403, "message": message})), wanted);
        }
        let terminating = json!({"code": 403, "message": "because it is being terminated",
            "details": {"causes": [{"reason": "NamespaceTerminating"}]}});
        assert_eq!(reason(terminating), FailureReason::NamespaceTerminating);
    }

    #[test]
    fn reads_the_rest() {
        let other_uid = json!({"code": 422, "message": "x", "details": {"causes": [{"field": "metadata.uid"}]}});
        assert_eq!(reason(other_uid), FailureReason::Conflict);
        assert_eq!(
            reason(json!({"code": 422, "message": "data: Forbidden: field is immutable when `immutable` is set"})),
            FailureReason::TargetImmutable
        );
        assert_eq!(
            reason(json!({"code": 422, "message": "spec.expirationSeconds: Invalid value"})),
            FailureReason::Invalid
        );
        assert_eq!(
            reason(json!({"code": 404, "details": {"kind": "serviceaccounts"}})),
            FailureReason::AccountNotFound
        );
        assert_eq!(reason(json!({"code": 500})), FailureReason::ApiUnavailable);
        assert_eq!(reason(json!({"code": 429})), FailureReason::ApiUnavailable);
    }

    #[test]
    fn an_admission_policy_is_named_unless_it_is_ours() {
        for (policy, told) in [
            ("tokenward-limits", "request a token: token.duration 200h is over the limit 168h; change the limit"),
            (
                "need-label",
                "request a token: x is forbidden: ValidatingAdmissionPolicy 'need-label' with binding 'b' denied",
            ),
        ] {
            let denied = format!(
                "x is forbidden: ValidatingAdmissionPolicy '{policy}' with binding 'b' denied request: token.duration 200h is over the limit 168h"
            );
            let status = serde_json::from_value(json!({"code": 403, "message": denied})).unwrap();
            let failure = Failure::refused("request a token", &status);
            assert!(failure.message.starts_with(told), "{}", failure.message);
            assert_eq!(failure.reason, FailureReason::AdmissionDenied);
        }
    }

    #[test]
    fn a_refused_anchor_has_two_ways_out() {
        let status = |code: u16| serde_json::from_value(json!({"code": code, "message": "needs a team"})).unwrap();
        let denied = Failure::refused("create Secret ci/tw-0123456789 (anchor)", &status(403)).of_anchor();
        let out = "start the operator with --secret-labels, or choose token.binding Target";
        assert!(denied.message.starts_with("create Secret ci/tw-… (anchor): needs a team; "), "{}", denied.message);
        assert!(denied.message.contains(out), "{}", denied.message);
        let other = Failure::refused("create Secret ci/tw-1 (anchor)", &status(500));
        assert_eq!(other.clone().of_anchor(), other);
    }

    #[test]
    fn a_kind_that_is_not_served_is_told_as_what_it_is() {
        let status = serde_json::from_value(json!({"code": 404, "message": "404 page not found\n"})).unwrap();
        let failure = Failure::refused("watch tokenpolicies in all namespaces", &status);
        assert!(failure.message.contains("its CustomResourceDefinition is missing; apply"), "{}", failure.message);
        assert_eq!(failure.reason, FailureReason::ApiUnavailable);
    }

    #[test]
    fn unauthorized_is_told_as_what_it_is() {
        let status = serde_json::from_value(json!({"code": 401, "message": "Unauthorized"})).unwrap();
        let failure = Failure::refused("get ConfigMap kube-public/cluster-info", &status);
        let told = "get ConfigMap kube-public/cluster-info: the operator's own token is not accepted: ";
        assert!(failure.message.starts_with(told), "{}", failure.message);
        assert_eq!(failure.reason, FailureReason::Forbidden);
    }

    #[test]
    fn a_message_names_the_object_and_says_what_to_do() {
        let status = serde_json::from_value(json!({"code": 409, "message": "object was modified"})).unwrap();
        let failure = Failure::refused("apply Secret ci/x", &status);
        assert_eq!(
            failure.message,
            "apply Secret ci/x: object was modified; the operator reads it again and decides again"
        );
    }
}
