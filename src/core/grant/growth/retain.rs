//! `deletionPolicy: Retain`: what is let go outlives its policy until its tokens expire.

use super::*;
use crate::api::token_policy::DeletionPolicy;

/// Secrets of the namespace that the deletion of their policy would take along.
fn owned(crowd: &Crowd) -> usize {
    crowd
        .server
        .secrets
        .values()
        .filter(|stored| stored.meta.owner_references.iter().flatten().next().is_some())
        .count()
}

fn retained(accounts: &[&str]) -> Crowd {
    let mut server = Server::new();
    for account in accounts {
        server.account("ci", account, &[]);
    }
    let accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
    server.policy("ci", "p", |policy| names(policy, accounts));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(11);
    crowd
}

#[test]
fn an_account_that_leaves_with_the_same_edit_is_let_go() {
    let mut crowd = retained(&["foo", "bar"]);
    assert_eq!(owned(&crowd), 4);
    crowd.server.policy("ci", "p", |policy| {
        names(policy, vec!["foo".into()]);
        policy.spec.deletion_policy = DeletionPolicy::Retain;
    });
    (0..20).for_each(|_| crowd.pass(10));
    assert_eq!(owned(&crowd), 0);
    assert!(crowd.server.published("ci", "p-bar").is_some());
}

#[test]
fn older_tokens_live_on_whether_a_process_saw_the_end_of_the_policy_or_not() {
    for restarted in [false, true] {
        let mut crowd = retained(&["foo"]);
        crowd.server.policy("ci", "p", |policy| policy.spec.deletion_policy = DeletionPolicy::Retain);
        crowd.settle();
        crowd.pass(70);
        crowd.annotate(crate::core::names::ROTATE, "1");
        crowd.settle();
        crowd.server.delete_policy("ci", "p");
        if restarted {
            crowd.server.log.clear();
            crowd.restart();
        }
        (0..20).for_each(|_| crowd.pass(10));
        assert_eq!(crowd.server.anchors().len(), 2, "restarted: {restarted}");
    }
}

#[test]
fn a_policy_that_a_finalizer_holds_says_that_it_ends() {
    let mut crowd = retained(&["foo"]);
    hand::end_policy(&mut crowd, "example.com/held");
    (0..3).for_each(|_| crowd.pass(1));
    let told = format!("{:?}", crowd.conditions());
    assert!(told.contains("the policy is being deleted") && !told.contains("being issued"), "{told}");
    assert_eq!(crowd.grants.statuses().count(), 0, "no alert is about it");
}
