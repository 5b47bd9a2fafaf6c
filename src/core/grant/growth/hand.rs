//! Each hand control in each state that a policy can be in: the old token is dead within 5 s, or people are told that it is
//! not. The expected cells are those of the table in docs/how-to/revoke.md.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use strum::IntoEnumIterator as _;

use super::*;
use crate::{
    api::token_policy::Binding,
    core::{
        Time,
        grant::{controller::KINDS, event::GrantNews, model::server::Stored},
        id::Key,
        meta::text,
        names as annotation,
        place::applied::Demanded,
        request::{Refusal, Verb},
    },
};

const DOCUMENT: &str = include_str!("../../../../docs/how-to/revoke.md");

/// The fate of a call.
enum Fate {
    Served,
    Refused(FailureReason),
    /// No answer comes.
    Hangs,
}

/// A state: how it comes about, and the fate of calls in it.
#[derive(Clone, Copy)]
struct State {
    /// The first cell of its row.
    row: &'static str,
    set: fn(&mut Crowd),
    fate: fn(&Request) -> Fate,
}

fn served(_: &Request) -> Fate {
    Fate::Served
}

fn refused_if(condition: bool, reason: FailureReason) -> Fate {
    if condition { Fate::Refused(reason) } else { Fate::Served }
}

fn edit(crowd: &mut Crowd, change: impl FnOnce(&mut TokenPolicy)) {
    crowd.server.policy("ci", "p", change);
}

fn unreadable(policy: &mut TokenPolicy) {
    policy.spec.rotation.windows =
        serde_json::from_value(json!([{"schedule": "a b c d e", "duration": "1h"}])).unwrap();
}

/// A process that has everything but what this watch lists.
fn restart_before(crowd: &mut Crowd, kind: usize) {
    let listed = |change: &Change| match change {
        Change::Policy(_) => kind != 0,
        Change::Account(_) => kind != 1,
        Change::Target(_) => kind != 2,
        Change::Anchor(_) => kind != 3,
    };
    crowd.grants = Grants::new(address(), Demanded::default(), vec![None], 7);
    crowd.grants.lead(crowd.server.now);
    crowd.server.log.clear();
    for change in crowd.server.lists().into_iter().filter(listed) {
        crowd.grants.observe(0, change, crowd.server.now);
    }
}

/// As [`restart_before`], and the list is refused.
fn restart_without(crowd: &mut Crowd, kind: usize) {
    restart_before(crowd, kind);
    let failure = Failure::new(FailureReason::Forbidden, "watch Secrets in ci");
    crowd.grants.watch_health(0, KINDS[kind], Some(failure), crowd.server.now);
}

/// A second policy has the name that `p` is made to want.
fn contest(crowd: &mut Crowd) {
    crowd.server.account("ci", "other", &[]);
    crowd.server.policy("ci", "q", |policy| {
        names(policy, vec!["other".into()]);
        policy.spec.secret.name = "wanted".into();
    });
    crowd.settle();
    edit(crowd, |policy| policy.spec.secret.name = "wanted".into());
    crowd.settle();
}

fn rotate_often(crowd: &mut Crowd) {
    for n in 0..6 {
        crowd.annotate(annotation::ROTATE, &format!("often-{n}"));
        crowd.settle();
    }
}

const STATES: &[State] = &[
    State { row: "all is well", set: |_| (), fate: served },
    State { row: "the policy cannot be read", set: |crowd| edit(crowd, unreadable), fate: served },
    State {
        row: "the policy cannot be read, after a restart",
        set: |crowd| {
            edit(crowd, unreadable);
            crowd.settle();
            crowd.restart();
        },
        fate: served,
    },
    State { row: "suspended", set: |crowd| edit(crowd, |policy| policy.spec.suspend = true), fate: served },
    State {
        row: "the account is gone",
        set: |crowd| {
            crowd.server.accounts.clear();
            let at = crowd.server.next();
            crowd.server.log.push(Change::Account(WatchEvent::Deleted(Key::new("ci", "app"), at)));
        },
        fate: served,
    },
    State { row: "the account is being deleted", set: |crowd| crowd.server.end_account("ci", "app"), fate: served },
    State {
        row: "the account is not selected any more, for less than 10 s",
        set: |crowd| edit(crowd, |policy| names(policy, vec!["another".into()])),
        fate: served,
    },
    State { row: "the name is contested", set: contest, fate: served },
    State {
        row: "the Secret is not ours any more",
        set: |crowd| crowd.server.edit_target(|meta| meta["annotations"] = json!({})),
        fate: served,
    },
    State {
        row: "the Secret is immutable",
        set: |_| (),
        fate: |request| {
            refused_if(
                request.verb == Verb::Apply && request.path.contains("/secrets/"),
                FailureReason::TargetImmutable,
            )
        },
    },
    State {
        row: "back-off",
        set: |crowd| {
            crowd.annotate(annotation::ROTATE, "failing");
            run(crowd, 30, |request| refused_if(request.verb == Verb::Create, FailureReason::ApiUnavailable));
        },
        fate: |request| refused_if(request.verb == Verb::Create, FailureReason::ApiUnavailable),
    },
    State {
        row: "back-off of a revocation",
        set: |crowd| {
            crowd.annotate(annotation::ROTATE, "failing");
            run(crowd, 300, |request| refused_if(request.verb == Verb::Delete, FailureReason::Forbidden));
        },
        fate: served,
    },
    State { row: "the mint budget is empty", set: rotate_often, fate: served },
    State {
        row: "quota",
        set: |_| (),
        fate: |request| {
            refused_if(request.verb == Verb::Create && request.path.contains("/secrets"), FailureReason::QuotaExceeded)
        },
    },
    State {
        row: "the right to create tokens is missing",
        set: |_| (),
        fate: |request| {
            refused_if(request.verb == Verb::Create && request.path.contains("/token"), FailureReason::Forbidden)
        },
    },
    State {
        row: "the right to delete Secrets is missing",
        set: |_| (),
        fate: |request| refused_if(request.verb == Verb::Delete, FailureReason::Forbidden),
    },
    State {
        row: "the right to watch accounts is missing, after a restart",
        set: |crowd| restart_without(crowd, 1),
        fate: served,
    },
    State {
        row: "the right to watch Secrets is missing, after a restart",
        set: |crowd| restart_without(crowd, 3),
        fate: served,
    },
    State {
        row: "admission refuses writes",
        set: |_| (),
        fate: |request| {
            refused_if(
                matches!(request.verb, Verb::Create | Verb::Apply) && request.path.contains("/secrets"),
                FailureReason::AdmissionDenied,
            )
        },
    },
    State {
        row: "admission refuses deletions",
        set: |_| (),
        fate: |request| refused_if(request.verb == Verb::Delete, FailureReason::AdmissionDenied),
    },
    State {
        row: "the namespace is being deleted",
        set: |_| (),
        fate: |request| refused_if(request.verb == Verb::Create, FailureReason::NamespaceTerminating),
    },
    State {
        row: "deletions are not answered",
        set: |_| (),
        fate: |request| match request.verb {
            Verb::Delete => Fate::Hangs,
            _ => Fate::Served,
        },
    },
    State {
        row: "nothing but statuses is answered",
        set: |_| (),
        fate: |request| if request.path.contains("/status") { Fate::Served } else { Fate::Hangs },
    },
];

/// A state that no control meets differently, and what is wrong in it.
type Wrong = (&'static str, fn(&mut Crowd), fn(&Request) -> Fate);

/// What people and objects get wrong beyond [`STATES`], with the value that is wrong.
const WRONG: [Wrong; 10] = [
    ("yesterday", |crowd| crowd.annotate(annotation::REVOKE_ISSUED_BEFORE, "yesterday"), served),
    (
        "tomorrow",
        |crowd| {
            crowd.server.edit_target(|meta| meta["annotations"][annotation::REVOKE_ISSUED_BEFORE] = "tomorrow".into());
        },
        served,
    ),
    ("example.com/held", |crowd| crowd.server.end_target("example.com/held"), served),
    (
        "binding None",
        |crowd| {
            edit(crowd, |policy| policy.spec.token.binding = Binding::None);
            run(crowd, 5, served);
            let now = text(crowd.server.now);
            crowd.annotate(annotation::REVOKE_ISSUED_BEFORE, &now);
        },
        served,
    ),
    (
        "299 characters, more than 253",
        |crowd| edit(crowd, |policy| policy.spec.secret.name = format!("{}-{{serviceAccount}}", "x".repeat(295))),
        served,
    ),
    (
        "TargetDeleted",
        |crowd| {
            for _ in 0..12 {
                crowd.server.delete_secrets(false);
                run(crowd, 1, served);
            }
        },
        served,
    ),
    ("create", |crowd| crowd.annotate(annotation::ROTATE, "a"), |request| creations(request, FailureReason::Invalid)),
    ("create", |crowd| crowd.annotate(annotation::ROTATE, "a"), |request| creations(request, FailureReason::Conflict)),
    (
        "create",
        |crowd| crowd.annotate(annotation::ROTATE, "a"),
        |request| creations(request, FailureReason::TokenRejected),
    ),
    (
        "namespace",
        |crowd| crowd.annotate(annotation::ROTATE, "a"),
        |request| creations(request, FailureReason::NamespaceTerminating),
    ),
];

fn creations(request: &Request, reason: FailureReason) -> Fate {
    if request.verb == Verb::Create { Fate::Refused(reason) } else { Fate::Served }
}

/// All that is told of failures, in events and in the status.
fn told(crowd: &mut Crowd) -> Vec<(String, String)> {
    let policy = crowd.server.policies.get(&("ci".to_owned(), "p".to_owned()));
    let status = policy.and_then(|policy| policy.status.clone()).unwrap_or_default();
    let mut told: Vec<_> = status.failures.into_iter().map(|failure| (failure.reason, failure.message)).collect();
    told.extend(status.conditions.into_iter().map(|condition| (condition.reason, condition.message)));
    let events = crowd.events();
    let failures = events.iter().filter_map(|event| event.what.failure());
    told.extend(failures.map(|failure| (failure.reason.into_str().to_owned(), failure.message.to_string())));
    told
}

#[test]
fn every_failure_names_object_and_cure_and_the_value_that_is_wrong() {
    let states = STATES.iter().map(|state| ("", state.set, state.fate));
    let (mut shown, mut wrong) = (BTreeSet::new(), Vec::new());
    for (value, set, fate) in states.chain(WRONG) {
        let mut crowd = Crowd::of_one();
        crowd.pass(2);
        set(&mut crowd);
        run(&mut crowd, 5, fate);
        crowd.annotate(annotation::ROTATE, "told");
        run(&mut crowd, 5, fate);
        let told = told(&mut crowd);
        for (reason, message) in &told {
            let Some(reason) = FailureReason::iter().find(|one| one.into_str() == reason) else { continue };
            let named = message.contains("ci/") || message.contains("in ci");
            if !named || !message.contains(reason.cure()) {
                wrong.push(format!("{reason:?}: {message}"));
            }
            shown.insert(reason);
        }
        if !told.iter().any(|(_, message)| message.contains(value)) {
            wrong.push(format!("nobody is told of {value}: {told:?}"));
        }
    }
    let hidden: Vec<_> = FailureReason::iter().filter(|reason| !shown.contains(reason)).collect();
    assert!(wrong.is_empty() && hidden.is_empty(), "{hidden:?} {}", wrong.join("\n"));
}

/// A hand control, and the heading of its column.
type Control = (&'static str, fn(&mut Crowd));

/// Deletion begins; what kube-apiserver leaves to finalizers.
pub(super) fn end_policy(crowd: &mut Crowd, finalizer: &str) {
    let now = text(crowd.server.now);
    edit(crowd, |policy| {
        policy.metadata.deletion_timestamp = Some(serde_json::from_value(json!(now)).unwrap());
        policy.metadata.finalizers = Some(vec![finalizer.into()]);
    });
}

const CONTROLS: [Control; 9] = [
    ("`revoke-issued-before` on the policy", |crowd| {
        let now = text(crowd.server.now);
        crowd.annotate(annotation::REVOKE_ISSUED_BEFORE, &now);
    }),
    ("… on the Secret", |crowd| {
        let now = text(crowd.server.now);
        crowd.server.edit_target(|meta| meta["annotations"][annotation::REVOKE_ISSUED_BEFORE] = now.into());
    }),
    ("anchor deleted", |crowd| crowd.server.delete_secrets(true)),
    ("Secret deleted", |crowd| crowd.server.delete_secrets(false)),
    ("policy deleted", |crowd| crowd.server.delete_policy("ci", "p")),
    ("… `--cascade=foreground`", |crowd| end_policy(crowd, "foregroundDeletion")),
    ("… `--cascade=orphan`", |crowd| {
        end_policy(crowd, "orphan");
        run(crowd, 3, served);
        // The garbage collector takes the references off, the policy goes, and the news come in any order.
        for (key, stored) in crowd.server.secrets.clone() {
            let mut meta = json!(stored.meta);
            meta["ownerReferences"] = json!([]);
            crowd.server.put(&key.0, &key.1, meta, stored.is_anchor, stored.data);
        }
        let references = crowd.server.log.split_off(0);
        crowd.server.delete_policy("ci", "p");
        run(crowd, 1, served);
        crowd.server.log.extend(references);
    }),
    ("`suspend`", |crowd| edit(crowd, |policy| policy.spec.suspend = true)),
    ("`rotate`", |crowd| crowd.annotate(annotation::ROTATE, "now")),
];

/// So many seconds pass, and calls meet their fate.
fn run(crowd: &mut Crowd, seconds: usize, fate: fn(&Request) -> Fate) {
    for _ in 0..seconds {
        loop {
            crowd.hear();
            let now = crowd.server.now;
            let call = crowd.grants.take(&mut 256, now).or_else(|| crowd.grants.take_status(8, now));
            let Some((ticket, request)) = call else { break };
            match fate(&request) {
                Fate::Served => crowd.perform(ticket, &request),
                Fate::Hangs => {}
                Fate::Refused(reason) => {
                    let failure = Failure::new(reason, &request.what);
                    crowd.grants.answered(
                        ticket,
                        Err(Box::new(Refusal { code: Some(403), object: None, failure })),
                        now,
                    );
                }
            }
        }
        collect_garbage(crowd);
        crowd.server.pass(TimeDelta::seconds(1));
    }
}

/// The garbage collector: it deletes all whose owner is gone or goes in the foreground.
fn collect_garbage(crowd: &mut Crowd) {
    let policies = crowd.server.policies.values().filter(|policy| policy.metadata.finalizers.is_none());
    let living: Vec<_> = policies.filter_map(|policy| policy.metadata.uid.clone()).collect();
    let dangling = |stored: &Stored| {
        let owners = stored.meta.owner_references.iter().flatten().filter(|owner| owner.kind == "TokenPolicy");
        owners.into_iter().any(|owner| !living.contains(&owner.uid) && !owner.uid.is_empty())
    };
    let orphaned = crowd
        .server
        .policies
        .values()
        .any(|policy| policy.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == "orphan"));
    let secrets = crowd.server.secrets.iter().filter(|(_, stored)| !orphaned && dangling(stored));
    for (namespace, name) in secrets.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
        crowd.server.secrets.remove(&(namespace.clone(), name.clone()));
        crowd.server.tell_secret(&namespace, &name);
    }
}

/// The word for the end of it, as in the table.
fn outcome(crowd: &mut Crowd, column: &str, old: &[(String, String)], before: Time) -> &'static str {
    let events = crowd.events();
    let dead = !old.iter().any(|(name, uid)| crowd.server.lives("ci", name, uid));
    let fresh = crowd.server.minted.iter().any(|(issued, bound)| {
        let published = |name: &str| {
            let targets = crowd.server.secrets.keys().filter_map(|(_, target)| crowd.server.published("ci", target));
            targets
                .filter(|(record, _)| &*record.policy == "p")
                .any(|(record, _)| record.token.is_some_and(|token| &*token.bond.name == name))
        };
        *issued >= before
            && bound.as_ref().is_some_and(|(name, uid)| crowd.server.lives("ci", name, uid) && published(name))
    });
    let conditions = crowd.conditions();
    let is_true = |name: &str| conditions.get(name).is_some_and(|(status, _)| status == "True");
    let by_hand = conditions.get("RevocationFailing").is_some_and(|(_, message)| message.contains("kubectl"));
    let warned = events.iter().any(
        |event| matches!(&event.what, GrantNews::RevocationFailing(failure) if failure.message.contains("kubectl")),
    );
    let gone = !crowd.server.policies.contains_key(&("ci".to_owned(), "p".to_owned()));
    match (dead, fresh) {
        // What is asked for here.
        (false, _) if column.contains("suspend") || column.contains("orphan") => "kept",
        (true, true) => "replaced",
        (true, false) if gone || !is_true("Ready") || is_true("Reconciling") => "dead",
        (true, false) => "dead, and nobody is told that nothing follows",
        (false, true) if !warned => "rotated",
        (false, _) if warned && (gone || is_true("RevocationFailing") && by_hand) => "reported",
        (false, _) if is_true("Stalled") || is_true("Reconciling") || is_true("Suspended") => "waits",
        _ => "kept",
    }
}

/// The rows of the table in the document: state, then a word for each control.
fn documented() -> BTreeMap<String, Vec<String>> {
    let table =
        DOCUMENT.lines().skip_while(|line| !line.starts_with("| state |")).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    table.map(cells).map(|cells| (cells[0].clone(), cells[1..].to_vec())).collect()
}

#[test]
fn every_control_does_in_every_state_as_the_table_says() {
    let documented = documented();
    assert_eq!(documented["state"], CONTROLS.map(|(column, _)| column.to_owned()));
    let mut wrong = Vec::new();
    for State { row, set, fate } in STATES.iter().copied() {
        for (n, (column, control)) in CONTROLS.into_iter().enumerate() {
            let mut crowd = Crowd::of_one();
            crowd.pass(2);
            set(&mut crowd);
            run(&mut crowd, 2, fate);
            crowd.events();
            let before = crowd.server.now;
            let old: Vec<_> = crowd.server.minted.iter().filter_map(|(_, bound)| bound.clone()).collect();
            let own = |(name, _): &(String, String)| {
                let stored = crowd.server.secrets.get(&("ci".to_owned(), name.clone()));
                stored
                    .is_some_and(|stored| crate::core::meta::annotation(&stored.meta, annotation::POLICY) == Some("p"))
            };
            let old: Vec<_> = old.into_iter().filter(own).collect();
            control(&mut crowd);
            run(&mut crowd, 5, fate);
            let seen = outcome(&mut crowd, column, &old, before);
            let expected = documented.get(row).and_then(|cells| cells.get(n)).map(String::as_str);
            if expected != Some(seen) {
                wrong.push(format!("{row} × {column}: {seen}, and the table says {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A list that takes long is no failure, but somebody waits for what needs it.
#[test]
fn a_revocation_while_the_first_lists_take_long_is_told() {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    restart_before(&mut crowd, 3);
    run(&mut crowd, 1, served);
    let now = text(crowd.server.now);
    crowd.annotate(annotation::REVOKE_ISSUED_BEFORE, &now);
    run(&mut crowd, 5, served);
    let told = crowd.events().iter().filter(|event| event.what.is_warning()).count();
    let (status, message) = crowd.conditions().remove("RevocationFailing").unwrap();
    assert_eq!((told, status.as_str()), (1, "True"));
    assert!(message.contains("kubectl -n ci get secrets -l tokenward.dev/policy-uid="), "{message}");
    let mut list = crowd.server.lists().into_iter().filter(|change| matches!(change, Change::Anchor(_)));
    list.by_ref().for_each(|change| crowd.grants.observe(0, change, crowd.server.now));
    run(&mut crowd, 5, served);
    assert!(crowd.events().iter().any(|event| matches!(event.what, GrantNews::RevocationDone)));
    assert_eq!(crowd.conditions().get("RevocationFailing"), None);
}

/// A request that names no instant, and one that comes too late for tokens that are bound to nothing, are told in any state.
#[test]
fn a_revocation_that_cannot_be_carried_out_is_told_in_every_state() {
    let mut wrong = Vec::new();
    // A Secret that is not ours, or not to be seen, says nothing of its tokens; the policy says so (`Stalled`).
    let unseen = ["the Secret is not ours any more", "the right to watch Secrets is missing, after a restart"];
    for State { row, set, fate } in STATES.iter().copied() {
        for (what, binding, value) in
            [("no instant", Binding::Anchor, "yesterday"), ("bound to nothing", Binding::None, "")]
        {
            for on_policy in [true, false] {
                if unseen.contains(&row) && (!on_policy || binding == Binding::None) {
                    continue;
                }
                let mut crowd = Crowd::of_one();
                edit(&mut crowd, |policy| {
                    policy.spec.token.binding = binding;
                    if binding == Binding::None {
                        policy.spec.rotation.overlap = None;
                    }
                });
                crowd.settle();
                crowd.pass(2);
                set(&mut crowd);
                run(&mut crowd, 2, fate);
                crowd.events();
                let value = if value.is_empty() { text(crowd.server.now) } else { value.to_owned() };
                if on_policy {
                    crowd.annotate(annotation::REVOKE_ISSUED_BEFORE, &value);
                } else {
                    crowd.server.edit_target(|meta| {
                        meta["annotations"][annotation::REVOKE_ISSUED_BEFORE] = value.into();
                    });
                }
                run(&mut crowd, 5, fate);
                let conditions = crowd.conditions();
                let warned =
                    crowd.events().iter().any(|event| event.what.is_warning() && event.message().contains("revo"));
                if !warned || conditions.get("RevocationFailing").is_none_or(|(status, _)| status != "True") {
                    wrong.push(format!(
                        "{row}: {what}, on the policy: {on_policy}: warned {warned}, {:?}",
                        conditions.keys()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Somebody fights the operator, and somebody else wants a fresh token.
#[test]
fn a_rotation_by_hand_waits_ten_seconds_at_most_however_often_repairs_were_needed() {
    let mut crowd = Crowd::of_one();
    crowd.settle();
    for repair in 1..=6 {
        crowd.server.delete_secrets(true);
        for _ in 0..700 {
            if crowd.server.mints <= repair {
                crowd.pass(1);
            }
        }
        assert_eq!(crowd.server.mints, repair + 1);
    }
    crowd.annotate(annotation::ROTATE, "1");
    crowd.pass(11);
    assert_eq!(crowd.server.mints, 8);
}
