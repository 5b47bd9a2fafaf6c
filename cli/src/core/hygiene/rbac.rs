//! Who may do what, by roles and bindings.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{Display, Formatter, Result},
};

use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::rights::way;
use crate::core::verify::Learnt;

/// The group of all ServiceAccounts; those of a namespace have its name behind a colon.
const ACCOUNTS: &str = "system:serviceaccounts";
/// The group of everybody with credentials.
const USERS: &str = "system:authenticated";
/// The group and the user of everybody without.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
pub const ANONYMOUS: &str = "system:anonymous";
/// Rights in this namespace lead to those of the cluster: the accounts of kube-controller-manager are there.
pub const SYSTEM: &str = "kube-system";

/// Roles and bindings.
#[derive(Default)]
pub struct Rbac {
    /// Rules by namespace and name; a `ClusterRole` has no namespace.
    roles: HashMap<(Option<String>, String), Vec<PolicyRule>>,
    bindings: Vec<Binding>,
    /// Why those of the whole cluster could not be learnt.
    unknown_in_cluster: Vec<String>,
    unknown_in_namespaces: Vec<String>,
}

struct Binding {
    namespace: Option<String>,
    role: RoleRef,
    subjects: Vec<Subject>,
}

/// A binding for somebody.
#[derive(Debug, PartialEq)]
pub struct Bound<'a> {
    /// Kind and name of the role.
    pub role: String,
    /// Of a binding in one namespace.
    pub namespace: Option<&'a str>,
    pub rules: &'a [PolicyRule],
}

/// A rule that somebody has.
#[derive(Clone, Copy)]
pub struct Given<'a> {
    pub rule: &'a PolicyRule,
    /// In the whole cluster; else in [`SYSTEM`] alone.
    pub everywhere: bool,
}

impl Given<'_> {
    /// The names to which the rule is restricted.
    pub fn names(&self) -> &[String] {
        self.rule.resource_names.as_deref().unwrap_or_default()
    }
}

impl<'a> Bound<'a> {
    /// Its rules, where they may lead to all rights of the cluster.
    pub fn given(&self) -> impl Iterator<Item = Given<'a>> + use<'a> {
        let everywhere = self.namespace.is_none();
        let rules = if everywhere || self.namespace == Some(SYSTEM) { self.rules } else { &[] };
        rules.iter().map(move |rule| Given { rule, everywhere })
    }

    /// It gives all rights of the cluster.
    pub fn is_admin(&self) -> bool {
        way(&self.given().collect::<Vec<_>>()).is_some()
    }
}

impl Rbac {
    /// What could be learnt counts without the rest.
    pub fn new(
        cluster_roles: Learnt<Vec<ClusterRole>>,
        cluster_bindings: Learnt<Vec<ClusterRoleBinding>>,
        roles: Learnt<Vec<Role>>,
        bindings: Learnt<Vec<RoleBinding>>,
    ) -> Self {
        let (mut rbac, mut unknown) = (Self::default(), Vec::new());
        for ClusterRole { metadata, rules, .. } in known(cluster_roles, &mut unknown) {
            rbac.roles.insert((None, metadata.name.unwrap_or_default()), rules.unwrap_or_default());
        }
        for ClusterRoleBinding { role_ref: role, subjects, .. } in known(cluster_bindings, &mut unknown) {
            rbac.bindings.push(Binding { namespace: None, role, subjects: subjects.unwrap_or_default() });
        }
        rbac.unknown_in_cluster = std::mem::take(&mut unknown);
        for Role { metadata, rules } in known(roles, &mut unknown) {
            rbac.roles.insert((metadata.namespace, metadata.name.unwrap_or_default()), rules.unwrap_or_default());
        }
        for RoleBinding { metadata, role_ref: role, subjects } in known(bindings, &mut unknown) {
            let namespace = metadata.namespace;
            rbac.bindings.push(Binding { namespace, role, subjects: subjects.unwrap_or_default() });
        }
        Self { unknown_in_namespaces: unknown, ..rbac }
    }

    /// Why roles or bindings could not be learnt.
    pub fn unknown(&self) -> impl Iterator<Item = &String> {
        self.unknown_in_cluster().iter().chain(&self.unknown_in_namespaces)
    }

    pub fn unknown_in_cluster(&self) -> &[String] {
        &self.unknown_in_cluster
    }

    /// The bindings for a subject that this names.
    pub fn bindings(&self, is: impl Fn(&Subject) -> bool) -> Vec<Bound<'_>> {
        let named = self.bindings.iter().filter(|binding| binding.subjects.iter().any(&is));
        named.map(|binding| self.bound(binding)).collect()
    }

    fn bound<'a>(&'a self, binding: &'a Binding) -> Bound<'a> {
        let RoleRef { kind, name, .. } = &binding.role;
        let place = if kind == "ClusterRole" { None } else { binding.namespace.clone() };
        let rules = self.roles.get(&(place, name.clone())).map(Vec::as_slice).unwrap_or_default();
        Bound { role: format!("{kind} {name}"), namespace: binding.namespace.as_deref(), rules }
    }

    /// Everybody to whom a binding gives rules in the whole cluster, or in [`SYSTEM`]. Only rules that count are kept: all
    /// members of a group are asked for those of the group.
    pub fn holders(&self, counts: impl Fn(&Given) -> bool) -> Holders<'_> {
        let mut holders: BTreeMap<Who, Holder> = BTreeMap::new();
        for binding in &self.bindings {
            let bound = self.bound(binding);
            let rules: Vec<Given> = bound.given().filter(&counts).collect();
            for who in binding.subjects.iter().filter(|_| !rules.is_empty()).map(Who::of) {
                let is_own = who.is_controller_of(&bound.role);
                let holder = holders.entry(who).or_insert(Holder { rules: Vec::new(), is_built_in: true });
                holder.rules.extend(&rules);
                holder.is_built_in &= is_own;
            }
        }
        Holders(holders)
    }
}

fn known<T>(fact: Learnt<Vec<T>>, unknown: &mut Vec<String>) -> Vec<T> {
    fact.map_err(|why| unknown.push(why)).unwrap_or_default()
}

/// A user or a group, as RBAC tells them apart; a ServiceAccount is a user.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Group(String),
    User(String),
}

impl Who {
    fn of(subject: &Subject) -> Self {
        let Subject { kind, name, namespace, .. } = subject;
        match kind.as_str() {
            "Group" => Self::Group(name.clone()),
            "ServiceAccount" => Self::account(namespace.as_deref().unwrap_or_default(), name),
            _ => Self::User(name.clone()),
        }
    }

    pub fn account(namespace: &str, name: &str) -> Self {
        Self::User(format!("system:serviceaccount:{namespace}:{name}"))
    }

    /// Namespace and name of a ServiceAccount.
    pub fn as_account(&self) -> Option<(&str, &str)> {
        let Self::User(name) = self else { return None };
        name.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// It is a ServiceAccount, or a group of them.
    pub fn has_accounts(&self) -> bool {
        match self {
            Self::User(_) => self.as_account().is_some(),
            Self::Group(name) => [ACCOUNTS, USERS].contains(&&**name) || name.starts_with("system:serviceaccounts:"),
        }
    }

    /// The groups of which everybody that this means is a member.
    fn groups(&self) -> Vec<Self> {
        let group = |name: &str| Self::Group(name.to_owned());
        match self {
            Self::Group(name) if [USERS, UNAUTHENTICATED].contains(&&**name) => vec![],
            Self::User(name) if name == ANONYMOUS => vec![group(UNAUTHENTICATED)],
            Self::Group(name) if name.starts_with("system:serviceaccounts:") => vec![group(ACCOUNTS), group(USERS)],
            _ => match self.as_account() {
                Some((namespace, _)) => {
                    vec![group(&format!("{ACCOUNTS}:{namespace}")), group(ACCOUNTS), group(USERS)]
                }
                None => vec![group(USERS)],
            },
        }
    }

    /// Kubernetes itself makes such a role for this account.
    fn is_controller_of(&self, role: &str) -> bool {
        let account = self.as_account().filter(|(namespace, _)| *namespace == SYSTEM);
        account.is_some_and(|(_, name)| role.split_once(" system:controller:").is_some_and(|(_, role)| role == name))
    }
}

impl Display for Who {
    fn fmt(&self, formatter: &mut Formatter) -> Result {
        match (self, self.as_account()) {
            (_, Some((namespace, name))) => write!(formatter, "ServiceAccount {namespace}/{name}"),
            (Self::Group(name), _) => write!(formatter, "Group {name}"),
            (Self::User(name), _) => write!(formatter, "User {name}"),
        }
    }
}

struct Holder<'a> {
    rules: Vec<Given<'a>>,
    /// No binding but that of its role `system:controller:…` gives it rules that count.
    is_built_in: bool,
}

/// Everybody with rules, each once, with those of all bindings.
pub struct Holders<'a>(BTreeMap<Who, Holder<'a>>);

impl<'a> Holders<'a> {
    pub fn all(&self) -> impl Iterator<Item = &Who> {
        self.0.keys()
    }

    /// An account of Kubernetes, which every cluster has.
    pub fn is_built_in(&self, who: &Who) -> bool {
        self.0.get(who).is_some_and(|holder| holder.is_built_in)
    }

    /// The rules that somebody has, with those of the groups.
    pub fn rules(&self, who: &Who) -> Vec<Given<'a>> {
        let mut rules = self.of_groups(who);
        rules.extend(self.own(who));
        rules
    }

    /// Everybody of whom this holds, unless it holds of the groups alone.
    pub fn those(&self, is: impl Fn(&[Given]) -> bool) -> Vec<&Who> {
        self.all().filter(|who| is(&self.rules(who)) && !is(&self.of_groups(who))).collect()
    }

    fn own(&self, who: &Who) -> &[Given<'a>] {
        self.0.get(who).map(|holder| holder.rules.as_slice()).unwrap_or_default()
    }

    fn of_groups(&self, who: &Who) -> Vec<Given<'a>> {
        who.groups().iter().flat_map(|group| self.own(group)).copied().collect()
    }
}

/// A rule of the Roles that kubeadm makes: it reads `ConfigMap`s by their names.
pub fn reads_configuration(rule: &PolicyRule) -> bool {
    let is = |list: &Option<Vec<String>>, word: &str| list.as_deref().is_some_and(|list| list == [word]);
    rule.verbs == ["get"] && is(&rule.resources, "configmaps") && rule.resource_names.iter().flatten().next().is_some()
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
        with_roles(&[], roles, cluster, namespaced)
    }

    fn with_roles(local: &[Value], roles: &[Value], cluster: &[Value], namespaced: &[Value]) -> Rbac {
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        let roles = items(&[roles, &[cluster_role("cluster-admin", &all)]].concat());
        Rbac::new(Ok(roles), Ok(items(cluster)), Ok(items(local)), Ok(items(namespaced)))
    }

    /// A Role with a binding in a namespace.
    pub fn local(namespace: &str, name: &str, rules: &Value, subject: &Value) -> Rbac {
        let metadata = json!({"namespace": namespace, "name": name});
        let mut bound = binding(name, subject);
        (bound["metadata"], bound["roleRef"]["kind"]) = (metadata.clone(), "Role".into());
        with_roles(&[json!({"metadata": metadata, "rules": rules})], &[], &[], &[bound])
    }

    #[test]
    fn bindings_of_a_group_are_found_in_cluster_and_namespaces() {
        let everybody = binding("view", &group("system:authenticated"));
        let rbac = rbac(&[], std::slice::from_ref(&everybody), std::slice::from_ref(&everybody));
        let found = rbac.bindings(|subject| subject.name == "system:authenticated");
        let role = || "ClusterRole view".to_owned();
        let bound = |namespace| Bound { role: role(), namespace, rules: &[] };
        assert_eq!(found, [bound(None), bound(Some("ci"))]);
        assert_eq!(rbac.holders(|_| true).all().count(), 0, "nobody knows the rules of view");
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
        let holders = rbac.holders(|_| true);
        let rules = holders.rules(&Who::account("ci", "a"));
        let verbs: Vec<&str> = rules.iter().map(|given| given.rule.verbs[0].as_str()).collect();
        assert_eq!(verbs, ["namespace", "all", "own", "user"]);
        assert_eq!(holders.rules(&Who::account("ci", "b")).len(), 2);
    }

    #[test]
    fn the_controllers_of_kubernetes_are_told_from_other_accounts() {
        let role = |name: &str| cluster_role(name, &json!([{"verbs": ["get"]}]));
        let (own, other) = (account("kube-system", "job"), account("kube-system", "mine"));
        let roles = ["system:controller:job", "more"].map(role);
        let bindings =
            [binding("system:controller:job", &own), binding("system:controller:job", &other), binding("more", &own)];
        let (built_in, widened) = (rbac(&roles, &bindings[..2], &[]), rbac(&roles, &bindings, &[]));
        let is = |rbac: &Rbac, name| rbac.holders(|_| true).is_built_in(&Who::account("kube-system", name));
        assert_eq!((is(&built_in, "job"), is(&built_in, "mine"), is(&widened, "job")), (true, false, false));
    }

    #[test]
    fn each_rule_is_looked_at_once_however_many_have_it() {
        let role = |name: &str| cluster_role(name, &json!([{"verbs": [name]}, {"verbs": ["list"]}]));
        let accounts: Vec<Value> = (0..50).map(|number| account("ci", &format!("a{number}"))).collect();
        let mut all = binding("get", &group("system:authenticated"));
        all["subjects"].as_array_mut().unwrap().extend(accounts);
        let rbac = rbac(&["get", "watch"].map(role), &[all, binding("watch", &account("ci", "a1"))], &[]);
        let looks = std::cell::Cell::new(0);
        let holders = rbac.holders(|given| {
            looks.set(looks.get() + 1);
            given.rule.verbs == ["watch"]
        });
        assert_eq!((looks.get(), holders.all().count()), (4, 1));
    }

    #[test]
    fn rights_of_a_member_count_once() {
        let role = |name: &str| cluster_role(name, &json!([{"verbs": [name]}]));
        let (all, own) = (group("system:authenticated"), account("ci", "a"));
        let bindings = [binding("get", &all), binding("list", &own), binding("get", &account("ci", "b"))];
        let rbac = rbac(&["get", "list"].map(role), &bindings, &[]);
        let holders = rbac.holders(|_| true);
        let those = |verbs: &[&str]| {
            let has = |rules: &[Given], verb: &str| rules.iter().any(|given| given.rule.verbs == [verb]);
            let found = holders.those(|rules| verbs.iter().all(|verb| has(rules, verb)));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(those(&["get"]), ["Group system:authenticated"]);
        assert_eq!(those(&["get", "list"]), ["ServiceAccount ci/a"], "rights of group and account add up");
    }
}
