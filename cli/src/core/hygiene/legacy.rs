//! Legacy tokens: those in Secrets of type `kubernetes.io/service-account-token`.

use chrono::TimeDelta;
use tokenward::record::{SECRET_TYPE, Time};

use super::{
    Facts,
    flags::Flags,
    logins::accounts,
    row::{Row, Severity, names},
    secrets::LegacySecret,
};
use crate::core::token::Claims;

/// Days without use after which nobody seems to need a token.
const UNUSED: i64 = 90;
/// The flag by which the API server looks at the Secret and the account of a legacy token.
const LOOKUP: &str = "service-account-lookup";

pub fn row(facts: &Facts, now: Time) -> Row {
    let mut row = Row::new("legacy token Secrets");
    of_kubeconfig(&mut row, facts);
    unchecked(&mut row, facts);
    let Some(secrets) = row.learn(&facts.legacy) else { return row };
    if secrets.is_empty() {
        row.seen(format!("no Secret has the type {SECRET_TYPE}"));
    } else {
        row.found(format!("Secrets of type {SECRET_TYPE}: {}", secrets.len()));
    }
    let (refused, live): (Vec<LegacySecret>, Vec<LegacySecret>) =
        secrets.iter().map(LegacySecret).partition(|secret| is_refused(facts, secret));
    if !refused.is_empty() {
        row.servers(facts, &format!("--{LOOKUP}"));
        let refused: Vec<String> = refused.iter().map(LegacySecret::name).collect();
        row.seen(format!("the API server refuses the tokens of {}", names(&refused)));
    }
    of_secrets(&mut row, facts, live, now);
    row
}

/// A kube-apiserver with `--service-account-lookup=false` looks at no Secret.
fn is_blind(flags: &Flags) -> bool {
    !flags.is_on(LOOKUP, true)
}

/// The Secrets whose tokens log in.
pub fn live(facts: &Facts) -> impl Iterator<Item = LegacySecret<'_>> {
    facts.legacy.iter().flatten().map(LegacySecret).filter(|one| !is_refused(facts, one))
}

/// Whether every API server refuses the token of a Secret.
fn is_refused(facts: &Facts, secret: &LegacySecret) -> bool {
    secret.is_quarantined() && !facts.servers.iter().flatten().any(is_blind)
}

fn unchecked(row: &mut Row, facts: &Facts) {
    if facts.servers.iter().flatten().any(is_blind) {
        row.found(format!("kube-apiserver runs with --{LOOKUP}=false"));
        let problem = "the API server accepts legacy tokens whose Secret or account is deleted, and those in quarantine, \
                       and it records no uses";
        row.finds(Severity::High, problem, format!("remove --{LOOKUP}=false from the flags of kube-apiserver"));
    }
}

fn of_kubeconfig(row: &mut Row, facts: &Facts) {
    for (name, claims) in accounts(row, facts).into_iter().filter(|(_, claims)| claims.legacy) {
        let Claims { namespace, account, .. } = claims;
        row.found(format!("kubeconfig user {name}: a legacy token of ServiceAccount {namespace}/{}", account.name));
        let problem = format!("the token of kubeconfig user {name} never expires");
        row.finds(Severity::High, problem, "get a kubeconfig from a TokenPolicy with the format Kubeconfig");
    }
}

fn of_secrets(row: &mut Row, facts: &Facts, live: Vec<LegacySecret>, now: Time) {
    let tracked = live.iter().any(|secret| secret.last_used().is_none()).then(|| row.learn(&facts.tracked)).flatten();
    let tracked = tracked.and_then(|map| map.as_ref()?.data.as_ref()?.get("since")).map(String::as_str);
    // Days are compared as texts, as the API server's own cleaner does.
    let day = (now - TimeDelta::days(UNUSED)).format("%Y-%m-%d").to_string();
    let (unused, used): (Vec<LegacySecret>, Vec<LegacySecret>) = live
        .into_iter()
        .partition(|secret| secret.idle_since(tracked).is_some_and(|since| !since.is_empty() && since < day));
    let cure =
        "run kubectl tokenward migrate for each Secret: it prints the TokenPolicy that takes its place, and the steps";
    finds(row, &used, "that are in use, or too young to tell,", cure);
    let cure = "label each Secret kubernetes.io/legacy-token-invalid-since=<today>, which stops its token until you \
                remove the label, and delete the Secret when nobody misses it; a LegacyTokenPolicy does both";
    finds(row, &unused, &format!("that nobody has used for {UNUSED} days"), cure);
}

fn finds(row: &mut Row, secrets: &[LegacySecret], which: &str, cure: &str) {
    if !secrets.is_empty() {
        let text = |secret: &LegacySecret| match secret.last_used() {
            Some("") => format!("{} (last used on an unknown day)", secret.name()),
            used => format!("{} (last used {})", secret.name(), used.unwrap_or("never")),
        };
        let texts: Vec<String> = secrets.iter().map(text).collect();
        let problem = format!("tokens {which} never expire: {}", names(&texts));
        row.finds_in(Severity::High, problem, cure, secrets.iter().map(LegacySecret::name).collect());
    }
}
