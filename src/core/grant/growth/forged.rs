//! D4 and D5: a Secret that somebody else wrote touches nothing outside its grant.

use serde_json::json;

use super::*;
use crate::core::{names as annotation, place::secret::READS};

/// A Secret with the marks of a target and no managed fields of ours.
fn forge(server: &mut Server, n: usize) {
    let mut meta = json!(server.secrets[&("ci".to_owned(), "p-app".to_owned())].meta);
    meta["managedFields"] = json!([]);
    let annotations = meta["annotations"].as_object_mut().unwrap();
    annotations.insert(annotation::POLICY.into(), "theirs".into());
    annotations.insert(annotation::TARGET.into(), "theirs-app".into());
    annotations.insert(annotation::SERVICE_ACCOUNT.into(), "app".into());
    annotations.insert(annotation::KEY_ID.into(), format!("forged-{n}-{}", "x".repeat(2000)).into());
    annotations.insert(annotation::ISSUED_AT.into(), "2106-01-01T00:00:00Z".into());
    annotations.insert(annotation::EXPIRES_AT.into(), "2106-01-02T00:00:00Z".into());
    server.put("evil", "theirs-app", meta, false, std::collections::BTreeMap::new());
}

#[test]
fn a_forged_secret_changes_no_status_of_another_namespace_and_leaves_nothing_behind() {
    let mut crowd = Crowd::of_one();
    crowd.pass(2);
    let status = |crowd: &Crowd| crowd.server.policies[&("ci".to_owned(), "p".to_owned())].status.clone();
    let keys =
        |crowd: &Crowd| crowd.grants.tokens_by_key().map(|(key, n)| (key.map(str::to_owned), n)).collect::<Vec<_>>();
    let (before, keys_before) = (status(&crowd), keys(&crowd));
    for n in 0..1000 {
        forge(&mut crowd.server, n);
        crowd.hear();
    }
    crowd.pass(5);
    assert_eq!((status(&crowd), keys(&crowd)), (before, keys_before));
    let longest = crowd.grants.signers().map(|signer| signer.key_id.len()).max();
    assert!(crowd.grants.signers().count() <= 128 && longest <= Some(256), "{longest:?}");
}

/// The marks of an anchor of this policy and account, on so many Secrets that anybody made.
fn forge_anchors(server: &mut Server, many: usize) {
    let anchor = server.secrets.values().find(|stored| stored.is_anchor).unwrap().meta.clone();
    for n in 0..many {
        server.put("ci", &format!("tw-forged{n:05}"), json!(anchor), true, std::collections::BTreeMap::new());
    }
}

#[test]
fn forged_anchors_of_one_grant_hold_up_nobody_and_are_all_retired() {
    let mut server = Server::new();
    for name in ["app", "other"] {
        server.account("ci", name, &[]);
        server.policy("ci", &format!("p-{name}"), |policy| names(policy, vec![name.into()]));
    }
    let mut crowd = Crowd::start(server);
    crowd.settle();
    forge_anchors(&mut crowd.server, 1000);
    crowd.hear();
    let (mut open, mut sent) = (std::collections::VecDeque::new(), 0);
    let before = crate::core::meta::text(crowd.server.now);
    crowd.server.policy("ci", "p-app", |policy| {
        policy.metadata.annotations.get_or_insert_default().insert(annotation::REVOKE_ISSUED_BEFORE.into(), before);
    });
    while let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) {
        open.push_back((ticket, request));
        sent += 1;
    }
    assert!(sent <= 20, "{sent} calls at once");
    for (ticket, request) in open {
        crowd.perform(ticket, &request);
    }
    crowd.pass(5);
    crowd.pass(90);
    assert_eq!(crowd.server.anchors().len(), 2);
}

/// Each decision goes through each Secret and each anchor a few times, not through each Secret for each anchor.
#[test]
fn forged_secrets_and_forged_anchors_do_not_multiply() {
    let (secrets, anchors) = (50, 400);
    let mut crowd = Crowd::of_one();
    let forged = crowd.server.secrets[&("ci".to_owned(), "p-app".to_owned())].meta.clone();
    forge_anchors(&mut crowd.server, anchors);
    for n in 0..secrets {
        let (name, mut meta) = (format!("forged-{n}"), json!(forged));
        meta["annotations"][annotation::TARGET] = name.as_str().into();
        crowd.server.put("ci", &name, meta, false, std::collections::BTreeMap::new());
    }
    crowd.hear();
    let (reads, decisions) = (READS.get(), crowd.grants.decisions);
    while crowd.grants.take(&mut 256, crowd.server.now).is_some() {}
    let (reads, decisions) = (READS.get() - reads, crowd.grants.decisions - decisions);
    assert!(decisions > 0 && reads <= 10 * secrets * decisions, "{reads} reads in {decisions} decisions");
}

/// A Secret that names the anchor of another grant of its namespace.
#[test]
fn a_forged_secret_takes_no_anchor_of_another_grant() {
    for (name, ours) in [("a-forged", false), ("a-forged", true), ("z-forged", false), ("z-forged", true)] {
        let mut crowd = Crowd::of_one();
        crowd.pass(2);
        let mut meta = json!(crowd.server.secrets[&("ci".to_owned(), "p-app".to_owned())].meta);
        if !ours {
            meta["managedFields"] = json!([]);
        }
        meta["annotations"][annotation::POLICY] = "theirs".into();
        meta["annotations"][annotation::TARGET] = name.into();
        crowd.server.put("ci", name, meta, false, std::collections::BTreeMap::new());
        for restarted in [false, true] {
            if restarted {
                crowd.restart();
            }
            crowd.server.annotate("ci", "p", annotation::ROTATE, name);
            let mut calls = 0;
            loop {
                crowd.hear();
                let Some((ticket, request)) = crowd.grants.take(&mut 256, crowd.server.now) else { break };
                crowd.perform(ticket, &request);
                calls += 1;
                assert!(calls <= 20, "{name} {ours} {restarted}: {}", request.what);
            }
            crowd.pass(2);
            assert_eq!(crowd.conditions()["Ready"].0, "True", "{name} {ours} {restarted}");
        }
    }
}
