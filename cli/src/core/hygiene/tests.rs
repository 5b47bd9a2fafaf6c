//! Each row, with nothing wrong and with everything.

mod access;

use serde_json::{Value, json};

use super::{
    bootstrap::tests::token,
    certificates::{Certificate, certificates},
    flags::tests::flags,
    logins::{Login, tests::nobody},
    rbac::tests::{account, binding, cluster_role, group, local, rbac},
    row::{
        Found,
        Severity::{Critical, High, Low, Medium},
    },
    secrets::tests::legacy,
    *,
};
use crate::core::{
    target::tests::{at, target},
    token::{Claims, tests::payload},
};

/// CAs that end on 2036-11-25, a certificate of alice in `system:masters` and `ops` until then, and bob's request.
const CLIENTS: &str = "-----BEGIN CERTIFICATE-----
MIIBeTCCAR+gAwIBAgIUBOuuB5zED5Q1HZ+96LEGAa91VNcwCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHY2xpZW50czAeFw0yNjExMjgxNTI3MTBaFw0zNjExMjUxNTI3
MTBaMBIxEDAOBgNVBAMMB2NsaWVudHMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AATb4aCgU6HTYogZEwvutGWnMS+dGxNcbLHji+Ki6DrY6UrSm1wDYW18kwSt84Zl
3doe8AfaABiLq8RMaY5MbnL9o1MwUTAdBgNVHQ4EFgQUHfCbSHqpB7CGqg1jjhtT
imHDGbswHwYDVR0jBBgwFoAUHfCbSHqpB7CGqg1jjhtTimHDGbswDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNIADBFAiEAlfQ0/KLTEtOgN56M/D/GQ0cTmwrm
u9nvd/w6FndNwAwCICrhfjXVsmNHRYQHbay9B/dntxD06w3FcnlcvNbpI/qt
-----END CERTIFICATE-----
";
const PROXIES: &str = "-----BEGIN CERTIFICATE-----
MIIBdzCCAR+gAwIBAgIUXJqG1Py3oG+bju1lPURre8pDXP8wCgYIKoZIzj0EAwIw
EjEQMA4GA1UEAwwHcHJveGllczAeFw0yNjExMjgxNTI3MTBaFw0zNjExMjUxNTI3
MTBaMBIxEDAOBgNVBAMMB3Byb3hpZXMwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAT8Xni5yEDfPh89R6T5PeZO55xz0ZnB6ptepLz9MDtZeNeZtl+UK0tWl8z+i1jG
+0bTE2cZW26qJQsGh9ZboGnlo1MwUTAdBgNVHQ4EFgQU2obTooL8vcbUDujpGhIp
f8eFSLkwHwYDVR0jBBgwFoAU2obTooL8vcbUDujpGhIpf8eFSLkwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNGADBDAh9yhoinXG6IRhsACq1zonkU/q/ag63u
Or/5ecNDhqXlAiAG9wmOE9XBSp6sImS9za5Ge7hcpclLifaEjcItKUIOYw==
-----END CERTIFICATE-----
";
pub const ALICE: &str = "-----BEGIN CERTIFICATE-----
MIIBwjCCAWmgAwIBAgIUC0db2dR2gNf52gRkVK4/ljgjs+QwCgYIKoZIzj0EAwIw
NzEXMBUGA1UECgwOc3lzdGVtOm1hc3RlcnMxDDAKBgNVBAoMA29wczEOMAwGA1UE
AwwFYWxpY2UwHhcNMjYxMTI4MTUyNzEwWhcNMzYxMTI1MTUyNzEwWjA3MRcwFQYD
VQQKDA5zeXN0ZW06bWFzdGVyczEMMAoGA1UECgwDb3BzMQ4wDAYDVQQDDAVhbGlj
ZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJIMUMkzBEujoGvvBphmNSf0vrVe
johirTFG0d9MnJzaQchW2YVvwYofaeUvVsOZkjf87X71r4XqOSvAbjnC3h+jUzBR
MB0GA1UdDgQWBBSm7ghEmcAFm6UiHAoapZy1pNOgGTAfBgNVHSMEGDAWgBSm7ghE
mcAFm6UiHAoapZy1pNOgGTAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cA
MEQCIGnziYzAYMvg8C9nFFsYUWGhmQc6YcwVckfB0GSe/HljAiB9Kup8G1vvQ3ot
bEMQBAlO8tw1d5l9hatmSaicgk+r8A==
-----END CERTIFICATE-----
";
const BOB: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHWMH4CAQAwHDEMMAoGA1UECgwDb3BzMQwwCgYDVQQDDANib2IwWTATBgcqhkjO
PQIBBggqhkjOPQMBBwNCAAQtBkWFJAgNh4DNc62Q+pUA0THaCOxWKc6Dj71SqgjN
VCnTrqfq2YUIujgd+4bSWW1P+Dlfp+adCp55k4tPq11ioAAwCgYIKoZIzj0EAwID
SAAwRQIgPXxJt9/FeNo96YXvBXodhlqI4ZYd+7zAyynf1VQ3tPYCIQCJO1izRmEk
kzuMvFO3nAyIeQSeKeqYLgkiH/ugYBemJQ==
-----END CERTIFICATE REQUEST-----
";
/// A request of system:kube-scheduler, without groups.
const SCHEDULER: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHbMIGCAgEAMCAxHjAcBgNVBAMMFXN5c3RlbTprdWJlLXNjaGVkdWxlcjBZMBMG
ByqGSM49AgEGCCqGSM49AwEHA0IABPyUdvjKR4+8gOIX8u12wBICjransq+N85ZY
LA+sJ6GOfQi+nzKkZU93OgzU55OH/098jb/CQOl73u6c+VgXAMqgADAKBggqhkjO
PQQDAgNIADBFAiEA2XCxJtpC1eIzDxPrT5busXiRzpX8a19zSQ/6I4AXO4QCIEz6
9/G02xM/3hK6LdQpBIM01vFxHBvEt8Th4jlQ+WXr
-----END CERTIFICATE REQUEST-----
";
/// A request of mallory in `system:masters`.
const MASTERS: &str = "-----BEGIN CERTIFICATE REQUEST-----
MIHlMIGNAgEAMCsxFzAVBgNVBAoMDnN5c3RlbTptYXN0ZXJzMRAwDgYDVQQDDAdt
YWxsb3J5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEXf/Q6wkYvE9FCqczcdD4
//6Dq+REYCqztHWaRaXOXZKqMibj8rsOFCh/LdKA6A9Ntq+RXI3KfPf4IuNNJl0/
HKAAMAoGCCqGSM49BAMCA0cAMEQCIAbdk5IqU3QpDwtdYvK5St3LPfT3APh7onZi
EPJ8hqnbAiAHVW91N7EY/8ca2pYRhYq+Qybbzi5FrGTNO2TaGUhq+A==
-----END CERTIFICATE REQUEST-----
";

fn published(clients: &str, proxies: &str, names: &str) -> ConfigMap {
    let data = json!({
        "client-ca-file": clients, "requestheader-client-ca-file": proxies, "requestheader-allowed-names": names,
    });
    serde_json::from_value(json!({"data": data})).unwrap()
}

fn answers(status: u16) -> BTreeMap<String, u16> {
    anonymous::PATHS.map(|path| (path.to_owned(), status)).into()
}

/// A cluster where nothing is wrong.
fn clean() -> Facts {
    let words = [
        "--service-account-extend-token-expiration=false",
        "--enable-bootstrap-token-auth",
        "--authorization-mode=Node,RBAC",
        "--anonymous-auth=false",
    ];
    let masters = binding("cluster-admin", &group("system:masters"));
    Facts {
        servers: Ok(vec![flags(&words)]),
        unseen: vec![],
        granted: Ok(86_400),
        pod_token: Ok(bound::EXTENDABLE),
        issuer: Ok("https://issuer".into()),
        legacy: Ok(vec![]),
        tracked: Ok(Some(serde_json::from_value(json!({"data": {"since": "2026-03-01"}})).unwrap())),
        targets: Ok(vec![]),
        bootstrap: Ok(vec![]),
        requests: Ok(vec![]),
        rbac: rbac(&[], &[masters], &[]),
        published: Ok(Some(published(CLIENTS, PROXIES, r#"["front-proxy-client"]"#))),
        anonymous: Ok(answers(401)),
        logins: Ok(logins(vec![])),
        authentication: None,
        providers: vec![],
        webhook: None,
    }
}

fn reported(facts: &Facts) -> Vec<Row> {
    report(facts, at("2026-11-28T12:00:00Z"))
}

#[test]
fn a_clean_cluster_has_no_finding_and_leaves_nothing_unchecked() {
    for row in reported(&clean()) {
        assert!(row.findings.is_empty() && row.not_checked.is_empty(), "{row:?}");
        assert!(!row.evidence.is_empty(), "{row:?}");
    }
}

#[test]
fn what_could_not_be_learnt_is_in_no_row_taken_for_nothing() {
    let why = || "no right".to_owned();
    let mut facts = clean();
    facts.servers = Err(why());
    facts.granted = Err(why());
    facts.pod_token = Err(why());
    facts.issuer = Err(why());
    facts.legacy = Err(why());
    facts.tracked = Err(why());
    facts.targets = Err(why());
    facts.bootstrap = Err(why());
    facts.requests = Err(why());
    facts.rbac = Rbac::new(Err(why()), Err(why()), Err(why()), Err(why()));
    facts.published = Err(why());
    facts.anonymous = Err(why());
    facts.logins = Err(why());
    for row in reported(&facts) {
        assert_eq!(row.found, Found::NotChecked, "{row:?}");
        assert!(row.not_checked.iter().any(|text| text.ends_with("no right")), "{row:?}");
    }
}

/// A row, a severity, words of a finding, and what brings it.
type Case = (&'static str, Severity, &'static str, fn(&mut Facts));

fn assert_found(cases: &[Case]) {
    for (strategy, severity, words, change) in cases {
        let mut facts = clean();
        change(&mut facts);
        let rows = reported(&facts);
        let row = rows.iter().find(|row| row.strategy == *strategy).unwrap();
        let is = |finding: &row::Finding| finding.severity == *severity && finding.problem.contains(words);
        assert!(row.findings.iter().any(is), "{words}: {row:?}");
        assert_eq!(row.found, Found::Yes, "{words}: {row:?}");
    }
}

fn logins(here: Vec<Login>) -> Logins {
    Logins { here, elsewhere: vec![] }
}

fn kubeconfig(change: impl FnOnce(&mut Login)) -> Logins {
    let mut login = nobody("me");
    change(&mut login);
    logins(vec![login])
}

fn alice() -> Certificate {
    certificates(ALICE.as_bytes()).remove(0)
}

fn account_token(claims: &Value) -> logins::Token {
    let text = crate::core::token::tests::token(claims);
    logins::Token::Account(Box::new(Claims::read(&text.into()).unwrap()))
}

#[test]
fn tokens_of_accounts_are_judged() {
    assert_found(&[
        ("bound tokens", Medium, "no maximum", |facts| facts.granted = Ok(bound::LONGEST)),
        ("bound tokens", Low, "live for 3d", |facts| facts.granted = Ok(3 * 86_400)),
        ("bound tokens", Low, "extended expiry", |facts| facts.servers = Ok(vec![flags(&[])])),
        ("bound tokens", Low, "extended expiry", |facts| {
            (facts.servers, facts.pod_token) = (Err(String::new()), Ok(31_536_000));
        }),
        (
            "legacy token Secrets",
            High,
            "in use, or too young to tell, never expire: ci/a (last used 2026-11-20)",
            |facts| {
                facts.legacy = Ok(vec![legacy("a", Some(("last-used", "2026-11-20")))]);
            },
        ),
        (
            "legacy token Secrets",
            High,
            "for 90 days never expire: ci/a (last used 2026-01-20), ci/b (last used never)",
            |facts| {
                facts.legacy = Ok(vec![legacy("a", Some(("last-used", "2026-01-20"))), legacy("b", None)]);
            },
        ),
        ("bound tokens", Medium, "the token of kubeconfig user me works for another 2d", |facts| {
            let mut claims = payload();
            claims["iat"] = at("2026-11-28T12:00:00Z").timestamp().into();
            claims["exp"] = at("2026-11-30T12:00:00Z").timestamp().into();
            facts.logins = Ok(kubeconfig(|login| login.token = Ok(Some(account_token(&claims)))));
        }),
        (
            "legacy token Secrets",
            High,
            "too young to tell, never expire: ci/a (last used on an unknown day)",
            |facts| {
                facts.legacy = Ok(vec![legacy("a", Some(("last-used", "")))]);
            },
        ),
    ]);
}

#[test]
fn tokens_of_administrators_are_judged() {
    assert_found(&[
        ("cluster-admin tokens", Critical, "Secret ci/a, which never expires,", |facts| {
            facts.legacy = Ok(vec![legacy("a", None), legacy("b", Some(("invalid-since", "2026-01-20")))]);
            facts.rbac = rbac(&[], &[binding("cluster-admin", &account("ci", "deployer"))], &[]);
        }),
        ("cluster-admin tokens", Medium, "Secret ci/deployers-deployer of Tokenward", |facts| {
            facts.targets = Ok(vec![target("deployer")]);
            facts.rbac = rbac(&[], &[binding("cluster-admin", &group("system:serviceaccounts:ci"))], &[]);
        }),
        ("cluster-admin tokens", Critical, "one of the Secrets ci/a, ci/b, which never expire,", |facts| {
            facts.legacy = Ok(vec![legacy("a", None), legacy("b", None)]);
            let user = json!({"kind": "User", "name": "system:serviceaccount:ci:deployer"});
            let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
            facts.rbac = rbac(&[cluster_role("mine", &all)], &[binding("mine", &user)], &[]);
        }),
        ("cluster-admin tokens", Critical, "every member of Group system:authenticated", |facts| {
            facts.rbac = rbac(&[], &[binding("cluster-admin", &group("system:authenticated"))], &[]);
        }),
        ("cluster-admin tokens", Critical, "every member of Group system:serviceaccounts:ci may", |facts| {
            facts.rbac = rbac(&[], &[binding("cluster-admin", &group("system:serviceaccounts:ci"))], &[]);
        }),
        (
            "cluster-admin tokens",
            Critical,
            "Secret ci/a, which never expires, may do everything in the cluster (bind)",
            |facts| {
                facts.legacy = Ok(vec![legacy("a", None)]);
                let rules = |resource: &str, verb: &str| json!([{"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "verbs": [verb]}]);
                let roles = [
                    cluster_role("b", &rules("clusterroles", "bind")),
                    cluster_role("c", &rules("clusterrolebindings", "create")),
                ];
                let bindings =
                    [binding("b", &account("ci", "deployer")), binding("c", &group("system:serviceaccounts:ci"))];
                facts.rbac = rbac(&roles, &bindings, &[]);
            },
        ),
        ("cluster-admin tokens", Medium, "kubeconfig user me", |facts| {
            facts.logins = Ok(kubeconfig(|login| login.token = Ok(Some(account_token(&payload())))));
            facts.rbac = rbac(&[], &[binding("cluster-admin", &group("system:serviceaccounts"))], &[]);
        }),
    ]);
}

#[test]
fn bootstrap_tokens_are_judged() {
    assert_found(&[
        ("bootstrap tokens", High, "never expire: bootstrap-token-abcdef", |facts| {
            facts.bootstrap = Ok(vec![joining(&[])]);
        }),
        ("bootstrap tokens", Medium, "another 33d", |facts| {
            facts.bootstrap = Ok(vec![joining(&[("expiration", "2026-12-31T12:00:00Z")])]);
        }),
        ("bootstrap tokens", High, "in the group system:bootstrappers, which has ClusterRole view", |facts| {
            facts.bootstrap = Ok(vec![joining(&[("expiration", "2026-11-29T12:00:00Z")])]);
            facts.rbac = rbac(&[], &[binding("view", &group("system:bootstrappers"))], &[]);
        }),
        (
            "bootstrap tokens",
            Critical,
            "are in the group system:bootstrappers, which has ClusterRole cluster-admin in",
            |facts| {
                facts.bootstrap = Ok(vec![joining(&[])]);
                let mut bound = binding("cluster-admin", &group("system:bootstrappers"));
                bound["metadata"]["namespace"] = "kube-system".into();
                facts.rbac = rbac(&[], &[], &[bound]);
            },
        ),
        ("bootstrap tokens", High, "are the user system:bootstrap:abcdef, which has ClusterRole view", |facts| {
            facts.bootstrap = Ok(vec![joining(&[])]);
            let user = json!({"kind": "User", "name": "system:bootstrap:abcdef"});
            facts.rbac = rbac(&[], &[binding("view", &user)], &[]);
        }),
        ("bootstrap tokens", High, "which has ClusterRole kubeadm:get-nodes", |facts| {
            facts.bootstrap = Ok(vec![joining(&[])]);
            let wide = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "delete"]}]);
            let bound = binding("kubeadm:get-nodes", &group("system:bootstrappers"));
            facts.rbac = rbac(&[cluster_role("kubeadm:get-nodes", &wide)], &[bound], &[]);
        }),
        ("bootstrap tokens", High, "which has Role kubeadm:nodes in namespace kube-system", |facts| {
            facts.bootstrap = Ok(vec![joining(&[])]);
            let wide = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]);
            facts.rbac = local("kube-system", "kubeadm:nodes", &wide, &group("system:bootstrappers"));
        }),
    ]);
    let mut facts = clean();
    facts.bootstrap = Ok(vec![joining(&[])]);
    facts.servers = Ok(vec![flags(&["--service-account-extend-token-expiration=false"])]);
    assert_eq!(reported(&facts)[2].found, Found::No, "nobody logs in with them");
}

fn joining(more: &[(&str, &str)]) -> bootstrap::Token {
    token(more)
}

#[test]
fn certificates_are_judged() {
    assert_found(&[
        ("client certificates", High, "kubeconfig user me is in system:masters", |facts| {
            facts.logins = Ok(kubeconfig(|login| login.certificate = Ok(Some(alice()))));
        }),
        (
            "client certificates",
            Medium,
            "nobody can revoke the certificate of alice, which lives for another 5d",
            |facts| {
                let mut short = Certificate { ends: at("2026-12-03T12:00:00Z"), ..alice() };
                short.groups.clear();
                facts.logins = Ok(kubeconfig(|login| login.certificate = Ok(Some(short))));
            },
        ),
        ("client certificates", High, "ServiceAccount ci/a may approve", |facts| {
            let rules = json!([
                {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]},
                {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["approve"]},
            ]);
            facts.rbac = rbac(&[cluster_role("r", &rules)], &[binding("r", &account("ci", "a"))], &[]);
        }),
        ("authenticating proxy", Critical, "by a header", |facts| {
            facts.published = Ok(Some(published(CLIENTS, CLIENTS, "[]")));
        }),
        ("authenticating proxy", Medium, "names is empty", |facts| {
            facts.published = Ok(Some(published(CLIENTS, PROXIES, "[]")));
        }),
        ("authenticating proxy", Medium, "allowed name", |facts| {
            facts.published = Ok(Some(published(CLIENTS, CLIENTS, r#"["proxy"]"#)));
        }),
    ]);
}

#[test]
fn a_ca_is_judged_by_its_end() {
    let ending = |time: &str| {
        let rows = report(&clean(), at(time));
        let findings = &rows.iter().find(|row| row.strategy == "client certificates").unwrap().findings;
        findings.first().map(|finding| (finding.severity, finding.problem.clone()))
    };
    let text = |end: &str| format!("the client CA clients {end}, and with it each certificate that it signed");
    assert_eq!(ending("2036-08-01T00:00:00Z"), None);
    assert_eq!(ending("2036-10-01T15:27:10Z"), Some((Medium, text("ends in 55d"))));
    assert_eq!(ending("2036-11-24T15:27:10Z"), Some((High, text("ends in 1d"))));
    assert_eq!(ending("2036-12-24T15:27:10Z"), Some((High, text("has ended"))));
}

/// A request that is approved and not signed yet.
fn approved(name: &str, pem: &str) -> Vec<CertificateSigningRequest> {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let request = json!({
        "metadata": {"name": name},
        "spec": {"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client"},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]},
    });
    vec![serde_json::from_value(request).unwrap()]
}

#[test]
fn an_approved_request_is_found_before_it_is_signed() {
    let facts = Facts { requests: Ok(approved("bob", BOB)), ..clean() };
    let expected = "CertificateSigningRequest bob: approved for bob in ops, not signed yet".to_owned();
    assert!(reported(&facts)[3].evidence.contains(&expected), "{:?}", reported(&facts)[3]);
}

#[test]
fn an_unsigned_request_for_an_administrator_is_a_finding() {
    let facts = Facts { requests: Ok(approved("mallory", MASTERS)), ..clean() };
    assert_eq!(reported(&facts)[3].severity, Some(High), "{:?}", reported(&facts)[3]);
}

#[test]
fn flags_and_what_they_name_are_judged() {
    assert_found(&[
        ("static token file", High, "the tokens in /etc/t.csv never expire", |facts| {
            facts.servers = Ok(vec![flags(&["--token-auth-file=/etc/t.csv"])]);
        }),
        ("static token file", Critical, "the passwords in /p", |facts| {
            // One of two API servers.
            facts.servers = Ok(vec![flags(&[]), flags(&["--basic-auth-file=/p"])]);
        }),
        ("static token file", Low, "the password of kubeconfig user me", |facts| {
            facts.logins = Ok(kubeconfig(|login| login.password = true));
        }),
        ("webhook", Medium, "up to another 10m", |facts| {
            let words =
                ["--authentication-token-webhook-config-file=/w", "--authentication-token-webhook-cache-ttl=10m0s"];
            facts.servers = Ok(vec![flags(&words)]);
        }),
        ("webhook", Critical, "sees each token", |facts| {
            let server = "http://hook/".to_owned();
            facts.webhook = Some(Ok(webhook::Webhook { server, insecure: false, reached: Ok(()) }));
        }),
        ("OIDC", Medium, "names the issuer https://other", |facts| {
            let servers = Ok(vec![flags(&["--oidc-issuer-url=https://idp"])]);
            let providers = oidc::providers(&servers, None).into_iter();
            facts.providers = providers.map(|provider| (provider, Some(Ok(Ok("https://other".to_owned()))))).collect();
            facts.servers = servers;
        }),
        ("OIDC", Medium, "holds no discovery document: it answers 404", |facts| {
            facts.providers = provider(&Ok(Err("it answers 404".to_owned())));
        }),
    ]);
}

fn provider(answer: &Learnt<Learnt<String>>) -> Vec<oidc::Asked> {
    let servers = Ok(vec![flags(&["--oidc-issuer-url=https://idp"])]);
    oidc::providers(&servers, None).into_iter().map(|provider| (provider, Some(answer.clone()))).collect()
}

#[test]
fn a_service_that_this_machine_cannot_reach_is_not_checked() {
    let mut facts = clean();
    let server = "https://hook/".to_owned();
    facts.webhook = Some(Ok(webhook::Webhook { server, insecure: false, reached: Err("refused".into()) }));
    facts.providers = provider(&Err("refused".into()));
    let rows = reported(&facts);
    for row in [5, 6] {
        assert!(rows[row].findings.is_empty(), "{:?}", rows[row]);
        assert!(rows[row].not_checked[0].ends_with("does not answer this machine: refused"), "{:?}", rows[row]);
    }
}

#[test]
fn an_api_server_whose_flags_cannot_be_seen_is_told_in_the_rows_that_need_them() {
    let mut facts = clean();
    facts.unseen = vec!["no container of Pod x".into()];
    for row in reported(&facts) {
        let told = row.not_checked == ["no container of Pod x"];
        assert_eq!(told, !["client certificates", "authenticating proxy"].contains(&row.strategy), "{row:?}");
    }
}

#[test]
fn tokens_of_secrets_that_nobody_looks_up_work_in_quarantine() {
    let quarantined = |lookup: &str| {
        let mut facts = clean();
        facts.servers = Ok(vec![flags(&["--authorization-mode=RBAC"]), flags(&[lookup, "--authorization-mode=RBAC"])]);
        facts.legacy = Ok(vec![legacy("a", Some(("invalid-since", "2026-01-20")))]);
        facts.rbac = rbac(&[], &[binding("cluster-admin", &account("ci", "deployer"))], &[]);
        let rows = reported(&facts);
        (rows[1].severity, rows[9].severity, rows[1].evidence.iter().any(|text| text.contains("refuses")))
    };
    assert_eq!(quarantined("--service-account-lookup=true"), (None, None, true));
    assert_eq!(quarantined("--service-account-lookup=false"), (Some(High), Some(Critical), false));
}

#[test]
fn a_finding_has_all_names_where_its_text_has_some() {
    let mut facts = clean();
    facts.legacy = Ok(["a", "b", "c", "d", "e", "f"].map(|name| legacy(name, None)).into());
    let row = &reported(&facts)[1];
    assert!(row.findings[0].problem.ends_with("and 1 more"), "{row:?}");
    assert_eq!(row.findings[0].objects, ["ci/a", "ci/b", "ci/c", "ci/d", "ci/e", "ci/f"]);
}

#[test]
fn anonymous_access_is_judged_by_its_bindings() {
    let bound = |role: &str| {
        let mut facts = clean();
        facts.anonymous = Ok(answers(403));
        facts.rbac = rbac(&[], &[binding(role, &group("system:unauthenticated"))], &[]);
        reported(&facts)[8].severity
    };
    let role = |resource: &str| {
        let mut facts = clean();
        facts.anonymous = Ok(answers(403));
        let rules =
            json!([{"apiGroups": [""], "resources": [resource], "resourceNames": ["cluster-info"], "verbs": ["get"]}]);
        let name = "kubeadm:bootstrap-signer-clusterinfo";
        facts.rbac = local("kube-public", name, &rules, &group("system:unauthenticated"));
        reported(&facts)[8].severity
    };
    assert_eq!((role("configmaps"), role("secrets")), (None, Some(High)));
    assert_eq!(bound("system:public-info-viewer"), None);
    assert_eq!((bound("view"), bound("cluster-admin")), (Some(High), Some(Critical)));
}

#[test]
fn anonymous_access_is_judged_unless_it_is_known_to_be_off() {
    let everything = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
    let role = "system:public-info-viewer";
    let wide = || rbac(&[cluster_role(role, &everything)], &[binding(role, &group("system:unauthenticated"))], &[]);
    let mut facts = clean();
    facts.rbac = wide();
    assert_eq!(reported(&facts)[8].severity, None, "no condition opens a path, and the paths are closed");
    facts.servers = Err("managed".into());
    assert_eq!(reported(&facts)[8].severity, Some(Critical));
    let file = json!({"anonymous": {"enabled": true, "conditions": [{"path": "/metrics"}]}});
    facts.authentication = Some(serde_json::from_value(file).unwrap());
    assert_eq!((reported(&facts)[8].found, reported(&facts)[8].severity), (Found::Yes, Some(Critical)));
}

#[test]
fn an_open_api_and_other_authorizers_are_named() {
    let mut facts = clean();
    facts.anonymous = Ok(answers(200));
    facts.servers = Ok(vec![flags(&["--authorization-mode=RBAC,Webhook"])]);
    let row = &reported(&facts)[8];
    assert_eq!(row.severity, Some(High));
    assert!(row.not_checked[0].ends_with("--authorization-mode=RBAC,Webhook"), "{row:?}");
    let row = &reported(&facts)[9];
    assert_eq!(row.found, Found::NotChecked, "{row:?}");
}

#[test]
fn a_user_that_cannot_be_read_is_told_in_its_rows_and_hides_no_other() {
    let (mut broken, mut admin) = (nobody("broken"), nobody("admin"));
    broken.certificate = Err("reading /none".into());
    broken.token = Err("reading /token".into());
    admin.certificate = Ok(Some(alice()));
    admin.command = Some("login".into());
    let mut facts = clean();
    facts.logins = Ok(Logins { here: vec![broken, admin], elsewhere: vec!["other".into()] });
    let rows = reported(&facts);
    let not_checked = |row: usize| rows[row].not_checked.join("|");
    assert_eq!((rows[3].severity, not_checked(3)), (Some(High), "reading /none".to_owned()));
    let others = "not judged, as no context has them for this address: kubeconfig users other".to_owned();
    assert!(rows[3].evidence.contains(&others) && rows[0].evidence.contains(&others), "{rows:?}");
    for row in [0, 1, 4] {
        assert_eq!(not_checked(row), "reading /token");
    }
    assert_eq!(not_checked(5), "reading /token|kubeconfig user admin: what the command login logs in with");
    assert_eq!(rows[5].found, Found::NotChecked);
}

#[test]
fn a_file_without_issuers_is_not_taken_for_a_missing_flag() {
    let mut facts = clean();
    facts.authentication = Some(serde_json::from_value(json!({"anonymous": {"enabled": false}})).unwrap());
    facts.servers = Ok(vec![flags(&["--authentication-config=/a.yaml"])]);
    let evidence = &reported(&facts)[5].evidence;
    let expected = [
        "kube-apiserver runs with --authentication-config=/a.yaml",
        "the file of --authentication-config has no issuers",
    ];
    assert_eq!(evidence, &expected);
}

#[test]
fn a_webhook_that_its_file_does_not_lead_to_is_not_checked() {
    let mut facts = clean();
    facts.webhook = Some(Err("the file leads to no service".into()));
    let row = &reported(&facts)[6];
    assert_eq!((row.found, row.not_checked.join("|").as_str()), (Found::NotChecked, "the file leads to no service"));
}
