use secrecy::ExposeSecret as _;

use super::*;
use crate::core::{bootstrap::token::tests::token, reason::FailureReason, request::Refusal, schedule::quick_retry};

const NINE: &str = "2027-01-15T09:00:00Z";

fn at(seconds: i64) -> Time {
    Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn key(name: &str) -> Key {
    Key::new(NAMESPACE, name)
}

fn controller(cleaner: Cleaner) -> Bootstrap {
    Bootstrap::new(cleaner, false, 7)
}

fn seen(controller: &mut Bootstrap, name: &str, version: u64, expiration: &str, now: Time) {
    let token = BootstrapToken { version, ..token(expiration) };
    controller.observe(0, BootstrapChange::Token(WatchEvent::Applied(key(name), version, token)), now);
}

fn list(controller: &mut Bootstrap, now: Time) {
    controller.observe(0, BootstrapChange::Token(WatchEvent::Listing), now);
    controller.observe(0, BootstrapChange::Token(WatchEvent::Listed), now);
}

fn next(controller: &mut Bootstrap, now: Time) -> Option<(u32, Request)> {
    controller.take(&mut 1000, now)
}

/// The next call, if it is a DELETE; with the Secret's name and preconditions.
fn deletion(controller: &mut Bootstrap, now: Time) -> Option<(u32, String, serde_json::Value)> {
    let (ticket, request) = next(controller, now).filter(|(_, request)| request.verb == Verb::Delete)?;
    let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
    Some((ticket, request.path.rsplit('/').next().unwrap().to_owned(), body["preconditions"].clone()))
}

fn done(controller: &mut Bootstrap, ticket: u32, now: Time) {
    controller.answered(ticket, Ok("{}".into()), now);
}

fn refuse(controller: &mut Bootstrap, ticket: u32, code: u16, reason: FailureReason, now: Time) {
    let failure = Failure::new(reason, "no");
    controller.answered(ticket, Err(Box::new(Refusal { code: Some(code), object: None, failure })), now);
}

fn failing(events: &[BootstrapEvent]) -> usize {
    events.iter().filter(|event| matches!(event.what, BootstrapNews::Failing(_))).count()
}

#[test]
fn a_token_is_deleted_at_its_end_and_not_before() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, NINE, at(0));
    assert!(next(&mut controller, at(3599)).is_none());
    assert_eq!(controller.next_wake(true, 0, at(3599)), Some(at(3600)));
    let (ticket, name, preconditions) = deletion(&mut controller, at(3600)).unwrap();
    assert_eq!((name.as_str(), preconditions), ("a", json!({"uid": "u", "resourceVersion": "1"})));
    assert!(next(&mut controller, at(3600)).is_none(), "one call at a time");
    done(&mut controller, ticket, at(3600));
    assert!(matches!(controller.news()[..], [BootstrapEvent { what: BootstrapNews::Done(TokenStep::Delete(_)), .. }]));
    assert_eq!(controller.counts(), [Count::Deletion("deleted")]);
    assert!(next(&mut controller, at(9999)).is_none() && controller.tokens.iter().count() == 0);
}

#[test]
fn an_edit_while_scheduled_counts() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, NINE, at(0));
    assert!(next(&mut controller, at(0)).is_none());
    seen(&mut controller, "a", 2, "2027-01-15T10:00:00Z", at(10));
    assert!(next(&mut controller, at(3601)).is_none());
    seen(&mut controller, "a", 3, "2027-01-15T08:30:00Z", at(3602));
    assert!(deletion(&mut controller, at(3602)).is_some());
}

#[test]
fn failed_deletes_are_tried_again_for_ever() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, "x", at(0));
    let mut now = at(0);
    for n in 1..100 {
        let (ticket, ..) = deletion(&mut controller, now).unwrap_or_else(|| panic!("try {n}"));
        refuse(&mut controller, ticket, 503, FailureReason::ApiUnavailable, now);
        assert!(next(&mut controller, now).is_none());
        now += quick_retry(n, LONGEST_PAUSE);
    }
    assert_eq!(failing(&controller.news()), 1, "one reason is told once");
}

#[test]
fn retry_after_is_obeyed() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, "x", at(0));
    let (ticket, ..) = deletion(&mut controller, at(0)).unwrap();
    let failure =
        Failure { retry_after: Some(TimeDelta::seconds(20)), ..Failure::new(FailureReason::ApiUnavailable, "no") };
    controller.answered(ticket, Err(failure.into()), at(0));
    assert!(deletion(&mut controller, at(19)).is_none() && deletion(&mut controller, at(20)).is_some());
}

#[test]
fn one_that_works_does_not_end_the_failure_of_another() {
    let mut controller = controller(Cleaner::Enforce);
    let fail = |controller: &mut Bootstrap, now| {
        let (ticket, ..) = deletion(controller, now).unwrap();
        refuse(controller, ticket, 403, FailureReason::Forbidden, now);
    };
    seen(&mut controller, "a", 1, "x", at(0));
    fail(&mut controller, at(0));
    seen(&mut controller, "b", 2, "x", at(0));
    let (other, name, _) = deletion(&mut controller, at(0)).unwrap();
    assert_eq!(name, "b");
    done(&mut controller, other, at(0));
    fail(&mut controller, at(10));
    assert_eq!((failing(&controller.news()), controller.tokens.failures().count()), (1, 1));
    controller.observe(0, BootstrapChange::Token(WatchEvent::Deleted(key("a"), 9)), at(11));
    assert_eq!(controller.tokens.failures().count(), 0, "what is gone does not fail");
}

#[test]
fn a_clock_that_goes_back_delays_no_retry() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, "x", at(0));
    let (ticket, ..) = deletion(&mut controller, at(0)).unwrap();
    refuse(&mut controller, ticket, 503, FailureReason::ApiUnavailable, at(0));
    assert!(deletion(&mut controller, at(-86_400)).is_some());
}

/// A list with this Secret, expiring at nine.
fn found(name: &str, version: u64) -> secrecy::SecretString {
    let metadata = json!({"name": name, "uid": "u", "resourceVersion": version.to_string()});
    json!({"metadata": {}, "items": [{"metadata": metadata, "data": {"expiration": STANDARD.encode(NINE)}}]})
        .to_string()
        .into()
}

#[test]
fn a_conflict_is_looked_at_and_decided_again() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, "x", at(0));
    let (stale, ..) = deletion(&mut controller, at(0)).unwrap();
    refuse(&mut controller, stale, 409, FailureReason::Conflict, at(0));
    let (look, request) = next(&mut controller, at(0)).unwrap();
    assert!(request.verb == Verb::Get && request.path.ends_with("metadata.name%3Da"), "{}", request.path);
    controller.answered(look, Ok(found("a", 2)), at(0));
    assert!(next(&mut controller, at(100)).is_none());
    assert_eq!(deletion(&mut controller, at(3600)).unwrap().2["resourceVersion"], "2");
}

#[test]
fn a_new_object_of_the_same_name_is_not_taken_for_the_deleted_one() {
    let mut controller = controller(Cleaner::Enforce);
    seen(&mut controller, "a", 1, "x", at(0));
    let (old, ..) = deletion(&mut controller, at(0)).unwrap();
    let new = BootstrapToken { uid: "new".into(), ..token("y") };
    controller.observe(0, BootstrapChange::Token(WatchEvent::Applied(key("a"), 2, new)), at(0));
    done(&mut controller, old, at(0));
    assert_eq!(deletion(&mut controller, at(0)).unwrap().2["uid"], "new");
}

#[test]
fn a_deletion_that_the_watch_missed_is_found_by_the_next_list() {
    let mut controller = Bootstrap::new(Cleaner::Enforce, true, 7);
    let pass = |controller: &mut Bootstrap, now| {
        let (ticket, request) = next(controller, now).expect("a pass of the signer");
        assert!(request.path.ends_with("/configmaps/cluster-info"), "{}", request.path);
        refuse(controller, ticket, 409, FailureReason::Conflict, now);
    };
    seen(&mut controller, "a", 1, NINE, at(0));
    pass(&mut controller, at(0));
    list(&mut controller, at(100));
    pass(&mut controller, at(100));
    assert!(deletion(&mut controller, at(3600)).is_none());
}

#[test]
fn report_tells_once_per_secret() {
    let mut controller = controller(Cleaner::Report);
    for version in 1..5 {
        seen(&mut controller, "a", version, "x", at(0));
        assert!(next(&mut controller, at(0)).is_none());
    }
    let events = controller.news();
    assert!(matches!(events[..], [BootstrapEvent { what: BootstrapNews::WouldDelete(Expiry::Unparsable), .. }]));
}

fn policy(name: &str, spec: &str) -> Stored<BootstrapPolicy> {
    let spec: serde_json::Value = serde_json::from_str(spec).unwrap();
    let policy = json!({"metadata": {"name": name, "generation": 1}, "spec": spec});
    Stored::parse::<()>(serde_json::from_value(policy).unwrap())
}

fn add_policy(controller: &mut Bootstrap, name: &str, spec: &str) {
    let state = policy(name, spec);
    for event in [WatchEvent::Listing, WatchEvent::Item(Key::new("", name), 1, state), WatchEvent::Listed] {
        controller.observe(0, BootstrapChange::Policy(event), at(0));
    }
    list(controller, at(0));
}

#[test]
fn a_cap_is_written_once_and_the_token_ends_by_it() {
    let mut controller = controller(Cleaner::Enforce);
    add_policy(&mut controller, "p", r#"{"mode":"Enforce","maxAge":"1h"}"#);
    seen(&mut controller, "a", 1, "", at(0));
    let (ticket, request) = next(&mut controller, at(0)).unwrap();
    let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
    assert_eq!((request.verb, &body["data"]["expiration"]), (Verb::MergePatch, &json!(STANDARD.encode(NINE))));
    controller.answered(ticket, Ok(json!({"metadata": {"resourceVersion": "2"}}).to_string().into()), at(0));
    assert!(next(&mut controller, at(3599)).is_none());
    assert!(deletion(&mut controller, at(3600)).is_some());
}

#[test]
fn statuses_are_written_when_they_differ() {
    let mut controller = controller(Cleaner::Report);
    add_policy(&mut controller, "p", "{}");
    seen(&mut controller, "a", 1, NINE, at(0));
    assert!(next(&mut controller, at(0)).is_none());
    let mut status = |version: u64, now| {
        seen(&mut controller, "a", version, NINE, now);
        written(&mut controller, version + 1, now)
    };
    assert_eq!(status(1, at(1)).map(|status| status["tokens"]["expired"].clone()), Some(json!(0)));
    assert_eq!(status(2, at(4)), None, "nothing that a status shows");
    assert_eq!(status(3, at(3602)).map(|status| status["tokens"]["expired"].clone()), Some(json!(1)));
}

#[test]
fn several_policies_say_so_and_failures_show() {
    let mut controller = controller(Cleaner::Report);
    add_policy(&mut controller, "a", "{}");
    let conditions = |controller: &mut Bootstrap, now| {
        let (ticket, request) = controller.take_status(8, now).unwrap();
        done(controller, ticket, now);
        let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
        body["status"]["conditions"].clone()
    };
    assert_eq!(conditions(&mut controller, at(1)).as_array().map(Vec::len), Some(1));
    let b = policy("b", r#"{"mode":"Enforce","maxAge":"24h"}"#);
    controller.observe(0, BootstrapChange::Policy(WatchEvent::Applied(Key::new("", "b"), 2, b)), at(10));
    let two = conditions(&mut controller, at(20));
    assert_eq!(two[1]["type"], "Overlapping");
    assert!(two[1]["message"].as_str().unwrap().contains("that of b"), "{two}");
    controller.watch_health(0, TOKENS, Some(Failure::new(FailureReason::Forbidden, "no")), at(30));
    let failing = conditions(&mut controller, at(40));
    assert_eq!((&failing[0]["status"], &failing[0]["reason"]), (&json!("False"), &json!("Forbidden")));
}

/// The status that is written now, and its echo in this version.
fn written(controller: &mut Bootstrap, version: u64, now: Time) -> Option<serde_json::Value> {
    assert!(next(controller, now).is_none());
    let (ticket, request) = controller.take_status(8, now)?;
    done(controller, ticket, now);
    let body: serde_json::Value = serde_json::from_str(request.body.expose_secret()).unwrap();
    echo(controller, version, &body["status"], now);
    Some(body["status"].clone())
}

/// The watch shows the policy with this status.
fn echo(controller: &mut Bootstrap, version: u64, status: &serde_json::Value, now: Time) {
    let policy = json!({"metadata": {"name": "p", "generation": 1}, "spec": {}, "status": status});
    let state = Stored::parse::<()>(serde_json::from_value(policy).unwrap());
    controller.observe(0, BootstrapChange::Policy(WatchEvent::Applied(Key::new("", "p"), version, state)), now);
}

#[test]
fn a_status_that_somebody_else_wrote_is_written_again() {
    let mut controller = controller(Cleaner::Report);
    add_policy(&mut controller, "p", "{}");
    let status = written(&mut controller, 2, at(1)).unwrap();
    assert_eq!(written(&mut controller, 3, at(5)), None, "an echo of our own is no reason to write");
    let mut edited = status.clone();
    edited["tokens"]["total"] = json!(7);
    echo(&mut controller, 4, &edited, at(6));
    assert_eq!(written(&mut controller, 5, at(8)), Some(status));
}

/// The status that was written counts until the watch shows it, or does not show it in a list.
#[test]
fn a_status_is_not_written_again_while_its_echo_is_on_its_way() {
    let mut controller = controller(Cleaner::Report);
    add_policy(&mut controller, "p", "{}");
    let write = |controller: &mut Bootstrap, now| {
        assert!(next(controller, now).is_none());
        let (ticket, request) = controller.take_status(8, now)?;
        done(controller, ticket, now);
        Some(request.what)
    };
    assert!(write(&mut controller, at(1)).is_some());
    seen(&mut controller, "a", 1, NINE, at(3));
    seen(&mut controller, "a", 2, NINE, at(4));
    assert!(write(&mut controller, at(5)).is_some(), "another token is news");
    seen(&mut controller, "a", 3, NINE, at(7));
    assert_eq!(write(&mut controller, at(9)), None);
    let listed = json!({"metadata": {"name": "p", "generation": 1}, "spec": {}});
    let listed = Stored::parse::<()>(serde_json::from_value(listed).unwrap());
    for event in [WatchEvent::Listing, WatchEvent::Item(Key::new("", "p"), 1, listed), WatchEvent::Listed] {
        controller.observe(0, BootstrapChange::Policy(event), at(10));
    }
    assert!(write(&mut controller, at(11)).is_some(), "the API server was restored");
}

#[test]
fn without_cleaner_policy_and_signer_no_token_is_watched() {
    let mut controller = controller(Cleaner::Off);
    assert!(!controller.needs_tokens());
    add_policy(&mut controller, "p", "{}");
    assert!(controller.needs_tokens());
}
