use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::*;
use crate::core::{
    legacy::{INVALID_SINCE, LAST_USED},
    reason::FailureReason,
    request::{Refusal, Verb},
};

fn at(seconds: i64) -> Time {
    Time::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn key() -> Key {
    Key::new("ci", "s")
}

/// The metadata of a Secret that was last used in 2020.
fn meta(version: u64, labels: Value) -> Value {
    let mut meta = json!({"name": "s", "namespace": "ci", "uid": "u", "resourceVersion": version.to_string(),
        "creationTimestamp": "2020-01-01T00:00:00Z", "labels": {LAST_USED: "2020-01-01"},
        "annotations": {"kubernetes.io/service-account.name": "deployer"}});
    let Value::Object(labels) = labels else { panic!("{labels}") };
    meta["labels"].as_object_mut().unwrap().extend(labels);
    meta
}

fn seen(legacy: &mut Legacy, version: u64, labels: Value, now: Time) {
    let token = LegacyToken::read(serde_json::from_value(meta(version, labels)).unwrap());
    legacy.observe(0, LegacyChange::Token(WatchEvent::Applied(key(), version, token)), now);
}

/// A list with these objects alone.
fn list<V>(legacy: &mut Legacy, change: fn(WatchEvent<V>) -> LegacyChange, items: Vec<(Key, V)>) {
    list_at(1, legacy, change, items);
}

/// The same as of this version.
fn list_at<V>(version: u64, legacy: &mut Legacy, change: fn(WatchEvent<V>) -> LegacyChange, items: Vec<(Key, V)>) {
    legacy.observe(0, change(WatchEvent::Listing), at(0));
    for (key, value) in items {
        legacy.observe(0, change(WatchEvent::Item(key, version, value)), at(0));
    }
    legacy.observe(0, change(WatchEvent::Listed), at(0));
}

fn pods(legacy: &mut Legacy, version: u64, names: &[&str]) {
    let pod = (Key::new("ci", "pod"), names.iter().map(|name| Name::from(*name)).collect());
    list_at(version, legacy, |event| LegacyChange::References(By::Pod, event), vec![pod]);
}

fn tracking(legacy: &mut Legacy, version: u64, since: Option<Time>) {
    list_at(version, legacy, LegacyChange::Tracking, vec![(Key::new("kube-system", "t"), since)]);
}

fn policy(legacy: &mut Legacy, version: u64, spec: Value, status: Value) {
    named_policy("p", legacy, version, spec, status);
}

fn named_policy(name: &str, legacy: &mut Legacy, version: u64, spec: Value, status: Value) {
    // A status comes with no new generation.
    let generation = if status.is_null() { version } else { 1 };
    let mut policy = json!({"metadata": {"name": name, "uid": name, "generation": generation}});
    (policy["spec"], policy["status"]) = (spec, status);
    let stored = Stored::parse::<()>(serde_json::from_value(policy).unwrap());
    legacy.observe(0, LegacyChange::Policy(WatchEvent::Applied(Key::new("", name), version, stored)), at(0));
}

/// Everything is listed, but pods.
fn without_pods(spec: Value) -> Legacy {
    let mut legacy = Legacy::new(7);
    list(&mut legacy, LegacyChange::Policy, Vec::new());
    policy(&mut legacy, 1, spec, Value::Null);
    list(&mut legacy, LegacyChange::Token, Vec::new());
    list(&mut legacy, |event| LegacyChange::References(By::Account, event), Vec::new());
    list(&mut legacy, LegacyChange::Namespace, vec![(Key::new("", "ci"), [("team".into(), "a".into())].into())]);
    tracking(&mut legacy, 1, Some(at(-86_400)));
    legacy
}

/// A policy of this mode, and everything is listed.
fn mode(mode: &str) -> Legacy {
    let mut legacy = without_pods(json!({ "mode": mode }));
    pods(&mut legacy, 1, &[]);
    legacy
}

fn next(legacy: &mut Legacy, now: Time) -> Option<(u32, Request)> {
    legacy.take(&mut 1000, now)
}

fn body(request: &Request) -> Value {
    serde_json::from_str(request.body.expose_secret()).unwrap()
}

fn done(legacy: &mut Legacy, ticket: u32, version: u64, labels: Value, now: Time) {
    let answer = json!({"metadata": meta(version, labels)}).to_string();
    legacy.answered(ticket, Ok(answer.into()), now);
}

#[test]
fn a_secret_is_quarantined_once_and_only_its_label_is_written() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({}), at(0));
    let (ticket, request) = next(&mut legacy, at(0)).unwrap();
    let metadata = json!({"uid": "u", "resourceVersion": "1", "labels": {INVALID_SINCE: "2027-01-15"}});
    assert_eq!((request.verb, body(&request)), (Verb::MergePatch, json!({ "metadata": metadata })));
    done(&mut legacy, ticket, 2, json!({INVALID_SINCE: "2027-01-15"}), at(0));
    assert!(next(&mut legacy, at(1)).is_none());
    let [event] = &legacy.news()[..] else { panic!("one event") };
    let message = event.message();
    assert!(message.contains("unused since 2020-01-02T00:00:00Z"), "{message}");
    assert!(message.ends_with(&format!("kubectl -n ci label secret s --overwrite {INVALID_SINCE}=")), "{message}");
}

#[test]
fn nothing_is_written_while_something_is_not_known() {
    let mut legacy = without_pods(json!({"mode": "Quarantine"}));
    seen(&mut legacy, 1, json!({}), at(0));
    assert!(next(&mut legacy, at(0)).is_none(), "pods are not listed");
    pods(&mut legacy, 2, &["s"]);
    assert!(next(&mut legacy, at(0)).is_none(), "a pod refers to it");
    let forbidden = Failure::new(FailureReason::Forbidden, "no");
    legacy.watch_health(0, "pods", Some(forbidden), at(0));
    pods(&mut legacy, 3, &[]);
    assert!(next(&mut legacy, at(0)).is_none(), "a watch fails");
    tracking(&mut legacy, 2, None);
    legacy.watch_health(0, "pods", None, at(0));
    assert!(next(&mut legacy, at(0)).is_none(), "uses are not recorded");
    tracking(&mut legacy, 3, Some(at(0)));
    assert!(next(&mut legacy, at(0)).is_none(), "the pod went just now");
    assert!(next(&mut legacy, at(400 * 86_400)).is_some());
}

#[test]
fn other_namespaces_than_the_selected_ones_are_left_alone() {
    for (team, acts) in [("a", true), ("b", false)] {
        let selector = json!({"matchLabels": {"team": team}});
        let mut legacy = without_pods(json!({"mode": "Quarantine", "namespaceSelector": selector}));
        pods(&mut legacy, 5, &[]);
        seen(&mut legacy, 1, json!({}), at(0));
        assert_eq!(next(&mut legacy, at(0)).is_some(), acts, "{team}");
    }
}

#[test]
fn a_lifted_quarantine_is_marked_and_not_put_back() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({INVALID_SINCE: "2027-01-15"}), at(0));
    assert!(next(&mut legacy, at(0)).is_none());
    seen(&mut legacy, 2, json!({}), at(1));
    let (ticket, request) = next(&mut legacy, at(1)).unwrap();
    assert_eq!(body(&request)["metadata"]["labels"], json!({INVALID_SINCE: ""}));
    let answer = {
        let mut meta = meta(3, json!({INVALID_SINCE: ""}));
        let fields = json!({"f:metadata": {"f:labels": {format!("f:{INVALID_SINCE}"): {}}}});
        meta["managedFields"] = json!([{"manager": "tokenward", "time": "2027-01-15T08:00:01Z", "fieldsV1": fields}]);
        json!({ "metadata": meta }).to_string()
    };
    legacy.answered(ticket, Ok(answer.into()), at(1));
    assert!(next(&mut legacy, at(86_400)).is_none());
}

#[test]
fn a_conflict_is_looked_at_and_decided_again() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({}), at(0));
    let (ticket, _) = next(&mut legacy, at(0)).unwrap();
    let refusal =
        |code| Refusal { code: Some(code), object: None, failure: Failure::new(FailureReason::Conflict, "no") };
    legacy.answered(ticket, Err(Box::new(refusal(409))), at(0));
    let (look, request) = next(&mut legacy, at(0)).unwrap();
    assert_eq!((request.verb, request.path.as_str()), (Verb::Get, "/api/v1/namespaces/ci/secrets/s"));
    done(&mut legacy, look, 2, json!({LAST_USED: "2027-01-15"}), at(0));
    assert!(next(&mut legacy, at(1)).is_none(), "it was used meanwhile");
}

#[test]
fn a_secret_is_deleted_with_uid_and_version_after_its_quarantine() {
    let mut legacy = mode("Delete");
    seen(&mut legacy, 5, json!({INVALID_SINCE: "2020-01-01"}), at(0));
    let (ticket, request) = next(&mut legacy, at(0)).unwrap();
    let wanted = json!({"preconditions": {"uid": "u", "resourceVersion": "5"}});
    assert_eq!((request.verb, body(&request)), (Verb::Delete, wanted));
    legacy.answered(ticket, Ok("{}".into()), at(0));
    let message = legacy.news()[0].message();
    assert!(message.contains("quarantined on 2020-01-01"), "{message}");
    assert_eq!(legacy.known.tokens.iter().count(), 0);
}

/// One of several Secrets that nobody has used since 2020.
fn unused(legacy: &mut Legacy, name: &str, version: u64) {
    let token = LegacyToken::read(serde_json::from_value(meta(version, json!({}))).unwrap());
    legacy.observe(0, LegacyChange::Token(WatchEvent::Applied(Key::new("ci", name), version, token)), at(0));
}

#[test]
fn a_crowd_is_quarantined_no_faster_than_events_are_sent() {
    let mut legacy = mode("Quarantine");
    (1..4).for_each(|n| unused(&mut legacy, &format!("s{n}"), n));
    assert!(next(&mut legacy, at(0)).is_some());
    assert!(next(&mut legacy, at(0)).is_none());
    assert_eq!(legacy.next_wake(true, 0, at(0)), Some(at(0) + PACE));
    assert!(next(&mut legacy, at(0) + PACE).is_some());
    assert!(next(&mut legacy, at(-3600)).is_some(), "the clock went back");
}

#[test]
fn a_call_that_fails_concerns_the_policies_that_act_there() {
    let mut legacy = mode("Quarantine");
    named_policy(
        "b",
        &mut legacy,
        2,
        json!({"mode": "Quarantine", "namespaceSelector": {"matchLabels": {"team": "b"}}}),
        Value::Null,
    );
    named_policy("report", &mut legacy, 3, json!({}), Value::Null);
    seen(&mut legacy, 1, json!({}), at(0));
    let (ticket, _) = next(&mut legacy, at(0)).unwrap();
    refuse(&mut legacy, ticket, FailureReason::Forbidden, at(0));
    let written = std::iter::from_fn(|| legacy.take_status(8, at(1)));
    let ready = |request: &Request| body(request)["status"]["conditions"][0]["status"].clone();
    let mut all: Vec<_> = written.map(|(_, request)| (request.path.clone(), ready(&request))).collect();
    all.sort_by(|one, other| one.0.cmp(&other.0));
    let ready: Vec<&Value> = all.iter().map(|(_, ready)| ready).collect();
    assert_eq!(ready, ["True", "False", "True"], "b, p, report: {all:?}");
}

fn refuse(legacy: &mut Legacy, ticket: u32, reason: FailureReason, now: Time) -> Outcome {
    let failure = Failure::new(reason, "no");
    legacy.answered(ticket, Err(Box::new(Refusal { code: Some(403), object: None, failure })), now)
}

#[test]
fn a_right_that_is_lost_while_secrets_are_quarantined_is_told_once_and_counted() {
    let mut legacy = mode("Quarantine");
    (1..3).for_each(|n| unused(&mut legacy, &format!("s{n}"), n));
    for (n, now) in [at(0), at(1), at(9), at(10)].into_iter().enumerate() {
        let (ticket, _) = next(&mut legacy, now).unwrap();
        // Another one fails for another reason by turns.
        let reason = if n % 2 == 0 { FailureReason::Forbidden } else { FailureReason::AdmissionDenied };
        assert!(refuse(&mut legacy, ticket, reason, now).failure.is_some_and(|failure| failure.reason == reason));
    }
    let told: Vec<_> = legacy.news().iter().map(|event| event.what.reason_and_action()).collect();
    assert_eq!(told, [("Forbidden", "Write"), ("AdmissionDenied", "Write")]);
}

#[test]
fn what_cannot_be_written_is_tried_again_after_a_minute_at_last() {
    let mut legacy = mode("Quarantine");
    unused(&mut legacy, "s", 1);
    let mut tries = 0;
    for second in 0..600 {
        if let Some((ticket, _)) = next(&mut legacy, at(second)) {
            refuse(&mut legacy, ticket, FailureReason::Forbidden, at(second));
            tries += 1;
        }
    }
    assert!((9..40).contains(&tries), "{tries} in ten minutes");
}

#[test]
fn a_namespace_wakes_no_secret_before_all_are_listed_and_only_if_its_labels_change() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({LAST_USED: "2027-01-15"}), at(0));
    assert!(next(&mut legacy, at(0)).is_none());
    let sleeps = |legacy: &Legacy| legacy.known.tokens.next_wake(at(0)).is_some_and(|until| until > at(9));
    let namespace = |legacy: &mut Legacy, event| legacy.observe(0, LegacyChange::Namespace(event), at(0));
    let labels = |team: &str| [("team".into(), team.into())].into();
    namespace(&mut legacy, WatchEvent::Applied(Key::new("", "ci"), 2, labels("a")));
    assert!(sleeps(&legacy), "nothing but its annotations");
    namespace(&mut legacy, WatchEvent::Applied(Key::new("", "dev"), 3, labels("b")));
    namespace(&mut legacy, WatchEvent::Deleted(Key::new("", "dev"), 4));
    assert!(sleeps(&legacy), "it is in another namespace");
    namespace(&mut legacy, WatchEvent::Applied(Key::new("", "ci"), 3, labels("b")));
    assert!(!sleeps(&legacy));
    let mut new = Legacy::new(7);
    seen(&mut new, 1, json!({}), at(0));
    assert!(next(&mut new, at(0)).is_none());
    namespace(&mut new, WatchEvent::Listing);
    namespace(&mut new, WatchEvent::Item(Key::new("", "ci"), 1, labels("a")));
    assert_eq!(new.known.tokens.next_wake(at(0)), None, "the first of a list");
    namespace(&mut new, WatchEvent::Listed);
    assert!(new.known.tokens.next_wake(at(0)).is_some());
}

#[test]
fn a_secret_that_one_policy_keeps_is_left_alone_by_the_others() {
    let mut legacy = mode("Delete");
    let keep = json!({"matchLabels": {"keep": "me"}});
    let elsewhere = json!({"keep": keep, "namespaceSelector": {"matchLabels": {"team": "b"}}});
    named_policy("elsewhere", &mut legacy, 2, elsewhere, Value::Null);
    seen(&mut legacy, 1, json!({"keep": "me"}), at(0));
    let (ticket, _) = next(&mut legacy, at(0)).expect("a policy for another namespace protects nothing here");
    refuse(&mut legacy, ticket, FailureReason::Conflict, at(0));
    named_policy("keeper", &mut legacy, 3, json!({ "keep": keep }), Value::Null);
    assert!(next(&mut legacy, at(100)).is_none());
    let counts = |request: &Request| body(request)["status"]["tokens"]["kept"].clone();
    let written = std::iter::from_fn(|| legacy.take_status(8, at(101)));
    let kept: BTreeMap<_, _> = written.map(|(_, request)| (request.path.clone(), counts(&request))).collect();
    assert_eq!(kept.into_values().collect::<Vec<_>>(), [json!(0), json!(1), json!(1)], "elsewhere, keeper, p");
}

/// The condition Overlapping of each policy, by name.
fn overlapping(legacy: &mut Legacy, now: Time) -> Vec<Value> {
    let written = std::iter::from_fn(|| legacy.take_status(8, now));
    let bodies: BTreeMap<_, _> = written.map(|(_, request)| (request.path.clone(), body(&request))).collect();
    let condition = |body: &Value| {
        let all = body["status"]["conditions"].as_array().unwrap().clone();
        all.into_iter().find(|it| it["type"] == "Overlapping").map_or(Value::Null, |it| it["message"].clone())
    };
    bodies.values().map(condition).collect()
}

#[test]
fn policies_for_the_same_namespaces_say_so() {
    let mut legacy = mode("Quarantine");
    let team = |team: &str| json!({"namespaceSelector": {"matchLabels": {"team": team}}});
    named_policy("a", &mut legacy, 2, team("a"), Value::Null);
    named_policy("b", &mut legacy, 3, team("b"), Value::Null);
    let messages = overlapping(&mut legacy, at(1));
    let begins = |nth: usize, text: &str| messages[nth].as_str().is_some_and(|message| message.starts_with(text));
    assert!(begins(0, "LegacyTokenPolicy p is for") && messages[1].is_null(), "no namespace has team=b: {messages:?}");
    assert!(begins(2, "LegacyTokenPolicy a is for"), "{messages:?}");
}

#[test]
fn a_lift_in_mode_report_is_remembered_until_the_mode_is_quarantine_again() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({INVALID_SINCE: "2027-01-15"}), at(0));
    policy(&mut legacy, 2, json!({"mode": "Report", "unusedFor": "48h"}), Value::Null);
    seen(&mut legacy, 2, json!({}), at(1));
    assert!(next(&mut legacy, at(1)).is_none());
    policy(&mut legacy, 3, json!({"mode": "Quarantine"}), Value::Null);
    let (_, request) = next(&mut legacy, at(2)).unwrap();
    assert_eq!(body(&request)["metadata"]["labels"], json!({INVALID_SINCE: ""}));
}

#[test]
fn watches_that_stopped_leave_nothing_and_nothing_is_written_until_they_have_listed_again() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({}), at(0));
    legacy.observe(0, LegacyChange::Policy(WatchEvent::Deleted(Key::new("", "p"), 9)), at(0));
    assert!(!legacy.is_needed());
    for stopped in [
        LegacyChange::Token(WatchEvent::Stopped),
        LegacyChange::References(By::Pod, WatchEvent::Stopped),
        LegacyChange::References(By::Account, WatchEvent::Stopped),
        LegacyChange::Namespace(WatchEvent::Stopped),
        LegacyChange::Tracking(WatchEvent::Stopped),
    ] {
        legacy.observe(0, stopped, at(0));
    }
    let known = (legacy.known.tokens.iter().count(), legacy.known.namespaces.len(), legacy.known.tracking.len());
    assert_eq!((known, legacy.next_wake(true, 0, at(0))), ((0, 0, 0), None));
    policy(&mut legacy, 10, json!({"mode": "Quarantine"}), Value::Null);
    seen(&mut legacy, 1, json!({}), at(1));
    tracking(&mut legacy, 1, Some(at(-86_400)));
    assert!(legacy.is_needed() && next(&mut legacy, at(1)).is_none(), "pods are not listed");
}

/// The status that is written now.
fn status(legacy: &mut Legacy, now: Time) -> Option<Value> {
    assert!(next(legacy, now).is_none());
    let (ticket, request) = legacy.take_status(8, now)?;
    legacy.answered(ticket, Ok("{}".into()), now);
    Some(body(&request)["status"].clone())
}

#[test]
fn a_status_lists_secrets_with_who_refers_to_them() {
    let mut legacy = mode("Report");
    let account = (Key::new("ci", "deployer"), [Name::from("s")].into());
    list(&mut legacy, |event| LegacyChange::References(By::Account, event), vec![account]);
    seen(&mut legacy, 1, json!({}), at(0));
    let written = status(&mut legacy, at(1)).unwrap();
    let counts = json!({"total": 1, "quarantined": 0, "mounted": 0, "kept": 0, "unknown": 0, "used": 0, "unused": 1});
    assert_eq!(written["tokens"], counts);
    let finding = json!({"namespace": "ci", "secret": "s", "serviceAccount": "deployer", "state": "Unused",
        "created": "2020-01-01T00:00:00Z", "lastUsed": "2020-01-01", "referredBy": ["serviceaccount/deployer"]});
    assert_eq!((&written["findings"], &written["conditions"][0]["status"]), (&json!([finding]), &json!("True")));
    policy(&mut legacy, 2, json!({"mode": "Report"}), written);
    assert_eq!(status(&mut legacy, at(3)), None, "nothing has changed");
}

#[test]
fn the_longest_unused_fifty_are_listed_and_all_are_counted() {
    let mut legacy = mode("Report");
    for n in 0..60 {
        let mut meta = meta(n + 1, json!({LAST_USED: format!("2020-{:02}-{:02}", 1 + n / 20, 20 - n % 20)}));
        meta["name"] = format!("s{n}").into();
        let token = LegacyToken::read(serde_json::from_value(meta).unwrap());
        let key = Key::new("ci", format!("s{n}"));
        legacy.observe(0, LegacyChange::Token(WatchEvent::Applied(key, n + 1, token)), at(0));
    }
    let written = status(&mut legacy, at(1)).unwrap();
    let findings = written["findings"].as_array().unwrap();
    assert_eq!((findings.len(), &written["tokens"]["total"]), (50, &json!(60)));
    assert_eq!((&findings[0]["secret"], &findings[49]["lastUsed"]), (&json!("s19"), &json!("2020-03-10")));
}

#[test]
fn a_report_says_why_nobody_knows_when_a_token_was_used() {
    let mut legacy = mode("Report");
    tracking(&mut legacy, 2, None);
    let mut unlabelled = meta(1, json!({}));
    unlabelled["labels"] = json!({});
    let token = LegacyToken::read(serde_json::from_value(unlabelled).unwrap());
    legacy.observe(0, LegacyChange::Token(WatchEvent::Applied(key(), 1, token)), at(0));
    let written = status(&mut legacy, at(1)).unwrap();
    let ready = &written["conditions"][0];
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("UsesNotRecorded")));
    let finding = &written["findings"][0];
    assert_eq!(finding["state"], "Unknown");
    assert!(finding["message"].as_str().unwrap().ends_with("see the condition Ready"), "{finding}");
    tracking(&mut legacy, 3, Some(at(-86_400)));
    let written = status(&mut legacy, at(3)).unwrap();
    assert_eq!((&written["findings"][0]["state"], &written["findings"][0]["message"]), (&json!("Used"), &Value::Null));
}

#[test]
fn a_status_says_why_nothing_is_done() {
    let mut legacy = mode("Quarantine");
    tracking(&mut legacy, 2, None);
    let ready = status(&mut legacy, at(1)).unwrap()["conditions"][0].clone();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("UsesNotRecorded")));
    legacy.watch_health(0, "pods", Some(Failure::new(FailureReason::Forbidden, "watch pods")), at(2));
    let ready = status(&mut legacy, at(3)).unwrap()["conditions"][0].clone();
    assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("Forbidden")));
    assert!(ready["message"].as_str().unwrap().ends_with("nothing is quarantined or deleted"), "{ready}");
}

#[test]
fn a_secret_that_was_judged_before_the_list_had_ended_is_judged_again() {
    let mut legacy = Legacy::new(7);
    list(&mut legacy, LegacyChange::Policy, Vec::new());
    policy(&mut legacy, 1, json!({"mode": "Quarantine"}), Value::Null);
    list(&mut legacy, |event| LegacyChange::References(By::Account, event), Vec::new());
    list(&mut legacy, LegacyChange::Namespace, vec![(Key::new("", "ci"), BTreeMap::new())]);
    tracking(&mut legacy, 1, Some(at(-86_400)));
    pods(&mut legacy, 1, &[]);
    let token = LegacyToken::read(serde_json::from_value(meta(1, json!({}))).unwrap());
    legacy.observe(0, LegacyChange::Token(WatchEvent::Listing), at(0));
    legacy.observe(0, LegacyChange::Token(WatchEvent::Item(key(), 1, token)), at(0));
    assert!(next(&mut legacy, at(0)).is_none(), "the list goes on");
    legacy.observe(0, LegacyChange::Token(WatchEvent::Listed), at(1));
    assert!(next(&mut legacy, at(1)).is_some());
}

#[test]
fn a_secret_is_left_alone_after_its_last_pod_went() {
    let mut legacy = mode("Quarantine");
    pods(&mut legacy, 2, &["s"]);
    seen(&mut legacy, 1, json!({}), at(0));
    assert!(next(&mut legacy, at(0)).is_none(), "a pod refers to it");
    legacy.observe(0, LegacyChange::References(By::Pod, WatchEvent::Deleted(Key::new("ci", "pod"), 3)), at(5));
    assert!(next(&mut legacy, at(5)).is_none(), "the pod may come back");
    seen(&mut legacy, 2, json!({"more": "labels"}), at(6));
    let days = |days: i64| at(5 + 86_400 * days);
    assert!(next(&mut legacy, days(30) - TimeDelta::seconds(10)).is_none(), "unusedFor has not gone by");
    assert!(next(&mut legacy, days(400)).is_some());
}

/// A tool that replaces the whole object takes labels away that others wrote.
#[test]
fn labels_that_are_taken_away_are_not_forgotten() {
    let mut legacy = mode("Quarantine");
    seen(&mut legacy, 1, json!({LAST_USED: "2027-01-15"}), at(0));
    let mut bare = meta(2, json!({}));
    bare["labels"] = json!({});
    let bare = |version: u64| {
        bare["resourceVersion"] = version.to_string().into();
        WatchEvent::Applied(key(), version, LegacyToken::read(serde_json::from_value(bare.clone()).unwrap()))
    };
    let mut bare = bare;
    legacy.observe(0, LegacyChange::Token(bare(2)), at(1));
    assert!(next(&mut legacy, at(1)).is_none(), "it was used today");
    seen(&mut legacy, 3, json!({INVALID_SINCE: "", LAST_USED: "2020-01-01"}), at(2));
    legacy.observe(0, LegacyChange::Token(bare(4)), at(3));
    let (_, request) = next(&mut legacy, at(3)).unwrap();
    assert_eq!(body(&request)["metadata"]["labels"], json!({INVALID_SINCE: ""}), "the lift is written down again");
}

#[test]
fn a_policy_that_does_not_parse_stops_all_writes_and_every_policy_says_so() {
    let mut legacy = mode("Quarantine");
    named_policy("keeper", &mut legacy, 2, json!({"mode": "Later", "keep": {}}), Value::Null);
    seen(&mut legacy, 1, json!({}), at(0));
    assert!(next(&mut legacy, at(0)).is_none());
    let told: Vec<Value> =
        std::iter::from_fn(|| legacy.take_status(9, at(2))).map(|(_, request)| body(&request)).collect();
    assert_eq!(told.len(), 2);
    for status in told.iter().map(|told| &told["status"]) {
        assert_eq!(status["conditions"][0]["reason"], "PolicyUnreadable", "{status}");
        assert!(status["observedGeneration"].as_i64() > Some(0), "{status}");
    }
    named_policy("keeper", &mut legacy, 3, json!({"mode": "Report"}), Value::Null);
    assert!(next(&mut legacy, at(3)).is_some());
}

#[test]
fn a_lift_comes_before_a_backlog_and_refusals_hold_up_nobody() {
    let mut legacy = mode("Quarantine");
    for n in 0..50 {
        let token = LegacyToken::read(serde_json::from_value(meta(1, json!({}))).unwrap());
        legacy.observe(
            0,
            LegacyChange::Token(WatchEvent::Applied(Key::new("ci", format!("a{n:02}")), 1, token)),
            at(0),
        );
    }
    seen(&mut legacy, 1, json!({INVALID_SINCE: "2027-01-15"}), at(0));
    seen(&mut legacy, 2, json!({}), at(0));
    let (_, request) = next(&mut legacy, at(0)).unwrap();
    assert_eq!(body(&request)["metadata"]["labels"], json!({INVALID_SINCE: ""}));
    let (mut now, mut refused) = (at(1), 0);
    while now < at(5) {
        if let Some((ticket, _)) = next(&mut legacy, now) {
            let failure = Failure::new(FailureReason::AdmissionDenied, "patch");
            legacy.answered(ticket, Err(Box::new(Refusal { code: Some(403), object: None, failure })), now);
            refused += 1;
        }
        now += TimeDelta::milliseconds(40);
    }
    assert!(refused >= 50, "{refused} of 50 were tried within 4 s");
}
