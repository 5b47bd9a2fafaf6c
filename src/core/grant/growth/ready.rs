//! `Ready` and the decision read one table: an account counts exactly while no check finds what kills its token.

use serde_json::json;

use super::*;
use crate::{
    api::{
        format::FormatType,
        token_policy::{Binding, DeletionPolicy},
    },
    core::{id::Key, names as annotation},
};

/// Accounts that the status calls ready and its condition `Ready`, two seconds after a deed, while no call is answered.
fn ready_after(deed: fn(&mut Server)) -> (i32, String) {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    deed(&mut crowd.server);
    crowd.hear();
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
    (status.accounts.unwrap().ready, condition.status.clone())
}

#[test]
fn what_kills_a_token_ends_ready() {
    for (what, deed) in [
        (
            "the account is gone",
            (|server| {
                server.accounts.clear();
                let event = WatchEvent::Deleted(Key::new("ci", "app"), u64::MAX / 2);
                server.log.push(Change::Account(event));
            }) as fn(&mut Server),
        ),
        ("the account is another one", |server| server.account("ci", "app", &[])),
        ("the target is gone", |server| server.delete_secrets(false)),
        ("the anchor is gone", |server| server.delete_secrets(true)),
        ("the token is revoked", |server| {
            server.pass(TimeDelta::seconds(10));
            let now = crate::core::meta::text(server.now);
            server.annotate("ci", "p", annotation::REVOKE_ISSUED_BEFORE, &now);
        }),
        ("another token is asked for", |server| {
            server.policy("ci", "p", |policy| policy.spec.deletion_policy = DeletionPolicy::Retain);
        }),
        ("the data are another's", |server| {
            server.edit_target(|meta| meta["managedFields"][0]["fieldsV1"]["f:data"] = json!({}));
        }),
        ("another format is asked for", |server| {
            server.policy("ci", "p", |policy| policy.spec.secret.format.kind = FormatType::Kubeconfig);
        }),
        ("the token is over", |server| server.pass(TimeDelta::hours(2))),
    ] {
        assert_eq!(ready_after(deed), (0, "False".into()), "{what}");
    }
}

#[test]
fn what_only_ages_a_token_leaves_it_ready() {
    for (what, deed) in [
        ("nothing", (|_| ()) as fn(&mut Server)),
        ("a rotation is asked for", |server| server.annotate("ci", "p", annotation::ROTATE, "1")),
        ("the token is due", |server| server.pass(TimeDelta::minutes(57))),
        ("the policy is suspended", |server| server.policy("ci", "p", |policy| policy.spec.suspend = true)),
        ("somebody took our labels over", |server| {
            server.edit_target(|meta| meta["managedFields"][0]["fieldsV1"]["f:metadata"]["f:labels"] = json!({}));
        }),
        ("another owner came", |server| {
            server.edit_target(|meta| {
                let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"});
                meta["ownerReferences"].as_array_mut().unwrap().push(owner);
            });
        }),
    ] {
        assert_eq!(ready_after(deed), (1, "True".into()), "{what}");
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
