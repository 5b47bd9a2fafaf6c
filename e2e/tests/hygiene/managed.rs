//! A control plane whose flags nobody can see, as that of a cloud provider.

use super::report;
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokenward_e2e::control_plane::shared;

#[tokio::test]
async fn without_static_pods_rows_say_so_and_tokens_are_tried() -> Result<()> {
    let plane = shared().await?;
    plane.create_namespace("managed").await?;
    let empty = report(plane, &["-n", "managed"]).await?;
    empty.shows(
        "bound tokens",
        "yes",
        &["namespace managed has no Pod of ServiceAccount default to ask for; choose another --namespace"],
    )?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle", "namespace": "managed"},
        "spec": {"containers": [{"name": "idle", "image": "idle"}]}});
    plane.apply(&pod.to_string()).await?;
    let report = report(plane, &["-n", "managed"]).await?;
    report.shows("bound tokens", "yes", &["the token of a Pod that asks for an hour (dry run) lives for 365d"])?;
    report.finds("bound tokens", "low", "extended expiry is on")?;
    report.finds("bound tokens", "medium", "the API server has no maximum")?;
    for row in ["static token file", "OIDC", "webhook"] {
        report.shows(
            row,
            "notChecked",
            &["kube-system has no Pod with the label component=kube-apiserver, as on managed"],
        )?;
    }
    // The API server itself publishes these.
    report.shows("client certificates", "yes", &["the client CA tokenward-e2e is believed until "])?;
    report.shows("authenticating proxy", "no", &["publishes no requestheader CA"])
}

#[tokio::test]
async fn the_exit_code_and_the_formats_are_as_asked() -> Result<()> {
    let plane = shared().await?;
    // The kubeconfig has a certificate in system:masters.
    for (limit, code) in [("low", 3), ("high", 3), ("critical", 0)] {
        let report = report(plane, &["--fail-on", limit]).await?;
        ensure!(report.code == Some(code), "{limit}: {:?} {:#}", report.code, report.rows);
    }
    let wrong = plane.kubectl(["tokenward", "hygiene", "--fail-on", "worst"]).await?;
    ensure!(wrong.status.code() == Some(1), "{wrong:?}");
    let none = plane.kubectl(["tokenward", "hygiene", "--authentication-config", "/none"]).await?;
    ensure!(
        none.status.code() == Some(1) && String::from_utf8_lossy(&none.stderr).contains("reading /none"),
        "{none:?}"
    );
    let json = report(plane, &[]).await?;
    let yaml: Value = serde_saphyr::from_str(&plane.kubectl_ok(["tokenward", "hygiene", "-o", "yaml"]).await?)?;
    ensure!(
        yaml[3]["strategy"] == json.rows[3]["strategy"] && yaml[3]["findings"] == json.rows[3]["findings"],
        "{yaml}"
    );
    let text = plane.kubectl_ok(["tokenward", "hygiene"]).await?;
    ensure!(
        text.starts_with("STRATEGY ") && text.contains("\nhigh      client certificates: kubeconfig user e2e is in"),
        "{text}"
    );
    ensure!(!text.contains('\u{1b}'), "colours in a pipe: {text:?}");
    Ok(())
}
