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
    let mut open = VecDeque::new();
    let mut sent = 0;
    let served = loop {
        crowd.hear();
        while open.len() < SLOTS
            && let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now)
        {
            sent += 1;
            open.push_back((ticket, request));
        }
        let (ticket, request) = open.pop_front().unwrap();
        let renews = request.path.contains("/namespaces/quiet/serviceaccounts/app/token");
        crowd.perform(ticket, &request);
        if renews {
            break sent;
        }
    };
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
