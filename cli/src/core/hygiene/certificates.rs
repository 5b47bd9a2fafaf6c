//! X.509 client certificates.

use chrono::{DateTime, TimeDelta};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use tokenward::record::{Time, text};
use x509_parser::{
    pem::Pem,
    prelude::{FromDer as _, X509CertificationRequest},
    x509::X509Name,
};

use super::{
    Facts,
    logins::{others, users},
    rbac::Who,
    rights::{EVERYTHING, Right, may},
    row::{Row, Severity, names},
};
use crate::core::text::{plain, span};

/// The signer whose certificates log in.
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Its members may do everything, whatever RBAC says.
const MASTERS: &str = "system:masters";
/// As long as the tokens that Tokenward issues by default.
const LONG: TimeDelta = TimeDelta::hours(24);
/// To replace a CA takes weeks, because every client has to learn the next one first.
const SOON: TimeDelta = TimeDelta::days(90);
const URGENT: TimeDelta = TimeDelta::days(30);
/// What it takes to approve a request for [`SIGNER`].
const APPROVE: [Right; 2] = [
    Right {
        group: "certificates.k8s.io",
        resource: "certificatesigningrequests/approval",
        verbs: &["update", "patch"],
        names: &[],
        everywhere: true,
    },
    Right {
        group: "certificates.k8s.io",
        resource: "signers",
        verbs: &["approve"],
        names: &[SIGNER, "kubernetes.io/*"],
        everywhere: true,
    },
];

/// A certificate, as Kubernetes reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The common name.
    pub user: String,
    /// The organisations.
    pub groups: Vec<String>,
    pub ends: Time,
    /// The key that it certifies, and by which two of the same name differ.
    pub key: Vec<u8>,
}

/// The certificates of a PEM text.
pub fn certificates(pem: &[u8]) -> Vec<Certificate> {
    Pem::iter_from_buffer(pem).filter_map(|pem| certificate(&pem.ok()?)).collect()
}

/// The certificates of a PEM text as TLS takes them.
pub fn authorities(pem: &[u8]) -> Vec<Vec<u8>> {
    Pem::iter_from_buffer(pem).filter_map(|pem| Some(pem.ok()?.contents)).collect()
}

fn certificate(pem: &Pem) -> Option<Certificate> {
    let found = pem.parse_x509().ok()?;
    let ends = DateTime::from_timestamp(found.validity().not_after.timestamp(), 0)?;
    let (user, groups) = subject(found.subject());
    Some(Certificate { user, groups, ends, key: found.public_key().raw.to_vec() })
}

/// User and groups that a certificate signing request asks for.
fn requested(pem: &[u8]) -> Option<(String, Vec<String>)> {
    let pem = Pem::iter_from_buffer(pem).next()?.ok()?;
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    Some(subject(&request.certification_request_info.subject))
}

fn subject(name: &X509Name) -> (String, Vec<String>) {
    let user = name.iter_common_name().filter_map(|name| name.as_str().ok()).map(plain).last();
    let groups = name.iter_organization().filter_map(|name| name.as_str().ok()).map(plain).collect();
    (user.unwrap_or_default(), groups)
}

/// Judges the end of a CA.
pub fn ends(row: &mut Row, name: &str, authority: &Certificate, now: Time) {
    let left = authority.ends - now;
    let severity = match left {
        left if left > SOON => return,
        left if left > URGENT => Severity::Medium,
        _ => Severity::High,
    };
    let when = if left > TimeDelta::zero() { format!("ends in {}", span(left)) } else { "has ended".to_owned() };
    let problem = format!("the {name} {} {when}, and with it each certificate that it signed", authority.user);
    row.finds(
        severity,
        problem,
        "add its successor to the bundle now, and issue every certificate anew before the end",
    );
}

pub fn row(facts: &Facts, now: Time) -> Row {
    let mut row = Row::new("client certificates");
    authority(&mut row, facts, now);
    requests(&mut row, facts, now);
    approvers(&mut row, facts);
    others(&mut row, facts);
    for login in users(&mut row, facts) {
        if let Some(certificate) = row.learn(&login.certificate).and_then(Option::as_ref) {
            judge(&mut row, &format!("kubeconfig user {}", login.name), certificate, now);
        }
    }
    row
}

fn authority(row: &mut Row, facts: &Facts, now: Time) {
    let Some(published) = row.learn(&facts.published) else { return };
    let data = published.iter().flat_map(|map| &map.data).find_map(|data| data.get("client-ca-file"));
    let authorities = certificates(data.map(String::as_bytes).unwrap_or_default());
    if authorities.is_empty() {
        row.seen("the API server publishes no client CA in kube-system/extension-apiserver-authentication");
    }
    for authority in authorities {
        row.found(format!("the client CA {} is believed until {}", authority.user, text(authority.ends)));
        ends(row, "client CA", &authority, now);
    }
}

fn member(groups: &[String]) -> String {
    if groups.is_empty() { String::new() } else { format!(" in {}", names(groups)) }
}

/// Kubernetes keeps such names for itself, and gives them rights.
fn is_system(user: &str, groups: &[String]) -> bool {
    groups.iter().map(String::as_str).chain([user]).any(|name| name.starts_with("system:"))
}

/// A certificate that logs somebody in.
fn judge(row: &mut Row, whose: &str, certificate: &Certificate, now: Time) {
    let Certificate { user, groups, ends, .. } = certificate;
    let member = member(groups);
    row.found(format!("{whose}: a certificate of {user}{member}, until {}", text(*ends)));
    let left = *ends - now;
    if left <= TimeDelta::zero() {
        return;
    }
    if groups.iter().any(|group| group == MASTERS) {
        let problem = format!(
            "{whose} is in {MASTERS} until {}: no RBAC limits it, and nothing but another CA takes it back",
            text(*ends)
        );
        let cure = "keep this certificate for emergencies; work as a user or account to which a ClusterRoleBinding gives cluster-admin";
        row.finds(Severity::High, problem, cure);
    } else if is_system(user, groups) {
        let problem = format!("{whose} logs in as {user}{member}, a name of Kubernetes itself, until {}", text(*ends));
        let cure = "use it in that component alone; issue certificates of people and programs for names of their own";
        row.finds(Severity::High, problem, cure);
    } else if left > LONG {
        let problem =
            format!("{whose}: nobody can revoke the certificate of {user}, which lives for another {}", span(left));
        let cure = format!(
            "take the rights of User {user} and its groups away if it leaks; ask for expirationSeconds of a day or less, or use a token"
        );
        row.finds(Severity::Medium, problem, cure);
    }
}

fn requests(row: &mut Row, facts: &Facts, now: Time) {
    let Some(requests) = row.learn(&facts.requests) else { return };
    let mut approved =
        requests.iter().filter(|request| request.spec.signer_name == SIGNER && is_approved(request)).peekable();
    if approved.peek().is_none() {
        row.seen(format!(
            "no approved request for {SIGNER} is left; Kubernetes deletes each an hour after its approval"
        ));
    }
    for request in approved {
        let name = format!("CertificateSigningRequest {}", request.metadata.name.as_deref().unwrap_or_default());
        let issued = request.status.as_ref().and_then(|status| status.certificate.as_ref());
        if let Some(certificate) = issued.and_then(|pem| certificates(&pem.0).into_iter().next()) {
            judge(row, &name, &certificate, now);
        } else {
            let (user, groups) = requested(&request.spec.request.0).unwrap_or_default();
            let member = member(&groups);
            row.found(format!("{name}: approved for {user}{member}, not signed yet"));
            if is_system(&user, &groups) {
                let problem = format!("{name} is approved for {user}{member}, to be signed any moment");
                row.finds(Severity::High, problem, "delete the CertificateSigningRequest, unless you approved it");
            }
        }
    }
}

fn is_approved(request: &CertificateSigningRequest) -> bool {
    let conditions = request.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Approved")
}

fn approvers(row: &mut Row, facts: &Facts) {
    // Requests are in no namespace.
    facts.rbac.unknown_in_cluster().iter().for_each(|why| row.unknown(why));
    let holders = facts.rbac.holders(|given| APPROVE.iter().chain(&EVERYTHING).any(|right| right.is_in(given)));
    let all = holders.those(|rules| may(rules, &APPROVE)).into_iter();
    let (admins, others): (Vec<&Who>, Vec<&Who>) = all.partition(|who| may(&holders.rules(who), &EVERYTHING));
    row.seen(format!("client certificates may be approved by the administrators {}", names(&admins)));
    if !others.is_empty() {
        let problem = format!("{} may approve a client certificate for any user name", names(&others));
        let cure = format!("name other signers than {SIGNER} in the ClusterRole, or delete its ClusterRoleBinding");
        row.finds(Severity::High, problem, cure);
    }
}
