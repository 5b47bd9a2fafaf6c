//! Recovery by itself: whatever is done to an account, a target or an anchor from outside, it is put right with one
//! fresh token where a new one is needed, with none where only metadata differ, and the event says why.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Map, Value, json};
use tokenward_e2e::proxy::RuleHandle;
use tokenward_e2e::scene::grants::SWEEP;
use tokenward_e2e::scene::{SOON, Scene, Target, spec};
use tokenward_e2e::{Act, Rule, eventually};

const TARGET: &str = "p-deployer";

/// Deletes the account and creates it again, with nothing in between.
async fn recreate(scene: &Scene) -> Result<()> {
    scene.accounts().delete("deployer", &DeleteParams::default()).await?;
    scene.account("deployer", &[]).await?;
    Ok(())
}

/// Holds these watches back, as if what they tell came late.
async fn late(scene: &Scene, kind: &str, watches: u64) -> Result<RuleHandle> {
    let path = format!("/namespaces/{}/{kind}", scene.namespace);
    let held = scene.proxy.add(Rule::before(move |call| call.is_watch() && call.path.ends_with(&path), Act::Hold));
    scene.proxy.cut_connections();
    held.reached_times(watches, SOON).await?;
    Ok(held)
}

/// Waits for the fresh token of an account of policy `p`; it works, and the event gives this cause.
async fn reissued(scene: &Scene, account: &str, before: &Target, cause: &str) -> Result<Target> {
    let after = scene.next_target(&format!("p-{account}"), before).await?;
    let told = scene.told("p", "TokenReissued", after.token_id()).await?;
    ensure!(told.note.contains(&format!("({cause})")), "another cause than {cause}: {}", told.note);
    scene.holds(&after).await?;
    Ok(after)
}

/// That the account got so many tokens in all, and that its target stays as it is now.
async fn minted(scene: &Scene, account: &str, target: &Target, mints: usize) -> Result<()> {
    let (got, now) = (scene.mints_of(account), scene.target(&format!("p-{account}")).await?);
    ensure!(got == mints, "{account}: {got} tokens minted for {mints}");
    ensure!(now.version() == target.version(), "the target of {account} was written again");
    Ok(())
}

/// Waits until this anchor is the only one of `p`; every [`Scene::fence`] has its own.
async fn only_anchor(scene: &Scene, target: &Target, fences: usize) -> Result<()> {
    let check = async || {
        let anchors = scene.anchors().await?;
        ensure!(anchors.len() == 1 + fences, "{anchors:?}");
        ensure!(anchors.iter().any(|anchor| anchor == target.anchor()), "{anchors:?}");
        Ok(())
    };
    eventually(SOON, "the other anchors go", check).await
}

#[tokio::test]
async fn an_account_recreated_within_a_second_gets_one_working_token() -> Result<()> {
    let scene = Scene::start("at-once").await?;
    let first = scene.deployer(json!({})).await?;
    recreate(&scene).await?;
    let second = reissued(&scene, "deployer", &first, "AccountRecreated").await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.fence("after").await?;
    minted(&scene, "deployer", &second, 2).await?;
    only_anchor(&scene, &second, 1).await?;
    assert_eq!(second.previous()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn an_account_recreated_again_and_again_ends_with_a_working_token() -> Result<()> {
    let scene = Scene::start("over-and-over").await?;
    let first = scene.deployer(json!({})).await?;
    for _ in 0..5 {
        recreate(&scene).await?;
    }
    let uid = scene.accounts().get("deployer").await?.metadata.uid.context("uid")?;
    let settled = async || {
        let target = scene.target(TARGET).await?;
        ensure!(target.says("service-account-uid") == uid, "for an earlier account");
        Ok(target)
    };
    let last = eventually(SOON, "a token of the last account", settled).await?;
    scene.holds(&last).await?;
    scene.fence("after").await?;
    // What an account got before it was deleted in turn was needed as well.
    let mints = scene.mints_of("deployer");
    minted(&scene, "deployer", &last, mints).await?;
    assert!((2..=6).contains(&mints), "{mints} tokens");
    only_anchor(&scene, &last, 1).await?;
    scene.bearer(first.token()).await?.dies().await
}

#[tokio::test]
async fn a_rotation_asked_for_before_the_news_of_another_account_costs_one_token() -> Result<()> {
    let scene = Scene::start("late-accounts").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rest().await?;
    let held = late(&scene, "serviceaccounts", 1).await?;
    recreate(&scene).await?;
    scene.rotate("p", "1").await?;
    let second = reissued(&scene, "deployer", &first, "AccountRecreated").await?;
    held.release();
    scene.fence("after").await?;
    minted(&scene, "deployer", &second, 2).await?;
    only_anchor(&scene, &second, 1).await?;
    assert_eq!(second.says("rotate"), "1");
    Ok(())
}

#[tokio::test]
async fn an_account_recreated_while_the_news_of_secrets_is_late_costs_one_token() -> Result<()> {
    let scene = Scene::start("late-secrets").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rest().await?;
    let held = late(&scene, "secrets", 2).await?;
    recreate(&scene).await?;
    let second = reissued(&scene, "deployer", &first, "AccountRecreated").await?;
    held.release();
    scene.fence("after").await?;
    minted(&scene, "deployer", &second, 2).await?;
    only_anchor(&scene, &second, 1).await
}

#[tokio::test]
async fn a_target_deleted_without_notice_and_another_account_cost_one_token() -> Result<()> {
    let scene = Scene::start("late-deletion").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rest().await?;
    let held = late(&scene, "secrets", 2).await?;
    scene.delete_secret(TARGET).await?;
    recreate(&scene).await?;
    let check = async || scene.target(TARGET).await;
    let second = eventually(SOON, "a new target", check).await?;
    scene.holds(&second).await?;
    scene.told("p", "TokenReissued", second.token_id()).await?;
    held.release();
    scene.fence("after").await?;
    minted(&scene, "deployer", &second, 2).await?;
    only_anchor(&scene, &second, 1).await?;
    scene.bearer(first.token()).await?.dies().await
}

/// The targets of policy `p` after everybody was issued a token under this `rotate` value, in the accounts' order.
async fn issued_under(scene: &Scene, accounts: &[&str], value: &str) -> Result<Vec<Target>> {
    let check = async || {
        let mut targets = Vec::new();
        for account in accounts {
            let target = scene.target(&format!("p-{account}")).await?;
            ensure!(target.says("rotate") == value, "{account} was issued under {:?}", target.says("rotate"));
            targets.push(target);
        }
        Ok(targets)
    };
    eventually(SOON, &format!("all under {value:?}"), check).await
}

#[tokio::test]
async fn whatever_is_done_to_the_token_one_fresh_one_replaces_it() -> Result<()> {
    let scene = Scene::start("token-edits").await?;
    let accounts = ["emptied", "cut", "binary", "older", "of-another", "all-gone"];
    for account in accounts {
        scene.account(account, &[]).await?;
    }
    scene.policy("p", &spec(&accounts, json!({}))).await?;
    let first = issued_under(&scene, &accounts, "").await?;
    scene.rotate("p", "1").await?;
    let second = issued_under(&scene, &accounts, "1").await?;
    let edits = [
        json!({"data": {"token": ""}}),
        json!({"stringData": {"token": second[1].token()[..100]}}),
        json!({"data": {"token": "//79"}}),
        json!({"stringData": {"token": first[3].token()}}),
        json!({"stringData": {"token": second[0].token()}}),
        json!({"data": null}),
    ];
    for (account, edit) in accounts.iter().zip(edits) {
        scene.patch_secret(&format!("p-{account}"), edit).await?;
    }
    let mut third = Vec::new();
    for (account, before) in accounts.iter().zip(&second) {
        third.push(reissued(&scene, account, before, "DataChanged").await.with_context(|| (*account).to_owned())?);
    }
    scene.fence("after").await?;
    for (account, target) in accounts.iter().zip(&third) {
        minted(&scene, account, target, 3).await?;
    }
    Ok(())
}

/// What somebody makes of the owners of a Secret of policy `p`, by account.
async fn forgeries(scene: &Scene) -> Result<[(&'static str, Value); 4]> {
    let reference = async |policy: &str, power: bool| {
        let uid = scene.policies().get(policy).await?.metadata.uid;
        let mut owner =
            json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "name": policy, "uid": uid});
        if power {
            owner["controller"] = json!(true);
            owner["blockOwnerDeletion"] = json!(true);
        }
        anyhow::Ok(owner)
    };
    let (ours, theirs) = (reference("p", false).await?, reference("other", false).await?);
    Ok([
        ("another-policy", json!([theirs])),
        ("both-policies", json!([ours, theirs])),
        ("no-owner", json!([])),
        ("powers", json!([reference("p", true).await?])),
    ])
}

/// Waits until the Secret has the owners it had before.
async fn owned_again(scene: &Scene, name: &str, before: &Secret) -> Result<()> {
    let check = async || {
        let owners = scene.secrets().get(name).await?.metadata.owner_references;
        ensure!(owners == before.metadata.owner_references, "{owners:?}");
        Ok(())
    };
    eventually(SOON, &format!("the owner of {name} is back"), check).await
}

#[tokio::test]
async fn forged_owners_are_put_right_without_a_mint() -> Result<()> {
    let scene = Scene::start("forged").await?;
    scene.fence("other").await?;
    let accounts = ["another-policy", "both-policies", "no-owner", "powers"];
    for account in accounts {
        scene.account(account, &[]).await?;
    }
    scene.policy("p", &spec(&accounts, json!({}))).await?;
    scene.ready("p").await?;
    for (account, owners) in forgeries(&scene).await? {
        let name = format!("p-{account}");
        let before = scene.target(&name).await?;
        let anchor = scene.secrets().get(before.anchor()).await?;
        for secret in [&name, before.anchor()] {
            scene.patch_secret(secret, json!({"metadata": {"ownerReferences": owners}})).await?;
        }
        owned_again(&scene, &name, &before.secret).await.context(account)?;
        owned_again(&scene, before.anchor(), &anchor).await.context(account)?;
        let told = scene.told("p", "SecretRepaired", &name).await?;
        ensure!(told.note.contains("OwnersChanged"), "{}", told.note);
        let after = scene.target(&name).await?;
        ensure!((after.data == before.data) && (after.token_id() == before.token_id()), "{account}: another token");
        scene.holds(&after).await?;
    }
    scene.fence("after").await?;
    assert_eq!(accounts.map(|account| scene.mints_of(account)), [1; 4]);
    Ok(())
}

/// A merge patch that takes off all that tells that the Secret is ours.
fn stripped(target: &Target) -> Value {
    let annotations = target.secret.metadata.annotations.iter().flatten();
    let ours = annotations.filter(|(key, _)| key.starts_with("tokenward.dev/"));
    let nothing: Map<String, Value> = ours.map(|(key, _)| (key.clone(), Value::Null)).collect();
    json!({"metadata": {"labels": {"tokenward.dev/role": null}, "annotations": nothing}})
}

/// An anchor of the target's grant that no target names, as a crash leaves one behind.
async fn lost_anchor(scene: &Scene, target: &Target) -> Result<String> {
    let mut anchor = scene.secrets().get(target.anchor()).await?;
    anchor.metadata.name = Some("tw-0000000000".to_owned());
    anchor.metadata.uid = None;
    anchor.metadata.resource_version = None;
    anchor.metadata.managed_fields = None;
    let made = scene.secrets().create(&PostParams::default(), &anchor).await?;
    made.metadata.name.context("no name")
}

#[tokio::test]
async fn a_target_without_label_and_annotations_is_foreign_and_its_token_lives_on() -> Result<()> {
    let scene = Scene::start("stripped").await?;
    let first = scene.deployer(json!({})).await?;
    scene.patch_secret(TARGET, stripped(&first)).await?;
    let message = scene.not_ready("p", "TargetNotOwned").await?;
    assert!(message.contains("delete that Secret or choose another secret.name"), "{message}");
    let stripped = scene.target(TARGET).await?;
    // An anchor that is younger than this one, and that nobody names either, is swept.
    scene.fence("other").await?;
    let lost = lost_anchor(&scene, &scene.target("other-other").await?).await?;
    let swept = async || {
        ensure!(scene.secrets().get_metadata_opt(&lost).await?.is_none(), "it is there");
        Ok(())
    };
    eventually(SWEEP, "the lost anchor of another grant is swept", swept).await?;
    assert!(scene.anchors().await?.iter().any(|anchor| anchor == first.anchor()));
    scene.bearer(first.token()).await?.lives().await?;
    minted(&scene, "deployer", &stripped, 1).await?;
    // What the message says helps; such a Secret is looked at again once a minute.
    scene.delete_secret(TARGET).await?;
    eventually(2 * SOON, "ready with the name free", async || scene.ready("p").await).await?;
    let second = scene.target(TARGET).await?;
    scene.holds(&second).await?;
    scene.bearer(first.token()).await?.dies().await?;
    only_anchor(&scene, &second, 1).await?;
    minted(&scene, "deployer", &second, 2).await
}

#[tokio::test]
async fn a_label_stripped_while_the_operator_is_down_is_put_back_without_a_mint() -> Result<()> {
    let scene = Scene::start("label-down").await?;
    let first = scene.deployer(json!({})).await?;
    scene.operator.kill9()?;
    scene.patch_secret(TARGET, json!({"metadata": {"labels": {"tokenward.dev/role": null}}})).await?;
    scene.operator.restart()?;
    let back = async || {
        let target = scene.target(TARGET).await?;
        ensure!(target.secret.metadata.labels == first.secret.metadata.labels, "{:?}", target.secret.metadata.labels);
        Ok(target)
    };
    let second = eventually(SOON, "the label is back", back).await?;
    scene.told("p", "SecretRepaired", "MetadataChanged").await?;
    scene.fence("after").await?;
    assert_eq!((second.version().0, &second.data), (first.version().0, &first.data));
    scene.holds(&second).await?;
    minted(&scene, "deployer", &second, 1).await
}

#[tokio::test]
async fn anchors_deleted_while_the_operator_is_down_cost_one_token() -> Result<()> {
    let scene = Scene::start("anchors-down").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.operator.kill9()?;
    scene.delete_secret(first.anchor()).await?;
    scene.delete_secret(second.anchor()).await?;
    scene.operator.restart()?;
    let third = reissued(&scene, "deployer", &second, "AnchorDeleted").await?;
    for old in [&first, &second] {
        scene.bearer(old.token()).await?.dies().await?;
    }
    scene.fence("after").await?;
    minted(&scene, "deployer", &third, 3).await?;
    assert_eq!(third.previous()?, Vec::<String>::new());
    only_anchor(&scene, &third, 1).await
}

#[tokio::test]
async fn an_old_anchor_deleted_while_the_operator_is_down_costs_nothing() -> Result<()> {
    let scene = Scene::start("old-anchor-down").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rotate("p", "1").await?;
    let second = scene.next_target(TARGET, &first).await?;
    scene.operator.kill9()?;
    scene.delete_secret(first.anchor()).await?;
    scene.operator.restart()?;
    scene.operator.ready().await?;
    scene.fence("after").await?;
    scene.holds(&second).await?;
    assert_eq!((scene.mints_of("deployer"), scene.target(TARGET).await?.token_id()), (2, second.token_id()));
    Ok(())
}
