//! Client certificates.

use super::{open, report};
use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;
use tokenward_e2e::pki::{Authority, request};
use tokenward_e2e::scene::SOON;
use tokenward_e2e::{ControlPlane, eventually};

/// Approves a client certificate for a user, for so long.
async fn approve(plane: &ControlPlane, user: &str, seconds: u32) -> Result<()> {
    let wanted = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": user},
        "spec": {"request": BASE64_STANDARD.encode(request(user, "ops")?), "usages": ["client auth"],
            "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": seconds},
    });
    plane.apply(&wanted.to_string()).await?;
    plane.kubectl_ok(["certificate", "approve", user]).await?;
    let signed = async || {
        let pem = plane.kubectl_ok(["get", "csr", user, "-o", "jsonpath={.status.certificate}"]).await?;
        ensure!(!pem.is_empty(), "not signed yet");
        Ok(())
    };
    eventually(SOON, "a certificate", signed).await
}

#[tokio::test]
async fn approved_certificates_and_those_of_the_kubeconfig_are_found() -> Result<()> {
    let plane = &open().await?.plane;
    approve(plane, "long", 30 * 86_400).await?;
    approve(plane, "short", 3600).await?;
    let report = report(plane, &[]).await?;
    let row = "client certificates";
    let words = [
        "CertificateSigningRequest long: a certificate of long in ops, until ",
        "CertificateSigningRequest short: a certificate of short in ops, until ",
        "kubeconfig user e2e: a certificate of tokenward-e2e-admin in system:masters, until ",
        "may be approved by the administrators Group system:masters",
    ];
    report.shows(row, "yes", &words)?;
    report.finds(row, "medium", "nobody can revoke the certificate of long, which lives for another 29d")?;
    report.finds(row, "high", "kubeconfig user e2e is in system:masters until ")?;
    report.finds_no(row, "certificate of short")
}

#[tokio::test]
async fn somebody_who_may_approve_is_found() -> Result<()> {
    let plane = &open().await?.plane;
    let role = ["create", "clusterrole", "approver", "--verb=update", "--resource=certificatesigningrequests/approval"];
    plane.kubectl_ok(role).await?;
    let signers = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "signers"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"],
            "resourceNames": ["kubernetes.io/*"]}]});
    plane.apply(&signers.to_string()).await?;
    plane.kubectl_ok(["create", "clusterrolebinding", "approver", "--clusterrole=approver", "--user=alice"]).await?;
    plane.kubectl_ok(["create", "clusterrolebinding", "signers", "--clusterrole=signers", "--user=alice"]).await?;
    let report = report(plane, &[]).await?;
    report.finds("client certificates", "high", "User alice may approve a client certificate for any user name")
}

/// The API server takes up a change of its bundle by itself.
#[tokio::test]
async fn a_ca_that_ends_soon_is_found() -> Result<()> {
    let plane = &open().await?.plane;
    let next = Authority::ending("next-month", Duration::from_hours(20 * 24))?;
    let mut bundle = OpenOptions::new().append(true).open(plane.dir().join("ca.crt"))?;
    bundle.write_all(next.pem().as_bytes())?;
    let found =
        async || report(plane, &[]).await?.finds("client certificates", "high", "the client CA next-month ends in 19d");
    eventually(SOON, "the API server publishes its new bundle", found).await
}
