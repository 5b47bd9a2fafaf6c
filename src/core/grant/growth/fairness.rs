//! No tenant waits for another one's crowd.

use std::collections::VecDeque;

use super::*;

/// As many as the operator has by default.
const SLOTS: usize = 32;

/// Two namespaces with 2,000 accounts each, and one with an account of its own.
fn crowded() -> Crowd {
    let mut server = Server::new();
    server.account("quiet", "app", &[]);
    server.policy("quiet", "p", |policy| names(policy, vec!["app".into()]));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    for namespace in ["busy-a", "busy-b"] {
        let accounts: Vec<String> = (0..2000).map(|n| format!("app-{n:04}")).collect();
        for account in &accounts {
            crowd.server.account(namespace, account, &[]);
        }
        crowd.server.policy(namespace, "p", |policy| names(policy, accounts));
    }
    crowd
}

/// How many calls are sent before the first one of this namespace, with all slots in use.
fn turns_until(crowd: &mut Crowd, namespace: &str) -> usize {
    let mut open = VecDeque::new();
    let mut sent = 0;
    loop {
        crowd.hear();
        while open.len() < SLOTS
            && let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now)
        {
            if request.path.contains(&format!("/namespaces/{namespace}/")) {
                return sent;
            }
            sent += 1;
            open.push_back((ticket, request));
        }
        let (ticket, request) = open.pop_front().expect("something is under way");
        crowd.perform(ticket, &request);
    }
}

/// How many calls are sent before the one to this path is answered, with all slots in use.
fn sent_until_served(crowd: &mut Crowd, path: &str) -> usize {
    let (mut open, mut sent) = (VecDeque::new(), 0);
    loop {
        crowd.hear();
        while open.len() < SLOTS
            && let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now)
        {
            sent += 1;
            open.push_back((ticket, request));
        }
        let (ticket, request) = open.pop_front().expect("something is under way");
        crowd.perform(ticket, &request);
        if request.path.contains(path) {
            return sent;
        }
    }
}

/// D7: a renewal goes out with the next free slots, whatever crowds take in new accounts.
#[test]
fn first_issues_never_hold_up_a_renewal_of_another_namespace() {
    let mut crowd = crowded();
    // Its token of an hour has 100 seconds left.
    crowd.server.pass(TimeDelta::seconds(3500));
    assert!(turns_until(&mut crowd, "quiet") <= SLOTS);
}

#[test]
fn a_rotation_by_hand_is_next_in_its_namespace_and_beside_others() {
    let mut crowd = crowded();
    for _ in 0..200 {
        crowd.hear();
        let (ticket, request) = crowd.grants.take(&mut 256, crowd.server.now).unwrap();
        crowd.perform(ticket, &request);
    }
    crowd.server.policy("quiet", "p", |policy| {
        policy.metadata.annotations.get_or_insert_default().insert(crate::core::names::ROTATE.into(), "1".into());
    });
    assert!(turns_until(&mut crowd, "quiet") <= SLOTS);
}

/// First issues of one namespace share its slots with its renewals.
#[test]
fn a_renewal_is_served_beside_first_issues_of_its_own_namespace() {
    let mut crowd = crowded();
    let accounts: Vec<String> = (0..2000).map(|n| format!("new-{n:04}")).collect();
    for account in &accounts {
        crowd.server.account("quiet", account, &[]);
    }
    crowd.server.policy("quiet", "crowd", |policy| names(policy, accounts));
    crowd.server.pass(TimeDelta::seconds(3500));
    let served = sent_until_served(&mut crowd, "/namespaces/quiet/serviceaccounts/app/token");
    // An anchor and a token, each behind the calls that were under way.
    assert!(served <= 4 * SLOTS, "{served} calls before the renewal");
}

/// Decisions of one turn are bounded, whatever is due.
#[test]
fn a_turn_decides_no_more_than_it_may() {
    let mut crowd = crowded();
    crowd.hear();
    let before = crowd.grants.decisions;
    let mut left = 256;
    while crowd.grants.take(&mut left, crowd.server.now).is_some() {}
    assert_eq!((crowd.grants.decisions - before, left), (256, 0));
}

/// A consumer whose token is dead is refused, and one whose token is due is not.
#[test]
fn a_dead_token_is_replaced_beside_the_renewals_of_its_own_namespace() {
    let killing: [fn(&mut Server, &str); 2] = [
        |server, account| {
            let of_account = |stored: &super::super::model::server::Stored| {
                let annotations = stored.meta.annotations.as_ref();
                annotations
                    .is_some_and(|all| all.get(crate::core::names::SERVICE_ACCOUNT).is_some_and(|name| name == account))
            };
            let anchor = server.secrets.iter().find(|(_, stored)| stored.is_anchor && of_account(stored));
            let (namespace, name) = anchor.unwrap().0.clone();
            server.secrets.remove(&(namespace.clone(), name.clone()));
            server.tell_secret(&namespace, &name);
        },
        |server, account| server.account("ns-0", account, &[("t", "y")]),
    ];
    for kill in killing {
        let mut crowd = Crowd::of(1, 2000);
        crowd.settle();
        crowd.pass(2);
        crowd.server.pass(TimeDelta::minutes(57));
        kill(&mut crowd.server, "app-01999");
        let served = sent_until_served(&mut crowd, "/serviceaccounts/app-01999/token");
        assert!(served <= 6 * SLOTS, "{served} calls before the replacement");
    }
}

/// Policies whose status has not changed are judged in turns too.
#[test]
fn a_turn_judges_no_more_statuses_than_it_may() {
    let mut crowd = Crowd::of_policies_for(2000);
    crowd.settle();
    crowd.pass(2);
    crowd.server.pass(TimeDelta::seconds(2));
    crowd.grants.observe_audience(None, crowd.server.now);
    assert_eq!(crowd.grants.statuses_waiting(), 2000);
    assert!(crowd.grants.take_status(8, crowd.server.now).is_none());
    assert_eq!(crowd.grants.statuses_waiting(), 2000 - 256);
    assert!(crowd.grants.next_wake(true, 8, crowd.server.now).is_some_and(|at| at <= crowd.server.now));
}

/// Of many that want one name one has it. The others do not care what its Secret holds.
#[test]
fn a_rotation_concerns_no_rival() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    for n in 0..100 {
        server.policy("ci", &format!("p-{n:02}"), |policy| {
            names(policy, vec!["app".into()]);
            policy.spec.secret.name = "shared".into();
        });
    }
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(2);
    let (decided, _) = crowd.cost(|crowd| crowd.server.annotate("ci", "p-00", crate::core::names::ROTATE, "1"));
    assert_eq!(crowd.server.mints, 2);
    assert!(decided <= 12, "{decided} decisions for a rotation");
}
