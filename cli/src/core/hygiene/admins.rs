//! ServiceAccounts that may do everything and have tokens outside pods.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::Subject;

use super::{
    Facts,
    anonymous::authorizers,
    logins::accounts,
    rbac::{is_account, text, way},
    row::{Row, Severity, names},
    secrets::LegacySecret,
};

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("cluster-admin tokens");
    authorizers(&mut row, facts);
    let Some(rbac) = row.learn(&facts.rbac) else { return row };
    let holders = rbac.holders().filter(|holder| is_account(holder.subject));
    let mighty: Vec<(&Subject, &str)> =
        holders.filter_map(|holder| Some((holder.subject, way(&holder.rules)?))).collect();
    if mighty.is_empty() {
        row.seen("no ServiceAccount may do everything in the whole cluster");
    } else {
        let all: Vec<String> = mighty.iter().map(|(subject, way)| format!("{} ({way})", text(subject))).collect();
        row.seen(format!("may do everything: {}", names(&all)));
    }
    groups(&mut row, &mighty);
    tokens(&mut row, facts, |namespace, account| way(&rbac.of_account(namespace, account)));
    row
}

/// The tokens outside pods of the accounts with a way to all rights.
fn tokens(row: &mut Row, facts: &Facts, way: impl Fn(&str, &str) -> Option<&'static str>) {
    let mut secrets: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    let legacy: Vec<LegacySecret> = row.learn(&facts.legacy).into_iter().flatten().map(LegacySecret).collect();
    for secret in legacy.iter().filter(|one| !super::legacy::is_refused(facts, one)) {
        secrets.entry((secret.namespace(), secret.account())).or_default().push(secret.name());
    }
    for ((namespace, account), all) in secrets {
        let place = match all.as_slice() {
            [one] => format!("Secret {one}, which never expires,"),
            _ => format!("one of the Secrets {}, which never expire,", names(&all)),
        };
        finds(row, Severity::Critical, &place, way(namespace, account));
    }
    for target in row.learn(&facts.targets).into_iter().flatten() {
        let place = format!("Secret {}/{} of Tokenward", target.namespace, target.name);
        finds(row, Severity::Medium, &place, way(&target.namespace, &target.record.service_account));
    }
    for (name, claims) in accounts(row, facts) {
        let severity = if claims.legacy { Severity::Critical } else { Severity::Medium };
        finds(row, severity, &format!("kubeconfig user {name}"), way(&claims.namespace, &claims.account.name));
    }
}

/// Groups of which every account of a namespace is a member, or everybody.
fn groups(row: &mut Row, mighty: &[(&Subject, &str)]) {
    for (subject, way) in mighty.iter().filter(|(subject, _)| subject.kind == "Group") {
        row.found(format!("everybody in {} may do everything", subject.name));
        let problem = format!("every member of {} may do everything in the cluster ({way})", text(subject));
        let cure = "take the group from the subjects of the ClusterRoleBindings that give it these rights";
        row.finds(Severity::Critical, problem, cure);
    }
}

fn finds(row: &mut Row, severity: Severity, place: &str, way: Option<&str>) {
    let Some(way) = way else { return };
    row.found(format!("{place} holds a token of such an account"));
    let problem = format!("whoever reads {place} may do everything in the cluster ({way})");
    row.finds(severity, problem, "bind the account to a Role with the rights that its consumer needs");
}
