//! Ten thousand grants: each change costs what it touches, whatever else there is. Everything here counts; nothing is timed.

mod contested;
mod fairness;
mod following;
mod forged;
mod hand;
mod hand_over;
mod heap;
mod over;
mod ready;
mod retain;
mod revocation;
mod terminating;
mod unwritable;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use secrecy::ExposeSecret;

use super::{
    controller::{Change, Grants},
    event::GrantEvent,
    model::server::{Server, address},
};
use crate::{
    api::{schema::pending, token_policy::TokenPolicy},
    core::{
        address::KnownAddress,
        failure::Failure,
        kernel::{controller::Controller as _, store::WatchEvent},
        place::applied::Demanded,
        policy::PolicyState,
        reason::FailureReason,
        request::{Request, Verb},
    },
};

/// How many grants.
const MANY: usize = 10_000;

/// Grants and their API server.
struct Crowd {
    server: Server,
    grants: Grants,
    heard: usize,
    /// Writes of a status.
    statuses: usize,
}

/// Policies that select their accounts by name.
fn names(policy: &mut TokenPolicy, names: Vec<String>) {
    policy.spec.service_accounts.names = Some(names);
}

impl Crowd {
    /// A process that has listed what the server has.
    fn start(server: Server) -> Self {
        Self::start_at(server, address())
    }

    /// As [`Crowd::start`], where consumers reach the server here.
    fn start_at(server: Server, address: KnownAddress) -> Self {
        let mut grants = Grants::new(address, Demanded::default(), vec![None], 7);
        grants.lead(server.now);
        for change in server.lists() {
            grants.observe(0, change, server.now);
        }
        Self { heard: server.log.len(), server, grants, statuses: 0 }
    }

    /// One policy for one account, whose token is published.
    fn of_one() -> Self {
        let mut server = Server::new();
        server.account("ci", "app", &[]);
        server.policy("ci", "p", |policy| names(policy, vec!["app".into()]));
        let mut crowd = Self::start(server);
        crowd.settle();
        crowd
    }

    /// One policy for every account of each of these namespaces; ten thousand accounts in all.
    fn of_namespaces(namespaces: usize) -> Self {
        Self::of(namespaces, MANY / namespaces)
    }

    /// One policy for so many accounts of each of these namespaces.
    fn of(namespaces: usize, accounts: usize) -> Self {
        let mut server = Server::new();
        for n in 0..namespaces {
            let namespace = format!("ns-{n}");
            server.policy(&namespace, "p", |policy| {
                policy.spec.service_accounts.names = None;
                policy.spec.service_accounts.selector =
                    Some(serde_json::from_str(r#"{"matchLabels": {"t": "y"}}"#).unwrap());
            });
            for m in 0..accounts {
                server.account(&namespace, &format!("app-{m:05}"), &[("t", "y")]);
            }
        }
        Self::start(server)
    }

    /// One policy for each account, all in one namespace.
    fn of_policies() -> Self {
        Self::of_policies_for(MANY)
    }

    /// One policy for each of so many accounts.
    fn of_policies_for(accounts: usize) -> Self {
        let mut server = Server::new();
        for n in 0..accounts {
            let account = format!("app-{n:05}");
            server.account("ci", &account, &[]);
            server.policy("ci", &format!("p-{n:05}"), |policy| names(policy, vec![account]));
        }
        Self::start(server)
    }

    fn hear(&mut self) {
        let news = self.server.log.split_off(0);
        self.heard = 0;
        for change in news {
            self.grants.observe(0, change, self.server.now);
        }
    }

    fn perform(&mut self, ticket: u32, request: &Request) {
        let answer = self.server.answer(request);
        self.grants.answered(ticket, answer, self.server.now);
    }

    /// Makes every call that is due, and hears what the watches tell of it.
    fn settle(&mut self) {
        loop {
            self.hear();
            if let Some((ticket, request)) = self.grants.take_status(1, self.server.now) {
                self.statuses += 1;
                self.perform(ticket, &request);
            } else if let Some((ticket, request)) = self.grants.take(&mut usize::MAX.clone(), self.server.now) {
                self.perform(ticket, &request);
            } else {
                return;
            }
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.server.pass(TimeDelta::seconds(seconds));
        self.settle();
    }

    /// Rotates, and takes the deletion of the old anchor when its overlap has ended.
    fn rotated_and_due(&mut self) -> (u32, Request) {
        self.annotate(crate::core::names::ROTATE, "1");
        self.settle();
        self.server.pass(TimeDelta::seconds(61));
        let (ticket, request) = self.grants.take(&mut 256, self.server.now).unwrap();
        assert_eq!(request.verb, Verb::Delete, "{}", request.what);
        (ticket, request)
    }

    /// Decisions and matches of a selector that a change costs.
    fn cost(&mut self, change: impl FnOnce(&mut Self)) -> (usize, usize) {
        let before = (self.grants.decisions, self.grants.matched.get());
        change(self);
        self.hear();
        while let Some((ticket, request)) = self.grants.take(&mut usize::MAX.clone(), self.server.now) {
            self.perform(ticket, &request);
        }
        (self.grants.decisions - before.0, self.grants.matched.get() - before.1)
    }

    /// Another process takes over.
    fn restart(&mut self) {
        let server = std::mem::replace(&mut self.server, Server::new());
        *self = Self::start(server);
    }

    fn events(&mut self) -> Vec<GrantEvent> {
        self.grants.news()
    }

    /// Annotates policy `p` of namespace `ci`.
    fn annotate(&mut self, key: &str, value: &str) {
        self.server.annotate("ci", "p", key, value);
    }

    /// The conditions of that policy: status and message by type.
    fn conditions(&self) -> BTreeMap<String, (String, String)> {
        self.conditions_of("p")
    }

    fn conditions_of(&self, policy: &str) -> BTreeMap<String, (String, String)> {
        let policy = self.server.policies.get(&("ci".to_owned(), policy.to_owned()));
        let status = policy.and_then(|policy| policy.status.clone()).unwrap_or_default();
        let entry = |condition: Condition| (condition.type_, (condition.status, condition.message));
        status.conditions.into_iter().map(entry).collect()
    }
}

/// The status of every policy is stored and true, and its echo has been heard.
fn assert_true(crowd: &mut Crowd) {
    crowd.pass(2);
    let ready: i32 = crowd
        .server
        .policies
        .values()
        .map(|policy| {
            policy.status.as_ref().and_then(|status| status.accounts.as_ref()).map_or(0, |accounts| accounts.ready)
        })
        .sum();
    assert_eq!(usize::try_from(ready), Ok(MANY));
}

/// The schema says that a policy is pending, until there is more to say.
#[test]
fn a_policy_of_its_own_costs_one_status() {
    let mut crowd = Crowd::of_policies_for(100);
    loop {
        crowd.hear();
        let next = crowd.grants.take_status(1, crowd.server.now);
        crowd.statuses += usize::from(next.is_some());
        let Some((ticket, request)) = next.or_else(|| crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now))
        else {
            break;
        };
        crowd.perform(ticket, &request);
        crowd.server.pass(TimeDelta::milliseconds(50));
    }
    assert!(crowd.conditions_of("p-00099")["Ready"].0 == "True", "{:?}", crowd.conditions_of("p-00099"));
    assert_eq!((crowd.server.mints, crowd.statuses), (100, 100));
}

/// The CRD of an earlier release has no default.
#[test]
fn a_policy_without_any_status_says_that_its_token_is_being_issued() {
    for (stored, written) in [(None, true), (Some(pending()), false)] {
        let mut server = Server::new();
        server.account("ci", "app", &[]);
        server.policy("ci", "p", |policy| {
            names(policy, vec!["app".into()]);
            policy.status = stored.map(|status| serde_json::from_value(status).unwrap());
        });
        let mut crowd = Crowd::start(server);
        let under_way = crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now);
        assert!(under_way.is_some());
        crowd.server.pass(TimeDelta::seconds(1));
        let status = crowd.grants.take_status(1, crowd.server.now).map(|(_, request)| request.body);
        let text = status.as_ref().map(ExposeSecret::expose_secret);
        assert_eq!(text.is_some_and(|text| text.contains("Issuing")), written, "{text:?}");
        assert_eq!(crowd.grants.statuses().count(), 1, "the metrics have it");
    }
}

#[test]
fn one_policy_for_all_is_level() {
    let mut crowd = Crowd::of_namespaces(1);
    let (_, matched) = crowd.cost(|_| ());
    assert_eq!(matched, 0, "each account was matched at the list");
    assert_eq!(crowd.server.mints, MANY);
    assert_true(&mut crowd);
    assert!(crowd.statuses <= 4, "{} statuses: each is written once a second, and no time passed", crowd.statuses);
    // D1: the echo of a status, once more, wakes nobody.
    let echo = crowd.cost(|crowd| crowd.server.policy("ns-0", "p", |_| ()));
    assert_eq!(echo, (0, 0));
    // A change of one account concerns one grant: its label is matched by one policy.
    let (decided, matched) = crowd.cost(|crowd| crowd.server.account("ns-0", "app-00007", &[("t", "y"), ("x", "y")]));
    assert!(decided <= 6 && matched <= 2, "{decided} decisions, {matched} matches for one account");
    // D8: one GET proves that a policy is gone, for all of its grants.
    crowd.cost(|crowd| crowd.server.delete_policy("ns-0", "p"));
    crowd.pass(60);
    assert_eq!(crowd.server.count("get tokenpolicies"), 1);
    assert!(crowd.server.secrets.is_empty(), "{} Secrets are left", crowd.server.secrets.len());
}

#[test]
fn a_policy_for_each_account_is_level() {
    let mut crowd = Crowd::of_policies();
    // D2: a policy that names its accounts matches those only.
    assert!(crowd.grants.matched.get() <= 3 * MANY, "{} matches at the list", crowd.grants.matched.get());
    crowd.settle();
    assert_eq!(crowd.server.mints, MANY);
    assert!(crowd.grants.decisions <= 9 * MANY, "{} decisions for a first issue each", crowd.grants.decisions);
    assert_true(&mut crowd);
    assert!(crowd.statuses <= 2 * MANY, "{} statuses", crowd.statuses);
    let echo = crowd.cost(|crowd| crowd.server.policy("ci", "p-00007", |_| ()));
    assert_eq!(echo, (0, 0));
    // A new policy of a crowded namespace concerns one account.
    let (decided, matched) = crowd.cost(|crowd| {
        crowd.server.policy("ci", "late", |policy| names(policy, vec!["app-00007".into()]));
    });
    assert!(decided <= 6 && matched <= 3, "{decided} decisions, {matched} matches for one policy");
}

#[test]
fn many_namespaces_are_level() {
    let mut crowd = Crowd::of_namespaces(500);
    let matched = crowd.grants.matched.get();
    assert!(matched <= 3 * MANY, "{matched} matches at the list");
    crowd.settle();
    assert_true(&mut crowd);
    assert_eq!((crowd.server.mints, crowd.statuses >= 500), (MANY, true));
    assert!(crowd.statuses <= 3 * 500, "{} statuses", crowd.statuses);
    let (decided, matched) = crowd.cost(|crowd| {
        crowd.server.policy("ns-7", "p", |policy| {
            policy.metadata.annotations.get_or_insert_default().insert(crate::core::names::ROTATE.into(), "1".into());
        });
    });
    let (here, most) = (MANY / 500, 8);
    assert!(decided <= most * here && matched <= 3 * here, "{decided} decisions, {matched} matches for {here} grants");
}

/// D9: of many scopes each is listed, opened and watched by itself.
#[test]
fn many_scopes_are_level() {
    let server = Crowd::of_namespaces(500).server;
    let scopes = (0..500).map(|n| Some(format!("ns-{n}").into())).collect();
    let mut grants = Grants::new(address(), Demanded::default(), scopes, 7);
    let now = server.now;
    let mut told = 0;
    for change in server.lists() {
        let number = |name: &str| name.trim_start_matches("ns-").parse::<u16>().unwrap();
        let key = match &change {
            Change::Policy(event) => event.key(),
            Change::Account(event) => event.key(),
            Change::Target(_) | Change::Anchor(_) => None,
        };
        match key {
            Some(key) => grants.observe(number(&key.namespace.clone()), change, now),
            None => (0..500).for_each(|scope| grants.observe(scope, change.clone(), now)),
        }
        told += usize::from(grants.readiness().is_some());
    }
    while grants.take(&mut usize::MAX.clone(), now).is_some() {}
    assert!(grants.matched.get() <= 3 * MANY && grants.decisions == MANY, "{} decisions", grants.decisions);
    assert!(told <= 4 + 1, "readiness is computed {told} times: when a list ends, not for each object");
    // A watch of one namespace fails: the status of its policy is marked, and no other.
    let later = now + TimeDelta::seconds(5);
    while grants.statuses_waiting() > 0 {
        if let Some((ticket, _)) = grants.take_status(1, later) {
            grants.answered(ticket, Ok("{}".into()), later);
        }
    }
    let failure = Failure::new(FailureReason::Forbidden, "watch");
    grants.watch_health(7, super::controller::KINDS[0], Some(failure), later);
    assert_eq!(grants.statuses_waiting(), 1);
}

/// A policy that is re-created under its name is another one.
#[test]
fn an_echo_differs_from_a_change_by_what_the_policy_asks() {
    let mut crowd = Crowd::of(2, 10);
    crowd.settle();
    let policy = crowd.server.policies[&("ns-1".to_owned(), "p".to_owned())].clone();
    let state = |change: fn(&mut TokenPolicy)| {
        let mut policy = policy.clone();
        change(&mut policy);
        PolicyState::read(policy, &Demanded::default())
    };
    let before = state(|_| ());
    for (change, same) in [
        ((|_| ()) as fn(&mut TokenPolicy), true),
        (|policy| policy.status = None, true),
        (|policy| policy.metadata.uid = Some("another".into()), false),
        (|policy| policy.metadata.generation = Some(9), false),
        (|policy| policy.metadata.deletion_timestamp = policy.metadata.creation_timestamp.clone(), false),
        (|policy| policy.metadata.annotations = Some([("tokenward.dev/rotate".into(), "2".into())].into()), false),
    ] {
        assert_eq!(before.asks_as(&state(change)), same);
    }
    let at = crowd.server.next();
    let key = crate::core::id::Key::new("ns-1", "p");
    let (decided, _) = crowd.cost(|crowd| {
        crowd.server.log.push(Change::Policy(WatchEvent::Applied(key, at, before)));
    });
    assert_eq!(decided, 0);
}

/// One of two policies that want one name has no account to issue for; the other's follows when it lets go.
#[test]
fn a_name_that_is_let_go_goes_to_the_next_in_line() {
    for edit in [
        (|server| server.delete_policy("ci", "first")) as fn(&mut Server),
        |server| server.policy("ci", "first", |policy| names(policy, Vec::new())),
        |server| server.policy("ci", "first", |policy| policy.spec.secret.name = "own-{serviceAccount}".into()),
    ] {
        let mut server = Server::new();
        server.account("ci", "app", &[]);
        for (name, account) in [("first", "missing"), ("second", "app")] {
            server.policy("ci", name, |policy| {
                names(policy, vec![account.into()]);
                policy.spec.secret.name = "shared".into();
            });
        }
        let mut crowd = Crowd::start(server);
        crowd.settle();
        assert_eq!(crowd.server.mints, 0, "the older policy has the claim");
        edit(&mut crowd.server);
        crowd.settle();
        crowd.pass(61);
        assert_eq!(crowd.server.mints, 1);
    }
}

#[test]
fn without_a_free_slot_no_sleeper_wakes_the_loop() {
    let mut crowd = Crowd::of(2, 10);
    crowd.settle();
    crowd.pass(2);
    crowd.server.pass(TimeDelta::hours(2));
    let now = crowd.server.now;
    assert!(crowd.grants.next_wake(true, 0, now).is_some_and(|at| at <= now), "renewals are due");
    assert_eq!(crowd.grants.next_wake(false, 0, now), None);
}

#[test]
fn a_status_that_somebody_else_wrote_is_written_again() {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    let key = ("ci".to_owned(), "p".to_owned());
    let (status, written) = (crowd.server.policies[&key].status.clone(), crowd.statuses);
    assert!(status.is_some());
    crowd.server.policy("ci", "p", |policy| policy.status.as_mut().unwrap().accounts = None);
    crowd.settle();
    crowd.pass(2);
    assert_eq!(crowd.server.policies[&key].status, status);
    assert_eq!(crowd.statuses, written + 1);
    // A field that our apply cannot take away stops no other repair.
    for ready in [7, 8] {
        crowd.server.policy("ci", "p", |policy| {
            let status = policy.status.as_mut().unwrap();
            status.accounts.as_mut().unwrap().ready = ready;
        });
        crowd.settle();
        crowd.pass(2);
        assert_eq!(crowd.server.policies[&key].status, status);
    }
    // An echo of our own is no reason to write.
    let written = crowd.statuses;
    crowd.server.policy("ci", "p", |_| ());
    crowd.pass(5);
    assert_eq!(crowd.statuses, written);
}
