//! `rotate` and `revoke`.

use super::{error, ok, on_terminal, said};
use anyhow::{Result, ensure};
use serde_json::json;
use tokenward_e2e::scene::{Scene, Target, spec};

/// A policy `p` for two accounts.
async fn pair(scene: &Scene) -> Result<[Target; 2]> {
    scene.account("a", &[]).await?;
    scene.account("b", &[]).await?;
    scene.policy("p", &spec(&["a", "b"], json!({}))).await?;
    scene.ready("p").await?;
    Ok([scene.target("p-a").await?, scene.target("p-b").await?])
}

/// Whether the API server accepts the token of a target at this moment.
async fn lives(scene: &Scene, target: &Target) -> Result<bool> {
    Ok(scene.bearer(target.token()).await?.whoami().await?.is_some())
}

#[tokio::test]
async fn a_rotation_is_waited_for_and_leaves_the_old_token_alive() -> Result<()> {
    let scene = Scene::start("plugin-rotate").await?;
    let first = scene.deployer(json!({})).await?;
    let done = said(&scene, "rotate p --reason drill --yes --wait").await?;
    ensure!(done.out == "tokenpolicy.tokenward.dev/p annotated\nthe new tokens work\n", "{done:?}");
    ensure!(
        done.aside.contains(&format!("current   {}  Secret plugin-rotate/p-deployer", first.token_id())),
        "{done:?}"
    );
    let second = scene.target("p-deployer").await?;
    ensure!(
        second.token_id() != first.token_id() && second.says("rotate").ends_with("Z drill"),
        "{}",
        second.says("rotate")
    );
    ensure!(lives(&scene, &first).await? && lives(&scene, &second).await?);
    ok(&scene, &format!("rotate --token-id {} --yes --wait", second.token_id())).await?;
    ensure!(scene.target("p-deployer").await?.token_id() != second.token_id());
    Ok(())
}

#[tokio::test]
async fn a_revoked_policy_has_no_old_token_left_when_the_wait_is_over() -> Result<()> {
    let scene = Scene::start("plugin-revoke").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("1", &first).await?;
    // In use, so that the API server remembers the answer.
    ensure!(lives(&scene, &first).await? && lives(&scene, &second).await?);
    let done = said(&scene, "revoke p --reason leaked-in-log --yes --wait").await?;
    ensure!(done.out.ends_with("annotated\nthe old tokens are refused, and their successors work\n"), "{done:?}");
    for token in [&first, &second] {
        ensure!(done.aside.contains(token.token_id()), "{done:?}");
        // The first was used as well, and no Secret holds its text: that it is dead shows a moment later.
        scene.bearer(token.token()).await?.dies().await?;
    }
    ensure!(lives(&scene, &scene.target("p-deployer").await?).await?);
    scene.told("p", "TokenRevoked", "leaked-in-log").await?;
    Ok(())
}

#[tokio::test]
async fn one_token_is_revoked_alone() -> Result<()> {
    let scene = Scene::start("plugin-one").await?;
    let first = scene.deployer(json!({})).await?;
    let second = scene.rotated("1", &first).await?;
    let line = format!("revoke --token-id {} --yes --wait", first.token_id());
    let done = ok(&scene, &line).await?;
    ensure!(done.starts_with(&format!("secret/{} deleted\n", first.anchor())), "{done}");
    scene.bearer(first.token()).await?.dies().await?;
    ensure!(lives(&scene, &second).await? && scene.target("p-deployer").await?.token_id() == second.token_id());
    // With the operator down, the Secret goes on to name it.
    scene.operator.sigstop()?;
    let line = format!("revoke --token-id {} --yes", second.token_id());
    let [once, twice] = [said(&scene, &line).await?, said(&scene, &line).await?];
    scene.operator.sigcont()?;
    ensure!(once.code == Some(0) && once.out.ends_with(" deleted\n"), "{once:?}");
    let gone = format!("secret/{} is gone: its token was revoked already\n", second.anchor());
    ensure!(twice.code == Some(0) && twice.out == gone, "{twice:?}");
    let second = scene.next_target("p-deployer", &second).await?;
    let told = error(&scene, &format!("revoke --token-id {} --reason why --yes", second.token_id())).await?;
    ensure!(told.contains("leave out --reason") && lives(&scene, &second).await?, "{told}");
    let told = error(&scene, "revoke --token-id 00000000-0000-4000-8000-000000000000 --yes").await?;
    ensure!(told.contains("no policy knows the token"), "{told}");
    Ok(())
}

#[tokio::test]
async fn one_secret_or_one_account_of_a_policy_is_revoked_alone() -> Result<()> {
    let scene = Scene::start("plugin-secret").await?;
    let [a, b] = pair(&scene).await?;
    let done = ok(&scene, "revoke --secret p-a --reason drill --yes --wait").await?;
    ensure!(done.starts_with("secret/p-a annotated\n"), "{done}");
    ensure!(!lives(&scene, &a).await? && lives(&scene, &b).await?);
    let fresh = scene.target("p-a").await?;
    ok(&scene, "revoke --account b --yes --wait").await?;
    ensure!(!lives(&scene, &b).await? && lives(&scene, &fresh).await?);
    let told = error(&scene, "rotate --account a --yes").await?;
    ensure!(told.contains("p serves b as well; rotate it with `kubectl tokenward rotate p`"), "{told}");
    Ok(())
}

#[tokio::test]
async fn tokens_bound_to_their_secret_or_to_nothing_are_named_for_what_they_are() -> Result<()> {
    let scene = Scene::start("plugin-bound").await?;
    scene.reader("deployer").await?;
    for (policy, binding) in [("target", "Target"), ("none", "None")] {
        let bound = spec(&["deployer"], json!({"token": {"binding": binding}, "secret": {"name": policy}}));
        scene.policy(policy, &bound).await?;
        scene.ready(policy).await?;
    }
    let (target, none) = (scene.target("target").await?, scene.target("none").await?);
    let told = error(&scene, &format!("revoke --token-id {} --yes", target.token_id())).await?;
    ensure!(told.contains("--secret target"), "{told}");
    let told = error(&scene, &format!("revoke --token-id {} --yes", none.token_id())).await?;
    ensure!(told.contains("delete and create ServiceAccount plugin-bound/deployer"), "{told}");
    let done = said(&scene, "revoke --secret none --yes").await?;
    ensure!(done.aside.contains("LIVES ON, bound to nothing"), "{done:?}");
    ok(&scene, "revoke target --yes --wait").await?;
    ensure!(!lives(&scene, &target).await? && lives(&scene, &none).await?);
    Ok(())
}

#[tokio::test]
async fn nothing_is_done_without_a_yes() -> Result<()> {
    let scene = Scene::start("plugin-asked").await?;
    let target = scene.deployer(json!({})).await?;
    let refused = said(&scene, "revoke p").await?;
    ensure!(refused.code == Some(1) && refused.aside.contains("no terminal to ask on; add --yes"), "{refused:?}");
    let asked = on_terminal(&scene, "revoke p", "n\n").await?;
    ensure!(asked.contains(target.token_id()) && asked.contains("Nothing was done."), "{asked}");
    let annotations = scene.policies().get("p").await?.metadata.annotations.unwrap_or_default();
    ensure!(annotations.is_empty(), "{annotations:?}");
    let done = on_terminal(&scene, "revoke p", "y\n").await?;
    ensure!(done.contains("Continue? [y/N]") && done.contains("annotated"), "{done}");
    scene.bearer(target.token()).await?.dies().await
}

#[tokio::test]
async fn a_wait_in_vain_names_the_token_that_lives() -> Result<()> {
    let scene = Scene::start("plugin-wait").await?;
    let target = scene.deployer(json!({})).await?;
    scene.operator.sigstop()?;
    let late = said(&scene, "revoke p --yes --wait --timeout 2s").await?;
    scene.operator.sigcont()?;
    let told = format!("error: after 2s, token {} is still accepted (1 more)", target.token_id());
    ensure!(late.code == Some(1) && late.aside.contains(&told), "{late:?}");
    let by_hand = format!("If no operator runs, this revokes: `kubectl -n {} delete secret tw-", scene.namespace);
    ensure!(late.aside.contains(&by_hand), "{late:?}");
    Ok(())
}
