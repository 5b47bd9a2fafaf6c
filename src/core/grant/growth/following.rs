//! The address of the cluster changes: every Secret follows with the same token, at the pace of all work, and no renewal waits.

use std::collections::VecDeque;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::*;
use crate::core::{address::ClusterAddress, grant::model::server::Stored, request::Verb};

/// As many as the operator has by default.
const SLOTS: usize = 32;

/// The same server behind another CA.
fn rotated(ca: &str) -> KnownAddress {
    let known = address();
    KnownAddress { address: ClusterAddress { ca: ca.into(), ..known.address }, ..known }
}

/// How many targets carry this CA.
fn carrying(crowd: &Crowd, ca: &str) -> usize {
    let held = |stored: &&Stored| stored.data.get("ca.crt") == Some(&STANDARD.encode(ca));
    crowd.server.secrets.values().filter(held).count()
}

fn calls(crowd: &Crowd) -> [usize; 4] {
    ["get secrets", "apply secrets", "create secrets", "delete secrets"].map(|kind| crowd.server.count(kind))
}

#[test]
fn a_new_ca_reaches_every_secret_with_the_same_token() {
    let mut crowd = Crowd::of(50, 20);
    crowd.settle();
    crowd.pass(2);
    let ([gets, applies, creates, deletes], statuses) = (calls(&crowd), crowd.statuses);
    for (ca, changes) in [("both", 1), ("new", 2)] {
        crowd.grants.observe_address(rotated(ca), crowd.server.now);
        crowd.settle();
        assert_eq!((carrying(&crowd, ca), crowd.server.mints), (1000, 1000));
        // One read and one write each.
        assert_eq!(calls(&crowd), [gets + changes * 1000, applies + changes * 1000, creates, deletes]);
    }
    assert_eq!(crowd.statuses, statuses, "each token was valid all the time, and no policy says otherwise");
    // A look that finds nothing new costs nothing, and so does a restart.
    let before = calls(&crowd);
    crowd.grants.observe_address(rotated("new"), crowd.server.now);
    crowd.settle();
    assert_eq!(calls(&crowd), before);
}

#[test]
fn a_change_while_no_process_ran_is_found_in_the_annotations() {
    let mut crowd = Crowd::of_one();
    let before = calls(&crowd);
    for (ca, more) in [("ca", 0), ("new", 1), ("new", 0)] {
        let now = calls(&crowd);
        let server = std::mem::replace(&mut crowd.server, Server::new());
        crowd = Crowd::start_at(server, rotated(ca));
        crowd.settle();
        assert_eq!(calls(&crowd), [now[0] + more, now[1] + more, now[2], now[3]], "{ca}");
    }
    assert_eq!((carrying(&crowd, "new"), crowd.server.mints, calls(&crowd)[2]), (1, 1, before[2]));
}

#[test]
fn secrets_of_a_suspended_policy_follow_and_so_do_those_that_were_busy() {
    let mut crowd = Crowd::of_one();
    crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true);
    crowd.settle();
    crowd.grants.observe_address(rotated("new"), crowd.server.now);
    crowd.settle();
    assert_eq!((carrying(&crowd, "new"), crowd.server.mints), (1, 1));
    // The change comes between the decision to write and the answer.
    crowd.server.policy("ci", "p", |policy| {
        policy.spec.suspend = false;
        policy.metadata.annotations.get_or_insert_default().insert(crate::core::names::ROTATE.into(), "1".into());
    });
    crowd.hear();
    while let Some((ticket, request)) = crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now) {
        if request.verb == Verb::Apply && crowd.server.mints == 2 {
            crowd.grants.observe_address(rotated("newer"), crowd.server.now);
        }
        crowd.perform(ticket, &request);
        crowd.hear();
    }
    // It has been written three times in a moment, so the budget of a grant is spent.
    crowd.pass(10);
    assert_eq!((carrying(&crowd, "newer"), crowd.server.mints), (1, 2));
}

#[test]
fn the_first_to_expire_is_the_first_to_follow() {
    let mut crowd = Crowd::of_one();
    let accounts: Vec<String> = (0..20).map(|n| format!("app-{:02}", (n * 7) % 20)).collect();
    for (n, account) in accounts.iter().enumerate() {
        crowd.server.account("ci", account, &[]);
        crowd.server.policy("ci", "p", |policy| names(policy, accounts[..=n].to_vec()));
        crowd.pass(10);
    }
    crowd.grants.observe_address(rotated("new"), crowd.server.now);
    let mut reads = Vec::new();
    while let Some((_, request)) = crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now) {
        reads.push(request.path.rsplit('/').next().unwrap().to_owned());
    }
    let oldest: Vec<String> = accounts.iter().map(|account| format!("p-{account}")).collect();
    assert_eq!(reads, oldest);
}

/// The token of `late` is due early in its life, and expires after those of the crowd that is asked to follow.
#[test]
fn a_renewal_has_the_next_slots_while_thousands_follow() {
    let mut server = Server::new();
    let accounts: Vec<String> = (0..2000).map(|n| format!("app-{n:04}")).collect();
    for account in &accounts {
        server.account("ci", account, &[]);
    }
    server.policy("ci", "p", |policy| {
        names(policy, accounts);
        policy.spec.rotation.renew_before_percentage = 5;
    });
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.server.pass(TimeDelta::seconds(900));
    crowd.server.account("ci", "late", &[]);
    crowd.server.policy("ci", "late", |policy| {
        names(policy, vec!["late".into()]);
        policy.spec.rotation.renew_before_percentage = 85;
    });
    crowd.settle();
    crowd.server.pass(TimeDelta::seconds(1850));
    crowd.grants.observe_address(rotated("new"), crowd.server.now);
    let (mut open, mut sent) = (VecDeque::new(), 0);
    loop {
        while open.len() < SLOTS
            && let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now)
        {
            if request.verb == Verb::Create {
                assert!(sent <= SLOTS, "{sent} calls before the renewal");
                return;
            }
            sent += 1;
            open.push_back((ticket, request));
        }
        let (ticket, request) = open.pop_front().expect("something is under way");
        crowd.perform(ticket, &request);
        crowd.hear();
    }
}
