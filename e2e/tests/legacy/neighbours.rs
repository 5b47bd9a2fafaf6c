//! Pods that come back, tools that replace whole objects, and lists of several pages.

use super::lab::{INVALID_SINCE, LAST_USED, Lab, OLD};
use super::pod;
use anyhow::{Result, ensure};
use serde_json::{Value, json};

/// The operator has judged everything, and the Secret is as it was.
async fn left_alone(lab: &Lab, secret: &str) -> Result<()> {
    lab.fence("fence").await?;
    let label = lab.label_of(secret, INVALID_SINCE).await?;
    ensure!(label.is_none(), "Secret {secret} was quarantined: {label:?}");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_restarts_keeps_its_secret() -> Result<()> {
    let lab = Lab::start("restarted").await?;
    lab.token("mounted", json!({ LAST_USED: OLD })).await?;
    lab.plane.apply(&pod("restarted", "mounted")).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    lab.state("mounted", "Mounted").await?;
    lab.plane.kubectl_ok(["-n", "restarted", "delete", "pod", "pod", "--force", "--grace-period=0"]).await?;
    lab.state("mounted", "Used").await?;
    left_alone(&lab, "mounted").await
}

#[tokio::test]
async fn a_tool_that_replaces_the_whole_secret_hides_no_use() -> Result<()> {
    let lab = Lab::start("replaced").await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    let today = chrono::Utc::now().date_naive().to_string();
    lab.token("used", json!({ LAST_USED: today })).await?;
    lab.state("used", "Used").await?;
    let text = lab.plane.kubectl_ok(["-n", "replaced", "get", "secret", "used", "-o", "json"]).await?;
    let mut secret: Value = serde_json::from_str(&text)?;
    for field in ["labels", "resourceVersion", "managedFields"] {
        secret["metadata"].as_object_mut().and_then(|meta| meta.remove(field));
    }
    let file = lab.plane.dir().join("replaced.json");
    std::fs::write(&file, secret.to_string())?;
    lab.plane.kubectl_ok(["replace", "-f", &file.to_string_lossy()]).await?;
    ensure!(lab.label_of("used", LAST_USED).await?.is_none(), "the label is there");
    left_alone(&lab, "used").await
}

/// The API server lists 500 at a time: the first ones are judged before the last ones are known.
#[tokio::test]
async fn a_list_of_several_pages_hides_nothing() -> Result<()> {
    let lab = Lab::start("a-first").await?;
    lab.operator.kill9()?;
    lab.token("old", json!({ LAST_USED: OLD })).await?;
    lab.policy(json!({"mode": "Quarantine", "unusedFor": "24h"})).await?;
    let secret = |n: usize| {
        let annotations = json!({"kubernetes.io/service-account.name": "robot"});
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": format!("young-{n}"), "namespace": "a-first", "annotations": annotations}})
    };
    let items: Vec<Value> = (0..600).map(secret).collect();
    lab.plane.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).await?;
    lab.operator.restart()?;
    lab.quarantined("old").await?;
    lab.status("all are counted", |status| status["tokens"]["total"] == 601).await.map(drop)
}
