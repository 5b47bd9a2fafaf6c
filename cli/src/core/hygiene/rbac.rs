//! Who may do what in the whole cluster, by `ClusterRole`s and `ClusterRoleBinding`s.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleBinding, RoleRef, Subject};

/// The role that may do everything.
pub const ADMIN: &str = "cluster-admin";

/// Roles and bindings.
pub struct Rbac {
    pub roles: Vec<ClusterRole>,
    pub cluster: Vec<ClusterRoleBinding>,
    pub namespaced: Vec<RoleBinding>,
}

/// A binding for somebody.
#[derive(Debug, PartialEq)]
pub struct Bound<'a> {
    /// Kind and name of the role.
    pub role: String,
    /// Of a binding in one namespace.
    pub namespace: Option<&'a str>,
    /// Of a `ClusterRole`.
    pub rules: Vec<&'a PolicyRule>,
}

impl Bound<'_> {
    /// It gives all rights of the cluster: those in kube-system lead to the others.
    pub fn is_admin(&self) -> bool {
        let all = self.role == format!("ClusterRole {ADMIN}") || self.rules.iter().any(|rule| is_everything(rule));
        all && self.namespace.is_none_or(|namespace| namespace == "kube-system")
    }
}

impl Rbac {
    /// The bindings for a subject that this names.
    pub fn bindings(&self, is: impl Fn(&Subject) -> bool) -> Vec<Bound<'_>> {
        let names = |subjects: &Option<Vec<Subject>>| subjects.iter().flatten().any(&is);
        let cluster = self.cluster.iter().filter(|binding| names(&binding.subjects));
        let cluster = cluster.map(|binding| self.bound(&binding.role_ref, None));
        let namespaced = self.namespaced.iter().filter(|binding| names(&binding.subjects));
        let namespaced = namespaced.map(|binding| self.bound(&binding.role_ref, binding.metadata.namespace.as_deref()));
        cluster.chain(namespaced).collect()
    }

    fn bound<'a>(&'a self, role: &RoleRef, namespace: Option<&'a str>) -> Bound<'a> {
        let rules = if role.kind == "ClusterRole" { self.rules(&role.name) } else { Vec::new() };
        Bound { role: format!("{} {}", role.kind, role.name), namespace, rules }
    }

    fn rules(&self, role: &str) -> Vec<&PolicyRule> {
        let own = self.roles.iter().filter(|one| one.metadata.name.as_deref() == Some(role));
        own.flat_map(|role| role.rules.iter().flatten()).collect()
    }

    /// Everybody who may do everything in the whole cluster.
    pub fn administrators(&self) -> impl Iterator<Item = &Subject> {
        let bindings = self.cluster.iter().filter(|binding| self.bound(&binding.role_ref, None).is_admin());
        bindings.flat_map(|binding| binding.subjects.iter().flatten())
    }

    /// Everybody with all of these rights in the whole cluster, and whether it is as an administrator.
    pub fn with(&self, rights: &[Right]) -> Vec<(String, bool)> {
        let mut rules: BTreeMap<String, (Vec<&PolicyRule>, bool)> = BTreeMap::new();
        for binding in &self.cluster {
            let own = self.bound(&binding.role_ref, None);
            for subject in binding.subjects.iter().flatten() {
                let (known, admin) = rules.entry(text(subject)).or_default();
                known.extend(&own.rules);
                *admin |= own.is_admin();
            }
        }
        let may = |rules: &[&PolicyRule]| rights.iter().all(|right| rules.iter().any(|rule| right.is_in(rule)));
        rules.into_iter().filter(|(_, (rules, _))| may(rules)).map(|(subject, (_, admin))| (subject, admin)).collect()
    }
}

/// The rule of the role that may do everything.
fn is_everything(rule: &PolicyRule) -> bool {
    let all = |list: &[String]| list.iter().any(|one| one == "*");
    all(rule.api_groups.as_deref().unwrap_or_default())
        && all(rule.resources.as_deref().unwrap_or_default())
        && all(&rule.verbs)
}

/// A subject for people.
pub fn text(subject: &Subject) -> String {
    match &subject.namespace {
        Some(namespace) => format!("{} {namespace}/{}", subject.kind, subject.name),
        None => format!("{} {}", subject.kind, subject.name),
    }
}

/// A right on one resource.
pub struct Right {
    pub group: &'static str,
    pub resource: &'static str,
    /// Verbs of which each gives the right.
    pub verbs: &'static [&'static str],
    /// Names of which each gives the right.
    pub names: &'static [&'static str],
}

impl Right {
    fn is_in(&self, rule: &PolicyRule) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|one| one == "*" || one == word);
        let names = rule.resource_names.as_deref().unwrap_or_default();
        has(rule.api_groups.as_deref().unwrap_or_default(), self.group)
            && self.is_of(rule.resources.as_deref().unwrap_or_default())
            && self.verbs.iter().any(|verb| has(&rule.verbs, verb))
            && (names.is_empty() || self.names.iter().any(|name| names.iter().any(|one| one == name)))
    }

    /// RBAC takes `*/approval` for the subresource of every resource.
    fn is_of(&self, resources: &[String]) -> bool {
        let below = self.resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        resources.iter().any(|one| one == "*" || one == self.resource || Some(one) == below.as_ref())
    }
}

#[cfg(test)]
pub mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn items<T: serde::de::DeserializeOwned>(items: &[Value]) -> Vec<T> {
        items.iter().map(|item| serde_json::from_value(item.clone()).unwrap()).collect()
    }

    /// A role with one rule.
    pub fn cluster_role(name: &str, rules: &Value) -> Value {
        json!({"metadata": {"name": name}, "rules": rules})
    }

    /// A binding of a subject to a `ClusterRole`.
    pub fn binding(role: &str, subject: &Value) -> Value {
        json!({"metadata": {"name": "b", "namespace": "ci"}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}})
    }

    pub fn account(namespace: &str, name: &str) -> Value {
        json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
    }

    pub fn group(name: &str) -> Value {
        json!({"kind": "Group", "name": name, "apiGroup": "rbac.authorization.k8s.io"})
    }

    pub fn rbac(roles: &[Value], cluster: &[Value], namespaced: &[Value]) -> Rbac {
        Rbac { roles: items(roles), cluster: items(cluster), namespaced: items(namespaced) }
    }

    const RIGHT: Right = Right { group: "", resource: "pods/log", verbs: &["get", "watch"], names: &["a"] };

    #[test]
    fn a_right_is_given_by_word_or_star_and_by_name() {
        let rule = |groups: &str, resource: &str, verb: &str, names: &[&str]| json!([{"apiGroups": [groups], "resources": [resource], "verbs": [verb], "resourceNames": names}]);
        for (rules, given) in [
            (rule("", "pods/log", "get", &[]), true),
            (rule("", "pods/log", "watch", &[]), true),
            (rule("", "*/log", "get", &[]), true),
            (rule("", "*/exec", "get", &[]), false),
            (rule("*", "*", "*", &[]), true),
            (rule("", "pods/log", "get", &["a"]), true),
            (rule("", "pods/log", "get", &["b"]), false),
            (rule("", "pods/log", "list", &[]), false),
            (rule("apps", "pods/log", "get", &[]), false),
        ] {
            let rbac = rbac(&[cluster_role("r", &rules)], &[binding("r", &account("ci", "a"))], &[]);
            let admin = rules[0]["verbs"][0] == "*";
            let expected = if given { vec![("ServiceAccount ci/a".to_owned(), admin)] } else { vec![] };
            assert_eq!(rbac.with(&[RIGHT]), expected, "{rules}");
        }
    }

    #[test]
    fn bindings_of_a_group_are_found_in_cluster_and_namespaces() {
        let everybody = binding("view", &group("system:authenticated"));
        let rbac = rbac(&[], std::slice::from_ref(&everybody), std::slice::from_ref(&everybody));
        let found = rbac.bindings(|subject| subject.name == "system:authenticated");
        let role = || "ClusterRole view".to_owned();
        let bound = |namespace| Bound { role: role(), namespace, rules: vec![] };
        assert_eq!(found, [bound(None), bound(Some("ci"))]);
        assert_eq!(rbac.administrators().count(), 0);
    }
}
