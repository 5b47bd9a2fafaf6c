//! Who may do what, by roles and bindings.

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

/// The group of all ServiceAccounts; those of a namespace have its name behind a colon.
const ACCOUNTS: &str = "system:serviceaccounts";
/// The group of everybody with credentials.
const USERS: &str = "system:authenticated";

/// Roles and bindings.
pub struct Rbac {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub bindings: Vec<RoleBinding>,
}

/// A binding for somebody.
#[derive(Debug, PartialEq)]
pub struct Bound<'a> {
    /// Kind and name of the role.
    pub role: String,
    /// Of a binding in one namespace.
    pub namespace: Option<&'a str>,
    pub rules: Vec<&'a PolicyRule>,
}

impl Bound<'_> {
    /// It gives all rights of the cluster: those in kube-system lead to the others.
    pub fn is_admin(&self) -> bool {
        self.namespace.is_none_or(|namespace| namespace == "kube-system") && way(&self.rules).is_some()
    }
}

/// Somebody, with all rules that bindings give in the whole cluster.
pub struct Holder<'a> {
    pub subject: &'a Subject,
    pub rules: Vec<&'a PolicyRule>,
}

impl Rbac {
    /// The bindings for a subject that this names.
    pub fn bindings(&self, is: impl Fn(&Subject) -> bool) -> Vec<Bound<'_>> {
        let names = |subjects: &Option<Vec<Subject>>| subjects.iter().flatten().any(&is);
        let cluster = self.cluster_bindings.iter().filter(|binding| names(&binding.subjects));
        let cluster = cluster.map(|binding| self.bound(&binding.role_ref, None));
        let namespaced = self.bindings.iter().filter(|binding| names(&binding.subjects));
        let namespaced = namespaced.map(|binding| self.bound(&binding.role_ref, binding.metadata.namespace.as_deref()));
        cluster.chain(namespaced).collect()
    }

    fn bound<'a>(&'a self, role: &RoleRef, namespace: Option<&'a str>) -> Bound<'a> {
        let RoleRef { kind, name, .. } = role;
        let rules = if kind == "ClusterRole" { self.cluster_rules(name) } else { self.rules(name, namespace) };
        Bound { role: format!("{kind} {name}"), namespace, rules }
    }

    fn cluster_rules(&self, role: &str) -> Vec<&PolicyRule> {
        let own = self.cluster_roles.iter().filter(|one| one.metadata.name.as_deref() == Some(role));
        own.flat_map(|role| role.rules.iter().flatten()).collect()
    }

    fn rules(&self, role: &str, namespace: Option<&str>) -> Vec<&PolicyRule> {
        let is =
            |one: &&Role| one.metadata.name.as_deref() == Some(role) && one.metadata.namespace.as_deref() == namespace;
        self.roles.iter().filter(is).flat_map(|role| role.rules.iter().flatten()).collect()
    }

    /// Everybody whom a `ClusterRoleBinding` names.
    pub fn holders(&self) -> impl Iterator<Item = Holder<'_>> {
        let mut holders: BTreeMap<String, Holder> = BTreeMap::new();
        for binding in &self.cluster_bindings {
            let rules = self.bound(&binding.role_ref, None).rules;
            for subject in binding.subjects.iter().flatten() {
                let holder = holders.entry(text(subject)).or_insert(Holder { subject, rules: Vec::new() });
                holder.rules.extend(&rules);
            }
        }
        holders.into_values()
    }

    /// The rules that an account has in the whole cluster, with those of its groups.
    pub fn of_account(&self, namespace: &str, account: &str) -> Vec<&PolicyRule> {
        let bound = self.bindings(|subject| means(subject, namespace, account)).into_iter();
        bound.filter(|bound| bound.namespace.is_none()).flat_map(|bound| bound.rules).collect()
    }
}

/// Accounts belong to the subject.
pub fn is_account(subject: &Subject) -> bool {
    let name = &*subject.name;
    match &*subject.kind {
        "ServiceAccount" => true,
        "Group" => [ACCOUNTS, USERS].contains(&name) || name.starts_with("system:serviceaccounts:"),
        _ => name.starts_with("system:serviceaccount:"),
    }
}

/// The account is the subject, or a member of it.
fn means(subject: &Subject, namespace: &str, account: &str) -> bool {
    let name = &*subject.name;
    match &*subject.kind {
        "ServiceAccount" => subject.namespace.as_deref() == Some(namespace) && name == account,
        "Group" => [ACCOUNTS, USERS].contains(&name) || name.strip_prefix("system:serviceaccounts:") == Some(namespace),
        _ => {
            name.strip_prefix("system:serviceaccount:").and_then(|name| name.split_once(':'))
                == Some((namespace, account))
        }
    }
}

/// All rights of the cluster.
pub const EVERYTHING: [Right; 1] = [Right { group: "*", resource: "*", verbs: &["*"], names: &[] }];

/// The ways to [`EVERYTHING`].
const WAYS: [(&str, &[Right]); 6] = [
    ("all verbs", &EVERYTHING),
    // Its own role can be made to allow anything.
    ("escalate", &[roles("clusterroles", &["escalate"], &[]), roles("clusterroles", &["update", "patch"], &[])]),
    (
        "bind",
        &[
            roles("clusterroles", &["bind"], &["cluster-admin"]),
            roles("clusterrolebindings", &["create", "update", "patch"], &[]),
        ],
    ),
    // Some user or account has all rights, or a way to them: kube-controller-manager and its accounts do.
    ("impersonate", &[impersonate("users", &[])]),
    ("impersonate", &[impersonate("serviceaccounts", &[])]),
    // A group alone is nobody.
    ("impersonate", &[impersonate("groups", &["system:masters"]), impersonate("users", ANY)]),
];

/// Whichever name a rule gives.
const ANY: &[&str] = &["*"];

const fn roles(resource: &'static str, verbs: &'static [&'static str], names: &'static [&'static str]) -> Right {
    Right { group: "rbac.authorization.k8s.io", resource, verbs, names }
}

const fn impersonate(resource: &'static str, names: &'static [&'static str]) -> Right {
    Right { group: "", resource, verbs: &["impersonate"], names }
}

/// How rules of the whole cluster give all rights, if they do.
pub fn way(rules: &[&PolicyRule]) -> Option<&'static str> {
    WAYS.iter().find(|(_, rights)| may(rules, rights)).map(|(way, _)| *way)
}

/// Whether rules together give all these rights.
pub fn may(rules: &[&PolicyRule], rights: &[Right]) -> bool {
    rights.iter().all(|right| rules.iter().any(|rule| right.is_in(rule)))
}

/// A rule of the Roles that kubeadm makes: it reads `ConfigMap`s by their names.
pub fn reads_configuration(rule: &PolicyRule) -> bool {
    let is = |list: &Option<Vec<String>>, word: &str| list.as_deref().is_some_and(|list| list == [word]);
    rule.verbs == ["get"] && is(&rule.resources, "configmaps") && rule.resource_names.iter().flatten().next().is_some()
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
            && (names.is_empty() || self.names == ANY || names.iter().any(|name| self.names.contains(&name.as_str())))
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

    /// With the role cluster-admin.
    pub fn rbac(roles: &[Value], cluster: &[Value], namespaced: &[Value]) -> Rbac {
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        Rbac {
            cluster_roles: items(&[roles, &[cluster_role("cluster-admin", &all)]].concat()),
            cluster_bindings: items(cluster),
            roles: vec![],
            bindings: items(namespaced),
        }
    }

    /// A Role with a binding in a namespace.
    pub fn local(namespace: &str, name: &str, rules: &Value, subject: &Value) -> Rbac {
        let metadata = json!({"namespace": namespace, "name": name});
        let mut bound = binding(name, subject);
        (bound["metadata"], bound["roleRef"]["kind"]) = (metadata.clone(), "Role".into());
        Rbac { roles: items(&[json!({"metadata": metadata, "rules": rules})]), ..rbac(&[], &[], &[bound]) }
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
            let holder = rbac.holders().next().unwrap();
            assert_eq!(
                (text(holder.subject).as_str(), may(&holder.rules, &[RIGHT])),
                ("ServiceAccount ci/a", given),
                "{rules}"
            );
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
        assert!(rbac.holders().all(|holder| way(&holder.rules).is_none()));
    }

    #[test]
    fn a_way_to_all_rights_may_add_up_over_several_rules() {
        let rule = |group: &str, resource: &str, verb: &str, names: &[&str]| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names});
        let roles =
            |resource: &str, verb: &str, names: &[&str]| rule("rbac.authorization.k8s.io", resource, verb, names);
        let act = |resource: &str, names: &[&str]| rule("", resource, "impersonate", names);
        for (rules, expected) in [
            (vec![rule("*", "*", "*", &[])], Some("all verbs")),
            (vec![rule("*", "*", "*", &["one"])], None),
            (vec![roles("clusterroles", "escalate", &[]), roles("clusterroles", "patch", &[])], Some("escalate")),
            (vec![roles("clusterroles", "*", &[])], Some("escalate")),
            (vec![roles("clusterroles", "escalate", &[])], None),
            (vec![roles("clusterroles", "patch", &[])], None),
            (vec![roles("clusterroles", "bind", &["cluster-admin"]), roles("*", "create", &[])], Some("bind")),
            (vec![roles("clusterroles", "bind", &["view"]), roles("*", "create", &[])], None),
            (vec![roles("clusterroles", "bind", &[])], None),
            (vec![act("users", &[])], Some("impersonate")),
            (vec![act("serviceaccounts", &[])], Some("impersonate")),
            (vec![act("users", &["me"]), act("groups", &["system:masters"])], Some("impersonate")),
            (vec![act("users", &["me"]), act("groups", &["ops"])], None),
            (vec![act("groups", &[])], None),
        ] {
            let all: Vec<PolicyRule> = items(&rules);
            assert_eq!(way(&all.iter().collect::<Vec<_>>()), expected, "{rules:?}");
        }
    }

    #[test]
    fn an_account_has_the_rules_of_its_groups() {
        let role = |name: &str| cluster_role(name, &json!([{"verbs": [name]}]));
        let user = json!({"kind": "User", "name": "system:serviceaccount:ci:a"});
        let bindings = [
            binding("own", &account("ci", "a")),
            binding("user", &user),
            binding("namespace", &group("system:serviceaccounts:ci")),
            binding("other", &group("system:serviceaccounts:cd")),
            binding("all", &group("system:serviceaccounts")),
        ];
        let rbac = rbac(&["own", "user", "namespace", "other", "all"].map(role), &bindings, &[binding("own", &user)]);
        let verbs: Vec<&str> = rbac.of_account("ci", "a").iter().map(|rule| rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["own", "user", "namespace", "all"]);
        assert_eq!(rbac.of_account("ci", "b").len(), 2);
    }
}
