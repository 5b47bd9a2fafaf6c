//! The schema as a whole: no drift, a description everywhere, and every CEL rule with an example on either side.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    CustomResourceExt as _,
    core::cel::{CompiledSchema, ValidationErrors, compile_schema, validate_compiled},
};
use serde_json::{Value, json};

use super::{
    bootstrap_token_policy::BootstrapTokenPolicy,
    legacy_token_policy::LegacyTokenPolicy,
    token_policy::{TokenPolicy, TokenPolicySpec},
};

fn schema(crd: &CustomResourceDefinition) -> Value {
    json!(crd)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

thread_local! {
    static RULES: CompiledSchema = compile_schema(&schema(&TokenPolicy::crd()));
    static BOOTSTRAP_RULES: CompiledSchema = compile_schema(&schema(&BootstrapTokenPolicy::crd()));
    static LEGACY_RULES: CompiledSchema = compile_schema(&schema(&LegacyTokenPolicy::crd()));
}

#[test]
fn crds_folder_is_what_the_types_say() {
    for (plural, stored) in [
        ("tokenpolicies", include_str!("../../crds/tokenpolicies.yaml")),
        ("bootstraptokenpolicies", include_str!("../../crds/bootstrap/bootstraptokenpolicies.yaml")),
        ("legacytokenpolicies", include_str!("../../crds/legacy/legacytokenpolicies.yaml")),
    ] {
        assert_eq!(stored, super::yaml(Some(plural)).unwrap(), "run `make crds`");
    }
}

/// kstatus takes an object without conditions for finished.
#[test]
fn the_schema_of_every_kind_has_the_pending_status() {
    for crd in [TokenPolicy::crd(), BootstrapTokenPolicy::crd(), LegacyTokenPolicy::crd()] {
        assert_eq!(schema(&crd)["properties"]["status"]["default"], super::schema::pending());
    }
}

#[test]
fn every_field_has_a_description() {
    for crd in [TokenPolicy::crd(), BootstrapTokenPolicy::crd(), LegacyTokenPolicy::crd()] {
        let mut missing = Vec::new();
        walk("", &schema(&crd), &mut missing);
        assert_eq!(missing, Vec::<String>::new());
    }
}

fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        // The API server describes metadata itself.
        if field["description"].as_str().is_none_or(str::is_empty) && path != ".metadata" {
            missing.push(path.clone());
        }
        walk(&path, field, missing);
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], missing);
    }
}

/// The least policy with these fields of the spec replaced, as text: what does not parse here can still be sent to the
/// API server.
fn full(spec: &Value) -> Value {
    let mut full = json!({"serviceAccounts": {"names": ["deployer"]}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    full
}

/// A whole policy.
fn object(spec: &Value) -> Value {
    json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy", "metadata": {"name": "p"}, "spec": spec})
}

fn checked(before: Option<&Value>, spec: &Value) -> Result<(), ValidationErrors> {
    RULES.with(|rules| validate_compiled(rules, &object(spec), before.map(object).as_ref()))
}

fn validate(spec: &Value) -> Result<(), String> {
    checked(None, &full(spec)).map_err(|errors| errors.to_string())
}

fn format(format: &Value) -> Value {
    json!({"secret": {"format": format}})
}

#[test]
fn good_policies_pass() {
    for spec in [
        json!({}),
        json!({"serviceAccounts": {"selector": {}}}),
        json!({"serviceAccounts": {"selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}),
        json!({"serviceAccounts": {"names": ["a"]}, "secret": {"name": "fixed"}}),
        json!({"token": {"duration": "10m", "audiences": ["vault"]}}),
        json!({"token": {"duration": "10000h"}}),
        json!({"rotation": {"maxAge": "1m", "overlap": "7m"}}),
        json!({"rotation": {"overlap": "0s"}}),
        json!({"secret": {"labels": {"example.com/team": "a"}, "annotations": {"note": "x"}}}),
        json!({"secret": {"format": {"type": "ArgoCDCluster"}, "labels": {"argocd.argoproj.io/auto-label-cluster-info": "true"}}}),
        json!({"secret": {"name": "{policy}.x-{serviceAccount}"}}),
        json!({"secret": {"labels": {"reconcile.fluxcd.io/watch": "Enabled", "secrets-store.csi.k8s.io/used": "true"}}}),
        json!({"token": {"audiences": ["vault"]}, "secret": {"format": {"type": "Custom", "custom": {"data": {"jwt": "{token}"}}}}}),
        json!({"secret": {"labels": {"app.kubernetes.io/part-of": "ci", "x-k8s.io/cluster-profile": "a", "jenkins.io/credentials-type": "secretText"}}}),
        json!({"secret": {"labels": {"sigs.k8s.io/multicluster-runtime-kubeconfig": "true", "multicluster.x-k8s.io/clusterset": "a"}}}),
        json!({"secret": {"annotations": {"kubernetes.io/description": "of the nightly build"}}}),
        json!({"token": {"binding": "Target"}}),
        json!({"token": {"binding": "None"}, "rotation": {"renewBeforePercentage": 50}}),
        json!({"rotation": {"windows": [{"schedule": "0 2 * * *", "duration": "2h", "timeZone": "Europe/Berlin"}]}}),
    ]
    .into_iter()
    .chain(good_formats())
    {
        assert_eq!(validate(&spec), Ok(()), "{spec}");
        assert!(serde_json::from_value::<TokenPolicySpec>(full(&spec)).is_ok(), "{spec}");
    }
}

fn good_formats() -> Vec<Value> {
    vec![
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"clusterName": "prod", "key": "value"}})),
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://api.example.com:6443"}})),
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://[fd00::1]:6443/k8s/clusters/c-1"}})),
        format(&json!({"type": "ArgoCDCluster", "argoCDCluster": {"server": "https://10.0.0.1"}})),
        format(&json!({"type": "ArgoCDCluster"})),
        format(&json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a"], "project": "p"}})),
        format(&json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "west"}})),
        format(&json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r.example:5000"]}})),
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"secretType": "mirror.linkerd.io/remote-kubeconfig"}})),
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://a", "caBundle": certificate()}})),
        format(&json!({"type": "Kubeconfig", "kubeconfig": {"server": "HTTPS://a_b:06443", "caBundle": commented()}})),
        format(
            &json!({"type": "Kubeconfig", "kubeconfig": {"server": "https://a", "caBundle": wrapped(&commented())}}),
        ),
        format(
            &json!({"type": "ArgoCDCluster", "argoCDCluster": {"server": "https://a", "systemRoots": true, "shard": 0}}),
        ),
        format(&json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a"], "clusterResources": true}})),
        format(&json!({"type": "Custom", "custom": {"data": {"text": "{token}"}}})),
        format(
            &json!({"type": "Custom", "custom": {"secretType": "kubernetes.io/basic-auth", "data": {"password": "{token}"}}}),
        ),
        format(
            &json!({"type": "Custom", "custom": {"data": {"a": "{{\"t\": \"{token}\"}}", "b.C_d-e": "{ca}{server} }"}}}),
        ),
    ]
}

/// The base64 of a PEM certificate, as far as the schema looks.
fn certificate() -> String {
    STANDARD.encode("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
}

/// The same with a comment before it, as the tools of browsers and distributions write it: its base64 has '+' and '/'.
fn commented() -> String {
    let bundle = STANDARD.encode("# a <x@y.z> ~~~???\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    assert!(bundle.contains('+') || bundle.contains('/'), "{bundle}");
    bundle
}

/// Base64 as `base64` writes it without `-w0`.
fn wrapped(bundle: &str) -> String {
    bundle.as_bytes().chunks(76).flat_map(|line| [str::from_utf8(line).unwrap(), "\n"]).collect()
}

/// The least policies of format `Custom` and beyond, each with one fault, and what is said of it.
fn faulty_formats() -> Vec<(Value, &'static str)> {
    let custom = |custom: Value| format(&json!({"type": "Custom", "custom": custom}));
    let text = |text: &str| custom(json!({"data": {"a": text}}));
    let typed = |kind: &str| custom(json!({"secretType": kind, "data": {"a": "{token}"}}));
    let kubeconfig = |options: Value| format(&json!({"type": "Kubeconfig", "kubeconfig": options}));
    let pem = "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n";
    let bundle = |bundle: &str| kubeconfig(json!({"server": "https://a", "caBundle": bundle}));
    let key = |before: &str| bundle(&wrapped(&STANDARD.encode(format!("{before}{pem}"))));
    vec![
        (format(&json!({"type": "Custom"})), "type Custom needs custom.data"),
        (text("{Token} {token}"), "\"{Token}\" is no placeholder; write one of {token}, {server}, {ca}"),
        (text("{token} {env.HOME}"), "\"{env.HOME}\" is no placeholder"),
        (text("{token} {"), "\"{\" is no placeholder"),
        (text("{token} {\na\n}"), "\"{ a }\" is no placeholder"),
        (text("{{token}"), "must hold {token}"),
        (text("a{token}"), "must not have {token} right beside"),
        (text("{token}{ca}"), "must not have {token} right beside"),
        (text("{server}{token}"), "must not have {token} right beside"),
        (text(&"{token} ".repeat(17)), "at most 16 placeholders"),
        (custom(json!({"data": {"a b": "{token}"}})), "custom.data has the key \"a b\"; write letters"),
        (custom(json!({"data": {"..a": "{token}"}})), "custom.data has the key \"..a\"; write letters"),
        (custom(json!({"data": {".": "{token}"}})), "neither '.' alone nor two dots"),
        (typed("kubernetes.io/tls"), "controllers act on Secrets of type \"kubernetes.io/tls\"; choose Opaque"),
        (typed("helm.sh/release.v1"), "of type \"helm.sh/release.v1\""),
        (typed("tokenward.dev/anchor"), "of type \"tokenward.dev/anchor\""),
        (typed("kubernetes.io/basic-auth"), "needs the key username or password"),
        (
            kubeconfig(json!({"secretType": "bootstrap.kubernetes.io/token"})),
            "of type \"bootstrap.kubernetes.io/token\"",
        ),
        (kubeconfig(json!({"secretType": "kubernetes.io/basic-auth"})), "holds no kubeconfig"),
        (kubeconfig(json!({"systemRoots": true})), "set server, or remove them"),
        (kubeconfig(json!({"caBundle": certificate()})), "set server, or remove them"),
        (
            kubeconfig(json!({"server": "https://a", "caBundle": certificate(), "systemRoots": true})),
            "remove one of them",
        ),
        (bundle("QUFB"), "caBundle holds no PEM certificate"),
        (bundle(&STANDARD.encode([0x30, 0x82, 0xff, 0xfe, 0x3e])), "convert DER"),
        (bundle(pem), "caBundle is no base64"),
        (bundle(&format!("{}=", certificate())), "caBundle is no base64"),
        (bundle(&certificate()[1..]), "caBundle is no base64"),
        (key(""), "caBundle holds a private key"),
        (key("#"), "caBundle holds a private key"),
        (key("##"), "caBundle holds a private key"),
        (kubeconfig(json!({"server": "https://a:65536"})), "must be the https URL"),
    ]
}

#[test]
fn faulty_formats_are_refused_and_the_operator_would_not_write_them() {
    for (spec, message) in faulty_formats() {
        let errors = validate(&spec).expect_err(&spec.to_string());
        assert!(errors.contains(message), "{spec}: {errors}");
        let stored: TokenPolicySpec = serde_json::from_value(full(&spec)).unwrap();
        // The API server itself refuses a key that no Secret can have.
        if spec["secret"]["format"]["custom"]["data"].as_object().is_none_or(|data| data.contains_key("a")) {
            let error = stored.secret.format.check().expect_err(&spec.to_string());
            assert!(error.starts_with("format"), "{error}");
        }
    }
}

#[test]
fn bad_servers_are_refused() {
    let server = |url: &str| format(&json!({"type": "Kubeconfig", "kubeconfig": {"server": url}}));
    for url in [
        "",
        "http://api",
        "https://",
        "https://a@b",
        "https://a?b",
        "https://a#b",
        "https://a\nb",
        "https://a b",
        "https://a:0",
        "https://a:65536",
        "https://a..b",
        "https://a.-b",
    ] {
        let errors = validate(&server(url)).expect_err(url);
        assert!(errors.contains("must be the https URL of the API server"), "{url}: {errors}");
    }
}

fn assert_refused(cases: &[(Value, &str)]) {
    for (spec, message) in cases {
        let errors = validate(spec).expect_err(&spec.to_string());
        assert!(errors.contains(message), "{spec}: {errors}");
    }
}

#[test]
fn bad_rotations_are_refused_with_what_to_do() {
    let window = |duration: &str| json!({"rotation": {"windows": [{"schedule": "@daily", "duration": duration}]}});
    let scheduled = |schedule: &str| json!({"rotation": {"windows": [{"schedule": schedule, "duration": "1h"}]}});
    let zoned =
        |zone: &str| json!({"rotation": {"windows": [{"schedule": "@daily", "duration": "1h", "timeZone": zone}]}});
    assert_refused(&[
        (window("59s"), "open for at least 1m"),
        (scheduled("61 2 * * *"), "minute 0-59"),
        (scheduled("0 2 * *"), "write five fields"),
        (scheduled(&format!("{}1 * * * *", "1,".repeat(200))), "at most 400 characters"),
        (scheduled("@every 1h"), "@every has no fixed instants"),
        (scheduled("CRON_TZ=UTC 0 2 * * *"), "write the time zone into timeZone"),
        (zoned("Europe Berlin"), "write one like Europe/Berlin"),
        (json!({"token": {"binding": "Target"}, "rotation": {"overlap": "1m"}}), "token.binding Anchor"),
        (json!({"token": {"binding": "None"}, "rotation": {"maxAge": "1m", "overlap": "1m"}}), "token.binding Anchor"),
        (json!({"token": {"duration": "5m"}}), "ask for 10m or more"),
        (json!({"token": {"duration": "0s"}}), "ask for 10m or more"),
        (json!({"token": {"duration": "30d"}}), "24h, 1h30m or 90s"),
        (json!({"token": {"duration": "1h 30 minutes and then 15 seconds"}}), "24h, 1h30m or 90s"),
        (json!({"rotation": {"maxAge": "1h-5m", "overlap": "1m"}}), "24h, 1h30m or 90s"),
        (json!({"rotation": {"overlap": ""}}), "24h, 1h30m or 90s"),
        (json!({"rotation": {"maxAge": "30s", "overlap": "1m"}}), "at least 1m"),
        (json!({"rotation": {"maxAge": "1m"}}), "maxAge \"1m\" needs rotation.overlap"),
        (json!({"rotation": {"maxAge": "1m", "overlap": "8m"}}), "at most 7 times"),
    ]);
}

#[test]
fn bad_selections_and_secrets_are_refused_with_what_to_do() {
    let select = |selector: Value| json!({"serviceAccounts": {"selector": selector}});
    let expression = |operator: &str, values: Value| {
        select(json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}))
    };
    let named = |name: &str| json!({"secret": {"name": name}});
    let audiences = |kind: &str| json!({"token": {"audiences": ["a"]}, "secret": {"format": {"type": kind}}});
    assert_refused(&[
        (format(&json!({"type": "IstioRemoteSecret"})), "needs istioRemoteSecret.clusterName"),
        (format(&json!({"type": "DockerConfigJson"})), "needs dockerConfigJson.registries"),
        (audiences("ArgoCDCluster"), "audiences must be empty, and has \"a\""),
        (audiences("Kubeconfig"), "audiences must be empty"),
        (json!({"serviceAccounts": {}}), "exactly one of"),
        (json!({"serviceAccounts": {"names": ["a"], "selector": {}}}), "exactly one of"),
        (json!({"serviceAccounts": {"names": ["a".repeat(254)]}}), "at most 253 characters"),
        (expression("In", json!([])), "In or NotIn with values"),
        (expression("Exists", json!(["b"])), "In or NotIn with values"),
        (expression("Like", json!(["b"])), "In or NotIn with values"),
        (expression("In", json!(["a".repeat(64)])), "at most 63 characters"),
        (select(json!({"matchLabels": {"foo": "a b"}})), "write nothing, or letters, digits"),
        (select(json!({"matchLabels": {"foo bar": "x"}})), "matchLabels has the key \"foo bar\""),
        (json!({"serviceAccounts": {"selector": {}}, "secret": {"name": "fixed"}}), "put {serviceAccount} into it"),
        (
            json!({"serviceAccounts": {"names": ["a", "b"]}, "secret": {"name": "{policy}"}}),
            "put {serviceAccount} into it",
        ),
        (named("bootstrap-token-{serviceAccount}"), "belong to others"),
        (named("sh.helm.release.v1"), "belong to others"),
        (named("-foo"), "at both ends and beside each '.'"),
        (named("a..b"), "at both ends and beside each '.'"),
        (named(&"a".repeat(254)), "at most 253 characters"),
        (named(""), "write lower-case letters"),
        (
            format(&json!({"type": "ArgoCDCluster", "argoCDCluster": {"clusterResources": false}})),
            "set argoCDCluster.namespaces",
        ),
        (
            json!({"secret": {"format": {"type": "Token", "kubeconfig": {}}}}),
            "kubeconfig is not read with type Token; remove it",
        ),
    ]);
}

#[test]
fn bad_keys_are_refused_with_what_is_wrong_about_them() {
    let label = |key: &str| json!({"secret": {"labels": {key: "x"}}});
    let annotation = |key: &str| json!({"secret": {"annotations": {key: "x"}}});
    assert_refused(&[
        (label("argocd.argoproj.io/secret-type"), "format type ArgoCDCluster"),
        (annotation("networking.istio.io/cluster"), "format type IstioRemoteSecret"),
        (label("kubernetes.io/x"), "secret.labels must not have the key \"kubernetes.io/x\": "),
        (label("app.kubernetes.io/managed-by"), "app.kubernetes.io/managed-by\": the operator sets it itself"),
        (label("hnc.x-k8s.io/inherited-from"), "copies Secrets with such keys elsewhere"),
        (annotation("meta.helm.sh/release-name"), "deletes Secrets with such keys as parts of what it has applied"),
        (label("kluctl.io/discriminator"), "deletes Secrets with such keys"),
        (label("tanka.dev/environment"), "deletes Secrets with such keys"),
        (annotation("reconcile.external-secrets.io/data-hash"), "takes Secrets with such keys for its own"),
        (annotation("tokenward.dev/x"), "annotations must not have the key \"tokenward.dev/x\": the operator keeps"),
        (label("-x"), "secret.labels has the key \"-x\"; write a name of at most 63"),
        (label("x-"), "with a letter or digit at both ends"),
        (label(""), "secret.labels has the key \"\"; "),
        (label(&"a".repeat(64)), "write a name of at most 63"),
        (label("a..b/c"), "secret.labels has the key \"a..b/c\"; "),
        (label("a.-b/c"), "secret.labels has the key \"a.-b/c\"; "),
        (label(&format!("{}/c", "a".repeat(254))), &format!("\"{}…\"; ", "a".repeat(100))),
        (annotation("a..b/c"), "secret.annotations has the key \"a..b/c\"; "),
        (annotation("not valid"), "after a DNS name and '/' if it has a prefix"),
    ]);
}

#[test]
fn a_policy_and_the_flag_refuse_the_same_keys() {
    let refused = [
        "argocd.argoproj.io/secret-type",
        "istio/multiCluster",
        "networking.istio.io/cluster",
        "reflector.v1.k8s.emberstack.com/reflects",
        "cluster.x-k8s.io/cluster-name",
        "kustomize.toolkit.fluxcd.io/prune",
        "reconcile.fluxcd.io/requestedAt",
        "secrets-store.csi.k8s.io/managed",
        "a.k8s.io/x",
        "app.kubernetes.io/managed-by",
        "tokenward.dev/role",
        "kubernetes.io/x",
        "helm.sh/x",
        "tanka.dev/environment",
    ];
    let accepted = [
        "app.kubernetes.io/part-of",
        "sigs.k8s.io/x",
        "kubernetes.io/description",
        "reconcile.fluxcd.io/watch",
        "secrets-store.csi.k8s.io/used",
        "x-k8s.io/x",
        "istio.example/x",
        "team",
    ];
    for (key, acts) in refused.map(|key| (key, true)).into_iter().chain(accepted.map(|key| (key, false))) {
        let policy = validate(&json!({"secret": {"labels": {key: "x"}}}));
        assert_eq!((policy.is_err(), super::foreign::check_key(key).is_err()), (acts, acts), "{key}: {policy:?}");
    }
}

#[test]
fn no_message_is_lost_to_a_line_break_and_none_shows_a_ca_bundle() {
    let custom = |custom: Value| format(&json!({"type": "Custom", "custom": custom}));
    let kubeconfig = |options: Value| format(&json!({"type": "Kubeconfig", "kubeconfig": options}));
    let selector = json!({"matchLabels": {"a\nb": "a"}, "matchExpressions": [{"key": "a\nb", "operator": "c\nd"}]});
    let audiences = json!({"token": {"audiences": ["a\nb"]}, "secret": {"format": {"type": "Kubeconfig"}}});
    for spec in [
        json!({"serviceAccounts": {"selector": selector}, "secret": {"name": "a\nb"}}),
        audiences,
        json!({"rotation": {"maxAge": "1\nm"}}),
        json!({"token": {"binding": "Target"}, "rotation": {"overlap": "1\nm"}}),
        json!({"token": {"binding": "None"}, "rotation": {"maxAge": "1\nm"}}),
        json!({"secret": {"labels": {"a\nb": "c", "kubernetes.io/\nx": "y"}, "annotations": {"a\nb": "c", "istio/a\nb": "c"}}}),
        json!({"secret": {"annotations": {"argoproj.io/a\nb": "c", "helm.sh/\n": "c"}}}),
        custom(json!({"secretType": "kubernetes.io/a\nb", "data": {"a": "{a\nb} {token}", "a\nb": "{token}"}})),
        kubeconfig(json!({"server": "https://a", "secretType": "kubernetes.io/a\nb", "caBundle": "secret\nbundle!"})),
    ] {
        let errors = checked(None, &full(&spec)).expect_err(&spec.to_string());
        for error in errors.into_vec() {
            let told = error.message;
            assert!(!told.contains('\n') && !told.contains("failed rule") && !told.contains("bundle!"), "{told}");
        }
    }
}

/// Schedules with the verdict of the library that a CronJob uses.
const SCHEDULES: &str = include_str!("../../e2e/cases/window-schedules.tsv");

#[test]
fn admission_refuses_no_schedule_of_a_cron_job() {
    let pattern = regex::Regex::new(super::cron::GRAMMAR).unwrap();
    let (mut taken, mut refused, mut left) = (0, 0, 0);
    for line in SCHEDULES.lines() {
        let (expression, verdict) = line.split_once('\t').unwrap();
        let schedule: String = serde_json::from_str(expression).unwrap();
        match (pattern.is_match(&schedule), verdict.ends_with("invalid") || schedule.starts_with("@every")) {
            (true, false) => taken += 1,
            (false, true) => refused += 1,
            (true, true) => left += 1,
            (false, false) => panic!("a CronJob takes {line}"),
        }
    }
    // A regular expression cannot compare: what is left ends a range before it begins.
    assert_eq!((taken, refused, left), (2156, 407, 437));
}

#[test]
fn the_type_of_a_secret_changes_only_with_its_name() {
    let docker = json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}});
    let named = |name: &str, format: &Value| full(&json!({"secret": {"name": name, "format": format}}));
    let change = |before: &Value, after: &Value| checked(Some(before), after).map_err(|errors| errors.to_string());
    let (token, kubeconfig) = (json!({"type": "Token"}), json!({"type": "Kubeconfig"}));
    for (before, after) in [(&token, &docker), (&docker, &token)] {
        let errors = change(&named("a", before), &named("a", after)).unwrap_err();
        assert!(errors.contains("choose another secret.name"), "{errors}");
        assert_eq!(change(&named("a", before), &named("b", after)), Ok(()));
    }
    assert_eq!(change(&named("a", &token), &named("a", &kubeconfig)), Ok(()));
    assert_eq!(change(&full(&json!({})), &full(&json!({"suspend": true}))), Ok(()));
    assert!(change(&full(&json!({})), &named("{policy}-{serviceAccount}", &docker)).is_err());
    let custom = |kind: &str| json!({"type": "Custom", "custom": {"secretType": kind, "data": {"text": "{token}"}}});
    let linkerd = json!({"type": "Kubeconfig", "kubeconfig": {"secretType": "mirror.linkerd.io/remote-kubeconfig"}});
    let errors = change(&named("a", &custom("x.example/y")), &named("a", &linkerd)).unwrap_err();
    assert!(errors.contains("from \"x.example/y\" to \"mirror.linkerd.io/remote-kubeconfig\""), "{errors}");
    for (before, after) in [
        (&custom("Opaque"), &token),
        (&kubeconfig, &custom("Opaque")),
        (&custom("kubernetes.io/dockerconfigjson"), &docker),
        (&linkerd, &custom("mirror.linkerd.io/remote-kubeconfig")),
    ] {
        let errors = change(&named("a", before), &named("a", after)).err().unwrap_or_default();
        assert!(!errors.contains("choose another secret.name"), "{before} {after}: {errors}");
    }
}

#[test]
fn bootstrap_policies_good_and_bad() {
    let checked = |spec: &Value| BOOTSTRAP_RULES.with(|rules| validate_compiled(rules, &object(spec), None));
    let validate = |spec: &Value| checked(spec).map_err(|errors| errors.to_string());
    for spec in [json!({}), json!({"mode": "Enforce", "maxAge": "10m"}), json!({"keep": {"matchLabels": {"a": "b"}}})] {
        assert_eq!(validate(&spec), Ok(()), "{spec}");
    }
    for (spec, message) in [
        (json!({"maxAge": "9m"}), "10m or more"),
        (json!({"maxAge": "1d"}), "24h, 1h30m or 90s"),
        (json!({"keep": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}}), "In or NotIn with"),
    ] {
        let errors = validate(&spec).expect_err(&spec.to_string());
        assert!(errors.contains(message), "{spec}: {errors}");
    }
}

#[test]
fn legacy_policies_good_and_bad() {
    let checked = |spec: &Value| LEGACY_RULES.with(|rules| validate_compiled(rules, &object(spec), None));
    let validate = |spec: &Value| checked(spec).map_err(|errors| errors.to_string());
    for spec in [json!({}), json!({"mode": "Delete", "unusedFor": "24h", "deleteAfter": "1440m"})] {
        assert_eq!(validate(&spec), Ok(()), "{spec}");
    }
    for (spec, message) in [
        (json!({"unusedFor": "23h"}), "by the day; write 24h or more"),
        (json!({"deleteAfter": "0s"}), "the time to miss it; write 24h or more"),
        (json!({"namespaceSelector": {"matchLabels": {"-": "a"}}}), "write a name of at most 63"),
    ] {
        let errors = validate(&spec).expect_err(&spec.to_string());
        assert!(errors.contains(message), "{spec}: {errors}");
    }
}

/// Every rule of a schema, with the path of the field that its refusal names, items and values as `[]`.
fn rules(path: &str, schema: &Value, found: &mut BTreeSet<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = rule["fieldPath"].as_str().unwrap_or_default();
        found.insert((format!("{path}{field}"), rule["rule"].as_str().unwrap().to_owned()));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(&format!("{path}.{name}"), field, found);
    }
    for inner in ["items", "additionalProperties"].iter().filter(|inner| schema[**inner].is_object()) {
        rules(&format!("{path}[]"), &schema[inner], found);
    }
}

/// The one rule that this case of `e2e/cases/refusals.yaml` breaks, as above.
fn broken(rules: &CompiledSchema, case: &Value, full: fn(&Value) -> Value) -> (String, String) {
    let whole = |spec: &Value| object(&full(spec));
    let before = case.get("from").map(whole);
    let errors = validate_compiled(rules, &whole(&case["spec"]), before.as_ref()).expect_err(&case.to_string());
    let [error] = errors.as_slice() else { panic!("{case}: {errors}") };
    let cure = case["says"].as_array().and_then(|says| says.last()?.as_str()).unwrap();
    assert!(error.message.contains(cure), "{case}: {error}");
    let items = regex::Regex::new(r"\[[^]]*\]").unwrap();
    (items.replace_all(case["at"].as_str().unwrap(), "[]").into_owned(), error.rule.clone())
}

#[test]
fn each_rule_has_a_case_that_breaks_it_alone() {
    let cases: Value = serde_saphyr::from_str(include_str!("../../e2e/cases/refusals.yaml")).unwrap();
    let shown = |plural: &str, rules: &CompiledSchema, full: fn(&Value) -> Value| {
        let cases = cases[plural].as_array().unwrap().iter();
        cases.map(|case| broken(rules, case, full)).collect::<BTreeSet<_>>()
    };
    for (crd, shown) in [
        (TokenPolicy::crd(), RULES.with(|rules| shown("tokenpolicies", rules, full))),
        (
            BootstrapTokenPolicy::crd(),
            BOOTSTRAP_RULES.with(|rules| shown("bootstraptokenpolicies", rules, Value::clone)),
        ),
        (LegacyTokenPolicy::crd(), LEGACY_RULES.with(|rules| shown("legacytokenpolicies", rules, Value::clone))),
    ] {
        let spec = &schema(&crd)["properties"]["spec"];
        let mut wanted = BTreeSet::new();
        rules("spec", spec, &mut wanted);
        assert_eq!(shown.symmetric_difference(&wanted).collect::<Vec<_>>(), Vec::<&(String, String)>::new());
        assert!(!spec.to_string().contains("\"pattern\":"), "a pattern cannot say what to write instead; use a rule");
    }
}
