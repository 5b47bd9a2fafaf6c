//! ServiceAccounts that may do everything and have tokens outside pods.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Facts,
    anonymous::{all_allowed, authorizers},
    legacy::live,
    logins::accounts,
    rbac::{Given, Holders, SYSTEM, Who},
    rights::{READ, STEPS, leads, way},
    row::{Row, Severity, names},
};

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("cluster-admin tokens");
    all_allowed(&mut row, facts, "whoever has any credentials", |_| true);
    authorizers(&mut row, facts);
    facts.rbac.unknown().for_each(|why| row.unknown(why));
    let judge = Judge::new(facts.rbac.holders(leads), exposed(facts));
    let mighty = judge.mighty();
    if !mighty.is_empty() {
        let all: Vec<String> = mighty.iter().map(|(who, way)| format!("{who} ({way})")).collect();
        row.seen(format!("may do everything: {}", names(&all)));
    } else if facts.rbac.unknown().next().is_none() {
        row.seen("no ServiceAccount may do everything, apart from those of Kubernetes' own controllers");
    }
    groups(&mut row, &mighty);
    tokens(&mut row, facts, |namespace, account| judge.way(&Who::account(namespace, account)));
    row
}

/// The Secrets with a token of an account.
struct Exposed<'a> {
    namespace: &'a str,
    name: &'a str,
    account: Who,
}

fn exposed(facts: &Facts) -> Vec<Exposed<'_>> {
    let legacy = live(facts).map(|one| Exposed {
        namespace: one.namespace(),
        name: one.short_name(),
        account: Who::account(one.namespace(), one.account()),
    });
    let ours = facts.targets.iter().flatten().map(|target| Exposed {
        namespace: &target.namespace,
        name: &target.name,
        account: Who::account(&target.namespace, &target.record.service_account),
    });
    legacy.chain(ours).collect()
}

/// Who may do everything.
struct Judge<'a> {
    holders: Holders<'a>,
    /// Those with a way of their own: whoever reaches one of them has a way as well, but nobody counts who reaches those.
    first: BTreeSet<Who>,
    /// The Secrets with tokens of the first.
    exposed: Vec<Exposed<'a>>,
}

impl<'a> Judge<'a> {
    fn new(holders: Holders<'a>, mut exposed: Vec<Exposed<'a>>) -> Self {
        let is_first = |who: &Who| way(&holders.rules(who)).is_some();
        let first = holders.all().filter(|who| is_first(who)).cloned().collect();
        let accounts: BTreeSet<Who> = exposed.iter().map(|one| one.account.clone()).collect();
        let mighty: BTreeSet<Who> = accounts.into_iter().filter(is_first).collect();
        exposed.retain(|one| mighty.contains(&one.account));
        Self { holders, first, exposed }
    }

    /// Accounts and their groups, without those that every cluster has.
    fn mighty(&self) -> Vec<(&Who, &'static str)> {
        let found = self.holders.those(|rules| self.through(rules).is_some()).into_iter();
        let found = found.filter(|who| who.has_accounts() && !self.holders.is_built_in(who));
        found.filter_map(|who| Some((who, self.way(who)?))).collect()
    }

    fn way(&self, who: &Who) -> Option<&'static str> {
        self.through(&self.holders.rules(who))
    }

    fn through(&self, rules: &[Given]) -> Option<&'static str> {
        way(rules).map(|way| way.name).or_else(|| rules.iter().find_map(|given| self.step(given)))
    }

    /// How a rule leads to one of the first.
    fn step(&self, given: &Given) -> Option<&'static str> {
        let leads = |resource| given.names().iter().any(|name| self.is_first(resource, name, given.everywhere));
        let step = STEPS.iter().find(|(_, right)| right.is_in(given) && leads(right.resource));
        step.map(|(name, _)| *name).or_else(|| self.reads(given).then_some("read Secrets"))
    }

    /// The rule of a name holds for accounts of each namespace that it reaches.
    fn is_first(&self, resource: &str, name: &str, everywhere: bool) -> bool {
        let is = |(namespace, account): (&str, &str)| account == name && (everywhere || namespace == SYSTEM);
        match resource {
            "users" => self.first.contains(&Who::User(name.to_owned())),
            _ => self.first.iter().filter_map(Who::as_account).any(is),
        }
    }

    fn reads(&self, given: &Given) -> bool {
        let names = given.names();
        let is = |one: &Exposed| {
            (given.everywhere || one.namespace == SYSTEM)
                && (names.is_empty() || names.iter().any(|name| name == one.name))
        };
        READ.is_in(given) && self.exposed.iter().any(is)
    }
}

/// The tokens outside pods of the accounts with a way to all rights.
fn tokens(row: &mut Row, facts: &Facts, way: impl Fn(&str, &str) -> Option<&'static str>) {
    let mut secrets: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    row.learn(&facts.legacy);
    for secret in live(facts) {
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
fn groups(row: &mut Row, mighty: &[(&Who, &str)]) {
    for (who, way) in mighty {
        let Who::Group(name) = who else { continue };
        row.found(format!("everybody in {name} may do everything"));
        let problem = format!("every member of {who} may do everything in the cluster ({way})");
        let cure = "take the group from the subjects of the bindings that give it these rights";
        row.finds(Severity::Critical, problem, cure);
    }
}

fn finds(row: &mut Row, severity: Severity, place: &str, way: Option<&str>) {
    let Some(way) = way else { return };
    row.found(format!("{place} holds a token of such an account"));
    let problem = format!("whoever reads {place} may do everything in the cluster ({way})");
    row.finds(severity, problem, "bind the account to a Role with the rights that its consumer needs");
}
