//! ServiceAccounts that may do everything and have tokens outside pods.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::Subject;

use super::{
    Facts,
    anonymous::authorizers,
    logins::accounts,
    rbac::{ADMIN, text},
    row::{Row, Severity, names},
    secrets::LegacySecret,
};
use crate::core::token::Claims;

/// The group of all ServiceAccounts; those of a namespace have its name behind a colon.
const ACCOUNTS: &str = "system:serviceaccounts";
/// The group of everybody with credentials.
const USERS: &str = "system:authenticated";

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("cluster-admin tokens");
    authorizers(&mut row, facts);
    let Some(rbac) = row.learn(&facts.rbac) else { return row };
    let subjects: Vec<&Subject> = rbac.administrators().filter(|subject| is_account(subject)).collect();
    if subjects.is_empty() {
        row.seen(format!("no ServiceAccount is bound to {ADMIN} in the whole cluster"));
        return row;
    }
    let all: Vec<String> = subjects.iter().map(|subject| text(subject)).collect();
    row.seen(format!("bound to {ADMIN}: {}", names(&all)));
    everybody(&mut row, &subjects);
    tokens(&mut row, facts, |namespace, account| subjects.iter().any(|subject| means(subject, namespace, account)));
    row
}

/// The tokens outside pods of those accounts.
fn tokens(row: &mut Row, facts: &Facts, is: impl Fn(&str, &str) -> bool) {
    let mut secrets: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let legacy: Vec<LegacySecret> = row.learn(&facts.legacy).into_iter().flatten().map(LegacySecret).collect();
    for secret in legacy.iter().filter(|one| !one.is_quarantined() && is(one.namespace(), one.account())) {
        secrets.entry((secret.namespace(), secret.account())).or_default().push(secret.name());
    }
    for all in secrets.values() {
        let place = match all.as_slice() {
            [one] => format!("Secret {one}, which never expires,"),
            _ => format!("one of the Secrets {}, which never expire,", names(all)),
        };
        finds(row, Severity::Critical, &place);
    }
    let targets = row.learn(&facts.targets).into_iter().flatten();
    for target in targets.filter(|target| is(&target.namespace, &target.record.service_account)) {
        finds(row, Severity::Medium, &format!("Secret {}/{} of Tokenward", target.namespace, target.name));
    }
    let is = |claims: &&Claims| is(&claims.namespace, &claims.account.name);
    for (name, claims) in accounts(row, facts).into_iter().filter(|(_, claims)| is(claims)) {
        let severity = if claims.legacy { Severity::Critical } else { Severity::Medium };
        finds(row, severity, &format!("kubeconfig user {name}"));
    }
}

/// Groups of which everybody is a member who has any token.
fn everybody(row: &mut Row, subjects: &[&Subject]) {
    for subject in subjects.iter().filter(|one| one.kind == "Group" && [ACCOUNTS, USERS].contains(&one.name.as_str())) {
        row.found(format!("everybody in {} may do everything", subject.name));
        let problem = format!("every member of {} may do everything in the cluster", text(subject));
        row.finds(Severity::Critical, problem, "take the group from the subjects of that ClusterRoleBinding");
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
        "Group" => {
            [ACCOUNTS, USERS, "system:unauthenticated"].contains(&subject.name.as_str())
                || subject.name.starts_with("system:serviceaccounts:")
        }
        "User" => subject.name.starts_with("system:serviceaccount:"),
        _ => false,
    }
}

/// The account is the subject, or a member of it.
fn means(subject: &Subject, namespace: &str, account: &str) -> bool {
    match &*subject.kind {
        "ServiceAccount" => subject.namespace.as_deref() == Some(namespace) && subject.name == account,
        "User" => subject.name == format!("system:serviceaccount:{namespace}:{account}"),
        _ => [ACCOUNTS, USERS].contains(&subject.name.as_str()) || subject.name == format!("{ACCOUNTS}:{namespace}"),
    }
}
