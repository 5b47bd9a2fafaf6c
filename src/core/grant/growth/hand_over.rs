//! A Secret passes in place from an account or a policy that does not want it any more to the next one: one write, and
//! nobody sees it go.

use serde_json::json;

use super::*;
use crate::{
    api::token_policy::{Binding, DeletionPolicy},
    core::{
        grant::event::{EVERY_ACCOUNT, GrantNews},
        id::Secs,
        place::record::Record,
        request::{Refusal, Verb},
    },
};

const SHARED: &str = "shared";

/// Policy `p` has given the Secret to account `a`, and there is an account `b`.
fn crowd(change: impl Fn(&mut TokenPolicy)) -> Crowd {
    let mut server = Server::new();
    server.account("ci", "a", &[]);
    server.account("ci", "b", &[]);
    server.policy("ci", "p", |policy| {
        names(policy, vec!["a".into()]);
        policy.spec.secret.name = SHARED.into();
        change(policy);
    });
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(5);
    crowd
}

fn published(crowd: &Crowd) -> (Record, String) {
    let stored = &crowd.server.secrets[&("ci".to_owned(), SHARED.to_owned())];
    (crowd.server.published("ci", SHARED).unwrap().0, stored.meta.uid.clone().unwrap())
}

fn lives(crowd: &Crowd, record: &Record) -> bool {
    let bond = &record.token.as_ref().unwrap().bond;
    bond.uid.is_empty() || crowd.server.lives("ci", &bond.name, &bond.uid.to_string())
}

/// Policy `q` wants what `p` has.
fn rename(crowd: &mut Crowd, change: impl Fn(&mut TokenPolicy)) {
    crowd.server.policy("ci", "q", |policy| {
        names(policy, vec!["a".into()]);
        policy.spec.secret.name = SHARED.into();
        change(policy);
    });
    crowd.settle();
}

/// The garbage collector lets all Secrets go, and then the policy goes.
fn orphan(crowd: &mut Crowd) {
    crowd.server.policy("ci", "p", |policy| {
        policy.metadata.deletion_timestamp = policy.metadata.creation_timestamp.clone();
        policy.metadata.finalizers = Some(vec!["orphan".into()]);
    });
    crowd.settle();
    edit_secrets(crowd, |meta| meta["ownerReferences"] = json!([]));
    crowd.server.delete_policy("ci", "p");
    crowd.settle();
}

fn edit_secrets(crowd: &mut Crowd, change: impl Fn(&mut serde_json::Value)) {
    for (key, stored) in crowd.server.secrets.clone() {
        let mut meta = json!(stored.meta);
        change(&mut meta);
        crowd.server.put(&key.0, &key.1, meta, stored.is_anchor, stored.data);
    }
}

#[test]
fn the_secret_of_a_policy_passes_to_its_next_account_in_one_write() {
    for (binding, calls) in [(Binding::Anchor, 3), (Binding::Target, 2), (Binding::None, 2)] {
        let mut crowd = crowd(|policy| {
            policy.spec.token.binding = binding;
            policy.spec.rotation.overlap = policy.spec.rotation.overlap.filter(|_| binding == Binding::Anchor);
        });
        let ((first, uid), before) = (published(&crowd), crowd.server.calls.clone());
        crowd.server.policy("ci", "p", |policy| names(policy, vec!["b".into()]));
        crowd.settle();
        let (second, after) = published(&crowd);
        assert_eq!((&*second.service_account, after), ("b", uid.clone()), "{binding:?}");
        let made = |crowd: &Crowd, calls: &std::collections::BTreeMap<String, usize>| {
            let count = |calls: &std::collections::BTreeMap<String, usize>| {
                calls.iter().filter(|(call, _)| !call.contains("tokenpolicies")).map(|(_, count)| count).sum::<usize>()
            };
            count(&crowd.server.calls) - count(calls)
        };
        assert_eq!(made(&crowd, &before), calls, "{binding:?}: {:?} after {before:?}", crowd.server.calls);
        assert!(lives(&crowd, &first) && lives(&crowd, &second), "{binding:?}");
        crowd.pass(30);
        assert!(lives(&crowd, &first), "{binding:?}: its overlap is not over");
        // The anchor of the old account goes on naming it.
        assert_eq!(made(&crowd, &before), calls, "{binding:?}: nothing is mended");
        crowd.pass(40);
        assert_eq!(lives(&crowd, &first), binding != Binding::Anchor, "{binding:?}: its overlap is over");
        assert!(lives(&crowd, &second) && published(&crowd).1 == uid, "{binding:?}");
        let before = crowd.server.calls.clone();
        crowd.restart();
        crowd.settle();
        crowd.pass(70);
        assert_eq!(made(&crowd, &before), 0, "{binding:?}: {:?} after {before:?}", crowd.server.calls);
    }
}

#[test]
fn a_restart_in_the_middle_and_refused_calls_change_nothing() {
    for failing in 0..4 {
        for restarts in [false, true] {
            let mut crowd = crowd(|_| ());
            let (_, uid) = published(&crowd);
            crowd.server.policy("ci", "p", |policy| names(policy, vec!["b".into()]));
            crowd.hear();
            for n in 0..=failing {
                let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) else { break };
                assert!(request.verb != Verb::Delete, "{}", request.what);
                if n < failing {
                    crowd.perform(ticket, &request);
                } else {
                    let failure = Failure::new(FailureReason::ApiUnavailable, "fault");
                    crowd.grants.answered(ticket, Err(failure.into()), crowd.server.now);
                }
                crowd.hear();
            }
            if restarts {
                crowd.restart();
            }
            crowd.pass(5);
            let (record, after) = published(&crowd);
            assert_eq!((&*record.service_account, after), ("b", uid), "{failing}, {restarts}");
            crowd.pass(200);
            assert_eq!(crowd.server.anchors().len(), 1, "{failing}, {restarts}: litter");
            assert!(lives(&crowd, &published(&crowd).0));
        }
    }
}

/// Until the overlap is over, the token lives in its Secret; then both go, as without a successor after 10 s.
#[test]
fn a_successor_that_cannot_be_served_leaves_the_old_token_its_overlap() {
    let hindrances: [fn(&mut TokenPolicy); 2] = [
        |policy| names(policy, vec!["missing".into()]),
        |policy| {
            names(policy, vec!["b".into()]);
            policy.spec.suspend = true;
        },
    ];
    for hinder in hindrances {
        let mut crowd = crowd(|_| ());
        let (record, uid) = published(&crowd);
        crowd.server.policy("ci", "p", hinder);
        crowd.settle();
        crowd.pass(30);
        assert!(lives(&crowd, &record) && published(&crowd).1 == uid, "its overlap of 60 s is not over");
        crowd.pass(31);
        crowd.pass(2);
        assert!(crowd.server.secrets.is_empty(), "{:?}", crowd.server.secrets.keys());
    }
}

/// The garbage collector is ahead of the news that the policy ends: its deeds are not undone.
#[test]
fn references_that_are_taken_off_are_put_back_only_while_the_policy_lives() {
    let mut crowd = crowd(|_| ());
    let (record, _) = published(&crowd);
    crowd.server.policy("ci", "p", |policy| {
        policy.metadata.deletion_timestamp = policy.metadata.creation_timestamp.clone();
        policy.metadata.finalizers = Some(vec!["orphan".into()]);
    });
    let late = crowd.server.log.split_off(0);
    edit_secrets(&mut crowd, |meta| meta["ownerReferences"] = json!([]));
    crowd.settle();
    assert!(crowd.server.secrets.values().all(|stored| stored.meta.owner_references.iter().flatten().count() == 0));
    crowd.server.log.extend(late);
    crowd.server.delete_policy("ci", "p");
    crowd.settle();
    crowd.pass(100);
    assert!(lives(&crowd, &record) && crowd.server.anchors().len() == 1);
    // Somebody else's hand is put right, on the Secrets of all accounts.
    let mut crowd = self::crowd(|policy| {
        names(policy, vec!["a".into(), "b".into()]);
        policy.spec.secret.name = "of-{serviceAccount}".into();
    });
    let looks = crowd.server.count("get tokenpolicies");
    for _ in 0..2 {
        edit_secrets(&mut crowd, |meta| meta["ownerReferences"] = json!([]));
        // Repairs have a budget.
        crowd.pass(30);
        assert!(crowd.server.secrets.values().all(|stored| stored.meta.owner_references.iter().flatten().count() == 1));
    }
    assert_eq!(crowd.server.count("get tokenpolicies") - looks, 2, "one look for all of them");
    crowd.pass(3600);
    assert_eq!(crowd.server.mints, 4, "and they are renewed");
}

/// What is told of an old token names its own account, and its anchor does so too.
#[test]
fn an_old_token_keeps_the_name_of_its_account() {
    let mut crowd = crowd(|_| ());
    let first = published(&crowd).0;
    crowd.server.policy("ci", "p", |policy| names(policy, vec!["b".into()]));
    crowd.settle();
    crowd.pass(2);
    crowd.events();
    let anchor = &first.token.as_ref().unwrap().bond.name;
    let stored = &crowd.server.secrets[&("ci".to_owned(), anchor.to_string())];
    let named = crate::core::meta::annotation(&stored.meta, crate::core::names::SERVICE_ACCOUNT);
    assert_eq!(named, Some("a"));
    // Its own account lives on, whatever becomes of the new one.
    crowd.server.account("ci", "b", &[]);
    crowd.settle();
    assert_eq!(published(&crowd).0.previous.iter().filter(|entry| entry.account.is_some()).count(), 1);
    crowd.pass(70);
    let retired = crowd
        .events()
        .into_iter()
        .filter(|event| matches!(&event.what, crate::core::grant::event::GrantNews::Retired(_)));
    assert!(retired.into_iter().any(|event| &*event.grant.account == "a"));
    assert!(!lives(&crowd, &first));
}

#[test]
fn an_old_token_that_somebody_revokes_is_told_under_the_name_of_its_account() {
    let mut crowd = crowd(|_| ());
    let first = published(&crowd).0;
    crowd.server.policy("ci", "p", |policy| names(policy, vec!["b".into()]));
    crowd.settle();
    crowd.pass(2);
    crowd.events();
    let anchor = first.token.as_ref().unwrap().bond.name.to_string();
    crowd.server.secrets.remove(&("ci".to_owned(), anchor.clone()));
    crowd.server.tell_secret("ci", &anchor);
    crowd.settle();
    let accounts: Vec<_> = crowd.events().into_iter().map(|event| event.grant.account).collect();
    assert_eq!(accounts, ["a"]);
}

#[test]
fn a_renamed_policy_takes_the_secret_up_in_place() {
    for retain in [false, true] {
        for first in [false, true] {
            let mut crowd = crowd(|policy| {
                policy.spec.deletion_policy = if retain { DeletionPolicy::Retain } else { DeletionPolicy::Delete };
            });
            let (record, uid) = published(&crowd);
            if first {
                rename(&mut crowd, |_| ());
            }
            if retain {
                crowd.server.delete_policy("ci", "p");
                crowd.settle();
            } else {
                orphan(&mut crowd);
            }
            if !first {
                crowd.pass(100);
                assert!(lives(&crowd, &record), "it was let go");
                rename(&mut crowd, |_| ());
            }
            let (second, after) = published(&crowd);
            assert_eq!((&*second.policy, after), ("q", uid), "retain {retain}, q first {first}");
            assert!(lives(&crowd, &record) && lives(&crowd, &second), "retain {retain}, q first {first}");
            let warned = crowd.events().iter().any(|event| matches!(event.what.failure(), Some(failure) if failure.reason == FailureReason::TargetNotOwned));
            assert!(!warned, "retain {retain}, q first {first}");
            let label = |stored: &crate::core::grant::model::server::Stored| {
                stored.meta.labels.as_ref().unwrap()[crate::core::names::POLICY_UID].clone()
            };
            assert!(crowd.server.secrets.values().all(|stored| label(stored) == "policy-q"), "people list them by it");
            crowd.pass(70);
            assert!(!lives(&crowd, &record), "its overlap is over");
            crowd.server.delete_policy("ci", "q");
            crowd.pass(70);
            assert!(crowd.server.secrets.is_empty(), "q owns all of it: {:?}", crowd.server.secrets.keys());
        }
    }
}

#[test]
fn a_secret_that_was_let_go_can_still_be_revoked() {
    for binding in [Binding::Anchor, Binding::Target] {
        for restarts in [false, true] {
            let mut crowd = crowd(|policy| {
                policy.spec.deletion_policy = DeletionPolicy::Retain;
                policy.spec.token.binding = binding;
                policy.spec.rotation.overlap = policy.spec.rotation.overlap.filter(|_| binding == Binding::Anchor);
            });
            crowd.server.delete_policy("ci", "p");
            crowd.settle();
            crowd.pass(20);
            let record = published(&crowd).0;
            assert!(lives(&crowd, &record), "it was let go");
            let now = crate::core::meta::text(crowd.server.now);
            edit_secrets(&mut crowd, |meta| {
                if meta["name"] == SHARED {
                    meta["annotations"][crate::core::names::REVOKE_ISSUED_BEFORE] = now.as_str().into();
                }
            });
            if restarts {
                crowd.restart();
            }
            crowd.pass(2);
            assert!(!lives(&crowd, &record), "{binding:?}, restarts {restarts}");
        }
    }
}

/// Neither can be had before the other is free. Both tokens are renewed meanwhile, and the failure tells the way out.
#[test]
fn policies_that_swap_their_names_keep_their_tokens_and_are_told_the_way_out() {
    let mut crowd = crowd(|_| ());
    let wants = |crowd: &mut Crowd, policy: &str, name: &str| {
        crowd.server.policy("ci", policy, |policy| {
            names(policy, vec!["a".into()]);
            policy.spec.secret.name = name.into();
        });
        crowd.settle();
        crowd.pass(5);
    };
    wants(&mut crowd, "q", "other");
    wants(&mut crowd, "p", "other");
    wants(&mut crowd, "q", SHARED);
    let policy = |crowd: &Crowd, name: &str| crowd.server.published("ci", name).unwrap().0.policy;
    let before = crowd.server.mints;
    crowd.pass(3600);
    assert_eq!((&*policy(&crowd, SHARED), &*policy(&crowd, "other")), ("p", "q"));
    assert!(crowd.server.mints > before && lives(&crowd, &published(&crowd).0), "tokens are renewed");
    let told =
        crowd.events().into_iter().filter_map(|event| event.what.failure().map(|failure| failure.message.to_string()));
    assert!(told.into_iter().any(|message| message.contains("a third name in between frees both")));
    wants(&mut crowd, "q", "third");
    crowd.pass(70);
    wants(&mut crowd, "q", SHARED);
    crowd.pass(70);
    assert_eq!((&*policy(&crowd, SHARED), &*policy(&crowd, "other")), ("q", "p"));
}

#[test]
fn what_somebody_else_has_a_hand_in_is_not_taken_up() {
    type Edit = fn(&mut serde_json::Value);
    let edits: [(&str, Edit); 4] = [
        ("another owner", |meta| {
            meta["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "x"}]);
        }),
        ("our data are another's", |meta| meta["managedFields"][0]["fieldsV1"]["f:data"] = json!({})),
        ("an annotation of ours is another's", |meta| {
            let owned = &mut meta["managedFields"][0]["fieldsV1"]["f:metadata"]["f:annotations"];
            owned.as_object_mut().unwrap().remove("f:tokenward.dev/expires-at").unwrap();
        }),
        ("we never wrote it", |meta| meta["managedFields"] = json!([])),
    ];
    for (what, edit) in edits {
        let mut crowd = crowd(|policy| policy.spec.deletion_policy = DeletionPolicy::Retain);
        crowd.server.delete_policy("ci", "p");
        crowd.settle();
        edit_secrets(&mut crowd, |meta| {
            if meta["name"] == SHARED {
                edit(meta);
            }
        });
        rename(&mut crowd, |_| ());
        crowd.pass(30);
        assert_eq!(&*published(&crowd).0.policy, "p", "{what}");
    }
    // A policy that cannot be read has let nothing go, and neither has one that still wants its Secret.
    for unreadable in [false, true] {
        let mut crowd = crowd(|policy| policy.spec.deletion_policy = DeletionPolicy::Retain);
        rename(&mut crowd, |_| ());
        crowd.server.policy("ci", "p", |policy| {
            if unreadable {
                policy.spec.rotation.windows =
                    serde_json::from_value(json!([{"schedule": "x", "duration": "1h"}])).unwrap();
            }
        });
        crowd.pass(30);
        assert_eq!(&*published(&crowd).0.policy, "p", "unreadable {unreadable}");
        assert!(published(&crowd).0.token.unwrap().expires > Secs::of(crowd.server.now));
    }
}

#[test]
fn a_restart_writes_no_status_of_an_account_that_goes_on_failing() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    server.policy("ci", "p", |policy| names(policy, vec!["app".into(), "missing".into()]));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.pass(2);
    let stored = |crowd: &Crowd| crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone().unwrap();
    let before = stored(&crowd);
    assert_eq!(before.failures.len(), 1, "{before:?}");
    crowd.pass(300);
    crowd.restart();
    crowd.settle();
    crowd.pass(2);
    assert_eq!((crowd.statuses, stored(&crowd)), (0, before));
}

/// A process that has listed what the server has, and does not act.
fn standby(server: &Server) -> Grants {
    let mut grants = Grants::new(address(), Demanded::default(), vec![None], 7);
    for change in server.lists() {
        grants.observe(0, change, server.now);
    }
    grants
}

/// Makes every call that is due, and statuses while those are under way. No Secret may be created.
fn settle_without_secrets(crowd: &mut Crowd) {
    loop {
        crowd.hear();
        let mut calls = Vec::new();
        while let Some(call) = crowd.grants.take(&mut usize::MAX.clone(), crowd.server.now) {
            calls.push(call);
        }
        while let Some((ticket, request)) = crowd.grants.take_status(1, crowd.server.now) {
            crowd.statuses += 1;
            crowd.perform(ticket, &request);
        }
        if calls.is_empty() {
            return;
        }
        for (ticket, request) in calls {
            let failure = Failure::new(FailureReason::AdmissionDenied, &request.what);
            match request.verb {
                Verb::Create => {
                    let refusal = Box::new(Refusal { code: Some(403), object: None, failure });
                    crowd.grants.answered(ticket, Err(refusal), crowd.server.now);
                }
                _ => crowd.perform(ticket, &request),
            }
        }
    }
}

#[test]
fn a_standby_that_takes_over_tells_nothing_of_accounts_that_go_on_failing() {
    let mut server = Server::new();
    for account in ["app", "other"] {
        server.account("ci", account, &[]);
    }
    server.policy("ci", "p", |policy| names(policy, vec!["app".into(), "other".into()]));
    let mut crowd = Crowd::start(server);
    settle_without_secrets(&mut crowd);
    crowd.server.pass(TimeDelta::seconds(2));
    settle_without_secrets(&mut crowd);
    let stored = |crowd: &Crowd| crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone().unwrap();
    let before = stored(&crowd);
    assert_eq!(before.failures.len(), 2, "{before:?}");
    crowd.grants = standby(&crowd.server);
    crowd.statuses = 0;
    crowd.server.pass(TimeDelta::seconds(60));
    crowd.grants.lead(crowd.server.now);
    for _ in 0..5 {
        settle_without_secrets(&mut crowd);
        crowd.server.pass(TimeDelta::seconds(1));
    }
    let told = crowd.events();
    assert!(told.is_empty(), "{told:?}");
    assert_eq!((crowd.statuses, stored(&crowd)), (0, before));
    crowd.pass(60);
    crowd.pass(2);
    let recovered = crowd.events().into_iter().filter(|event| matches!(event.what, GrantNews::Recovered)).count();
    assert_eq!((recovered, stored(&crowd).failures), (2, Vec::new()));
}

#[test]
fn a_standby_that_takes_over_knows_what_the_leader_told_last() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    server.policy("ci", "p", |policy| names(policy, vec!["app".into()]));
    let mut crowd = Crowd::start(server);
    settle_without_secrets(&mut crowd);
    crowd.pass(0);
    let mut standby = standby(&crowd.server);
    crowd.pass(61);
    crowd.pass(2);
    let recovered = |crowd: &mut Crowd| {
        crowd.events().into_iter().filter(|event| matches!(event.what, GrantNews::Recovered)).count()
    };
    assert_eq!(recovered(&mut crowd), 1);
    for change in crowd.server.lists() {
        standby.observe(0, change, crowd.server.now);
    }
    crowd.grants = standby;
    crowd.grants.lead(crowd.server.now);
    crowd.pass(2);
    assert_eq!(recovered(&mut crowd), 0, "the leader has told that");
}

#[test]
fn a_policy_that_parses_again_after_a_restart_is_told_once_for_all_of_its_accounts() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    server.policy("ci", "p", |policy| names(policy, vec!["app".into()]));
    let mut crowd = Crowd::start(server);
    crowd.settle();
    let windows = |crowd: &mut Crowd, windows: serde_json::Value| {
        crowd.server.policy("ci", "p", |policy| {
            names(policy, vec!["app".into()]);
            policy.spec.rotation.windows = serde_json::from_value(windows).unwrap();
        });
        crowd.pass(2);
        crowd.pass(2);
    };
    windows(&mut crowd, json!([{"schedule": "x", "duration": "1h"}]));
    let status = crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone().unwrap();
    assert_eq!(status.failures.first().map(|failure| &*failure.reason), Some("PolicyUnreadable"), "{status:?}");
    crowd.restart();
    crowd.pass(2);
    crowd.pass(2);
    crowd.events();
    windows(&mut crowd, json!([]));
    let told: Vec<String> = crowd.events().into_iter().map(|event| event.grant.account.to_string()).collect();
    assert_eq!(told, [EVERY_ACCOUNT], "{told:?}");
}

#[test]
fn failures_of_one_end_are_told_in_the_order_of_their_names() {
    let mut server = Server::new();
    let accounts = ["c", "a", "b"];
    for account in accounts {
        server.account("ci", account, &[]);
    }
    server.policy("ci", "p", |policy| names(policy, accounts.map(Into::into).into()));
    let mut crowd = Crowd::start(server);
    for _ in 0..2 {
        settle_without_secrets(&mut crowd);
        crowd.server.pass(TimeDelta::seconds(2));
    }
    settle_without_secrets(&mut crowd);
    let status = crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone().unwrap();
    let told: Vec<String> = status.failures.into_iter().map(|failure| failure.service_account).collect();
    assert_eq!(told, ["a", "b", "c"]);
}
