//! Rights that rules give, and the ways from a few rights to all of the cluster.

use super::rbac::Given;

/// A right on one resource.
pub struct Right {
    pub group: &'static str,
    pub resource: &'static str,
    /// Verbs of which each gives the right.
    pub verbs: &'static [&'static str],
    /// Names of which each gives the right.
    pub names: &'static [&'static str],
    /// The resource is in no namespace, so only a rule of the whole cluster gives the right.
    pub everywhere: bool,
}

/// Rights that together lead to all of the cluster.
pub struct Way {
    pub name: &'static str,
    rights: &'static [Right],
}

impl Way {
    /// Whether a rule gives a part of it.
    pub fn takes(&self, given: &Given) -> bool {
        self.rights.iter().any(|right| right.is_in(given))
    }
}

/// Whichever name a rule gives.
pub const ANY: &[&str] = &["*"];

const WRITE: &[&str] = &["create", "update", "patch"];

/// Roles with a way to all rights that Kubernetes itself makes.
const ADMINS: &[&str] = &["cluster-admin", "admin", "edit"];

/// All rights of the cluster.
pub const EVERYTHING: [Right; 1] = [Right { group: "*", resource: "*", verbs: &["*"], names: &[], everywhere: false }];

/// The ways to [`EVERYTHING`].
const WAYS: [Way; 17] = [
    Way { name: "all verbs", rights: &EVERYTHING },
    // Its own role can be made to allow anything.
    Way {
        name: "escalate",
        rights: &[
            roles("clusterroles", &["escalate"], &[]).of_cluster(),
            roles("clusterroles", &["update", "patch"], &[]).of_cluster(),
        ],
    },
    Way {
        name: "bind",
        rights: &[
            roles("clusterroles", &["bind"], ADMINS).of_cluster(),
            roles("clusterrolebindings", WRITE, &[]).of_cluster(),
        ],
    },
    Way { name: "bind", rights: &[roles("clusterroles", &["bind"], ADMINS), roles("rolebindings", WRITE, &[])] },
    // Some user or account has all rights, or a way to them: kube-controller-manager and its accounts do.
    Way { name: "impersonate", rights: &[impersonate("users", &[]).of_cluster()] },
    Way { name: "impersonate", rights: &[impersonate("serviceaccounts", &[])] },
    // A group alone is nobody.
    Way {
        name: "impersonate",
        rights: &[impersonate("groups", &["system:masters"]).of_cluster(), impersonate("users", ANY).of_cluster()],
    },
    Way { name: "create tokens", rights: &[tokens(&[])] },
    // The control plane writes a token into a Secret that names an account.
    Way { name: "create Secrets", rights: &[create("", "secrets"), READ] },
    // A Pod gets a token of the account that it names.
    Way { name: "create Pods", rights: &[create("", "pods")] },
    Way { name: "create Pods", rights: &[create("", "replicationcontrollers")] },
    Way { name: "create Pods", rights: &[create("apps", "deployments")] },
    Way { name: "create Pods", rights: &[create("apps", "daemonsets")] },
    Way { name: "create Pods", rights: &[create("apps", "statefulsets")] },
    Way { name: "create Pods", rights: &[create("apps", "replicasets")] },
    Way { name: "create Pods", rights: &[create("batch", "jobs")] },
    Way { name: "create Pods", rights: &[create("batch", "cronjobs")] },
];

/// Rights that lead as far as the users and accounts that a rule names.
pub const STEPS: [(&str, Right); 3] = [
    ("impersonate", impersonate("users", ANY).of_cluster()),
    ("impersonate", impersonate("serviceaccounts", ANY)),
    ("create tokens", tokens(ANY)),
];

/// To read Secrets, some or all.
pub const READ: Right = right("", "secrets", &["get", "list", "watch"], ANY);

const fn right(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    names: &'static [&'static str],
) -> Right {
    Right { group, resource, verbs, names, everywhere: false }
}

const fn roles(resource: &'static str, verbs: &'static [&'static str], names: &'static [&'static str]) -> Right {
    right("rbac.authorization.k8s.io", resource, verbs, names)
}

const fn impersonate(resource: &'static str, names: &'static [&'static str]) -> Right {
    right("", resource, &["impersonate"], names)
}

const fn tokens(names: &'static [&'static str]) -> Right {
    right("", "serviceaccounts/token", &["create"], names)
}

const fn create(group: &'static str, resource: &'static str) -> Right {
    right(group, resource, &["create"], &[])
}

/// Whether a rule may be a part of a way, or a step to one.
pub fn leads(given: &Given) -> bool {
    let steps = STEPS.iter().map(|(_, right)| right).chain([&READ]);
    WAYS.iter().any(|way| way.takes(given)) || steps.into_iter().any(|right| right.is_in(given))
}

/// How rules give all rights, if they do.
pub fn way(rules: &[Given]) -> Option<&'static Way> {
    WAYS.iter().find(|way| may(rules, way.rights))
}

/// Whether rules together give all these rights.
pub fn may(rules: &[Given], rights: &[Right]) -> bool {
    rights.iter().all(|right| rules.iter().any(|given| right.is_in(given)))
}

impl Right {
    const fn of_cluster(self) -> Self {
        Self { everywhere: true, ..self }
    }

    /// Whether a rule gives it.
    pub fn is_in(&self, given: &Given) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|one| one == "*" || one == word);
        let names = given.names();
        (given.everywhere || !self.everywhere)
            && self.verbs.iter().any(|verb| has(&given.rule.verbs, verb))
            && has(given.rule.api_groups.as_deref().unwrap_or_default(), self.group)
            && self.is_of(given.rule.resources.as_deref().unwrap_or_default())
            && (names.is_empty() || self.names == ANY || names.iter().any(|name| self.names.contains(&name.as_str())))
    }

    /// RBAC takes `*/approval` for the subresource of every resource.
    fn is_of(&self, resources: &[String]) -> bool {
        let below = self.resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        resources.iter().any(|one| one == "*" || one == self.resource || Some(one) == below.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::rbac::v1::PolicyRule;
    use serde_json::{Value, json};

    use super::*;

    fn rule(group: &str, resource: &str, verb: &str, names: &[&str]) -> Value {
        json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names})
    }

    fn with<T>(rules: &[Value], everywhere: bool, read: impl FnOnce(&[Given]) -> T) -> T {
        let rules: Vec<PolicyRule> = rules.iter().map(|rule| serde_json::from_value(rule.clone()).unwrap()).collect();
        read(&rules.iter().map(|rule| Given { rule, everywhere }).collect::<Vec<_>>())
    }

    #[test]
    fn a_right_is_given_by_word_or_star_and_by_name() {
        let right = Right { names: &["a"], ..right("", "pods/log", &["get", "watch"], &[]) };
        for (group, resource, verb, names, given) in [
            ("", "pods/log", "get", &[][..], true),
            ("", "pods/log", "watch", &[], true),
            ("", "*/log", "get", &[], true),
            ("", "*/exec", "get", &[], false),
            ("*", "*", "*", &[], true),
            ("", "pods/log", "get", &["a"], true),
            ("", "pods/log", "get", &["b"], false),
            ("", "pods/log", "list", &[], false),
            ("apps", "pods/log", "get", &[], false),
        ] {
            let rules = [rule(group, resource, verb, names)];
            assert_eq!(with(&rules, true, |all| right.is_in(&all[0])), given, "{rules:?}");
        }
    }

    /// The way that rules give in the whole cluster, and the one that they give in kube-system.
    fn ways(rules: &[Value]) -> (Option<&'static str>, Option<&'static str>) {
        let name = |all: &[Given]| way(all).map(|way| way.name);
        (with(rules, true, name), with(rules, false, name))
    }

    #[test]
    fn a_way_to_all_rights_may_add_up_over_several_rules() {
        let roles =
            |resource: &str, verb: &str, names: &[&str]| rule("rbac.authorization.k8s.io", resource, verb, names);
        let act = |resource: &str, names: &[&str]| rule("", resource, "impersonate", names);
        for (rules, cluster, system) in [
            (vec![rule("*", "*", "*", &[])], Some("all verbs"), Some("all verbs")),
            (vec![rule("*", "*", "*", &["one"])], None, None),
            (vec![roles("clusterroles", "escalate", &[]), roles("clusterroles", "patch", &[])], Some("escalate"), None),
            (vec![roles("clusterroles", "*", &[])], Some("escalate"), None),
            (vec![roles("clusterroles", "escalate", &[])], None, None),
            (vec![roles("clusterroles", "patch", &[])], None, None),
            (
                vec![roles("clusterroles", "bind", &["cluster-admin"]), roles("*", "create", &[])],
                Some("bind"),
                Some("bind"),
            ),
            (
                vec![roles("clusterroles", "bind", &["admin"]), roles("rolebindings", "create", &[])],
                Some("bind"),
                Some("bind"),
            ),
            (vec![roles("clusterroles", "bind", &["view"]), roles("*", "create", &[])], None, None),
            (vec![roles("clusterroles", "bind", &[])], None, None),
            (vec![act("users", &[])], Some("impersonate"), None),
            (vec![act("serviceaccounts", &[])], Some("impersonate"), Some("impersonate")),
            (vec![act("users", &["me"]), act("groups", &["system:masters"])], Some("impersonate"), None),
            (vec![act("users", &["me"]), act("groups", &["ops"])], None, None),
            (vec![act("groups", &[])], None, None),
        ] {
            assert_eq!(ways(&rules), (cluster, system), "{rules:?}");
        }
    }

    #[test]
    fn tokens_secrets_and_pods_are_ways() {
        let every = ["get", "list", "watch", "create", "update", "patch", "delete"];
        let spelt = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": every});
        for (rules, expected) in [
            (vec![spelt], Some("create tokens")),
            (vec![rule("", "serviceaccounts/token", "create", &[])], Some("create tokens")),
            (vec![rule("", "*/token", "create", &[])], Some("create tokens")),
            (vec![rule("", "serviceaccounts/token", "create", &["one"])], None),
            (vec![rule("", "serviceaccounts", "create", &[])], None),
            (vec![rule("", "secrets", "create", &[]), rule("", "secrets", "get", &["mine"])], Some("create Secrets")),
            (vec![rule("", "secrets", "create", &[])], None),
            (vec![rule("", "secrets", "list", &[])], None),
            (vec![rule("", "pods", "create", &[])], Some("create Pods")),
            (vec![rule("", "pods/exec", "create", &[])], None),
            (vec![rule("apps", "daemonsets", "create", &[])], Some("create Pods")),
            (vec![rule("batch", "*", "create", &[])], Some("create Pods")),
            (vec![rule("batch", "jobs", "patch", &[])], None),
        ] {
            assert_eq!(ways(&rules), (expected, expected), "{rules:?}");
        }
    }
}
