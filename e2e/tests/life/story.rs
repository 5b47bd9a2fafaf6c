//! The life of a token, as a user sees it.

use anyhow::{Context, Result, ensure};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use std::time::{Duration, Instant};
use tokenward_e2e::scene::{SOON, Scene, Target, claims, spec};
use tokenward_e2e::{Act, Rule, eventually};

#[tokio::test]
async fn a_policy_publishes_a_working_token() -> Result<()> {
    let scene = Scene::start("published").await?;
    let target = scene.deployer(json!({})).await?;
    let keys: Vec<&str> = target.data.keys().map(String::as_str).collect();
    assert_eq!(keys, ["ca.crt", "namespace", "server", "token"]);
    assert_eq!(target.value("namespace"), "published");
    assert_eq!(target.value("ca.crt").trim(), scene.proxy.ca_pem().trim());
    assert_eq!(target.value("server"), scene.proxy.url());
    assert_eq!(claims(target.token())?["jti"], target.token_id());
    let user = "system:serviceaccount:published:deployer";
    assert_eq!(scene.review(target.token(), &[]).await?["user"]["username"], user);
    let bearer = scene.bearer(target.token()).await?;
    assert_eq!(bearer.whoami().await?.as_deref(), Some(user));
    assert_eq!(bearer.get(&scene.config_maps()).await?, 200);
    assert_eq!(bearer.get("/api/v1/namespaces/published/secrets").await?, 403);
    assert_eq!(bearer.get("/api/v1/namespaces/default/configmaps").await?, 403);
    assert_eq!((scene.mints(), scene.anchors().await?), (1, vec![target.anchor().to_owned()]));
    Ok(())
}

#[tokio::test]
async fn kubectl_prints_the_columns() -> Result<()> {
    let scene = Scene::start("columns").await?;
    scene.account("other", &[]).await?;
    scene.deployer(json!({})).await?;
    scene.policy("p", &spec(&["deployer", "other"], json!({}))).await?;
    let policy = scene.ready("p").await?;
    let get = async |args: &[&str]| scene.plane.kubectl_ok(["-n", "columns", "get"].iter().chain(args)).await;
    let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let short = words(&get(&["tokenpolicies"]).await?);
    let status = &policy.data["status"];
    let (expires, rotates) = (status["earliestExpiration"].as_str(), status["nextRotation"].as_str());
    assert_eq!(short[..6], ["NAME", "READY", "ACCOUNTS", "EXPIRES", "NEXT-ROTATION", "AGE"]);
    assert_eq!(short[6..9], ["p", "True", "2/2"]);
    assert_eq!((Some(&*short[9]), Some(&*short[10])), (expires, rotates));
    let wide = words(&get(&["tp", "-o", "wide"]).await?);
    assert_eq!(wide[6..9], ["FORMAT", "GRANTED", "REASON"]);
    assert_eq!(wide[wide.len() - 3..], ["Token", "24h", "TokensPublished"]);
    assert!(get(&["tokenward", "-o", "name"]).await?.contains("tokenpolicy.tokenward.dev/p"));
    Ok(())
}

#[tokio::test]
async fn the_rotate_annotation_rotates_once_per_value() -> Result<()> {
    let scene = Scene::start("rotated").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("once", &first).await?;
    scene.bearer(second.token()).await?.lives().await?;
    scene.bearer(first.token()).await?.lives().await?;
    assert_eq!(second.previous()?, [first.anchor()]);
    assert_eq!(second.says("rotate"), "once");
    scene.rotate("p", "once").await?;
    scene.annotate("p", "unrelated", Some("value")).await?;
    scene.fence("same-value").await?;
    scene.annotate("p", "tokenward.dev/rotate", None).await?;
    scene.fence("removed").await?;
    assert_eq!(scene.mints_of("deployer"), 2);
    assert_eq!(scene.target("p-deployer").await?.version(), second.version());
    // The value it was issued under is remembered, so putting it back is no news either.
    scene.rotate("p", "once").await?;
    scene.fence("put-back").await?;
    assert_eq!(scene.target("p-deployer").await?.version(), second.version());
    Ok(())
}

#[tokio::test]
async fn the_old_token_dies_when_its_overlap_ends() -> Result<()> {
    let scene = Scene::start("overlap").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "3s"}})).await?;
    let second = scene.rotated("1", &first).await?;
    scene.gone(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    let counted = async || {
        let text = scene.operator.metrics().await?;
        // A planned end, and no revocation.
        ensure!(text.contains("tokenward_tokens_retired_total 1\n"), "{text}");
        ensure!(!text.contains("tokenward_tokens_revoked_total{"), "{text}");
        Ok(())
    };
    eventually(SOON, "the end of the overlap is counted", counted).await?;
    assert_eq!((scene.mints(), scene.anchors().await?), (2, vec![second.anchor().to_owned()]));
    Ok(())
}

#[tokio::test]
async fn a_token_is_replaced_when_it_is_due() -> Result<()> {
    let scene = Scene::start("due").await?;
    let first = scene.deployer(json!({"rotation": {"maxAge": "1m", "overlap": "1m"}})).await?;
    let check = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.token_id() != first.token_id(), "the same");
        Ok(target)
    };
    let second = eventually(2 * SOON, "a token a minute later", check).await?;
    let issued = |target: &Target| claims(target.token())?["iat"].as_i64().context("no iat");
    // One minute, less at most a tenth of it.
    let age = issued(&second)? - issued(&first)?;
    assert!(age >= 53, "{age}");
    assert_eq!(second.previous()?, [first.anchor()]);
    scene.told("p", "TokenRotated", "Due").await?;
    Ok(())
}

#[tokio::test]
async fn deleting_the_old_anchor_kills_exactly_the_old_token() -> Result<()> {
    let scene = Scene::start("old-anchor").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("1", &first).await?;
    let (old, new) = (scene.bearer(first.token()).await?, scene.bearer(second.token()).await?);
    old.lives().await?;
    scene.delete_secret(first.anchor()).await?;
    old.dies().await?;
    assert_eq!(old.get(&scene.config_maps()).await?, 401);
    assert_eq!(new.get(&scene.config_maps()).await?, 200);
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 2);
    assert_eq!(scene.target("p-deployer").await?.token_id(), second.token_id());
    Ok(())
}

#[tokio::test]
async fn deleting_the_current_anchor_brings_a_fresh_token() -> Result<()> {
    let scene = Scene::start("current-anchor").await?;
    let first = scene.deployer(json!({})).await?;
    scene.delete_secret(first.anchor()).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.bearer(second.token()).await?.lives().await?;
    assert_eq!(second.previous()?, Vec::<String>::new());
    scene.told("p", "TokenReissued", "AnchorDeleted").await?;
    assert_eq!((scene.mints(), scene.anchors().await?), (2, vec![second.anchor().to_owned()]));
    Ok(())
}

#[tokio::test]
async fn a_recreated_account_gets_a_working_token() -> Result<()> {
    let scene = Scene::start("recreated").await?;
    let first = scene.deployer(json!({})).await?;
    scene.accounts().delete("deployer", &DeleteParams::default()).await?;
    let message = scene.not_ready("p", "AccountNotFound").await?;
    assert!(message.contains("create the ServiceAccount"), "{message}");
    scene.bearer(first.token()).await?.dies().await?;
    assert_eq!(scene.target("p-deployer").await?.version(), first.version());
    scene.account("deployer", &[]).await?;
    scene.ready("p").await?;
    let second = scene.target("p-deployer").await?;
    assert_ne!(second.token_id(), first.token_id());
    assert_eq!(scene.bearer(second.token()).await?.get(&scene.config_maps()).await?, 200);
    scene.told("p", "TokenReissued", "AccountRecreated").await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn deleting_the_target_revokes_its_tokens_and_brings_a_fresh_one() -> Result<()> {
    let scene = Scene::start("target-deleted").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("1", &first).await?;
    scene.delete_secret("p-deployer").await?;
    let check = async || scene.target("p-deployer").await;
    let third = eventually(SOON, "a new target", check).await?;
    assert_ne!(third.version().0, first.version().0);
    for old in [&first, &second] {
        scene.bearer(old.token()).await?.dies().await?;
        scene.gone(old.anchor()).await?;
    }
    scene.bearer(third.token()).await?.lives().await?;
    scene.told("p", "TokenReissued", "TargetDeleted").await?;
    assert_eq!((scene.mints(), scene.anchors().await?), (3, vec![third.anchor().to_owned()]));
    Ok(())
}

#[tokio::test]
async fn what_others_put_on_the_target_survives_a_rotation() -> Result<()> {
    let scene = Scene::start("others").await?;
    let first = scene.deployer(json!({"secret": {"labels": {"app": "ours"}}})).await?;
    let theirs = json!({"labels": {"team": "theirs"}, "annotations": {"theirs.example/note": "kept"}});
    scene.patch_secret("p-deployer", json!({"metadata": theirs, "stringData": {"extra": "theirs"}})).await?;
    let second = scene.rotated("1", &first).await?;
    let metadata = &second.secret.metadata;
    let labels = metadata.labels.as_ref().context("no labels")?;
    let annotations = metadata.annotations.as_ref().context("no annotations")?;
    assert_eq!((labels["team"].as_str(), labels["app"].as_str()), ("theirs", "ours"));
    assert_eq!(annotations["theirs.example/note"], "kept");
    assert_eq!(second.value("extra"), "theirs");
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn an_edited_or_deleted_key_is_repaired_with_a_fresh_token() -> Result<()> {
    let scene = Scene::start("edited").await?;
    let first = scene.deployer(json!({})).await?;
    scene.patch_secret("p-deployer", json!({"stringData": {"token": "garbage"}})).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(second.token()).await?.lives().await?;
    scene.told("p", "TokenReissued", "DataChanged").await?;
    scene.patch_secret("p-deployer", json!({"data": {"server": null}})).await?;
    let check = async || {
        let target = scene.target("p-deployer").await?;
        ensure!(target.value("server") == scene.proxy.url(), "{:?}", target.data.keys());
        Ok(target)
    };
    let third = eventually(SOON, "the server is back", check).await?;
    scene.bearer(third.token()).await?.lives().await?;
    Ok(())
}

#[tokio::test]
async fn a_stripped_role_label_is_put_back_without_a_mint() -> Result<()> {
    let scene = Scene::start("label").await?;
    let first = scene.deployer(json!({})).await?;
    for secret in ["p-deployer", first.anchor()] {
        scene.patch_secret(secret, json!({"metadata": {"labels": {"tokenward.dev/role": null}}})).await?;
        let back = async || {
            let labels = scene.secrets().get(secret).await?.metadata.labels.unwrap_or_default();
            ensure!(labels.contains_key("tokenward.dev/role"), "{labels:?}");
            Ok(())
        };
        eventually(SOON, &format!("the label of {secret} is back"), back).await?;
    }
    scene.told("p", "SecretRepaired", "MetadataChanged").await?;
    let after = scene.target("p-deployer").await?;
    assert_eq!((after.token(), after.version().0), (first.token(), first.version().0));
    assert_eq!(after.data, first.data);
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    Ok(())
}

#[tokio::test]
async fn a_foreign_owner_is_removed_without_a_mint() -> Result<()> {
    let scene = Scene::start("owners").await?;
    let first = scene.deployer(json!({})).await?;
    let account = scene.accounts().get("deployer").await?.metadata;
    let foreign = json!({"apiVersion": "v1", "kind": "ServiceAccount", "name": account.name, "uid": account.uid});
    for secret in ["p-deployer", first.anchor()] {
        let add = json!([{"op": "add", "path": "/metadata/ownerReferences/-", "value": foreign}]);
        let add = Patch::Json::<()>(serde_json::from_value(add)?);
        let owned = scene.secrets().patch(secret, &PatchParams::default(), &add).await?;
        assert_eq!(owned.metadata.owner_references.map(|owners| owners.len()), Some(2));
        let alone = async || {
            let owners = scene.secrets().get(secret).await?.metadata.owner_references.unwrap_or_default();
            let kinds: Vec<&str> = owners.iter().map(|owner| owner.kind.as_str()).collect();
            ensure!(kinds == ["TokenPolicy"], "{kinds:?}");
            Ok(())
        };
        eventually(SOON, &format!("{secret} has one owner"), alone).await?;
    }
    scene.told("p", "SecretRepaired", "OwnersChanged").await?;
    scene.fence("after").await?;
    assert_eq!(scene.target("p-deployer").await?.data, first.data);
    assert_eq!(scene.mints_of("deployer"), 1);
    Ok(())
}

#[tokio::test]
async fn deleting_the_policy_removes_its_secrets_and_kills_the_tokens() -> Result<()> {
    let scene = Scene::start("ended").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("1", &first).await?;
    scene.delete_policy("p").await?;
    for secret in ["p-deployer", first.anchor(), second.anchor()] {
        scene.gone(secret).await?;
    }
    for old in [&first, &second] {
        scene.bearer(old.token()).await?.dies().await?;
    }
    scene.fence("after").await?;
    assert_eq!((scene.mints_of("deployer"), scene.anchors().await?.len()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn retain_keeps_secrets_and_tokens() -> Result<()> {
    let scene = Scene::start("retained").await?;
    let target = scene.deployer(json!({"deletionPolicy": "Retain"})).await?;
    let before = scene.versions().await?;
    scene.delete_policy("p").await?;
    scene.fence("after").await?;
    let after = scene.versions().await?;
    assert!(before.iter().all(|(name, version)| after.get(name) == Some(version)), "{before:?} {after:?}");
    scene.bearer(target.token()).await?.lives().await?;
    Ok(())
}

#[tokio::test]
async fn the_deletion_policy_counts_while_suspended() -> Result<()> {
    let scene = Scene::start("suspended-retain").await?;
    let target = scene.deployer(json!({})).await?;
    scene.policy("p", &spec(&["deployer"], json!({"suspend": true, "deletionPolicy": "Retain"}))).await?;
    eventually(SOON, "no owner is left", async || {
        for name in ["p-deployer", target.anchor()] {
            let owners = scene.secrets().get(name).await?.metadata.owner_references.unwrap_or_default();
            ensure!(owners.is_empty(), "{name}: {owners:?}");
        }
        Ok(())
    })
    .await?;
    scene.delete_policy("p").await?;
    scene.fence("after").await?;
    scene.bearer(target.token()).await?.lives().await?;
    Ok(())
}

#[tokio::test]
async fn forged_annotations_make_nothing_of_others_disappear() -> Result<()> {
    let scene = Scene::start("decoys").await?;
    scene.deployer(json!({})).await?;
    let decoy = |name: &str, role: &str| {
        let annotations = json!({"tokenward.dev/policy": "p", "tokenward.dev/service-account": "deployer", "tokenward.dev/target": name});
        json!({"metadata": {"name": name, "annotations": annotations, "labels": {"tokenward.dev/role": role}}, "stringData": {"pw": "1"}})
    };
    for (name, role) in [("tw-decoy", "anchor"), ("old-name", "target")] {
        scene.secrets().create(&PostParams::default(), &serde_json::from_value(decoy(name, role))?).await?;
    }
    let before = scene.versions().await?;
    let forged = json!({"metadata": {"annotations": {"tokenward.dev/anchor": "tw-decoy&x="}}});
    scene.patch_secret("p-deployer", forged).await?;
    eventually(SOON, "the forged name is gone", async || {
        ensure!(!scene.target("p-deployer").await?.anchor().contains('&'));
        Ok(())
    })
    .await?;
    scene.rotate("p", "1").await?;
    scene.fence("after").await?;
    let after = scene.versions().await?;
    for name in ["tw-decoy", "old-name"] {
        assert_eq!(before.get(name), after.get(name), "{name}");
    }
    Ok(())
}

#[tokio::test]
async fn an_account_taken_out_of_the_names_loses_its_target_after_ten_seconds() -> Result<()> {
    let scene = Scene::start("unnamed").await?;
    scene.account("stays", &[]).await?;
    scene.account("goes", &[]).await?;
    scene.policy("p", &spec(&["stays", "goes"], json!({}))).await?;
    scene.ready("p").await?;
    let (stays, goes) = (scene.target("p-stays").await?, scene.target("p-goes").await?);
    let start = Instant::now();
    scene.policy("p", &spec(&["stays"], json!({}))).await?;
    let policy = scene.ready("p").await?;
    assert_eq!(policy.data["status"]["accounts"]["summary"], "1/1");
    scene.gone("p-goes").await?;
    // The operator counts in the API server's time, which it knows by the second.
    assert!(start.elapsed() >= Duration::from_secs(9), "{:?}", start.elapsed());
    scene.bearer(goes.token()).await?.dies().await?;
    scene.gone(goes.anchor()).await?;
    scene.told("p", "TokenRevoked", "Unselected").await?;
    assert_eq!(scene.target("p-stays").await?.version(), stays.version());
    Ok(())
}

#[tokio::test]
async fn an_account_that_loses_its_label_loses_its_target() -> Result<()> {
    let scene = Scene::start("unlabelled").await?;
    scene.account("stays", &[("token", "yes")]).await?;
    scene.account("goes", &[("token", "yes")]).await?;
    let selector = json!({"serviceAccounts": {"selector": {"matchLabels": {"token": "yes"}}}});
    scene.policy("p", &selector).await?;
    scene.ready("p").await?;
    let (stays, goes) = (scene.target("p-stays").await?, scene.target("p-goes").await?);
    let strip = Patch::Merge(json!({"metadata": {"labels": {"token": null}}}));
    scene.accounts().patch("goes", &PatchParams::default(), &strip).await?;
    scene.gone("p-goes").await?;
    scene.bearer(goes.token()).await?.dies().await?;
    assert_eq!(scene.target("p-stays").await?.version(), stays.version());
    // An account that gets the label gets a token.
    let add = Patch::Merge(json!({"metadata": {"labels": {"token": "yes"}}}));
    scene.accounts().patch("goes", &PatchParams::default(), &add).await?;
    let back = eventually(SOON, "p-goes is back", async || scene.target("p-goes").await).await?;
    scene.bearer(back.token()).await?.lives().await?;
    Ok(())
}

#[tokio::test]
async fn a_renamed_target_is_published_before_the_old_one_goes() -> Result<()> {
    let scene = Scene::start("renamed").await?;
    let first = scene.deployer(json!({})).await?;
    let removal = Rule::before(|call| call.is("DELETE", "/secrets/p-deployer"), Act::Hold);
    let removal = scene.proxy.add(removal);
    scene.policy("p", &spec(&["deployer"], json!({"secret": {"name": "renamed"}}))).await?;
    removal.reached().await?;
    let second = scene.target("renamed").await?;
    assert_eq!(second.previous()?, [first.anchor()]);
    assert_eq!(scene.target("p-deployer").await?.token_id(), first.token_id());
    removal.release();
    scene.gone("p-deployer").await?;
    scene.ready("p").await?;
    scene.fence("after").await?;
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    assert_eq!(scene.target("renamed").await?.previous()?, [first.anchor()]);
    assert_eq!(scene.mints_of("deployer"), 2);
    Ok(())
}

#[tokio::test]
async fn another_format_is_rendered_with_the_same_token() -> Result<()> {
    let scene = Scene::start("format").await?;
    let first = scene.deployer(json!({})).await?;
    let kubeconfig = json!({"secret": {"format": {"type": "Kubeconfig"}}});
    scene.policy("p", &spec(&["deployer"], kubeconfig)).await?;
    scene.ready("p").await?;
    let second = scene.target("p-deployer").await?;
    assert_eq!(second.data.keys().collect::<Vec<_>>(), ["config"]);
    assert!(second.value("config").contains(first.token()));
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    scene.ready("p").await?;
    let third = scene.target("p-deployer").await?;
    assert_eq!((third.data, third.secret.metadata.uid), (first.data, first.secret.metadata.uid));
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn another_duration_brings_a_fresh_token() -> Result<()> {
    let scene = Scene::start("duration").await?;
    let first = scene.deployer(json!({"token": {"duration": "30m"}})).await?;
    scene.policy("p", &spec(&["deployer"], json!({"token": {"duration": "1h"}}))).await?;
    let policy = scene.ready("p").await?;
    assert_eq!(policy.data["status"]["grantedDuration"], "1h");
    let second = scene.target("p-deployer").await?;
    let life = |target: &Target| -> Result<i64> {
        let claims = claims(target.token())?;
        Ok(claims["exp"].as_i64().context("exp")? - claims["iat"].as_i64().context("iat")?)
    };
    assert_eq!((life(&first)?, life(&second)?), (1800, 3600));
    scene.bearer(first.token()).await?.lives().await?;
    assert_eq!(scene.mints(), 2);
    Ok(())
}

#[tokio::test]
async fn a_token_for_other_audiences_is_for_them_only() -> Result<()> {
    let scene = Scene::start("story-audiences").await?;
    let target = scene.deployer(json!({"token": {"audiences": ["vault"]}})).await?;
    let answer = scene.review(target.token(), &["vault"]).await?;
    assert_eq!((&answer["authenticated"], &answer["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(scene.bearer(target.token()).await?.whoami().await?, None);
    Ok(())
}

#[tokio::test]
async fn suspend_stops_issuing_and_says_so() -> Result<()> {
    let scene = Scene::start("story-suspended").await?;
    let first = scene.deployer(json!({})).await?;
    scene.policy("p", &spec(&["deployer"], json!({"suspend": true}))).await?;
    let (policy, suspended) = scene.condition("p", "Suspended", "True").await?;
    assert!(suspended.message.contains("set spec.suspend to false"), "{}", suspended.message);
    assert_eq!(policy.data["status"]["earliestExpiration"], first.says("expires-at"));
    scene.rotate("p", "1").await?;
    scene.delete_secret(first.anchor()).await?;
    scene.bearer(first.token()).await?.dies().await?;
    scene.fence("after").await?;
    assert_eq!(scene.mints_of("deployer"), 1);
    assert_eq!(scene.target("p-deployer").await?.version(), first.version());
    scene.policy("p", &spec(&["deployer"], json!({}))).await?;
    let second = scene.next_target("p-deployer", &first).await?;
    scene.bearer(second.token()).await?.lives().await?;
    let policy = scene.ready("p").await?;
    assert_eq!(tokenward_e2e::scene::condition(&policy, "Suspended"), None);
    Ok(())
}

#[tokio::test]
async fn a_kubeconfig_works_with_kubectl_and_keeps_its_bytes_over_a_restart() -> Result<()> {
    let scene = Scene::start("story-kubeconfig").await?;
    let format = json!({"type": "Kubeconfig", "kubeconfig": {"clusterName": "prod"}});
    let target = scene.deployer(json!({"secret": {"format": format}})).await?;
    let config = target.value("config");
    let run = async |args: &[&str]| scene.kubectl_with(config, args).await;
    // No namespace is given: the kubeconfig's own is used.
    assert!(run(&["get", "configmaps"]).await?.status.success());
    let refused = run(&["get", "secrets"]).await?;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Forbidden"), "{refused:?}");
    let who = run(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?;
    assert_eq!(String::from_utf8_lossy(&who.stdout), "system:serviceaccount:story-kubeconfig:deployer");
    let context = run(&["config", "current-context"]).await?;
    assert_eq!(String::from_utf8_lossy(&context.stdout).trim(), "prod");
    scene.operator.restart()?;
    scene.operator.ready().await?;
    // A new label has the same token rendered again.
    let labelled = json!({"secret": {"format": format, "labels": {"app": "x"}}});
    scene.policy("p", &spec(&["deployer"], labelled)).await?;
    scene.ready("p").await?;
    let after = scene.target("p-deployer").await?;
    assert_ne!(after.version(), target.version());
    assert_eq!(after.data, target.data);
    assert_eq!(scene.mints(), 1);
    Ok(())
}

#[tokio::test]
async fn events_tell_the_whole_story() -> Result<()> {
    let scene = Scene::start("told").await?;
    let first = scene.deployer(json!({})).await?;
    let issued = scene.told("p", "TokenIssued", first.token_id()).await?;
    assert_eq!((issued.kind.as_str(), issued.related.as_str()), ("Normal", "p-deployer"));
    let second = scene.rotated("1", &first).await?;
    scene.told("p", "TokenRotated", second.token_id()).await?;
    scene.accounts().delete("deployer", &DeleteParams::default()).await?;
    let failing = scene.told("p", "AccountNotFound", "create the ServiceAccount").await?;
    assert_eq!(failing.kind, "Warning");
    scene.account("deployer", &[]).await?;
    let third = scene.next_target("p-deployer", &second).await?;
    scene.told("p", "TokenReissued", third.token_id()).await?;
    scene.told("p", "Recovered", "deployer").await?;
    let printed = scene.plane.kubectl_ok(["-n", "told", "get", "events"]).await?;
    for reason in ["TokenIssued", "TokenRotated", "AccountNotFound", "TokenReissued", "Recovered"] {
        assert!(printed.contains(reason), "{reason} is not in:\n{printed}");
    }
    assert!(printed.contains("tokenpolicy/p"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn metrics_count_and_a_deleted_policy_loses_its_series() -> Result<()> {
    let scene = Scene::start("story-metrics").await?;
    let first = scene.deployer(json!({})).await?;
    scene.rotated("1", &first).await?;
    scene.policy("failing", &spec(&["nobody"], json!({}))).await?;
    scene.not_ready("failing", "AccountNotFound").await?;
    let expiry = r#"tokenward_policy_earliest_expiration_timestamp_seconds{namespace="story-metrics",policy="p"}"#;
    let rotation = r#"tokenward_policy_next_rotation_timestamp_seconds{namespace="story-metrics",policy="p"}"#;
    let told = async || {
        let text = scene.operator.metrics().await?;
        for line in [
            "tokenward_tokens_minted_total 2",
            r#"tokenward_tokens_published_total{reason="FirstIssue"} 1"#,
            r#"tokenward_tokens_published_total{reason="RotationRequested"} 1"#,
            "tokenward_events_dropped_total 0",
            "tokenward_clock_skew_seconds ",
            expiry,
            rotation,
        ] {
            ensure!(text.lines().any(|found| found.starts_with(line)), "no {line} in\n{text}");
        }
        // Nothing but the policy's own name: no series per account.
        ensure!(!text.contains("deployer"), "{text}");
        Ok(())
    };
    eventually(SOON, "metrics", told).await?;
    scene.delete_policy("p").await?;
    let vanished = async || {
        let text = scene.operator.metrics().await?;
        ensure!(!text.contains(r#"policy="p""#), "{text}");
        Ok(())
    };
    eventually(SOON, "no series of a deleted policy", vanished).await
}

#[tokio::test]
async fn a_restart_changes_no_secret() -> Result<()> {
    let scene = Scene::start("restarted").await?;
    let first = scene.deployer(json!({"rotation": {"overlap": "1h"}})).await?;
    let second = scene.rotated("1", &first).await?;
    for name in ["a", "b", "c"] {
        scene.fence(name).await?;
    }
    let before = scene.versions().await?;
    let mark = scene.proxy.mark();
    scene.operator.restart()?;
    scene.operator.ready().await?;
    scene.fence("after").await?;
    let after = scene.versions().await?;
    assert!(before.iter().all(|(name, version)| after.get(name) == Some(version)), "{before:?} {after:?}");
    // The anchor, the target; nothing for the grants that were there before.
    let writes = |method: &str| scene.proxy.calls_since(mark, method, "/secrets").len();
    assert_eq!((writes("POST"), writes("PATCH"), writes("DELETE"), writes("PUT")), (1, 1, 0, 0));
    for target in [&first, &second] {
        scene.bearer(target.token()).await?.lives().await?;
    }
    Ok(())
}
