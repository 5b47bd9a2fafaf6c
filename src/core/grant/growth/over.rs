//! A failure that is over leaves nothing behind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

use super::*;
use crate::core::{
    grant::event::GrantNews,
    request::{Answer, Refusal},
};

/// The API server refuses a request.
fn refusal(request: &Request, code: u16, message: &str) -> Answer {
    let status = Status { code: Some(code.into()), message: Some(message.into()), ..Status::default() };
    Err(Box::new(Refusal { code: Some(code), object: None, failure: Failure::refused(&request.what, &status) }))
}

/// Runs for so many seconds while each call of a grant is refused.
fn refusing(crowd: &mut Crowd, seconds: usize, code: u16, message: &str) {
    for _ in 0..seconds {
        crowd.server.pass(TimeDelta::seconds(1));
        crowd.hear();
        while let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) {
            crowd.grants.answered(ticket, refusal(&request, code, message), crowd.server.now);
        }
    }
}

#[test]
fn a_failure_that_is_over_is_not_told_at_the_next_renewal() {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    crowd.server.policy("ci", "p", |policy| policy.spec.token.audiences = vec!["vault".into()]);
    refusing(&mut crowd, 40, 403, "exceeded quota: q");
    crowd.server.policy("ci", "p", |policy| policy.spec.token.audiences.clear());
    crowd.pass(2);
    crowd.events();
    (0..50).for_each(|_| crowd.pass(60));
    let told = crowd.events().into_iter().filter(|event| matches!(event.what, GrantNews::Failing(_))).count();
    assert_eq!((crowd.server.mints, told), (2, 0));
}

/// One grant probes for its namespace. When it needs nothing any more, another one does.
#[test]
fn a_grant_that_needs_nothing_probes_for_nobody() {
    let mut server = Server::new();
    for name in ["a", "b"] {
        server.account("ci", name, &[]);
    }
    server.policy("ci", "first", |policy| names(policy, vec!["a".into()]));
    let mut crowd = Crowd::start(server);
    refusing(&mut crowd, 5, 500, "etcdserver: request timed out");
    crowd.server.policy("ci", "first", |policy| policy.spec.suspend = true);
    refusing(&mut crowd, 61, 500, "etcdserver: request timed out");
    crowd.server.policy("ci", "second", |policy| names(policy, vec!["b".into()]));
    refusing(&mut crowd, 1, 500, "etcdserver: request timed out");
    crowd.pass(2);
    assert_eq!(crowd.server.mints, 1, "its first pause is a second");
}

/// The watch shows a Secret and its end before the answer to its write comes.
#[test]
fn an_answer_that_comes_after_the_end_revives_nothing() {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    server.policy("ci", "p", |policy| names(policy, vec!["app".into()]));
    let mut crowd = Crowd::start(server);
    loop {
        crowd.hear();
        let (ticket, request) = crowd.grants.take(&mut 256, crowd.server.now).unwrap();
        let answer = crowd.server.answer(&request);
        let written = crowd.server.secrets.keys().any(|(_, name)| name == "p-app");
        if written {
            crowd.hear();
            crowd.server.delete_secrets(false);
            crowd.hear();
        }
        crowd.grants.answered(ticket, answer, crowd.server.now);
        if written {
            break;
        }
    }
    crowd.settle();
    crowd.pass(11);
    let (record, _) = crowd.server.published("ci", "p-app").expect("a fresh one");
    let bond = record.token.unwrap().bond;
    assert!(crowd.server.lives("ci", &bond.name, &bond.uid.to_string()));
    assert_eq!((crowd.server.mints, crowd.server.anchors().len()), (2, 1), "the token of the deleted Secret is dead");
}

/// The status that was written counts until the watch shows it.
#[test]
fn a_status_is_not_written_again_while_its_echo_is_on_its_way() {
    let mut crowd = Crowd::of_one();
    crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true);
    crowd.hear();
    assert!(crowd.grants.take(&mut 256, crowd.server.now).is_none());
    crowd.server.pass(TimeDelta::seconds(2));
    let (ticket, request) = crowd.grants.take_status(1, crowd.server.now).unwrap();
    crowd.perform(ticket, &request);
    crowd.server.pass(TimeDelta::seconds(2));
    crowd.grants.observe_audience(None, crowd.server.now);
    let again = crowd.grants.take_status(1, crowd.server.now).map(|(_, request)| request.what);
    assert_eq!(again, None);
}

/// A deletion without an answer holds up neither the look at a Secret that is gone, nor the fresh token.
#[test]
fn a_secret_that_goes_while_a_deletion_has_no_answer_is_replaced() {
    let mut crowd = Crowd::of_one();
    crowd.rotated_and_due();
    crowd.server.delete_secrets(false);
    let mut calls = Vec::new();
    loop {
        crowd.hear();
        let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) else { break };
        crowd.perform(ticket, &request);
        calls.push(request.what);
        assert!(calls.len() <= 12, "{calls:?}");
    }
    assert_eq!(crowd.server.mints, 3, "{calls:?}");
}

/// Pauses are short, and none is waited for twice: neither those of failures nor those between statuses.
#[test]
fn a_clock_that_goes_back_lengthens_no_pause() {
    let mut crowd = Crowd::of_one();
    crowd.annotate(crate::core::names::ROTATE, "1");
    refusing(&mut crowd, 40, 500, "etcdserver: request timed out");
    crowd.settle();
    assert_eq!((crowd.server.mints, crowd.conditions()["Ready"].0.as_str()), (1, "True"));
    crowd.server.pass(TimeDelta::hours(-1));
    // Nothing happens but that time passes.
    crowd.pass(1);
    crowd.pass(2);
    assert_eq!(crowd.server.mints, 2, "the pause is over");
    crowd.server.policy("ci", "p", |policy| policy.spec.suspend = true);
    (0..2).for_each(|_| crowd.pass(1));
    assert!(crowd.conditions().contains_key("Suspended"), "{:?}", crowd.conditions());
}

/// The account is revoked 10 s after it left the selection, whatever the clock does meanwhile.
#[test]
fn a_clock_that_goes_back_lengthens_no_life() {
    let mut crowd = Crowd::of_one();
    crowd.server.policy("ci", "p", |policy| names(policy, vec!["other".into()]));
    crowd.pass(1);
    crowd.server.pass(TimeDelta::hours(-1));
    (0..3).for_each(|_| crowd.pass(11));
    assert_eq!(crowd.server.anchors().len(), 0);
}
