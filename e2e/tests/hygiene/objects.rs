//! What objects say: legacy tokens, bootstrap tokens, accounts of administrators, anonymous access.

use super::{file, files::with_users, flag, open, report, start};
use anyhow::{Context, Result, ensure};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use tokenward_e2e::eventually;
use tokenward_e2e::operator::token;
use tokenward_e2e::scene::SOON;

fn binding(name: &str, role: &str, subject: &Value) -> Value {
    let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": role, "subjects": [subject]})
}

fn group(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name})
}

fn secret(namespace: &str, name: &str, kind: &str, more: &Value) -> Value {
    let mut secret = json!({"apiVersion": "v1", "kind": "Secret", "type": kind});
    secret["metadata"] = json!({"namespace": namespace, "name": name});
    for (key, value) in more.as_object().into_iter().flatten() {
        match key.as_str() {
            "stringData" => secret[key] = value.clone(),
            _ => secret["metadata"][key] = value.clone(),
        }
    }
    secret
}

#[tokio::test]
async fn legacy_tokens_and_those_of_administrators_are_found() -> Result<()> {
    let plane = &open().await?.plane;
    plane.create_namespace("legacy").await?;
    let account = json!({"kubernetes.io/service-account.name": "default"});
    let kind = "kubernetes.io/service-account-token";
    let used = chrono::Utc::now().format("%Y-%m-%d").to_string();
    let labels = json!({"kubernetes.io/legacy-token-last-used": used});
    let long_ago = json!({"kubernetes.io/legacy-token-last-used": "2020-01-01"});
    let refused = json!({"kubernetes.io/legacy-token-invalid-since": used});
    for secret in [
        secret("legacy", "young", kind, &json!({"annotations": account})),
        secret("legacy", "unused", kind, &json!({"annotations": account, "labels": long_ago})),
        secret("legacy", "used", kind, &json!({"annotations": account, "labels": labels})),
        secret("legacy", "refused", kind, &json!({"annotations": account, "labels": refused})),
    ] {
        plane.apply(&secret.to_string()).await?;
    }
    let subject = json!({"kind": "ServiceAccount", "namespace": "legacy", "name": "default"});
    plane.apply(&binding("legacy-admin", "cluster-admin", &subject).to_string()).await?;
    let report = report(plane, &[]).await?;
    report.shows(
        "legacy token Secrets",
        "yes",
        &["Secrets of type kubernetes.io/service-account-token: 4", "refuses the tokens of legacy/refused"],
    )?;
    let used = format!(
        "in use, or too young to tell, never expire: legacy/used (last used {used}), legacy/young (last used never)"
    );
    report.finds("legacy token Secrets", "high", &used)?;
    report.finds("legacy token Secrets", "high", "for 90 days never expire: legacy/unused (last used 2020-01-01)")?;
    report.shows(
        "cluster-admin tokens",
        "yes",
        &["may do everything: ", "ServiceAccount legacy/default (all verbs)"],
    )?;
    report.finds(
        "cluster-admin tokens",
        "critical",
        "whoever reads one of the Secrets legacy/unused, legacy/used, legacy/young, which never expire, may do",
    )?;
    report.finds_no("cluster-admin tokens", "legacy/refused")
}

#[tokio::test]
async fn immortal_and_mighty_bootstrap_tokens_are_found() -> Result<()> {
    let plane = &open().await?.plane;
    let token = |id: &str, more: &[(&str, &str)]| {
        let mut data =
            json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true"});
        for (key, value) in more {
            data[*key] = (*value).into();
        }
        let name = format!("bootstrap-token-{id}");
        secret("kube-system", &name, "bootstrap.kubernetes.io/token", &json!({"stringData": data})).to_string()
    };
    let (soon, late) =
        (chrono::Utc::now() + chrono::TimeDelta::hours(20), chrono::Utc::now() + chrono::TimeDelta::days(99));
    plane.apply(&token("aaaaaa", &[("auth-extra-groups", "system:bootstrappers:mighty")])).await?;
    plane.apply(&token("bbbbbb", &[("expiration", &soon.to_rfc3339())])).await?;
    plane.apply(&token("cccccc", &[("expiration", &late.to_rfc3339())])).await?;
    plane.apply(&binding("mighty", "admin", &group("system:bootstrappers:mighty")).to_string()).await?;
    plane.apply(&binding("joining", "system:node-bootstrapper", &group("system:bootstrappers")).to_string()).await?;
    let report = report(plane, &[]).await?;
    let row = "bootstrap tokens";
    report.shows(
        row,
        "yes",
        &["bootstrap tokens in kube-system that log in: 3", "--enable-bootstrap-token-auth=true"],
    )?;
    report.finds(row, "high", "never expire: bootstrap-token-aaaaaa")?;
    report.finds(row, "medium", "bootstrap-token-cccccc lets machines join for another 98d")?;
    let mighty =
        "holders of bootstrap-token-aaaaaa are in the group system:bootstrappers:mighty, which has ClusterRole admin";
    // The ClusterRole admin allows to impersonate ServiceAccounts.
    report.finds(row, "critical", mighty)?;
    report.finds_no(row, "bootstrap-token-bbbbbb")?;
    ensure!(!report.text.contains("0123456789abcdef"));
    Ok(())
}

const RBAC: &str = "rbac.authorization.k8s.io";

/// A `ClusterRole` with one rule.
fn role(name: &str, group: &str, resource: &str, verb: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name},
        "rules": [{"apiGroups": [group], "resources": [resource], "verbs": [verb]}]})
}

#[tokio::test]
async fn ways_to_all_rights_are_found_and_add_up() -> Result<()> {
    let plane = &open().await?.plane;
    plane.create_namespace("ways").await?;
    plane.apply(&role("may-bind", RBAC, "clusterroles", "bind").to_string()).await?;
    plane.apply(&role("may-create", RBAC, "clusterrolebindings", "create").to_string()).await?;
    let account = json!({"kind": "ServiceAccount", "namespace": "ways", "name": "default"});
    plane.apply(&binding("may-bind", "may-bind", &account).to_string()).await?;
    plane.apply(&binding("may-create", "may-create", &group("system:serviceaccounts:ways")).to_string()).await?;
    plane.apply(&binding("everyone-there", "cluster-admin", &group("system:serviceaccounts:none")).to_string()).await?;
    let token = token(plane, "ways", "default", Duration::from_hours(1)).await?;
    let config = with_users(plane, "ways.kubeconfig", &[("way", json!({"token": token.expose_secret()}))])?;
    let report = report(plane, &["--kubeconfig", config.to_str().context("path")?]).await?;
    let row = "cluster-admin tokens";
    report.finds(row, "medium", "whoever reads kubeconfig user way may do everything in the cluster (bind)")?;
    report.finds(row, "critical", "every member of Group system:serviceaccounts:none may do everything in the cluster")
}

#[tokio::test]
async fn rights_in_kube_system_and_the_tokens_of_others_are_ways() -> Result<()> {
    let plane = &open().await?.plane;
    plane.create_namespace("steps").await?;
    let account = json!({"kind": "ServiceAccount", "namespace": "steps", "name": "default"});
    let mut bound = binding("may-create-pods", "may-create-pods", &account);
    (bound["kind"], bound["metadata"]["namespace"]) = ("RoleBinding".into(), "kube-system".into());
    plane.apply(&role("may-create-pods", "", "pods", "create").to_string()).await?;
    plane.apply(&bound.to_string()).await?;
    plane.apply(&role("may-create-tokens", "", "serviceaccounts/token", "create").to_string()).await?;
    let group = group("system:serviceaccounts:no-steps");
    plane.apply(&binding("may-create-tokens", "may-create-tokens", &group).to_string()).await?;
    let token = token(plane, "steps", "default", Duration::from_hours(1)).await?;
    let config = with_users(plane, "steps.kubeconfig", &[("step", json!({"token": token.expose_secret()}))])?;
    let report = report(plane, &["--kubeconfig", config.to_str().context("path")?]).await?;
    let row = "cluster-admin tokens";
    report.finds(row, "medium", "whoever reads kubeconfig user step may do everything in the cluster (create Pods)")?;
    report.finds(
        row,
        "critical",
        "Group system:serviceaccounts:no-steps may do everything in the cluster (create tokens)",
    )
}

#[tokio::test]
async fn a_server_that_allows_everything_is_found() -> Result<()> {
    let anonymous = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": true}});
    let config = file("anonymous.yaml", &anonymous.to_string())?;
    let flags = vec!["--authorization-mode=AlwaysAllow".to_owned(), flag("authentication-config", &config)];
    let plane = start("hygiene-allows", flags, Vec::new()).await?;
    let report = report(&plane, &[]).await?;
    report.finds("cluster-admin tokens", "critical", "whoever has any credentials may do everything in the cluster")?;
    report.shows("anonymous access", "yes", &["/api 200"])?;
    report.finds("anonymous access", "critical", "whoever reaches the API server may do everything in the cluster")
}

#[tokio::test]
async fn a_widened_role_of_kubeadm_is_found() -> Result<()> {
    let plane = &open().await?.plane;
    let (name, kind) = ("kubeadm:bootstrap-signer-clusterinfo", "rbac.authorization.k8s.io");
    let metadata = json!({"name": name, "namespace": "kube-public"});
    let role = json!({"apiVersion": format!("{kind}/v1"), "kind": "Role", "metadata": metadata,
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]});
    let mut bound = binding(name, name, &json!({"apiGroup": kind, "kind": "User", "name": "system:anonymous"}));
    (bound["kind"], bound["metadata"], bound["roleRef"]["kind"]) = ("RoleBinding".into(), metadata, "Role".into());
    plane.apply(&role.to_string()).await?;
    plane.apply(&bound.to_string()).await?;
    let words = format!("whoever reaches the API server has Role {name} in namespace kube-public");
    report(plane, &[]).await?.finds("anonymous access", "high", &words)
}

#[tokio::test]
async fn what_anybody_may_do_is_found() -> Result<()> {
    let plane = &open().await?.plane;
    plane.apply(&binding("everybody", "view", &group("system:unauthenticated")).to_string()).await?;
    let discovery = "system:service-account-issuer-discovery";
    plane.apply(&binding("issuer-discovery", discovery, &group("system:unauthenticated")).to_string()).await?;
    let found = async || {
        let report = report(plane, &[]).await?;
        report.shows(
            "anonymous access",
            "yes",
            &["/version 200", "everybody has ClusterRole system:public-info-viewer"],
        )?;
        report.shows(
            "anonymous access",
            "yes",
            &["everybody has ClusterRole system:service-account-issuer-discovery"],
        )?;
        report.finds_no("anonymous access", discovery)?;
        report.finds("anonymous access", "high", "whoever reaches the API server has ClusterRole view")
    };
    eventually(SOON, "anonymous access", found).await
}
