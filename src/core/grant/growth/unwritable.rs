//! Secrets that the API server would refuse: people are told why, and no token is issued for nothing.

use serde_json::{Value, json};

use super::{Crowd, names};
use crate::{
    api::{format::FormatOptions, token_policy::TokenPolicy},
    core::{
        address::KnownAddress,
        grant::{
            event::GrantNews,
            model::server::{Server, address},
        },
        reason::FailureReason,
    },
};

fn formatted(policy: &mut TokenPolicy, format: &Value) {
    names(policy, vec!["app".into()]);
    policy.spec.secret.format = serde_json::from_value::<FormatOptions>(format.clone()).unwrap();
}

fn with_ca(bytes: usize) -> KnownAddress {
    let mut known = address();
    known.address.ca = vec![b'x'; bytes];
    known
}

/// A policy with that many CAs of so many bytes in its Secret.
fn filled(times: usize, bytes: usize) -> Crowd {
    let mut server = Server::new();
    server.account("ci", "app", &[]);
    let data = json!({"token": "{token}", "ca": "{ca}".repeat(times)});
    server.policy("ci", "p", |policy| formatted(policy, &json!({"type": "Custom", "custom": {"data": data}})));
    let mut crowd = Crowd::start_at(server, with_ca(bytes));
    crowd.settle();
    crowd.pass(2);
    crowd
}

#[test]
fn no_token_is_issued_for_a_secret_that_is_too_large() {
    let mut crowd = filled(15, 109_000);
    let (status, message) = crowd.conditions().remove("Stalled").unwrap();
    let told = "spec.secret.format would give Secret ci/p-app 1635512 bytes of data, and a Secret has at most 1048576 (1 MiB); use {ca}";
    assert!(status == "True" && message.contains(told), "{message}");
    let calls = ["create token", "create secrets", "apply secrets"].map(|call| crowd.server.count(call));
    assert_eq!((calls, crowd.server.mints), ([0; 3], 0));
    crowd.server.policy("ci", "p", |policy| formatted(policy, &json!({"type": "Token"})));
    crowd.pass(2);
    crowd.pass(2);
    assert_eq!((crowd.server.mints, crowd.conditions().remove("Stalled")), (1, None));
}

#[test]
fn a_secret_that_just_fits_is_written() {
    let crowd = filled(1, (1 << 20) - 1000);
    assert_eq!((crowd.server.mints, crowd.server.count("apply secrets")), (1, 1));
}

#[test]
fn a_larger_ca_leaves_the_secret_as_it_is() {
    let mut crowd = filled(15, 100);
    crowd.grants.observe_address(with_ca(109_000), crowd.server.now);
    crowd.pass(2);
    crowd.pass(2);
    let all = crowd.conditions();
    assert!(all.get("Reconciling").is_some_and(|(_, message)| message.contains("1635512 bytes of data")), "{all:?}");
    assert_eq!((crowd.server.mints, crowd.server.count("apply secrets")), (1, 1));
}

/// What people were told of failures.
fn failures(crowd: &mut Crowd) -> Vec<String> {
    let failing = |news| match news {
        GrantNews::Failing(failure) if failure.reason == FailureReason::TargetImmutable => {
            Some(failure.message.to_string())
        }
        GrantNews::Recovered => Some("recovered".into()),
        _ => None,
    };
    crowd.events().into_iter().filter_map(|event| failing(event.what)).collect()
}

#[test]
fn a_secret_of_another_type_is_told_with_both() {
    let registry = json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}});
    for issue in [false, true] {
        let mut crowd = Crowd::of_one();
        crowd.events();
        crowd.server.policy("ci", "p", |policy| {
            formatted(policy, &registry);
            policy.spec.secret.name = "p-app".into();
            if issue {
                policy.spec.token.duration = crate::api::duration::Duration::from_secs(7200);
            }
        });
        crowd.pass(2);
        crowd.pass(200);
        let told = r#"Secret ci/p-app has the type "Opaque", which cannot change, and spec.secret.format needs "kubernetes.io/dockerconfigjson"; choose another secret.name, or delete that Secret"#;
        let all = failures(&mut crowd);
        assert!(matches!(all.as_slice(), [one] if one.contains(told)), "{all:?}");
        let all = crowd.conditions();
        assert!(all["Ready"].1.contains(told), "{all:?}");
        assert_eq!(crowd.server.mints, 1 + usize::from(issue), "the token is kept for the Secret to come");
        crowd.server.delete_secrets(false);
        crowd.pass(200);
        assert_eq!(failures(&mut crowd), ["recovered"]);
    }
}
