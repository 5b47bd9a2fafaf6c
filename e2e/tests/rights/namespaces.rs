//! One of several namespaces grants nothing: the others work, everybody is told which one and what, and it heals.

use crate::shape::Shape;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::rbac::v1::RoleBinding;
use kube::api::{Api, DeleteParams, PostParams};
use serde_json::json;
use tokenward_e2e::scene::kstatus::is_pending;
use tokenward_e2e::scene::metrics::Scrape;
use tokenward_e2e::scene::overlay::{arguments, render};
use tokenward_e2e::scene::{SOON, Scene, spec};
use tokenward_e2e::{eventually, target_dir, write_overlay};

/// `config/multi-namespace`, where the list names `team-c` as well and the binding was forgotten.
const FORGOTTEN: &str = "resources: [CONFIG/multi-namespace]
patches:
  - target: {kind: Deployment, name: tokenward}
    patch: |-
      - {op: add, path: /spec/template/spec/containers/0/args/-, value: --namespace=team-c}
";

/// `/readyz`, which must be 200.
async fn readyz(shape: &Shape) -> Result<String> {
    let (status, body) = shape.scenes[0].operator.readyz().await?;
    ensure!(status == 200 && body.starts_with("ok\n"), "{status} {body}");
    Ok(body)
}

/// The namespaces of the watches that fail, by metric.
async fn failing(shape: &Shape) -> Result<Vec<String>> {
    let scrape = Scrape::parse(shape.scenes[0].operator.metrics().await?)?;
    // A watch that works has no series.
    Ok(scrape.of("watch_failing").map(|watch| watch.label("namespace").to_owned()).collect())
}

/// Waits until log, `/readyz` and metric say that this namespace lacks all four watches, and no other does.
async fn named(shape: &Shape, namespace: &str) -> Result<()> {
    let check = async || {
        let (body, failing, log) = (readyz(shape).await?, failing(shape).await?, shape.scenes[0].operator.log()?);
        ensure!(failing == vec![namespace; 4], "{failing:?}");
        for resource in ["tokenpolicies", "serviceaccounts", "secrets"] {
            let words = format!("cannot watch resource \"{resource}\" in API group");
            let said = |text: &str| text.lines().any(|line| line.contains(namespace) && line.contains(&words));
            ensure!(said(&body) && said(&log.replace('\\', "")), "{words}: {body}\n{log}");
        }
        Ok(())
    };
    eventually(SOON, &format!("{namespace} is named"), check).await
}

/// Waits until nothing is lacking any more.
async fn whole(shape: &Shape) -> Result<()> {
    let check = async || {
        let (body, failing) = (readyz(shape).await?, failing(shape).await?);
        ensure!(body == "ok\n" && failing.is_empty(), "{body} {failing:?}");
        Ok(())
    };
    eventually(SOON, "nothing is lacking", check).await
}

/// Issues and rotates.
async fn works(scene: &Scene, policy: &str) -> Result<()> {
    let target = format!("{policy}-default");
    scene.policy(policy, &spec(&["default"], json!({}))).await?;
    scene.ready(policy).await?;
    let first = scene.target(&target).await?;
    scene.rotate(policy, "1").await?;
    let second = scene.next_target(&target, &first).await?;
    scene.bearer(second.token()).await?.lives().await
}

fn bindings(shape: &Shape, client: kube::Client, n: usize) -> Api<RoleBinding> {
    Api::namespaced(client, &shape.scenes[n].namespace)
}

#[tokio::test]
async fn one_without_rights_holds_up_no_other_and_heals_without_a_restart() -> Result<()> {
    let overlay = write_overlay(target_dir().join("e2e/rights-overlays/forgotten"), FORGOTTEN)?;
    let args = arguments(&render(&overlay)?)?;
    assert!(args.ends_with(&["--namespace=team-a,team-b".to_owned(), "--namespace=team-c".to_owned()]), "{args:?}");
    let shape = Shape::start("forgotten", &overlay, &["team-a", "team-b", "team-c"]).await?;
    let [a, b, c] = &shape.scenes[..] else { anyhow::bail!("three scenes") };
    let (pid, client) = (a.operator.pid(), shape.plane.client().await?);
    named(&shape, "team-c").await?;
    c.policy("early", &spec(&["default"], json!({}))).await?;
    for scene in [a, b] {
        works(scene, "first").await?;
    }
    assert!(is_pending(&c.policies().get("early").await?), "it wrote where it may not");

    let log = a.operator.log()?;
    assert!(!log.contains("works again"), "it takes a refused list for one that works: {log}");

    let granted = bindings(&shape, client.clone(), 0).get("tokenward").await?;
    let binding = json!({"metadata": {"name": "tokenward"}, "roleRef": granted.role_ref, "subjects": granted.subjects});
    bindings(&shape, client.clone(), 2).create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    c.ready("early").await.context("the right came later")?;
    whole(&shape).await?;
    works(c, "first").await?;

    let before = b.versions().await?;
    bindings(&shape, client.clone(), 1).delete("tokenward", &DeleteParams::default()).await?;
    named(&shape, "team-b").await?;
    for scene in [a, c] {
        works(scene, "second").await?;
    }
    assert_eq!(b.versions().await?, before);
    let again = json!({"metadata": {"name": "tokenward"}, "roleRef": granted.role_ref, "subjects": granted.subjects});
    bindings(&shape, client, 1).create(&PostParams::default(), &serde_json::from_value(again)?).await?;
    whole(&shape).await?;
    works(b, "second").await?;
    assert_eq!((a.operator.pid(), a.operator.exited()?), (pid, None));
    shape.stop().await
}
