//! D6 and R6: a revocation that fails is loud, and holds up nothing else.

use super::*;
use crate::core::{grant::event::GrantNews, reason::RetireReason, request::Refusal};

/// Runs for so many seconds while no Secret may be deleted; the deletes that were tried.
fn without_delete(crowd: &mut Crowd, seconds: usize) -> usize {
    let mut tries = 0;
    for _ in 0..seconds {
        crowd.server.pass(TimeDelta::seconds(1));
        crowd.hear();
        loop {
            let now = crowd.server.now;
            let status = crowd.grants.take_status(8, now);
            let Some((ticket, request)) = status.or_else(|| crowd.grants.take(&mut 256, now)) else { break };
            if request.verb == Verb::Delete {
                tries += 1;
                let failure = Failure::new(FailureReason::Forbidden, &request.what);
                crowd.grants.answered(ticket, Err(Box::new(Refusal { code: Some(403), object: None, failure })), now);
            } else {
                crowd.perform(ticket, &request);
            }
            crowd.hear();
        }
    }
    tries
}

fn condition(crowd: &Crowd, name: &str) -> Option<String> {
    crowd.conditions().remove(name).map(|(status, _)| status)
}

fn count(events: &[GrantEvent], what: fn(&GrantNews) -> bool) -> usize {
    events.iter().filter(|event| what(&event.what)).count()
}

/// Why tokens have ended.
fn causes(crowd: &mut Crowd) -> Vec<RetireReason> {
    let cause = |event: GrantEvent| match event.what {
        GrantNews::Retired(retirement) => Some(retirement.cause),
        _ => None,
    };
    crowd.events().into_iter().filter_map(cause).collect()
}

#[test]
fn a_token_that_cannot_be_revoked_is_told_once_and_tried_with_growing_pauses() {
    let mut crowd = Crowd::of_one();
    crowd.annotate(crate::core::names::ROTATE, "1");
    crowd.events();
    let tries = without_delete(&mut crowd, 600);
    assert!((3..=16).contains(&tries), "{tries} tries in 9 minutes after the overlap");
    let events = crowd.events();
    assert_eq!(count(&events, |news| matches!(news, GrantNews::RevocationFailing(_))), 1);
    assert_eq!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
    assert_eq!(condition(&crowd, "Ready").as_deref(), Some("True"), "the published token is fine");
    assert_eq!(condition(&crowd, "Stalled"), None, "nobody asked for it");
    crowd.pass(600);
    crowd.pass(2);
    let events = crowd.events();
    assert_eq!(count(&events, |news| matches!(news, GrantNews::RevocationDone)), 1);
    assert_ne!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
    assert_eq!(crowd.server.anchors().len(), 1);
}

#[test]
fn each_end_of_a_token_is_told_once_with_its_own_cause() {
    let mut crowd = Crowd::of_one();
    crowd.annotate(crate::core::names::ROTATE, "1");
    crowd.settle();
    crowd.pass(61);
    crowd.pass(5);
    let now = crate::core::meta::text(crowd.server.now);
    crowd.annotate(crate::core::names::REVOKE_ISSUED_BEFORE, &now);
    crowd.settle();
    crowd.pass(3);
    let (overlap, revoked) = (RetireReason::OverlapEnded, RetireReason::RevokeIssuedBefore);
    assert_eq!(causes(&mut crowd), [overlap, revoked]);
}

/// Told when somebody asks, and not again by the process that comes next.
#[test]
fn an_instant_before_every_token_is_told_once() {
    type Ask = fn(&mut Crowd, &str);
    let asks: [Ask; 2] = [
        |crowd, at| crowd.annotate(crate::core::names::REVOKE_ISSUED_BEFORE, at),
        |crowd, at| {
            crowd.server.edit_target(|meta| {
                meta["annotations"][crate::core::names::REVOKE_ISSUED_BEFORE] = at.into();
            });
        },
    ];
    for ask in asks {
        let mut crowd = Crowd::of_one();
        let day = crate::core::meta::text(crowd.server.now - TimeDelta::days(1));
        crowd.events();
        ask(&mut crowd, &day);
        crowd.settle();
        let idle = |news: &GrantNews| matches!(news, GrantNews::NothingToRevoke(_));
        assert_eq!((count(&crowd.events(), idle), crowd.server.mints), (1, 1));
        crowd.restart();
        crowd.settle();
        assert_eq!(count(&crowd.events(), idle), 0);
        crowd.pass(30);
        let now = crate::core::meta::text(crowd.server.now);
        ask(&mut crowd, &now);
        crowd.settle();
        crowd.pass(3);
        assert_eq!((count(&crowd.events(), idle), crowd.server.mints), (0, 2), "the token is older than this one");
    }
}

#[test]
fn a_revocation_that_somebody_asked_for_and_fails_stalls_the_policy_and_spares_the_fresh_token() {
    let mut crowd = Crowd::of_one();
    crowd.server.pass(TimeDelta::seconds(60));
    let now = crate::core::meta::text(crowd.server.now);
    crowd.annotate(crate::core::names::REVOKE_ISSUED_BEFORE, &now);
    without_delete(&mut crowd, 120);
    assert_eq!(condition(&crowd, "Stalled").as_deref(), Some("True"));
    assert_eq!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
    assert_eq!(crowd.server.mints, 2, "the fresh token did not wait for the end of the old one");
}

/// R6: deletes that hang do not hold up a publication, nor the other way round.
#[test]
fn a_rotation_goes_on_beside_a_delete_that_is_not_answered() {
    let mut crowd = Crowd::of_one();
    crowd.rotated_and_due();
    crowd.annotate(crate::core::names::ROTATE, "2");
    crowd.settle();
    assert_eq!(crowd.server.mints, 3, "published beside it");
    let (record, _) = crowd.server.published("ci", "p-app").unwrap();
    assert_eq!(&*record.rotate, "2");
}

#[test]
fn a_target_that_tokens_are_bound_to_and_that_cannot_be_deleted_is_as_loud() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    server.policy("ci", "p", |policy| {
        names(policy, vec!["app".into()]);
        policy.spec.token.binding = crate::api::token_policy::Binding::Target;
        policy.spec.rotation.overlap = None;
    });
    let mut crowd = Crowd::start(server);
    crowd.settle();
    crowd.events();
    crowd.server.policy("ci", "p", |policy| names(policy, vec!["another".into()]));
    without_delete(&mut crowd, 60);
    let events = crowd.events();
    assert_eq!(count(&events, |news| matches!(news, GrantNews::RevocationFailing(_))), 1);
    assert_eq!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
    crowd.pass(61);
    crowd.pass(2);
    assert!(crowd.server.secrets.is_empty(), "{:?}", crowd.server.secrets.keys());
    assert_ne!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
}

#[test]
fn a_revocation_that_failed_is_over_when_somebody_deletes_the_anchor() {
    let mut crowd = Crowd::of_one();
    crowd.server.policy("ci", "p", |policy| names(policy, vec!["another".into()]));
    without_delete(&mut crowd, 60);
    assert_eq!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
    crowd.events();
    for secret in crowd.server.secrets.keys().cloned().collect::<Vec<_>>() {
        crowd.server.secrets.remove(&secret);
        crowd.server.tell_secret(&secret.0, &secret.1);
    }
    crowd.settle();
    crowd.pass(2);
    assert_eq!(count(&crowd.events(), |news| matches!(news, GrantNews::RevocationDone)), 1);
    assert_ne!(condition(&crowd, "RevocationFailing").as_deref(), Some("True"));
}

#[test]
fn an_old_secret_that_cannot_be_deleted_after_a_rename_is_told() {
    let mut crowd = Crowd::of_one();
    crowd.events();
    crowd.server.policy("ci", "p", |policy| policy.spec.secret.name = "another".into());
    without_delete(&mut crowd, 60);
    assert_eq!(condition(&crowd, "Reconciling").as_deref(), Some("True"));
    assert_eq!(condition(&crowd, "Ready").as_deref(), Some("True"), "the new one is published");
    assert_eq!(count(&crowd.events(), |news| matches!(news, GrantNews::Failing(_))), 1);
    crowd.pass(61);
    crowd.pass(2);
    assert_eq!(condition(&crowd, "Reconciling"), None);
    assert!(crowd.server.published("ci", "p-app").is_none());
}

/// Refuses to delete some Secrets, once a second for so many seconds; the deletes that were tried.
fn refusing(crowd: &mut Crowd, seconds: usize, reason: FailureReason, refused: impl Fn(&str) -> bool) -> usize {
    let mut tries = 0;
    for _ in 0..seconds {
        crowd.server.pass(TimeDelta::seconds(1));
        crowd.hear();
        // What is under way at once is answered after that.
        let now = crowd.server.now;
        while let Some(first) = crowd.grants.take(&mut 256, now) {
            let more = std::iter::from_fn(|| crowd.grants.take(&mut 256, now)).collect::<Vec<_>>();
            for (ticket, request) in std::iter::once(first).chain(more) {
                let deletes = request.verb == Verb::Delete;
                tries += usize::from(deletes);
                if deletes && refused(&request.path) {
                    let failure = Failure::new(reason, &request.what);
                    let refusal = Refusal { code: Some(403), object: None, failure };
                    crowd.grants.answered(ticket, Err(Box::new(refusal)), now);
                } else {
                    crowd.perform(ticket, &request);
                }
            }
            crowd.hear();
        }
    }
    tries
}

/// One policy whose tokens are all to be revoked, with so many anchors.
fn to_be_revoked(anchors: usize) -> Crowd {
    let mut crowd = Crowd::of_one();
    crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true);
    crowd.settle();
    let anchor = crowd.server.secrets.values().find(|stored| stored.is_anchor).unwrap().meta.clone();
    for n in 1..anchors {
        let name = format!("tw-more{n:06}");
        crowd.server.put("ci", &name, serde_json::json!(anchor), true, BTreeMap::new());
    }
    crowd.hear();
    crowd.server.pass(TimeDelta::seconds(5));
    let now = crate::core::meta::text(crowd.server.now);
    crowd.annotate(crate::core::names::REVOKE_ISSUED_BEFORE, &now);
    crowd
}

#[test]
fn refusals_of_some_hold_up_no_others() {
    for of in ["1", "0"] {
        let mut crowd = to_be_revoked(40);
        // Whichever come first, more than go out at once are among the refused.
        let refused =
            move |path: &str| path.contains("tw-more") && path.as_bytes()[path.len() - 2..][..1] == *of.as_bytes();
        refusing(&mut crowd, 300, FailureReason::AdmissionDenied, refused);
        let left = crowd.server.anchors().iter().filter(|(_, name)| !refused(name)).count();
        assert_eq!(left, 0, "of {}", crowd.server.anchors().len());
    }
}

/// Eight calls that meet one hiccup are one failure.
#[test]
fn a_hiccup_costs_a_second() {
    let mut crowd = to_be_revoked(8);
    crowd.hear();
    let first = refusing(&mut crowd, 1, FailureReason::AdmissionDenied, |_| true);
    let then = refusing(&mut crowd, 2, FailureReason::AdmissionDenied, |_| false);
    assert_eq!((first, then, crowd.server.anchors().len()), (8, 8, 0));
}

/// Of some grants one anchor each is refused, and one grant probes for all. When nothing is refused any more, all are done
/// with the next probe.
#[test]
fn a_revocation_goes_on_when_its_obstacle_is_gone() {
    // Whichever grant probes: its refusal is the first or the last of its four answers.
    for (probe, of_probe, of_others) in (0..6).flat_map(|probe| [(probe, '0', '2'), (probe, '2', '0')]) {
        let mut server = Server::new();
        let accounts: Vec<String> = (0..6).map(|n| format!("app-{n}")).collect();
        for account in &accounts {
            server.account("ci", account, &[]);
        }
        server.policy("ci", "p", |policy| names(policy, accounts));
        let mut crowd = Crowd::start(server);
        crowd.settle();
        crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true);
        crowd.settle();
        let anchors = crowd.server.secrets.values().filter(|stored| stored.is_anchor).map(|stored| stored.meta.clone());
        for (n, anchor) in anchors.collect::<Vec<_>>().into_iter().enumerate() {
            for m in 0..3 {
                let name = format!("tw-more{n}{m}");
                crowd.server.put("ci", &name, serde_json::json!(anchor), true, BTreeMap::new());
            }
        }
        crowd.hear();
        crowd.server.pass(TimeDelta::seconds(5));
        let now = crate::core::meta::text(crowd.server.now);
        crowd.annotate(crate::core::names::REVOKE_ISSUED_BEFORE, &now);
        let refused = move |path: &str| {
            let of_it = path.contains(&format!("tw-more{probe}"));
            path.contains("tw-more") && path.ends_with(if of_it { of_probe } else { of_others })
        };
        refusing(&mut crowd, 12, FailureReason::Forbidden, refused);
        assert_eq!(crowd.server.anchors().len(), 6, "the others are gone");
        // The pauses of the one that probes are 1, 2, 4 and 8 s.
        refusing(&mut crowd, 9, FailureReason::Forbidden, |_| false);
        assert_eq!(crowd.server.anchors().len(), 0);
    }
}

/// A deletion has no answer, and its end is seen after that: it is our deed all the same.
#[test]
fn a_deletion_whose_answer_is_lost_is_nobody_elses() {
    let mut crowd = Crowd::of_one();
    let (ticket, request) = crowd.rotated_and_due();
    let failure = Failure::unanswered(&request.what, "no answer in 10 s");
    let _ = crowd.server.answer(&request);
    let lost = Refusal { code: None, object: None, failure };
    crowd.grants.answered(ticket, Err(Box::new(lost)), crowd.server.now);
    crowd.hear();
    assert_eq!(causes(&mut crowd), [RetireReason::OverlapEnded]);
}
