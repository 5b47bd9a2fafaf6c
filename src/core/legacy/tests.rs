use serde_json::{Value, json};

use super::{policy::tests::policy, *};

/// 2027-01-15T08:00:00Z and so many days.
fn at(days: i64) -> Time {
    Time::from_timestamp(1_800_000_000 + days * 86_400, 0).unwrap()
}

/// Midnight after 2027-01-15 and so many days.
fn midnight(days: i64) -> Time {
    at(days) + chrono::TimeDelta::hours(16)
}

/// A Secret of 2020 with these labels, and what else its metadata has.
fn token(labels: Value, more: Value) -> LegacyToken {
    let mut meta =
        json!({"name": "s", "uid": "u", "resourceVersion": "7", "creationTimestamp": "2020-01-01T00:00:00Z"});
    meta["labels"] = labels;
    let Value::Object(more) = more else { panic!("{more}") };
    meta.as_object_mut().unwrap().extend(more);
    LegacyToken::read(serde_json::from_value(meta).unwrap())
}

fn used(day: &str) -> LegacyToken {
    token(json!({ LAST_USED: day }), json!({}))
}

fn around(now: Time) -> Surroundings {
    Surroundings { now, tracked: Some(midnight(-100)), mounted: false, kept: false, acts: true }
}

const THIRTY: &str = r#"{"mode":"Quarantine","unusedFor":"720h"}"#;
const DELETE: &str = r#"{"mode":"Delete","unusedFor":"720h","deleteAfter":"240h"}"#;

fn act(around: Surroundings, token: &LegacyToken, spec: &str) -> LegacyAct {
    let policy = policy(spec);
    decide(Surroundings { kept: policy.keeps(token), ..around }, token, &"p".into(), &policy)
}

fn is_quarantined(act: &LegacyAct) -> bool {
    matches!(act, LegacyAct::Step(LegacyStep::Quarantine { .. }))
}

#[test]
fn a_token_is_unused_from_the_end_of_the_day_of_its_last_use() {
    let token = used("2027-01-15");
    assert_eq!(act(around(at(0)), &token, THIRTY), LegacyAct::Wait(Some(midnight(30))));
    let before = midnight(30) - chrono::TimeDelta::seconds(1);
    assert_eq!(act(around(before), &token, THIRTY), LegacyAct::Wait(Some(midnight(30))));
    assert_eq!(
        act(around(midnight(30)), &token, THIRTY),
        LegacyAct::Step(LegacyStep::Quarantine {
            policy: "p".into(),
            idle: midnight(0),
            today: midnight(30).date_naive()
        })
    );
}

#[test]
fn without_a_use_the_later_of_creation_and_first_recorded_day_counts() {
    let old = token(json!({}), json!({}));
    assert_eq!(idle_since(&old, Some(midnight(-100))), Ok(midnight(-100)));
    let new = token(json!({}), json!({"creationTimestamp": "2027-01-14T08:00:00Z"}));
    assert_eq!(idle_since(&new, Some(midnight(-100))), Ok(at(-1)));
    assert_eq!((idle_since(&old, None), idle_since(&used("2027-01-15"), None)), (Err(NO_RECORD), Ok(midnight(0))));
}

#[test]
fn a_copy_is_not_older_than_itself() {
    let copy = token(json!({ LAST_USED: "2020-01-01" }), json!({"creationTimestamp": "2027-01-14T08:00:00Z"}));
    assert_eq!(act(around(at(0)), &copy, THIRTY), LegacyAct::Wait(Some(at(29))));
}

#[test]
fn what_is_not_known_to_be_unused_is_never_touched() {
    let old = used("2020-01-01");
    assert!(is_quarantined(&act(around(at(0)), &old, THIRTY)), "else the rest shows nothing");
    let nothing = LegacyAct::Wait(None);
    for (what, around, token) in [
        ("mounted", Surroundings { mounted: true, ..around(at(0)) }, &old),
        ("something is not known", Surroundings { acts: false, ..around(at(0)) }, &old),
        ("no day", around(at(0)), &used("yesterday")),
        ("no day of Kubernetes", around(at(0)), &used("2020-1-1")),
        ("no record", Surroundings { tracked: None, ..around(at(0)) }, &token(json!({}), json!({}))),
        (
            "terminating",
            around(at(0)),
            &token(json!({ LAST_USED: "2020-01-01" }), json!({"deletionTimestamp": "2027-01-01T00:00:00Z"})),
        ),
    ] {
        assert_eq!(act(around, token, THIRTY), nothing, "{what}");
    }
    assert!(!is_quarantined(&act(around(at(0)), &used("2099-01-01"), THIRTY)), "used in the future");
    let kept = token(json!({ LAST_USED: "2020-01-01", "keep": "me" }), json!({}));
    let keeping = r#"{"mode":"Delete","keep":{"matchLabels":{"keep":"me"}}}"#;
    assert_eq!(act(around(at(0)), &kept, keeping), nothing);
    assert_eq!(act(around(at(0)), &old, r#"{"unusedFor":"720h"}"#), nothing, "Report");
}

fn quarantined(since: &str, last: &str) -> LegacyToken {
    token(json!({ INVALID_SINCE: since, LAST_USED: last }), json!({}))
}

#[test]
fn deletion_waits_for_quarantine_and_for_every_try_to_use_it() {
    let token = quarantined("2027-01-15", "2020-01-01");
    let gone = LegacyAct::Step(LegacyStep::Delete { policy: "p".into(), since: midnight(0) });
    assert_eq!(act(around(at(0)), &token, DELETE), LegacyAct::Wait(Some(midnight(10))));
    assert_eq!(act(around(midnight(10)), &token, DELETE), gone);
    let tried = quarantined("2027-01-15", "2027-01-16");
    assert_eq!(act(around(midnight(10)), &tried, DELETE), LegacyAct::Wait(Some(midnight(31))));
    let nothing = LegacyAct::Wait(None);
    assert_eq!(act(around(midnight(9999)), &token, THIRTY), nothing, "Quarantine deletes nothing");
    assert_eq!(act(Surroundings { mounted: true, ..around(midnight(99)) }, &token, DELETE), nothing);
    assert_eq!(act(Surroundings { acts: false, ..around(midnight(99)) }, &token, DELETE), nothing);
    assert_eq!(act(around(midnight(99)), &quarantined("x", "2020-01-01"), DELETE), nothing, "since nobody knows when");
    let keeping = r#"{"mode":"Delete","keep":{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}}"#;
    assert_eq!(act(around(midnight(9999)), &token, keeping), nothing);
}

/// The label is empty, as of this managed field.
fn lifted(time: &str) -> LegacyToken {
    let fields = json!({"f:metadata": {"f:labels": {format!("f:{INVALID_SINCE}"): {}}}});
    let other = json!({"f:metadata": {"f:labels": {"f:other": {}}}});
    let managed = json!([{"manager": "x", "time": "2027-09-09T00:00:00Z", "fieldsV1": other},
        {"manager": "kubectl-label", "time": time, "fieldsV1": fields}]);
    token(json!({ INVALID_SINCE: "", LAST_USED: "2020-01-01" }), json!({ "managedFields": managed }))
}

#[test]
fn one_that_was_lifted_counts_as_used_then() {
    let token = lifted("2027-01-15T08:00:00Z");
    assert_eq!(act(around(at(1)), &token, THIRTY), LegacyAct::Wait(Some(at(30))));
    assert!(is_quarantined(&act(around(at(30)), &token, THIRTY)));
    let never = LegacyToken { quarantine: Quarantine::No, ..token };
    assert!(is_quarantined(&act(around(at(1)), &never, THIRTY)));
}

#[test]
fn one_that_was_lifted_nobody_knows_when_is_left_alone() {
    let token = token(json!({ INVALID_SINCE: "", LAST_USED: "2020-01-01" }), json!({}));
    assert_eq!(act(around(at(9999)), &token, DELETE), LegacyAct::Wait(None));
    assert_eq!(state(around(at(9999)), &token, &policy(DELETE)), LegacyState::Unknown);
}

#[test]
fn a_restored_secret_has_its_whole_time_in_quarantine() {
    let labels = json!({ INVALID_SINCE: "2020-01-01", LAST_USED: "2020-01-01" });
    let restored = token(labels, json!({"creationTimestamp": "2027-01-14T08:00:00Z"}));
    let quick = r#"{"mode":"Delete","unusedFor":"24h","deleteAfter":"240h"}"#;
    assert_eq!(act(around(at(0)), &restored, quick), LegacyAct::Wait(Some(at(9))));
}

#[test]
fn a_removed_label_is_remembered_until_it_is_written_down() {
    use crate::core::kernel::tended::Tended as _;
    let before = quarantined("2027-01-15", "2020-01-01");
    let mut after = used("2020-01-01");
    after.follow(&before);
    assert_eq!(act(around(at(0)), &after, THIRTY), LegacyAct::Step(LegacyStep::Lift));
    assert_eq!(act(around(at(0)), &after, "{}"), LegacyAct::Wait(None), "Report writes nothing");
    let mut later = used("2020-01-01");
    later.follow(&after);
    assert!(later.was_lifted, "other changes do not forget it");
    let mut written = lifted("2027-01-15T08:00:00Z");
    written.follow(&later);
    assert_eq!(act(around(at(0)), &written, THIRTY), LegacyAct::Wait(Some(at(30))));
    let mut recreated = LegacyToken { uid: "other".into(), ..used("2020-01-01") };
    recreated.follow(&before);
    assert!(is_quarantined(&act(around(at(0)), &recreated, THIRTY)), "another Secret of that name");
}

#[test]
fn one_that_pods_refer_to_or_a_policy_keeps_is_not_written_either_when_it_was_lifted() {
    let lifted = LegacyToken { was_lifted: true, ..used("2020-01-01") };
    let lift = |around| act(around, &lifted, DELETE);
    assert_eq!(lift(around(at(0))), LegacyAct::Step(LegacyStep::Lift));
    assert_eq!(lift(Surroundings { mounted: true, ..around(at(0)) }), LegacyAct::Wait(None));
    let keeping = r#"{"mode":"Delete","keep":{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}}"#;
    assert_eq!(act(around(at(0)), &lifted, keeping), LegacyAct::Wait(None));
}

#[test]
fn a_day_that_nobody_can_count_from_is_none() {
    for day in ["+262142-12-30", "-0001-01-01", "10000-01-01", "+2020-1-01", "2020-1-1", "2020-13-01"] {
        assert_eq!(token::day_end(day), None, "{day}");
    }
    let endless = Surroundings { tracked: token::day_end("9999-12-31"), ..around(at(0)) };
    assert!(matches!(act(endless, &token(json!({}), json!({})), THIRTY), LegacyAct::Wait(Some(_))));
}

#[test]
fn of_several_policies_the_first_that_acts_counts() {
    let names = ["a", "b", "c"].map(Name::from);
    let policies = [policy("{}"), policy(r#"{"mode":"Quarantine","unusedFor":"48h"}"#), policy(THIRTY)];
    let all = |now| decide_all(around(now), &used("2027-01-15"), names.iter().zip(&policies));
    assert_eq!(all(at(0)), LegacyAct::Wait(Some(midnight(2))));
    assert!(matches!(all(midnight(2)), LegacyAct::Step(LegacyStep::Quarantine { policy, .. }) if policy == "b"));
    let backwards = names.iter().zip(&policies).rev();
    let first = decide_all(around(midnight(30)), &used("2027-01-15"), backwards);
    assert!(matches!(first, LegacyAct::Step(LegacyStep::Quarantine { policy, .. }) if policy == "b"), "by name");
}

#[test]
fn each_secret_is_in_one_state() {
    let keep = policy(r#"{"unusedFor":"720h","keep":{"matchLabels":{"keep":"me"}}}"#);
    let mounted = Surroundings { mounted: true, ..around(at(0)) };
    for (around, token, wanted) in [
        (around(at(0)), used("2027-01-14"), LegacyState::Used),
        (around(at(0)), used("2026-01-14"), LegacyState::Unused),
        (around(at(0)), used("?"), LegacyState::Unknown),
        (mounted, used("2026-01-14"), LegacyState::Mounted),
        (mounted, quarantined("2027-01-14", "?"), LegacyState::Quarantined),
        (around(at(0)), token(json!({"keep": "me"}), json!({})), LegacyState::Kept),
        (around(at(0)), lifted("2027-01-14T00:00:00Z"), LegacyState::Used),
    ] {
        let around = Surroundings { kept: keep.keeps(&token), ..around };
        assert_eq!(state(around, &token, &keep), wanted, "{token:?}");
    }
}

#[test]
fn texts_of_others_are_bounded() {
    for name in ["a/b", "a\nb", &"y".repeat(254)] {
        let annotations =
            json!({"kubernetes.io/service-account.name": name, "kubernetes.io/service-account.uid": "u".repeat(37)});
        assert_eq!(token(json!({}), json!({"annotations": annotations})).account, ("".into(), "".into()));
    }
}
