//! Who may do what in the whole cluster, by `ClusterRole`s and `ClusterRoleBinding`s.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, RoleBinding, Subject};

/// The role that may do everything.
pub const ADMIN: &str = "cluster-admin";

/// Roles and bindings.
pub struct Rbac {
    pub roles: Vec<ClusterRole>,
    pub cluster: Vec<ClusterRoleBinding>,
    pub namespaced: Vec<RoleBinding>,
}

/// A binding for somebody.
#[derive(Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// Kind and name of the role.
    pub role: String,
    /// Of a binding in one namespace.
    pub namespace: Option<&'a str>,
}

impl Rbac {
    /// The bindings for a subject that this names.
    pub fn bindings(&self, is: impl Fn(&Subject) -> bool) -> Vec<Bound<'_>> {
        let names = |subjects: &Option<Vec<Subject>>| subjects.iter().flatten().any(&is);
        let cluster = self.cluster.iter().filter(|binding| names(&binding.subjects));
        let cluster = cluster
            .map(|binding| Bound { role: role(&binding.role_ref.kind, &binding.role_ref.name), namespace: None });
        let namespaced = self.namespaced.iter().filter(|binding| names(&binding.subjects));
        let namespaced = namespaced.map(|binding| Bound {
            role: role(&binding.role_ref.kind, &binding.role_ref.name),
            namespace: binding.metadata.namespace.as_deref(),
        });
        cluster.chain(namespaced).collect()
    }

    /// Everybody who is bound to this `ClusterRole` in the whole cluster.
    pub fn subjects(&self, role: &str) -> impl Iterator<Item = &Subject> {
        let bindings = self.cluster.iter().filter(move |binding| binding.role_ref.name == role);
        bindings.flat_map(|binding| binding.subjects.iter().flatten())
    }

    /// Everybody with all of these rights in the whole cluster, and whether it is as an administrator.
    pub fn with(&self, rights: &[Right]) -> Vec<(String, bool)> {
        let mut rules: BTreeMap<String, (Vec<&PolicyRule>, bool)> = BTreeMap::new();
        for binding in &self.cluster {
            let role = &binding.role_ref.name;
            let own = self.roles.iter().filter(|one| one.metadata.name.as_ref() == Some(role));
            let own: Vec<&PolicyRule> = own.flat_map(|role| role.rules.iter().flatten()).collect();
            for subject in binding.subjects.iter().flatten() {
                let (known, admin) = rules.entry(text(subject)).or_default();
                known.extend(&own);
                *admin |= role == ADMIN;
            }
        }
        let may = |rules: &[&PolicyRule]| rights.iter().all(|right| rules.iter().any(|rule| right.is_in(rule)));
        rules.into_iter().filter(|(_, (rules, _))| may(rules)).map(|(subject, (_, admin))| (subject, admin)).collect()
    }
}

fn role(kind: &str, name: &str) -> String {
    format!("{kind} {name}")
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
    pub verb: &'static str,
    /// Names of which each gives the right.
    pub names: &'static [&'static str],
}

impl Right {
    fn is_in(&self, rule: &PolicyRule) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|one| one == "*" || one == word);
        let names = rule.resource_names.as_deref().unwrap_or_default();
        has(rule.api_groups.as_deref().unwrap_or_default(), self.group)
            && has(rule.resources.as_deref().unwrap_or_default(), self.resource)
            && has(&rule.verbs, self.verb)
            && (names.is_empty() || self.names.iter().any(|name| names.iter().any(|one| one == name)))
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

    const RIGHT: Right = Right { group: "", resource: "pods", verb: "get", names: &["a"] };

    #[test]
    fn a_right_is_given_by_word_or_star_and_by_name() {
        let rule = |groups: &str, resource: &str, verb: &str, names: &[&str]| json!([{"apiGroups": [groups], "resources": [resource], "verbs": [verb], "resourceNames": names}]);
        for (rules, given) in [
            (rule("", "pods", "get", &[]), true),
            (rule("*", "*", "*", &[]), true),
            (rule("", "pods", "get", &["a"]), true),
            (rule("", "pods", "get", &["b"]), false),
            (rule("", "pods", "list", &[]), false),
            (rule("apps", "pods", "get", &[]), false),
        ] {
            let rbac = rbac(&[cluster_role("r", &rules)], &[binding("r", &account("ci", "a"))], &[]);
            let expected = if given { vec![("ServiceAccount ci/a".to_owned(), false)] } else { vec![] };
            assert_eq!(rbac.with(&[RIGHT]), expected, "{rules}");
        }
    }

    #[test]
    fn bindings_of_a_group_are_found_in_cluster_and_namespaces() {
        let everybody = binding("view", &group("system:authenticated"));
        let rbac = rbac(&[], std::slice::from_ref(&everybody), std::slice::from_ref(&everybody));
        let found = rbac.bindings(|subject| subject.name == "system:authenticated");
        let role = || "ClusterRole view".to_owned();
        assert_eq!(found, [Bound { role: role(), namespace: None }, Bound { role: role(), namespace: Some("ci") }]);
        assert_eq!(rbac.subjects("view").count(), 1);
    }
}
