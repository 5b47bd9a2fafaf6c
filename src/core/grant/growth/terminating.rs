//! Objects that are being deleted, and that a finalizer of somebody else holds: the API server accepts their tokens for 60 s.

use super::*;
use crate::api::token_policy::Binding;

#[test]
fn a_target_that_is_held_is_revoked_and_replaced_when_it_is_gone() {
    for (binding, anchors) in [(Binding::Anchor, 1), (Binding::Target, 0)] {
        let mut crowd = Crowd::of_one();
        crowd.server.policy("ci", "p", |policy| policy.spec.token.binding = binding);
        crowd.settle();
        crowd.pass(70);
        let mints = crowd.server.mints;
        crowd.server.end_target("example.com/held");
        (0..5).for_each(|_| crowd.pass(1));
        assert_eq!((crowd.server.mints - mints, crowd.server.anchors().len()), (0, 0), "{binding:?}");
        let (ready, told) = crowd.conditions().remove("Ready").unwrap();
        assert!(ready == "False" && told.contains("held by its finalizers (example.com/held)"), "{told}");
        (0..60).for_each(|_| crowd.pass(10));
        assert_eq!(crowd.server.mints, mints, "{binding:?}: nothing can be written");
        crowd.server.delete_secrets(false);
        crowd.settle();
        (0..2).for_each(|_| crowd.pass(1));
        assert_eq!((crowd.server.mints - mints, crowd.server.anchors().len()), (1, anchors), "{binding:?}");
        assert_eq!(crowd.conditions()["Ready"].0, "True", "{binding:?}");
    }
}

#[test]
fn a_process_that_finds_a_held_target_says_the_same() {
    let mut crowd = Crowd::of_one();
    crowd.pass(70);
    crowd.server.end_target("example.com/held");
    crowd.server.log.clear();
    crowd.restart();
    (0..100).for_each(|_| crowd.pass(1));
    let (ready, told) = crowd.conditions().remove("Ready").unwrap();
    assert!(ready == "False" && told.contains("example.com/held"), "{told}");
    assert_eq!(crowd.server.anchors().len(), 0);
}

#[test]
fn an_account_that_is_held_has_a_token_for_another_minute() {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    crowd.server.end_account("ci", "app");
    let ready = |crowd: &mut Crowd, seconds: usize| {
        (0..seconds).for_each(|_| crowd.pass(1));
        crowd.conditions()["Ready"].0.clone()
    };
    assert_eq!([ready(&mut crowd, 50), ready(&mut crowd, 13)], ["True", "False"]);
}
