//! Every format in its Secret: what is written is what is read.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    applied::{Demanded, after_apply},
    record::{Bond, Previous, Record, Token},
    secret::{Fence, Target, anchor, fingerprint, target},
};
use crate::api::server::tests::PEM;
use crate::core::{
    address::ClusterAddress,
    credential::token,
    format::{self, read_back},
    id::{GrantKey, Secs},
    layout, meta, names,
    policy::{Policy, PolicyState},
};

fn address() -> ClusterAddress {
    ClusterAddress { server: "https://api:6443".into(), ca: b"pem".to_vec(), internal: false }
}

fn policy(spec: &Value) -> Policy {
    read_policy(spec, &Demanded::default())
}

fn read_policy(spec: &Value, demanded: &Demanded) -> Policy {
    state(spec, demanded).readable().unwrap().clone()
}

fn state(spec: &Value, demanded: &Demanded) -> PolicyState {
    let mut full = json!({"serviceAccounts": {"names": ["deployer"]}});
    full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
        "metadata": {"name": "p", "namespace": "ci", "uid": "policy-1"}, "spec": full});
    PolicyState::read(serde_json::from_value(policy).unwrap(), demanded)
}

fn key() -> GrantKey {
    GrantKey { namespace: "ci".into(), policy: "p".into(), account: "deployer".into() }
}

fn record(policy: &Policy) -> Record {
    let claims = token::read(&token::tests::token(&token::tests::payload())).unwrap();
    let previous = Previous {
        bond: Bond { name: "tw-0".into(), uid: "anchor-0".into() },
        id: "id-0".into(),
        issued: Secs::of(crate::core::Time::from_timestamp(900, 0).unwrap()),
        retires: Secs::of(crate::core::Time::from_timestamp(2000, 0).unwrap()),
        account: None,
    };
    Record {
        policy: "p".into(),
        service_account: "deployer".into(),
        account_uid: "sa-1".into(),
        token: Some(Token {
            id: claims.token_id.as_str().into(),
            issued: Secs::of(claims.issued_at),
            expires: Secs::of(claims.expires_at),
            bond: Bond { name: "tw-1".into(), uid: "anchor-1".into() },
        }),
        signer: Some(claims.signer),
        rotate: "7".into(),
        previous: vec![previous],
        token_inputs: (&*policy.token_inputs).into(),
        layout: layout::annotation(&policy.layout, "a1:0").into(),
    }
}

/// The first target of a policy.
fn rendered(policy: &Policy) -> Value {
    fenced(policy, Fence::Absent)
}

fn fenced(policy: &Policy, fence: Fence) -> Value {
    let token = token::tests::token(&token::tests::payload());
    let body = || target(&key(), policy, "p-deployer", &record(policy), Some(&token), &address(), fence);
    let (one, two) = (body(), body());
    assert_eq!(one.expose_secret(), two.expose_secret(), "the same input must give the same bytes");
    read(one.expose_secret())
}

/// The target of `binding: Target` before its first token.
fn empty(policy: &Policy) -> Value {
    let record = Record { token: None, previous: Vec::new(), ..record(policy) };
    read(target(&key(), policy, "x", &record, None, &address(), Fence::Absent).expose_secret())
}

fn seen(meta: &ObjectMeta) -> Option<Target> {
    Target::read(meta).map(|(_, target)| target)
}

/// The stored metadata after the API server took such an apply.
fn stored(body: &Value) -> ObjectMeta {
    let fields = |value: &Value| -> serde_json::Map<String, Value> {
        value.as_object().unwrap().keys().map(|key| (format!("f:{key}"), json!({}))).collect()
    };
    let mut meta = body["metadata"].clone();
    meta["managedFields"] = json!([{"manager": "tokenward", "operation": "Apply", "fieldsV1": {
        "f:data": fields(&body["data"]),
        "f:metadata": {"f:labels": fields(&meta["labels"]), "f:annotations": fields(&meta["annotations"])},
    }}]);
    meta["uid"] = "secret-1".into();
    serde_json::from_value(meta).unwrap()
}

fn text(body: &Value, key: &str) -> String {
    String::from_utf8(STANDARD.decode(body["data"][key].as_str().unwrap()).unwrap()).unwrap()
}

/// Any text that others choose, with what ends a value, a line or a document in some format.
fn text_of_others() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        any::<String>(),
        Just("\"}],\"users\":[{\"user\":{\"exec\":{\"command\":\"sh\"}}}]".to_owned()),
        Just("\n---\nkind: Secret\nx: &a *a".to_owned()),
        Just("{{ .Release }} $(id) ${HOME} {policy} ../..".to_owned()),
        Just("\u{0}\u{7f}\u{85}\u{9b}\u{feff}\u{ffff}\u{2028}".to_owned()),
    ];
    proptest::collection::vec(piece, 0..3).prop_map(|pieces| pieces.concat())
}

/// The reading of a consumer or the API server: JSON by JSON's rules, and the same by YAML's.
fn read(body: &str) -> Value {
    let json: Value = serde_json::from_str(body).unwrap();
    assert_eq!(serde_saphyr::from_str::<Value>(body).unwrap(), json);
    json
}

proptest! {
    #[test]
    fn a_kubeconfig_is_the_intended_one_whatever_its_names(cluster in text_of_others(), namespace in text_of_others()) {
        let names = json!({"clusterName": cluster, "namespace": namespace});
        let format = json!({"type": "Kubeconfig", "kubeconfig": names});
        let body = rendered(&policy(&json!({"secret": {"format": format}})));
        let token = token::tests::token(&token::tests::payload());
        let intended = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": cluster,
            "clusters": [{"name": cluster, "cluster":
                {"server": "https://api:6443", "certificate-authority-data": STANDARD.encode("pem")}}],
            "users": [{"name": "deployer", "user": {"token": token.expose_secret()}}],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": "deployer", "namespace": namespace}}],
        });
        prop_assert_eq!(serde_json::from_str::<Value>(&text(&body, "config")).unwrap(), intended);
    }

    #[test]
    fn texts_of_others_stay_where_they_were_put(value in text_of_others(), user in text_of_others()) {
        let options = json!({"registries": ["r.example"], "username": user});
        let secret = json!({"annotations": {"note": value}, "format": {"type": "DockerConfigJson", "dockerConfigJson": options}});
        let body = rendered(&policy(&json!({"secret": secret})));
        prop_assert_eq!(&body["metadata"]["annotations"]["note"], &json!(value));
        let config: Value = serde_json::from_str(&text(&body, ".dockerconfigjson")).unwrap();
        prop_assert_eq!(&config["auths"]["r.example"]["username"], &json!(user));
        prop_assert_eq!(config["auths"]["r.example"].as_object().unwrap().len(), 3);
        let cluster = json!({"clusterName": value, "project": user});
        let secret = json!({"format": {"type": "ArgoCDCluster", "argoCDCluster": cluster}});
        let body = rendered(&policy(&json!({"secret": secret})));
        prop_assert_eq!(["name", "project", "server"].map(|key| text(&body, key)), [value, user, "https://api:6443".into()]);
    }
}

#[test]
fn a_first_write_creates_and_a_later_one_is_fenced() {
    let first = rendered(&policy(&json!({})));
    assert_eq!((&first["metadata"]["resourceVersion"], &first["metadata"]["uid"]), (&json!("1"), &Value::Null));
    let later = fenced(&policy(&json!({})), Fence::Exactly { uid: "u".into(), version: 9 });
    assert_eq!((&later["metadata"]["resourceVersion"], &later["metadata"]["uid"]), (&json!("9"), &json!("u")));
}

#[test]
fn a_target_tells_all_that_was_written_into_it() {
    let policy = policy(&json!({"secret": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}));
    let body = rendered(&policy);
    let (told, target) = Target::read(&stored(&body)).unwrap();
    assert_eq!(told, record(&policy));
    assert_eq!(target.token_inputs, fingerprint(&policy.token_inputs));
    assert!(
        target.layout.follows(&policy.layout, &policy.spec.secret, &policy.demanded, &address())
            && target.layout.tells("a1:0")
    );
    assert_eq!((target.marked, target.written(), target.applied), (true, true, policy.applied));
    assert!(target.owners.fit(&policy));
    assert_eq!(
        (&body["metadata"]["labels"]["team"], &body["metadata"]["annotations"]["note"]),
        (&json!("a"), &json!("b"))
    );
}

#[test]
fn previous_tokens_of_an_earlier_release_are_remembered() {
    let mut meta = stored(&rendered(&policy(&json!({}))));
    let entry = json!([{"anchor": "tw-0", "uid": "u", "token-id": "id-0", "retires-at": "2026-01-01T00:00:00Z"}]);
    meta.annotations.as_mut().unwrap().insert(names::PREVIOUS.into(), entry.to_string());
    let previous = Record::read(&meta).unwrap().previous;
    assert_eq!((&*previous[0].bond.name, previous[0].issued), ("tw-0", Secs::default()));
}

#[test]
fn a_renamed_copy_is_not_ours() {
    let mut meta = stored(&rendered(&policy(&json!({}))));
    meta.name = Some("copy".into());
    assert_eq!(seen(&meta), None);
}

#[test]
fn names_that_no_object_can_have_are_not_believed() {
    let mut meta = stored(&rendered(&policy(&json!({}))));
    let annotations = meta.annotations.as_mut().unwrap();
    annotations.insert(names::ANCHOR.into(), "tw-decoy&x=".into());
    assert_eq!(seen(&meta).unwrap().token.map(|token| token.bond.name), Some("".into()));
    meta.annotations.as_mut().unwrap().insert(names::POLICY.into(), "../secrets".into());
    assert_eq!(seen(&meta), None);
}

#[test]
fn retain_has_no_owner() {
    let retain = policy(&json!({"deletionPolicy": "Retain"}));
    let body = rendered(&retain);
    assert_eq!(body["metadata"]["ownerReferences"], json!([]));
    assert!(seen(&stored(&body)).unwrap().owners.fit(&retain));
    assert_ne!(retain.token_inputs, policy(&json!({})).token_inputs);
}

#[test]
fn format_token_holds_what_a_projected_volume_does() {
    let body = rendered(&policy(&json!({})));
    assert_eq!(
        body["data"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["ca.crt", "namespace", "server", "token"]
    );
    assert_eq!((text(&body, "namespace"), text(&body, "ca.crt")), ("ci".into(), "pem".into()));
    assert_eq!((text(&body, "server"), body["type"].as_str()), ("https://api:6443".into(), Some("Opaque")));
}

#[test]
fn format_kubeconfig_is_complete_and_closed() {
    let names = json!({"clusterName": "a: {b}\n", "namespace": "other"});
    let body = rendered(&policy(&json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": names}}})));
    let config: Value = serde_json::from_str(&text(&body, "config")).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://api:6443");
    assert_eq!(
        config["contexts"][0]["context"],
        json!({"cluster": "a: {b}\n", "user": "deployer", "namespace": "other"})
    );
    assert_eq!(config["users"][0]["user"].as_object().unwrap().keys().collect::<Vec<_>>(), ["token"]);
}

#[test]
fn a_server_of_the_policys_own_is_in_every_format_that_carries_one() {
    let own = "https://api.example.com";
    for (kind, member, more) in [
        ("Kubeconfig", "kubeconfig", json!({"server": own})),
        ("ArgoCDCluster", "argoCDCluster", json!({"server": own})),
        ("IstioRemoteSecret", "istioRemoteSecret", json!({"server": own, "clusterName": "west"})),
    ] {
        let body = rendered(&policy(&json!({"secret": {"format": {"type": kind, (member): more}}})));
        let keys = body["data"].as_object().unwrap().keys();
        let values: String = keys.map(|key| text(&body, key)).collect();
        assert!(values.contains(own) && !values.contains("https://api:6443"), "{values}");
    }
}

fn formats() -> Vec<Value> {
    let mut formats = known_formats();
    formats.extend(SHAPES.iter().map(Shape::format));
    formats
}

fn known_formats() -> Vec<Value> {
    vec![
        json!({"type": "Token"}),
        json!({"type": "Kubeconfig", "kubeconfig": {"key": "value"}}),
        json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a", "b"], "project": "p"}}),
        json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "west"}}),
        json!({"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r.example:5000"]}}),
    ]
}

#[test]
fn every_format_writes_exactly_the_keys_that_are_looked_for() {
    for format in formats() {
        let policy = policy(&json!({"secret": {"format": format, "labels": {"argocd.argoproj.io/secret-type": "x"}}}));
        let body = rendered(&policy);
        assert_eq!(
            seen(&stored(&body)).unwrap().applied,
            after_apply(&policy.uid, &policy.spec.secret, &policy.demanded),
            "{format}"
        );
    }
}

#[test]
fn format_argo_cd_cluster_is_a_cluster_of_its_declarative_setup() {
    let format = json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a", "b"], "project": "p"}});
    let secret = json!({"format": format, "labels": {"argocd.argoproj.io/secret-type": "repository"}});
    let body = rendered(&policy(&json!({"secret": secret})));
    assert_eq!(body["metadata"]["labels"]["argocd.argoproj.io/secret-type"], "cluster", "the format's own wins");
    assert_eq!(
        ["name", "server", "namespaces", "project"].map(|key| text(&body, key)),
        ["p", "https://api:6443", "a,b", "p"]
    );
    let config: Value = serde_json::from_str(&text(&body, "config")).unwrap();
    assert_eq!(config["tlsClientConfig"], json!({"caData": STANDARD.encode("pem")}));
    let plain = rendered(&policy(&json!({"secret": {"format": {"type": "ArgoCDCluster"}}})));
    assert_eq!(plain["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["config", "name", "server"]);
}

#[test]
fn argo_cd_reads_cluster_resources_with_namespaces_and_a_shard() {
    let argo = |options: Value| json!({"secret": {"format": {"type": "ArgoCDCluster", "argoCDCluster": options}}});
    let body = rendered(&policy(&argo(json!({"namespaces": ["a"], "clusterResources": true, "shard": 2}))));
    assert_eq!(["clusterResources", "shard"].map(|key| text(&body, key)), ["true", "2"]);
    let body = rendered(&policy(&argo(json!({"namespaces": ["a"], "clusterResources": false, "shard": 0}))));
    assert_eq!(["clusterResources", "shard"].map(|key| text(&body, key)), ["false", "0"]);
    let alone = rendered(&policy(&argo(json!({"clusterResources": true}))));
    assert_eq!(alone["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["config", "name", "server"]);
}

#[test]
fn a_server_of_the_policys_own_has_the_ca_that_the_policy_gives() {
    let ca = |kind: &str, member: &str, more: Value| {
        let mut options = json!({"server": "https://api.example.com", "clusterName": "west"});
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = rendered(&policy(&json!({"secret": {"format": {"type": kind, (member): options}}})));
        let key = if kind == "IstioRemoteSecret" { "west" } else { "config" };
        let config: Value = serde_json::from_str(&text(&body, key)).unwrap();
        let path = if kind == "ArgoCDCluster" { "/tlsClientConfig" } else { "/clusters/0/cluster" };
        let told = config.pointer(path).unwrap().clone();
        let ca = told.get("caData").or(told.get("certificate-authority-data"));
        ca.map(|ca| String::from_utf8(STANDARD.decode(ca.as_str().unwrap()).unwrap()).unwrap())
    };
    for (kind, member) in
        [("Kubeconfig", "kubeconfig"), ("ArgoCDCluster", "argoCDCluster"), ("IstioRemoteSecret", "istioRemoteSecret")]
    {
        assert_eq!(ca(kind, member, json!({})).as_deref(), Some("pem"), "the cluster's");
        let bundle = json!({"caBundle": STANDARD.encode(PEM)});
        assert_eq!(ca(kind, member, bundle).as_deref(), Some(PEM));
        assert_eq!(ca(kind, member, json!({"systemRoots": true})), None, "no CA at all");
    }
}

/// A shape that some consumer reads: type of the Secret, texts, and the bytes that they become.
struct Shape {
    consumer: &'static str,
    kind: &'static str,
    texts: &'static [(&'static str, &'static str)],
    wanted: &'static [(&'static str, &'static str)],
}

impl Shape {
    fn format(&self) -> Value {
        let data: serde_json::Map<String, Value> =
            self.texts.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        json!({"type": "Custom", "custom": {"secretType": self.kind, "data": data}})
    }
}

const SHAPES: [Shape; 6] = [
    Shape { consumer: "Jenkins", kind: "Opaque", texts: &[("text", "{token}")], wanted: &[("text", "TOKEN")] },
    Shape {
        consumer: "Vault Secrets Operator",
        kind: "Opaque",
        texts: &[("jwt", "{token}")],
        wanted: &[("jwt", "TOKEN")],
    },
    Shape {
        consumer: "forklift",
        kind: "Opaque",
        texts: &[("url", "{server}"), ("token", "{token}"), ("cacert", "{ca}")],
        wanted: &[("url", "https://api:6443"), ("token", "TOKEN"), ("cacert", "pem")],
    },
    Shape {
        consumer: "Linkerd multicluster",
        kind: "mirror.linkerd.io/remote-kubeconfig",
        texts: &[(
            "kubeconfig",
            "apiVersion: v1\nkind: Config\ncurrent-context: west\nclusters:\n- name: west\n  cluster: {{server: \"{server}\", certificate-authority-data: \"{caBase64}\"}\ncontexts:\n- name: west\n  context: {{cluster: west, user: {serviceAccount}, namespace: {namespace}}\nusers:\n- name: {serviceAccount}\n  user: {{token: \"{token}\"}\n",
        )],
        wanted: &[(
            "kubeconfig",
            "apiVersion: v1\nkind: Config\ncurrent-context: west\nclusters:\n- name: west\n  cluster: {server: \"https://api:6443\", certificate-authority-data: \"cGVt\"}\ncontexts:\n- name: west\n  context: {cluster: west, user: deployer, namespace: ci}\nusers:\n- name: deployer\n  user: {token: \"TOKEN\"}\n",
        )],
    },
    Shape {
        consumer: "a .netrc",
        kind: "Opaque",
        texts: &[(
            ".netrc",
            "# until {expiresAt}\nmachine git.example.com\nlogin {serviceAccount}\npassword {token}\n",
        )],
        wanted: &[(".netrc", "# until END\nmachine git.example.com\nlogin deployer\npassword TOKEN\n")],
    },
    Shape {
        consumer: "a login",
        kind: "kubernetes.io/basic-auth",
        texts: &[("username", "}} {{x}"), ("password", "{token}")],
        wanted: &[("username", "}} {x}"), ("password", "TOKEN")],
    },
];

#[test]
fn every_shape_a_consumer_reads_is_written_byte_for_byte() {
    let token = token::tests::token(&token::tests::payload());
    let end = meta::text(token::read(&token).unwrap().expires_at);
    for shape in SHAPES {
        let policy = policy(&json!({"secret": {"format": shape.format()}}));
        let body = rendered(&policy);
        assert_eq!(body["type"], shape.kind, "{}", shape.consumer);
        let mut wanted: Vec<(&str, String)> = Vec::new();
        for (key, value) in shape.wanted {
            wanted.push((key, value.replace("TOKEN", token.expose_secret()).replace("END", &end)));
        }
        wanted.sort_unstable();
        let keys = body["data"].as_object().unwrap().keys();
        let written: Vec<(&str, String)> = keys.map(|key| (key.as_str(), text(&body, key))).collect();
        assert_eq!(written, wanted, "{}", shape.consumer);
    }
}

#[test]
fn an_empty_target_has_the_keys_that_its_type_demands() {
    let login = policy(&json!({"secret": {"format": SHAPES[5].format()}}));
    let body = empty(&login);
    assert_eq!(body["data"], json!({"username": "", "password": ""}));
    assert_eq!(body["type"], "kubernetes.io/basic-auth");
    assert_eq!(empty(&policy(&json!({"secret": {"format": SHAPES[0].format()}})))["data"], json!({}));
}

#[test]
fn a_text_without_the_address_does_not_tell_it() {
    for (shape, tells) in SHAPES.iter().zip([false, false, true, true, false, false]) {
        let policy = policy(&json!({"secret": {"format": shape.format()}}));
        assert_eq!(format::of(&policy.spec.secret.format).tells_server(), tells, "{}", shape.consumer);
    }
}

#[test]
fn labels_that_the_administrator_demands_win_over_the_policys_and_are_on_anchors_too() {
    let demanded = [("team", "platform"), ("argocd.argoproj.io/secret-type", "repository")];
    let demanded = Demanded::new(demanded.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    let secret = json!({"secret": {"labels": {"team": "mine", "env": "prod"}, "format": {"type": "ArgoCDCluster"}}});
    let policy = read_policy(&secret, &demanded);
    let body = rendered(&policy);
    let labels = &body["metadata"]["labels"];
    assert_eq!((&labels["team"], &labels["env"]), (&json!("platform"), &json!("prod")));
    assert_eq!(labels["argocd.argoproj.io/secret-type"], "cluster", "the format's own wins");
    assert_eq!(seen(&stored(&body)).unwrap().applied, policy.applied);
    let plain = read_policy(&secret, &Demanded::default());
    assert_ne!(plain.layout, policy.layout, "the target is written again");
    assert_eq!(plain.token_inputs, policy.token_inputs, "with the same token");
    let now = crate::core::Time::from_timestamp(0, 0).unwrap();
    let anchor = read(anchor(&key(), &policy, "tw-1", "p-deployer", now).expose_secret());
    assert_eq!(anchor["metadata"]["labels"]["team"], "platform");
    assert_eq!(anchor["metadata"]["labels"][names::ROLE], names::ANCHOR_ROLE);
}

#[test]
fn a_policy_that_was_stored_without_the_rules_is_unreadable_and_says_why() {
    for (format, why) in [
        (
            json!({"type": "Custom", "custom": {"data": {"a": "{token} {x}"}}}),
            "format.custom.data[a]: \"{x}\" is no placeholder",
        ),
        (
            json!({"type": "Kubeconfig", "kubeconfig": {"secretType": "kubernetes.io/tls"}}),
            "format.kubeconfig.secretType: controllers act on Secrets of type \"kubernetes.io/tls\"",
        ),
        (
            json!({"type": "ArgoCDCluster", "argoCDCluster": {"systemRoots": true}}),
            "format.argoCDCluster: caBundle and systemRoots are for a server",
        ),
        (
            json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "c", "server": "https://a", "caBundle": "QUFB"}}),
            "format.istioRemoteSecret: caBundle holds no certificate; write",
        ),
    ] {
        let state = state(&json!({"secret": {"format": format}}), &Demanded::default());
        let PolicyState::Unreadable(_, error) = state else { panic!("{format}") };
        assert!(error.starts_with(&format!("spec.secret.{why}")), "{error}");
    }
}

#[test]
fn format_istio_remote_secret_is_found_by_label_annotation_and_key() {
    let format = json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "west"}});
    let body = rendered(&policy(&json!({"secret": {"format": format}})));
    assert_eq!(body["metadata"]["labels"]["istio/multiCluster"], "true");
    assert_eq!(body["metadata"]["annotations"]["networking.istio.io/cluster"], "west");
    let config: Value = serde_json::from_str(&text(&body, "west")).unwrap();
    assert_eq!((&config["current-context"], &config["users"][0]["name"]), (&json!("west"), &json!("west")));
    assert_eq!(config["contexts"][0]["context"], json!({"cluster": "west", "user": "west"}));
}

#[test]
fn format_docker_config_json_has_its_own_type() {
    let options = json!({"registries": ["r.example:5000", "s.example"], "username": "robot"});
    let format = json!({"type": "DockerConfigJson", "dockerConfigJson": options});
    let policy = policy(&json!({"secret": {"format": format}}));
    let body = rendered(&policy);
    assert_eq!(body["type"], "kubernetes.io/dockerconfigjson");
    let config: Value = serde_json::from_str(&text(&body, ".dockerconfigjson")).unwrap();
    let auth = &config["auths"]["s.example"];
    let expected = STANDARD.encode(format!("robot:{}", auth["password"].as_str().unwrap()));
    assert_eq!((&auth["username"], &auth["auth"]), (&json!("robot"), &json!(expected)));
    assert_eq!(config["auths"].as_object().unwrap().len(), 2);
    let empty = empty(&policy);
    assert_eq!(text(&empty, ".dockerconfigjson"), r#"{"auths":{}}"#, "what its type demands");
}

#[test]
fn an_empty_target_is_ours_and_describes_no_token() {
    let target = seen(&stored(&empty(&policy(&json!({}))))).unwrap();
    assert_eq!((&target.token, target.marked), (&None, true));
}

#[test]
fn the_token_is_found_again_whatever_the_format() {
    for format in formats() {
        let body = rendered(&policy(&json!({"secret": {"format": format}})));
        let secret = json!({"metadata": stored(&body), "data": body["data"]}).to_string();
        let read = read_back::read(&secret.into()).unwrap();
        assert_eq!(read.token.map(|token| token.claims.token_id).as_deref(), Some("id-1"), "{format}");
    }
}

#[test]
fn a_token_that_somebody_else_put_there_is_not_found() {
    let body = rendered(&policy(&json!({})));
    let mut meta = json!(stored(&body));
    meta["managedFields"][0]["fieldsV1"]["f:data"] = json!({"f:ca.crt": {}});
    let secret = json!({"metadata": meta, "data": body["data"]}).to_string();
    assert!(read_back::read(&secret.into()).unwrap().token.is_none());
}

#[test]
fn defaults_are_no_inputs_and_every_other_value_is() {
    let base = policy(&json!({}));
    assert_eq!(policy(&json!({"token": {"duration": "24h"}})).token_inputs, base.token_inputs);
    let token = |token: Value| json!({"token": token});
    for spec in
        [token(json!({"duration": "25h"})), token(json!({"audiences": ["a"]})), token(json!({"binding": "Target"}))]
    {
        assert_ne!(policy(&spec).token_inputs, base.token_inputs, "{spec}");
        assert_eq!(policy(&spec).layout, base.layout, "{spec}");
    }
    for secret in [
        json!({"labels": {"a": "b"}}),
        json!({"annotations": {"a": "b"}}),
        json!({"format": {"type": "Kubeconfig"}}),
        json!({"format": {"type": "Token", "kubeconfig": {"key": "value"}}}),
    ] {
        let changed = policy(&json!({"secret": secret}));
        assert_ne!(changed.layout, base.layout, "{secret}");
        assert_eq!(changed.token_inputs, base.token_inputs, "{secret}");
    }
}
