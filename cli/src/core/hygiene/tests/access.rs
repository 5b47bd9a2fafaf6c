//! Ways to all rights, and what anybody may do.

use super::*;

fn rule(group: &str, resource: &str, verb: &str, names: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": [resource], "verbs": [verb], "resourceNames": names})
}

fn in_system(mut binding: Value) -> Value {
    binding["metadata"]["namespace"] = "kube-system".into();
    binding
}

fn row(facts: &Facts, strategy: &str) -> Row {
    reported(facts).into_iter().find(|row| row.strategy == strategy).unwrap()
}

/// The problems of the row of administrators, where the account of Secret `ci/a` has a role with this rule.
fn problems(facts: &Facts) -> String {
    let row = row(facts, "cluster-admin tokens");
    row.findings.iter().map(|finding| finding.problem.as_str()).collect::<Vec<_>>().join("\n")
}

fn with_token(rbac: Rbac) -> Facts {
    Facts { legacy: Ok(vec![legacy("a", None)]), rbac, ..clean() }
}

#[test]
fn a_binding_in_kube_system_leads_to_all_rights() {
    let deployer = account("ci", "deployer");
    let system = in_system(binding("cluster-admin", &deployer));
    let facts = with_token(rbac(&[], &[], &[system]));
    let expected = "whoever reads Secret ci/a, which never expires, may do everything in the cluster (all verbs)";
    assert_eq!(problems(&facts), expected);
    let evidence = row(&facts, "cluster-admin tokens").evidence;
    assert_eq!(evidence[0], "may do everything: ServiceAccount ci/deployer (all verbs)");
    let elsewhere = with_token(rbac(&[], &[], &[binding("cluster-admin", &deployer)]));
    assert_eq!(problems(&elsewhere), "");
}

#[test]
fn a_role_in_kube_system_and_one_of_the_cluster_add_up() {
    let deployer = account("ci", "deployer");
    let roles = [
        cluster_role("writes", &json!([rule("", "secrets", "create", &[])])),
        cluster_role("reads", &json!([rule("", "secrets", "get", &[])])),
    ];
    let bound = |place: fn(Value) -> Value| [place(binding("writes", &deployer))];
    let reads = [binding("reads", &deployer)];
    let there = with_token(rbac(&roles, &reads, &bound(in_system)));
    assert!(problems(&there).ends_with("(create Secrets)"), "{}", problems(&there));
    assert_eq!(problems(&with_token(rbac(&roles, &reads, &bound(|binding| binding)))), "");
}

#[test]
fn who_acts_as_somebody_with_a_way_has_one() {
    let found = |resource: &str, verb: &str, names: &[&str], place: fn(Value) -> Value| {
        let roles = [cluster_role("acts", &json!([rule("", resource, verb, names)]))];
        let admins = [
            binding("cluster-admin", &json!({"kind": "User", "name": "root"})),
            binding("cluster-admin", &account("ops", "admin")),
        ];
        let bound = place(binding("acts", &account("ci", "deployer")));
        let (cluster, local) = if bound["metadata"]["namespace"] == "kube-system" {
            (admins.to_vec(), vec![bound])
        } else {
            ([&admins[..], &[bound]].concat(), vec![])
        };
        let text = problems(&with_token(rbac(&roles, &cluster, &local)));
        text.rsplit_once('(').map(|(_, way)| way.trim_end_matches(')').to_owned()).unwrap_or_default()
    };
    let everywhere = |binding| binding;
    assert_eq!(found("users", "impersonate", &["root"], everywhere), "impersonate");
    assert_eq!(found("users", "impersonate", &["system:serviceaccount:ops:admin"], everywhere), "impersonate");
    assert_eq!(found("users", "impersonate", &["nobody"], everywhere), "");
    assert_eq!(found("serviceaccounts", "impersonate", &["admin"], everywhere), "impersonate");
    assert_eq!(found("serviceaccounts", "impersonate", &["root"], everywhere), "");
    assert_eq!(found("serviceaccounts/token", "create", &["admin"], everywhere), "create tokens");
    assert_eq!(found("serviceaccounts/token", "create", &["admin"], in_system), "", "it is in ops");
    assert_eq!(found("users", "impersonate", &["root"], in_system), "", "users are in no namespace");
}

/// A reader of these Secrets, and the token of an administrator in Secret `ci/a`.
fn reader(names: &[&str], place: fn(Value) -> Value) -> Facts {
    let roles = [cluster_role("reads", &json!([rule("", "secrets", "list", names)]))];
    let bound = place(binding("reads", &account("cd", "reader")));
    let is_local = bound["metadata"]["namespace"] == "kube-system";
    let (cluster, local) = if is_local { (vec![], vec![bound]) } else { (vec![bound], vec![]) };
    let admin = binding("cluster-admin", &account("ci", "deployer"));
    with_token(rbac(&roles, &[&[admin], &*cluster].concat(), &local))
}

#[test]
fn who_reads_the_token_of_an_administrator_is_one() {
    let everywhere = |binding| binding;
    let found = |facts: &Facts| row(facts, "cluster-admin tokens").evidence[0].contains("cd/reader (read Secrets)");
    assert!(found(&reader(&[], everywhere)) && found(&reader(&["a"], everywhere)));
    assert!(!found(&reader(&["b"], everywhere)), "another Secret");
    assert!(!found(&reader(&[], in_system)), "the token is in ci");
    let mut facts = reader(&[], everywhere);
    facts.legacy = Ok(vec![legacy("a", Some(("invalid-since", "2026-01-20")))]);
    assert!(!found(&facts), "the API server refuses it");
    facts.targets = Ok(vec![target("deployer")]);
    assert!(found(&facts));
}

#[test]
fn controllers_of_kubernetes_are_no_news_unless_somebody_holds_their_token() {
    let (role, own) = ("system:controller:deployer", account("kube-system", "deployer"));
    let bound = || rbac(&[cluster_role(role, &json!([rule("", "pods", "create", &[])]))], &[binding(role, &own)], &[]);
    let none = "no ServiceAccount may do everything, apart from those of Kubernetes' own controllers";
    assert_eq!(row(&Facts { rbac: bound(), ..clean() }, "cluster-admin tokens").evidence, [none]);
    let mut facts = with_token(bound());
    facts.legacy.as_mut().unwrap()[0].namespace = Some("kube-system".into());
    assert!(problems(&facts).ends_with("(create Pods)"), "{}", problems(&facts));
}

#[test]
fn a_server_that_allows_everything_is_critical() {
    for words in [&["--authorization-mode=RBAC,AlwaysAllow"][..], &[]] {
        let mut facts = Facts { servers: Ok(vec![flags(words)]), ..clean() };
        let admins = row(&facts, "cluster-admin tokens");
        assert_eq!((admins.severity, admins.found), (Some(Critical), Found::Yes), "{admins:?}");
        assert_eq!(row(&facts, "anonymous access").severity, None, "such a server turns it off");
        facts.anonymous = Ok(answers(200));
        assert_eq!(row(&facts, "anonymous access").severity, Some(High), "another server answers");
        facts.servers = Ok(vec![flags(&[words, &["--authentication-config=/a"]].concat())]);
        assert_eq!(row(&facts, "anonymous access").severity, Some(Critical), "{words:?}");
    }
    let facts = Facts { servers: Ok(vec![flags(&["--authorization-config=/a"])]), ..clean() };
    assert_eq!(row(&facts, "cluster-admin tokens").severity, None);
}

#[test]
fn anonymous_access_of_a_server_that_did_not_answer_counts() {
    let judged = |words: &[&str]| {
        let other = flags(&[&["--authorization-mode=RBAC"], words].concat());
        let mut facts = clean();
        facts.servers.as_mut().unwrap().push(other);
        facts.rbac = rbac(&[], &[binding("cluster-admin", &group("system:unauthenticated"))], &[]);
        row(&facts, "anonymous access").severity
    };
    assert_eq!(judged(&[]), Some(Critical), "on is the default");
    assert_eq!(judged(&["--anonymous-auth"]), Some(Critical));
    assert_eq!(judged(&["--anonymous-auth=false"]), None);
}

#[test]
fn everybody_may_read_the_discovery_documents_and_no_more() {
    let judged = |urls: &[&str]| {
        let name = "system:service-account-issuer-discovery";
        let role = cluster_role(name, &json!([{"nonResourceURLs": urls, "verbs": ["get"]}]));
        let rbac = rbac(&[role], &[binding(name, &group("system:unauthenticated"))], &[]);
        row(&Facts { anonymous: Ok(answers(403)), rbac, ..clean() }, "anonymous access").severity
    };
    let built_in = [
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ];
    assert_eq!((judged(&built_in), judged(&["/metrics"]), judged(&["*"])), (None, Some(High), Some(High)));
}

#[test]
fn only_bindings_that_contribute_are_critical() {
    let found = |more: &[Value]| {
        let rbac_group = "rbac.authorization.k8s.io";
        let roles = [
            cluster_role("b", &json!([rule(rbac_group, "clusterroles", "bind", &[])])),
            cluster_role("c", &json!([rule(rbac_group, "clusterrolebindings", "create", &[])])),
            cluster_role("p", &json!([rule("", "pods", "get", &[])])),
        ];
        let bindings = ["b", "c", "p"].map(|role| binding(role, &group("system:unauthenticated")));
        let rbac = rbac(&roles, &[&bindings, more].concat(), &[]);
        let row = row(&Facts { anonymous: Ok(answers(403)), rbac, ..clean() }, "anonymous access");
        row.findings.iter().map(|finding| finding.severity).collect::<Vec<_>>()
    };
    assert_eq!(found(&[]), [Critical, Critical, High]);
    let admin = [binding("cluster-admin", &group("system:unauthenticated"))];
    assert_eq!(found(&admin), [Critical, Critical, High, Critical]);
}

#[test]
fn a_missing_right_leaves_the_rest_of_a_row() {
    let roles: Vec<_> =
        serde_json::from_value(json!([cluster_role("cluster-admin", &json!([rule("*", "*", "*", &[])]))])).unwrap();
    let bindings: Vec<_> =
        serde_json::from_value(json!([binding("cluster-admin", &account("ci", "deployer"))])).unwrap();
    let facts = with_token(Rbac::new(Ok(roles), Ok(bindings), Err("list roles".into()), Ok(vec![])));
    assert!(problems(&facts).contains("Secret ci/a"));
    assert_eq!(row(&facts, "cluster-admin tokens").not_checked, ["list roles"]);
    assert_eq!(row(&facts, "client certificates").not_checked, [""; 0], "requests are in no namespace");
    let blind =
        Facts { rbac: Rbac::new(Err("list clusterroles".into()), Ok(vec![]), Ok(vec![]), Ok(vec![])), ..clean() };
    assert_eq!(row(&blind, "cluster-admin tokens").evidence, [""; 0]);
    assert_eq!(row(&blind, "client certificates").not_checked, ["list clusterroles"]);
}

#[test]
fn rights_of_an_approver_and_its_groups_add_up() {
    let certificates = "certificates.k8s.io";
    let roles = [
        cluster_role("a", &json!([rule(certificates, "certificatesigningrequests/approval", "update", &[])])),
        cluster_role("s", &json!([rule(certificates, "signers", "approve", &[])])),
    ];
    let bindings = [binding("a", &account("ci", "a")), binding("s", &group("system:serviceaccounts:ci"))];
    let row = row(&Facts { rbac: rbac(&roles, &bindings, &[]), ..clean() }, "client certificates");
    assert!(row.findings[0].problem.starts_with("ServiceAccount ci/a may approve"), "{row:?}");
}

#[test]
fn names_of_kubernetes_itself_are_high_in_a_certificate() {
    let severity = |user: &str, group: Option<&str>| {
        let certificate =
            Certificate { user: user.into(), groups: group.into_iter().map(str::to_owned).collect(), ..alice() };
        let logins = Ok(kubeconfig(|login| login.certificate = Ok(Some(certificate))));
        row(&Facts { logins, ..clean() }, "client certificates").severity
    };
    assert_eq!(severity("system:kube-scheduler", None), Some(High));
    assert_eq!(severity("alice", Some("system:nodes")), Some(High));
    assert_eq!(severity("alice", Some("ops")), Some(Medium));
}

#[test]
fn an_unsigned_request_for_a_component_is_a_finding() {
    let row = row(&Facts { requests: Ok(approved("one", SCHEDULER)), ..clean() }, "client certificates");
    let expected = "CertificateSigningRequest one is approved for system:kube-scheduler, to be signed any moment";
    assert_eq!((row.findings[0].severity, row.findings[0].problem.as_str()), (High, expected));
}
