//! `Ready` and the decision read one table: an account counts exactly while no check finds what kills its token.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::{
    api::{
        format::FormatType,
        token_policy::{Binding, DeletionPolicy},
    },
    core::{
        grant::checks::{CHECKS, Case, Check, SURROUNDINGS},
        id::{Key, Name},
        names as annotation,
    },
};

/// Rows of the table that kill a token, by their place in it.
fn killers() -> impl Iterator<Item = (usize, &'static Check)> {
    CHECKS.iter().chain(&SURROUNDINGS).enumerate().filter(|(_, check)| check.kills)
}

/// The killing check that finds something first, the accounts that the status calls ready, and its condition `Ready`: two
/// seconds after a deed, while no call is answered.
fn ready_after(deed: fn(&mut Crowd)) -> (Option<usize>, i32, String) {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    deed(&mut crowd);
    crowd.hear();
    let view = crowd.grants.view(0, Name::default(), crowd.server.now).unwrap();
    let found = killers().find(|(_, check)| (check.find)(&Case::of(&view)).is_some()).map(|(place, _)| place);
    for _ in 0..2 {
        crowd.server.pass(TimeDelta::seconds(1));
        while crowd.grants.take(&mut 256, crowd.server.now).is_some() {}
        while let Some((ticket, request)) = crowd.grants.take_status(8, crowd.server.now) {
            crowd.perform(ticket, &request);
        }
        crowd.hear();
    }
    let status = crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone().unwrap();
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    (found, status.accounts.unwrap().ready, condition.status.clone())
}

#[test]
fn what_kills_a_token_ends_ready() {
    let mut seen = BTreeSet::new();
    for (what, deed) in [
        (
            "the account is gone",
            (|crowd| {
                crowd.server.accounts.clear();
                let event = WatchEvent::Deleted(Key::new("ci", "app"), u64::MAX / 2);
                crowd.server.log.push(Change::Account(event));
            }) as fn(&mut Crowd),
        ),
        ("the account is another one", |crowd| crowd.server.account("ci", "app", &[])),
        ("the account has been held by a finalizer for a minute", |crowd| {
            crowd.server.end_account("ci", "app");
            crowd.server.pass(TimeDelta::seconds(60));
        }),
        ("the target is gone", |crowd| crowd.server.delete_secrets(false)),
        ("the anchor is gone", |crowd| crowd.server.delete_secrets(true)),
        ("the token is revoked", |crowd| {
            crowd.server.pass(TimeDelta::seconds(10));
            let now = crate::core::meta::text(crowd.server.now);
            crowd.server.annotate("ci", "p", annotation::REVOKE_ISSUED_BEFORE, &now);
        }),
        ("another token is asked for", |crowd| {
            crowd.server.policy("ci", "p", |policy| policy.spec.deletion_policy = DeletionPolicy::Retain);
        }),
        ("the data are another's", |crowd| {
            crowd.server.edit_target(|meta| meta["managedFields"][0]["fieldsV1"]["f:data"] = json!({}));
        }),
        ("another format is asked for", |crowd| {
            crowd.server.policy("ci", "p", |policy| policy.spec.secret.format.kind = FormatType::Kubeconfig);
        }),
        ("the token is not described", |crowd| {
            crowd.server.edit_target(|meta| {
                let annotations = meta["annotations"].as_object_mut().unwrap();
                let owner = [annotation::POLICY, annotation::TARGET, annotation::SERVICE_ACCOUNT];
                annotations.retain(|name, _| owner.contains(&name.as_str()));
            });
        }),
        ("the policy is another one", |crowd| {
            crowd.server.policy("ci", "p", |policy| policy.metadata.uid = Some("another".into()));
        }),
        ("the clock went back", |crowd| crowd.server.pass(TimeDelta::hours(-2))),
        ("its key is gone", |crowd| {
            let (record, _) = crowd.server.published("ci", "p-app").unwrap();
            let key = record.signer.unwrap().key_id.to_string();
            for key in [&*key, "another", "another", "another"] {
                crowd.server.pass(TimeDelta::minutes(1));
                crowd.grants.observe_keys(Some(&BTreeSet::from([key.to_owned()])), None, crowd.server.now);
            }
        }),
        ("the token is over", |crowd| crowd.server.pass(TimeDelta::hours(2))),
    ] {
        let (found, accounts, ready) = ready_after(deed);
        assert_eq!((accounts, ready.as_str()), (0, "False"), "{what}");
        seen.extend(found);
    }
    // A policy that cannot be read leaves its tokens alive, and a Secret that is taken over has two grants: both have tests
    // of their own.
    let unseen: Vec<usize> = killers().map(|(place, _)| place).filter(|place| !seen.contains(place)).collect();
    assert_eq!(unseen.len(), 2, "{unseen:?} of the table are found by no deed");
}

#[test]
fn what_only_ages_a_token_leaves_it_ready() {
    for (what, deed) in [
        ("nothing", (|_| ()) as fn(&mut Crowd)),
        ("a rotation is asked for", |crowd| crowd.server.annotate("ci", "p", annotation::ROTATE, "1")),
        ("the token is due", |crowd| crowd.server.pass(TimeDelta::minutes(57))),
        ("the policy is suspended", |crowd| crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true)),
        ("somebody took our labels over", |crowd| {
            crowd.server.edit_target(|meta| meta["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"] = json!({}));
        }),
        ("another owner came", |crowd| {
            crowd.server.edit_target(|meta| {
                let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"});
                meta["ownerReferences"].as_array_mut().unwrap().push(owner);
            });
        }),
    ] {
        assert_eq!(ready_after(deed), (None, 1, "True".into()), "{what}");
    }
}

/// No call is due when these tokens die.
#[test]
fn a_token_that_dies_while_nothing_can_be_done_is_told() {
    for (what, deed) in [
        ("the account is being deleted", (|server| server.end_account("ci", "app")) as fn(&mut Server)),
        ("the policy is suspended", |server| server.policy("ci", "p", |policy| policy.spec.suspend = true)),
        ("the policy cannot be read", |server| {
            let policy = server.policies[&("ci".to_owned(), "p".to_owned())].clone();
            let head = PolicyState::read(policy, &Demanded::default()).head().clone();
            let state = PolicyState::Unreadable(Box::new(head), "spec: x".into());
            let event = WatchEvent::Applied(Key::new("ci", "p"), server.next(), state);
            server.log.push(Change::Policy(event));
        }),
    ] {
        let mut crowd = Crowd::of_one();
        // An anchor would wake the grant at its own end.
        crowd.server.policy("ci", "p", |policy| policy.spec.token.binding = Binding::None);
        crowd.settle();
        crowd.pass(61);
        deed(&mut crowd.server);
        let mut told = Vec::new();
        for seconds in [2, 2 * 3600] {
            crowd.server.pass(TimeDelta::seconds(seconds));
            crowd.hear();
            while let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) {
                crowd.perform(ticket, &request);
            }
            crowd.server.pass(TimeDelta::seconds(2));
            while let Some((ticket, request)) = crowd.grants.take_status(1, crowd.server.now) {
                let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
                told.extend(body["status"]["accounts"]["ready"].as_i64());
                crowd.grants.answered(ticket, Ok("{}".into()), crowd.server.now);
            }
        }
        assert_eq!(told, [1, 0], "{what}");
    }
}
