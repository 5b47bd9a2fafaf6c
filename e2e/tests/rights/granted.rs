//! The rights that manifests grant to an account.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;

/// One verb on one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// Where; `None` is the whole cluster.
    pub namespace: Option<String>,
    pub verb: String,
    /// As `kubectl auth can-i` takes it: `serviceaccounts/token`, `leases.coordination.k8s.io`.
    pub resource: String,
    /// On this object alone.
    pub name: Option<String>,
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(name) = &self.name {
            write!(f, " {name}")?;
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// `secrets` of the core group, `tokenpolicies/status` of tokenward.dev: `tokenpolicies.tokenward.dev/status`.
pub fn resource(group: &str, resource: &str, subresource: &str) -> String {
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if subresource.is_empty() { "" } else { "/" };
    format!("{resource}{dot}{group}{slash}{subresource}")
}

/// All that these manifests grant to this account, in any role that is bound to it.
pub fn granted(manifests: &[Value], namespace: &str, account: &str) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for binding in manifests.iter().filter(|manifest| binds(manifest, namespace, account)) {
        let rules = role(manifests, binding)?["rules"].as_array().context("a role without rules")?;
        let place = (binding["kind"] == "RoleBinding").then(|| text(&binding["metadata"]["namespace"]));
        for rule in rules {
            rights.extend(expand(rule, place.as_deref())?);
        }
    }
    ensure!(!rights.is_empty(), "nothing is granted to {namespace}/{account}");
    Ok(rights)
}

fn binds(manifest: &Value, namespace: &str, account: &str) -> bool {
    let subjects = manifest["subjects"].as_array().into_iter().flatten();
    let is_binding = manifest["kind"] == "RoleBinding" || manifest["kind"] == "ClusterRoleBinding";
    let mut named = subjects.filter(|subject| subject["name"] == account && subject["namespace"] == namespace);
    is_binding && named.next().is_some()
}

/// The role of a binding, which must be among the manifests: nothing is lent from roles of the cluster.
fn role<'a>(manifests: &'a [Value], binding: &Value) -> Result<&'a Value> {
    let reference = &binding["roleRef"];
    let found = manifests.iter().find(|role| {
        let beside = role["kind"] == "ClusterRole" || role["metadata"]["namespace"] == binding["metadata"]["namespace"];
        role["kind"] == reference["kind"] && role["metadata"]["name"] == reference["name"] && beside
    });
    found.with_context(|| format!("{reference} is not among the manifests"))
}

fn expand(rule: &Value, namespace: Option<&str>) -> Result<Vec<Right>> {
    ensure!(rule["nonResourceURLs"].is_null(), "a right on URLs: {rule}");
    let names = list(&rule["resourceNames"]);
    let names: Vec<Option<String>> = if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() };
    let mut rights = Vec::new();
    for group in list(&rule["apiGroups"]) {
        for kind in list(&rule["resources"]) {
            let (kind, subresource) = kind.split_once('/').unwrap_or((&kind, ""));
            let resource = resource(&group, kind, subresource);
            for verb in list(&rule["verbs"]) {
                rights.extend(names.iter().map(|name| Right {
                    namespace: namespace.map(str::to_owned),
                    verb: verb.clone(),
                    resource: resource.clone(),
                    name: name.clone(),
                }));
            }
        }
    }
    Ok(rights)
}

pub fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[test]
fn rights_are_those_of_the_bound_roles_alone() -> Result<()> {
    let manifests = r#"[
        {"kind": "ClusterRole", "metadata": {"name": "a"}, "rules": [
            {"apiGroups": ["x.io"], "resources": ["things/status"], "verbs": ["get"], "resourceNames": ["one"]}]},
        {"kind": "Role", "metadata": {"name": "b", "namespace": "n"}, "rules": [
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]},
        {"kind": "RoleBinding", "metadata": {"name": "a", "namespace": "n"}, "roleRef": {"kind": "ClusterRole", "name": "a"},
            "subjects": [{"name": "t", "namespace": "home"}]},
        {"kind": "RoleBinding", "metadata": {"name": "b", "namespace": "n"}, "roleRef": {"kind": "Role", "name": "b"},
            "subjects": [{"name": "somebody", "namespace": "home"}]}]"#;
    let mut manifests: Vec<Value> = serde_json::from_str(manifests)?;
    let rights: Vec<String> = granted(&manifests, "home", "t")?.iter().map(Right::to_string).collect();
    assert_eq!(rights, ["get things.x.io/status one in n"]);
    manifests[2]["roleRef"]["name"] = "cluster-admin".into();
    assert!(granted(&manifests, "home", "t").is_err());
    Ok(())
}
