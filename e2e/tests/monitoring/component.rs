//! `config/components/monitoring` as kustomize renders it.

use crate::alerts::ALERTS;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::PathBuf;
use tokenward_e2e::pages::read;
use tokenward_e2e::prometheus::crd;
use tokenward_e2e::scene::overlay::{arguments, pod_template, render, with_component};
use tokenward_e2e::scene::plane;
use tokenward_e2e::target_dir;

/// `config/install` with the component, in a folder of this name.
fn overlay(name: &str) -> Result<PathBuf> {
    with_component(target_dir().join("e2e").join(name), "monitoring")
}

#[test]
fn the_component_opens_the_metrics_and_brings_the_alerts() -> Result<()> {
    let built = render(&overlay("monitoring-rendered")?)?;
    let of = |kind: &str, name: &str| {
        let mut found =
            built.iter().filter(|manifest| manifest["kind"] == kind && manifest["metadata"]["name"] == name);
        found.next().with_context(|| format!("no {kind} {name}"))
    };
    assert!(arguments(&built)?.contains(&"--metrics-bind-address=:8080".to_owned()));
    let pod = pod_template(&built)?;
    let port = &of("PodMonitor", "tokenward")?["spec"]["podMetricsEndpoints"][0]["port"];
    let ports = pod["spec"]["containers"][0]["ports"].as_array().context("no ports")?;
    let open = ports.iter().find(|open| open["name"] == *port).context("no port of that name")?;
    let allowed = of("NetworkPolicy", "tokenward-metrics")?;
    assert_eq!(allowed["spec"]["ingress"][0]["ports"][0]["port"], open["containerPort"]);
    let labels = &pod["metadata"]["labels"];
    assert_eq!(allowed["spec"]["podSelector"]["matchLabels"], *labels);
    assert_eq!(of("PodMonitor", "tokenward")?["spec"]["selector"]["matchLabels"], *labels);
    let alerts: Value = serde_saphyr::from_str(&read(ALERTS)?)?;
    assert_eq!(of("PrometheusRule", "tokenward")?["spec"], alerts, "run `make monitoring`");
    Ok(())
}

#[tokio::test]
async fn a_cluster_with_the_prometheus_operator_takes_the_component() -> Result<()> {
    let plane = plane().await?;
    for plural in ["podmonitors", "prometheusrules"] {
        let crd = crd(plural)?.display().to_string();
        plane.kubectl_ok(["apply", "--server-side", "-f", &crd]).await?;
        let name = format!("crd/{plural}.monitoring.coreos.com");
        plane.kubectl_ok(["wait", &name, "--for=condition=Established", "--timeout=30s"]).await?;
    }
    let dry = ["apply", "--server-side", "--dry-run=server", "--validate=strict"];
    let overlay = overlay("monitoring-applied")?.display().to_string();
    plane.kubectl_ok(dry.into_iter().chain(["-k", &overlay])).await?;
    // It does look: a misspelt field is refused.
    let monitor = r#"{"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "metadata": {"name": "x"},
        "spec": {"selector": {}, "podMetricsEndpoints": [{"port": "x", "honourLabels": true}]}}"#;
    let answer = plane.kubectl_with(dry.into_iter().chain(["-f", "-"]), monitor).await?;
    ensure!(!answer.status.success() && String::from_utf8_lossy(&answer.stderr).contains("honourLabels"), "{answer:?}");
    Ok(())
}
