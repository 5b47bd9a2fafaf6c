//! A cluster where nothing is wrong, seen with the rights of the manual and with none.

use super::{Report, file, flag, report, start};
use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::control_plane::shared;
use tokenward_e2e::operator::token;
use tokenward_e2e::pages::{blocks, read};
use tokenward_e2e::pki::Authority;
use tokenward_e2e::scene::SOON;
use tokenward_e2e::{ControlPlane, eventually, kubeconfig};
use tokio::sync::OnceCell;

/// The namespace of the auditor.
const NAMESPACE: &str = "audit";

async fn clean() -> Result<&'static ControlPlane> {
    static CLEAN: OnceCell<ControlPlane> = OnceCell::const_new();
    CLEAN.get_or_try_init(prepared).await
}

async fn prepared() -> Result<ControlPlane> {
    let proxies = file("proxies.crt", &Authority::new("front-proxy-ca")?.pem())?;
    let mut flags = vec![flag("requestheader-client-ca-file", &proxies)];
    flags.extend(
        [
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--service-account-max-token-expiration=24h",
            "--service-account-extend-token-expiration=false",
            "--anonymous-auth=false",
        ]
        .map(str::to_owned),
    );
    let plane = start("hygiene-clean", flags, Vec::new()).await?;
    plane.create_namespace(NAMESPACE).await?;
    give_rights(&plane).await?;
    plane.kubectl_ok(["-n", NAMESPACE, "create", "serviceaccount", "nobody"]).await?;
    Ok(plane)
}

/// Applies the rights of the manual.
async fn give_rights(plane: &ControlPlane) -> Result<()> {
    let manual = read("docs/how-to/hygiene.md")?;
    let rights =
        blocks(&manual, "yaml").find(|block| block.contains("kind: ClusterRole")).context("no rights in the manual")?;
    plane.apply(rights).await?;
    Ok(())
}

/// The report as an account sees it that has a token of an hour.
async fn seen_by(plane: &ControlPlane, account: &str) -> Result<Report> {
    let token = token(plane, NAMESPACE, account, Duration::from_hours(1)).await?;
    let text = kubeconfig::with_token(&plane.url(), plane.ca_pem(), token.expose_secret());
    let config = plane.dir().join(format!("{account}.kubeconfig"));
    std::fs::write(&config, &text)?;
    let config = config.to_str().context("path")?;
    report(plane, &["-n", NAMESPACE, "--kubeconfig", config, "--fail-on", "low"]).await
}

#[tokio::test]
async fn a_clean_cluster_has_no_finding() -> Result<()> {
    let plane = clean().await?;
    let nothing = async || {
        let report = seen_by(plane, "auditor").await?;
        let rows: Vec<&Value> = report.rows.as_array().into_iter().flatten().collect();
        let found: Vec<_> = rows.iter().map(|row| (row["strategy"].as_str(), row["found"].as_str())).collect();
        let expected = [
            ("bound tokens", "yes"),
            ("legacy token Secrets", "no"),
            ("bootstrap tokens", "no"),
            ("client certificates", "yes"),
            ("static token file", "no"),
            ("OIDC", "no"),
            ("webhook", "no"),
            ("authenticating proxy", "yes"),
            ("anonymous access", "no"),
            ("cluster-admin tokens", "no"),
        ];
        ensure!(found == expected.map(|(name, found)| (Some(name), Some(found))), "{:#}", report.rows);
        let silent = |row: &&Value| row["findings"] == json!([]) && row["notChecked"] == json!([]);
        ensure!(rows.iter().all(silent) && report.code == Some(0), "{:#}", report.rows);
        ensure!(report.aside.is_empty(), "{}", report.aside);
        let none = "no ServiceAccount may do everything, apart from those of Kubernetes' own controllers";
        report.shows("cluster-admin tokens", "no", &[none])?;
        report.shows(
            "bound tokens",
            "yes",
            &["was granted 1d", "kubeconfig user e2e: a token of ServiceAccount audit/auditor"],
        )
    };
    // Roles take effect a moment after they are written.
    eventually(SOON, "a clean report", nothing).await
}

/// On a control plane whose flags nobody can see, those rights leave the rows open that the manual names.
#[tokio::test]
async fn without_flags_the_rights_of_the_manual_suffice_for_the_other_rows() -> Result<()> {
    let plane = shared().await?;
    plane.create_namespace(NAMESPACE).await?;
    give_rights(plane).await?;
    plane.kubectl_ok(["-n", NAMESPACE, "create", "serviceaccount", "another"]).await?;
    for (name, account) in [("first", "another"), ("second", "default")] {
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"serviceAccountName": account, "containers": [{"name": "idle", "image": "idle"}]}});
        plane.apply(&pod.to_string()).await?;
    }
    let named = async || {
        let report = seen_by(plane, "auditor").await?;
        let rows = report.rows.as_array().into_iter().flatten();
        let open: Vec<_> =
            rows.filter(|row| row["notChecked"] != json!([])).map(|row| row["strategy"].as_str()).collect();
        let expected = ["bootstrap tokens", "static token file", "OIDC", "webhook"];
        ensure!(open == expected.map(Some), "{:#}", report.rows);
        let rows = expected.join(", ");
        let warning = format!("Warning: 4 of 10 rows could not be checked, or not in full: {rows}. --fail-on counts");
        ensure!(report.aside.starts_with(&warning), "{}", report.aside);
        Ok(())
    };
    eventually(SOON, "a report with the rights of the manual", named).await
}

#[tokio::test]
async fn a_missing_right_is_named_and_never_nothing() -> Result<()> {
    let report = seen_by(clean().await?, "nobody").await?;
    ensure!(report.code == Some(0), "{:#}", report.rows);
    for (row, right) in [
        ("bound tokens", "create serviceaccounts --subresource=token -n audit"),
        ("legacy token Secrets", "list secrets -A"),
        ("bootstrap tokens", "list secrets -n kube-system"),
        ("client certificates", "get configmaps -n kube-system"),
        ("client certificates", "list certificatesigningrequests.certificates.k8s.io"),
        ("client certificates", "list clusterroles.rbac.authorization.k8s.io"),
        ("static token file", "list pods -n kube-system"),
        ("OIDC", "list pods -n kube-system"),
        ("webhook", "list pods -n kube-system"),
        ("authenticating proxy", "get configmaps -n kube-system"),
        ("cluster-admin tokens", "list clusterroles.rbac.authorization.k8s.io"),
        ("cluster-admin tokens", "list rolebindings.rbac.authorization.k8s.io -A"),
    ] {
        let state = if row == "bound tokens" { "yes" } else { "notChecked" };
        report.shows(row, state, &[&format!("`kubectl auth can-i {right}` says no")])?;
    }
    ensure!(
        report.aside.starts_with("Warning: 10 of 10 rows could not be checked, or not in full: "),
        "{}",
        report.aside
    );
    // The requests need no right, but without the flags a configuration may open other paths.
    let unknown = ["answers 401 to GET /api, /healthz, /livez, /readyz, /version", "may open other paths"];
    report.shows("anonymous access", "notChecked", &unknown)
}
