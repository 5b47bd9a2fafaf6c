//! ServiceAccounts that may do everything and have tokens outside pods.

use k8s_openapi::api::rbac::v1::Subject;

use super::{
    Facts,
    logins::accounts,
    rbac::{ADMIN, text},
    row::{Row, Severity, names},
    secrets::LegacySecret,
};

/// The group of all ServiceAccounts; those of a namespace have its name behind a colon.
const ACCOUNTS: &str = "system:serviceaccounts";

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("cluster-admin tokens");
    let Some(rbac) = row.learn(&facts.rbac) else { return row };
    let subjects: Vec<&Subject> = rbac.subjects(ADMIN).filter(|subject| is_account(subject)).collect();
    if subjects.is_empty() {
        row.seen(format!("no ServiceAccount is bound to {ADMIN} in the whole cluster"));
        return row;
    }
    let all: Vec<String> = subjects.iter().map(|subject| text(subject)).collect();
    row.seen(format!("bound to {ADMIN}: {}", names(&all)));
    tokens(&mut row, facts, |namespace, account| subjects.iter().any(|subject| means(subject, namespace, account)));
    row
}

/// The tokens outside pods of those accounts.
fn tokens(row: &mut Row, facts: &Facts, is: impl Fn(&str, &str) -> bool) {
    let legacy = row.learn(&facts.legacy).into_iter().flatten().map(LegacySecret);
    for secret in legacy.filter(|secret| !secret.is_quarantined() && is(secret.namespace(), secret.account())) {
        finds(row, Severity::Critical, &format!("Secret {}, which never expires,", secret.name()));
    }
    let targets = row.learn(&facts.targets).into_iter().flatten();
    for target in targets.filter(|target| is(&target.namespace, &target.record.service_account)) {
        finds(row, Severity::Medium, &format!("Secret {}/{} of Tokenward", target.namespace, target.name));
    }
    for (name, _) in
        accounts(row.learn(&facts.logins)).filter(|(_, claims)| is(&claims.namespace, &claims.account.name))
    {
        finds(row, Severity::Medium, &format!("kubeconfig user {name}"));
    }
}

fn finds(row: &mut Row, severity: Severity, place: &str) {
    row.found(format!("{place} holds a token of such an account"));
    let problem = format!("whoever reads {place} may do everything in the cluster");
    row.finds(severity, problem, "bind the account to a Role with the rights that its consumer needs");
}

fn is_account(subject: &Subject) -> bool {
    match &*subject.kind {
        "ServiceAccount" => true,
        "Group" => subject.name == ACCOUNTS || subject.name.starts_with("system:serviceaccounts:"),
        _ => false,
    }
}

/// The account is the subject, or a member of it.
fn means(subject: &Subject, namespace: &str, account: &str) -> bool {
    if subject.kind == "ServiceAccount" {
        return subject.namespace.as_deref() == Some(namespace) && subject.name == account;
    }
    subject.name == ACCOUNTS || subject.name == format!("{ACCOUNTS}:{namespace}")
}
