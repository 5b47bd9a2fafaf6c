//! From a token to the exact bytes of the Secrets. The same input always gives the same bytes.

mod argo_cd;
mod docker_config;
mod istio;
mod kubeconfig;
pub mod read_back;
mod token;

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::{Value, json};

use super::{
    Time,
    claims::{Claims, ObjectRef},
    facts::{Policy, Previous, Site, text},
    grant::GrantKey,
    keys,
    managed::Owned,
};
use crate::crd::format::{Format, FormatType};

/// The data of a Secret, before base64.
type Data = BTreeMap<String, SecretSlice<u8>>;

/// Everything a target says.
#[derive(Debug)]
pub struct Draft<'a> {
    /// Policy and account.
    pub grant: &'a GrantKey,
    /// The policy.
    pub policy: &'a Policy,
    /// UID of the account.
    pub account_uid: &'a str,
    /// Name of the Secret.
    pub name: &'a str,
    /// The token.
    pub token: &'a SecretString,
    /// What the token says.
    pub claims: &'a Claims,
    /// The Secret it is bound to, if any.
    pub bound: Option<&'a ObjectRef>,
    /// The rotate value it was issued under.
    pub rotate: &'a str,
    /// Older tokens.
    pub previous: &'a [Previous],
    /// Inputs it was issued under.
    pub token_inputs: &'a str,
}

/// What the write must find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// No Secret of that name.
    Absent,
    /// This Secret in this version.
    Exactly {
        /// `metadata.uid`.
        uid: Box<str>,
        /// `metadata.resourceVersion`.
        resource_version: Box<str>,
    },
}

/// The body of the apply that writes a target.
#[must_use]
pub fn target(draft: &Draft<'_>, site: &Site, precondition: &Precondition) -> SecretString {
    let annotations = annotations(draft);
    secret(draft.grant, draft.policy, draft.name, &annotations, precondition, &data(draft, site))
}

/// The body of the apply that creates a target without a token, for `binding: Target`.
#[must_use]
pub fn empty_target(grant: &GrantKey, policy: &Policy, name: &str) -> SecretString {
    let annotations = names(grant, name).into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let data = match policy.spec.secret.format.kind {
        FormatType::DockerConfigJson => docker_config::empty(),
        _ => Data::new(),
    };
    secret(grant, policy, name, &annotations, &Precondition::Absent, &data)
}

fn secret(
    grant: &GrantKey,
    policy: &Policy,
    name: &str,
    annotations: &BTreeMap<String, String>,
    precondition: &Precondition,
    data: &Data,
) -> SecretString {
    let mut metadata = json!({
        "name": name,
        "namespace": &*grant.namespace,
        "labels": labels(policy),
        "annotations": annotations,
        "ownerReferences": owners(grant, policy),
    });
    match precondition {
        // "0" would mean any version and overwrite; "1" is a version no stored object has.
        Precondition::Absent => metadata["resourceVersion"] = "1".into(),
        Precondition::Exactly { uid, resource_version } => {
            metadata["uid"] = (**uid).into();
            metadata["resourceVersion"] = (**resource_version).into();
        }
    }
    let data: BTreeMap<&str, String> =
        data.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value.expose_secret()))).collect();
    let kind = match policy.spec.secret.format.kind {
        FormatType::DockerConfigJson => docker_config::TYPE,
        _ => "Opaque",
    };
    apply_body(&json!({"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": metadata, "data": data}))
}

/// The body of a server-side apply. The API server reads it as YAML, which takes some characters only escaped that JSON
/// takes as they are.
#[must_use]
pub fn apply_body(body: &Value) -> SecretString {
    let json = body.to_string();
    let refused =
        |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    if !json.contains(refused) {
        return json.into();
    }
    let escaped = |c| if refused(c) { format!("\\u{:04x}", u32::from(c)) } else { String::from(c) };
    json.chars().map(escaped).collect::<String>().into()
}

fn data(draft: &Draft<'_>, site: &Site) -> Data {
    // Options that the type needs are demanded by the CRD; without them there would be nothing to write.
    let Format { kind, kubeconfig, argo_cd_cluster, istio_remote_secret, docker_config_json } =
        draft.policy.spec.secret.format.clone();
    let own = draft.policy.spec.secret.format.server();
    let own = own.map(|server| Site { server: server.to_owned(), ..site.clone() });
    let site = own.as_ref().unwrap_or(site);
    match kind {
        FormatType::Token => token::data(draft, site),
        FormatType::Kubeconfig => kubeconfig::data(draft, site, &kubeconfig.unwrap_or_default()),
        FormatType::ArgoCDCluster => argo_cd::data(draft, site, &argo_cd_cluster.unwrap_or_default()),
        FormatType::IstioRemoteSecret => istio::data(draft, site, &istio_remote_secret.unwrap_or_default()),
        FormatType::DockerConfigJson => docker_config::data(draft, &docker_config_json.unwrap_or_default()),
    }
}

fn data_keys(format: &Format) -> Vec<&str> {
    match format.kind {
        FormatType::Token => token::KEYS.to_vec(),
        FormatType::Kubeconfig => {
            let key = format.kubeconfig.as_ref().and_then(|options| options.key.as_deref());
            vec![key.unwrap_or(kubeconfig::KEY)]
        }
        FormatType::ArgoCDCluster => argo_cd::keys(format.argo_cd_cluster.as_ref()).collect(),
        FormatType::IstioRemoteSecret => {
            format.istio_remote_secret.iter().map(|options| options.cluster_name.as_str()).collect()
        }
        FormatType::DockerConfigJson => vec![docker_config::KEY],
    }
}

/// What our Apply entry owns after writing a target for this policy.
#[must_use]
pub fn owned(policy: &Policy) -> Owned {
    let annotations = policy_annotations(policy);
    Owned::expected(
        data_keys(&policy.spec.secret.format),
        labels(policy).into_keys(),
        keys::TARGET_ANNOTATIONS.into_iter().chain(annotations.keys().map(String::as_str)),
    )
}

/// What the policy asks for, what its format needs, and ours, each winning over the one before.
fn labels(policy: &Policy) -> BTreeMap<&str, &str> {
    let secret = &policy.spec.secret;
    let mut labels: BTreeMap<&str, &str> =
        secret.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    labels.extend(match secret.format.kind {
        FormatType::ArgoCDCluster => Some(argo_cd::LABEL),
        FormatType::IstioRemoteSecret => Some(istio::LABEL),
        _ => None,
    });
    labels.extend([
        (keys::ROLE, keys::TARGET_ROLE),
        (keys::POLICY_UID, &*policy.uid),
        (keys::MANAGED_BY, keys::MANAGER),
    ]);
    labels
}

fn policy_annotations(policy: &Policy) -> BTreeMap<String, String> {
    let mut annotations = policy.spec.secret.annotations.clone();
    if let Some(options) = &policy.spec.secret.format.istio_remote_secret {
        annotations.insert(istio::ANNOTATION.to_owned(), options.cluster_name.clone());
    }
    annotations
}

/// The annotations that make a Secret a target of ours.
fn names(grant: &GrantKey, target: &str) -> [(&'static str, String); 3] {
    [
        (keys::POLICY, grant.policy.to_string()),
        (keys::TARGET, target.to_owned()),
        (keys::SERVICE_ACCOUNT, grant.account.to_string()),
    ]
}

fn annotations(draft: &Draft<'_>) -> BTreeMap<String, String> {
    let claims = draft.claims;
    let bound = |part: fn(&ObjectRef) -> &String| draft.bound.map(part).cloned().unwrap_or_default();
    let ours = [
        (keys::SERVICE_ACCOUNT_UID, draft.account_uid.to_owned()),
        (keys::TOKEN_ID, claims.token_id.clone()),
        (keys::KEY_ID, claims.key_id.clone()),
        (keys::ISSUER, claims.issuer.clone()),
        (keys::ISSUED_AT, text(claims.issued_at)),
        (keys::EXPIRES_AT, text(claims.expires_at)),
        (keys::ANCHOR, bound(|bound| &bound.name)),
        (keys::ANCHOR_UID, bound(|bound| &bound.uid)),
        (keys::ROTATE, draft.rotate.to_owned()),
        (keys::PREVIOUS, json!(draft.previous).to_string()),
        (keys::TOKEN_INPUTS, draft.token_inputs.to_owned()),
        (keys::LAYOUT, draft.policy.layout.to_string()),
    ];
    let mut annotations = policy_annotations(draft.policy);
    let ours = names(draft.grant, draft.name).into_iter().chain(ours);
    annotations.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    annotations
}

/// Plain owner references: `controller` or `blockOwnerDeletion` would get in the way of others.
#[must_use]
pub fn owners(grant: &GrantKey, policy: &Policy) -> Value {
    if !policy.deletes() {
        return json!([]);
    }
    json!([{
        "apiVersion": "tokenward.dev/v1alpha1",
        "kind": "TokenPolicy",
        "name": &*grant.policy,
        "uid": policy.uid,
    }])
}

/// The labels and annotations of an anchor, and its owner: everything but its name.
#[must_use]
pub fn anchor_metadata(grant: &GrantKey, policy: &Policy, target: &str, now: Time) -> Value {
    let dies = now + policy.spec.token.duration.delta();
    json!({
        "namespace": &*grant.namespace,
        "labels": {(keys::ROLE): keys::ANCHOR_ROLE, (keys::POLICY_UID): policy.uid, (keys::MANAGED_BY): keys::MANAGER},
        "annotations": {
            (keys::POLICY): &*grant.policy,
            (keys::TARGET): target,
            (keys::SERVICE_ACCOUNT): &*grant.account,
            (keys::DIES_AT_LATEST): text(dies),
        },
        "ownerReferences": owners(grant, policy),
    })
}

/// The body that creates an anchor, with a name still to be put into `metadata.name`.
#[must_use]
pub fn anchor(grant: &GrantKey, policy: &Policy, target: &str, now: Time) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": keys::ANCHOR_TYPE,
        "immutable": true,
        "metadata": anchor_metadata(grant, policy, target, now),
    })
}

/// The body of a TokenRequest: for this UID of the account, bound to this Secret by name and UID, if to any.
#[must_use]
pub fn token_request(grant: &GrantKey, policy: &Policy, account_uid: &str, bound: Option<&ObjectRef>) -> Value {
    let token = &policy.spec.token;
    let mut spec = json!({"audiences": token.audiences, "expirationSeconds": token.duration.as_secs()});
    if let Some(bound) = bound {
        spec["boundObjectRef"] = json!({"apiVersion": "v1", "kind": "Secret", "name": bound.name, "uid": bound.uid});
    }
    json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "metadata": {"name": &*grant.account, "namespace": &*grant.namespace, "uid": account_uid},
        "spec": spec,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::core::{claims, facts::PolicyState, facts::Target};

    fn site() -> Site {
        Site { server: "https://api:6443".into(), ca: b"pem".to_vec(), internal: false }
    }

    fn policy(spec: &Value) -> Policy {
        let mut full = json!({"serviceAccounts": {"names": ["deployer"]}});
        full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let policy = json!({"apiVersion": "tokenward.dev/v1alpha1", "kind": "TokenPolicy",
            "metadata": {"name": "p", "namespace": "ci", "uid": "policy-1"}, "spec": full});
        let state = PolicyState::read(serde_json::from_value(policy).unwrap(), &site());
        (**state.readable().unwrap()).clone()
    }

    fn rendered(policy: &Policy, precondition: &Precondition) -> Value {
        let grant = GrantKey { namespace: "ci".into(), policy: "p".into(), account: "deployer".into() };
        let token = claims::tests::token(&claims::tests::payload());
        let claims = claims::read(&token).unwrap();
        let previous = [Previous {
            anchor: "tw-0".into(),
            uid: "anchor-0".into(),
            token_id: "id-0".into(),
            issued_at: Time::from_timestamp(900, 0).unwrap(),
            retires_at: Time::from_timestamp(2000, 0).unwrap(),
        }];
        let draft = Draft {
            grant: &grant,
            policy,
            account_uid: "sa-1",
            name: "p-deployer",
            token: &token,
            claims: &claims,
            bound: Some(&ObjectRef { name: "tw-1".into(), uid: "anchor-1".into() }),
            rotate: "7",
            previous: &previous,
            token_inputs: &policy.token_inputs,
        };
        let (one, two) = (target(&draft, &site(), precondition), target(&draft, &site(), precondition));
        assert_eq!(one.expose_secret(), two.expose_secret(), "the same input must give the same bytes");
        read(one.expose_secret())
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

    /// What a consumer or the API server reads: JSON by JSON's rules, and the same by YAML's.
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
            let body = rendered(&policy(&json!({"secret": {"format": format}})), &Precondition::Absent);
            let token = claims::tests::token(&claims::tests::payload());
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
            let body = rendered(&policy(&json!({"secret": secret})), &Precondition::Absent);
            prop_assert_eq!(&body["metadata"]["annotations"]["note"], &json!(value));
            let config: Value = serde_json::from_str(&text(&body, ".dockerconfigjson")).unwrap();
            prop_assert_eq!(&config["auths"]["r.example"]["username"], &json!(user));
            prop_assert_eq!(config["auths"]["r.example"].as_object().unwrap().len(), 3);
            let cluster = json!({"clusterName": value, "project": user});
            let secret = json!({"format": {"type": "ArgoCDCluster", "argoCDCluster": cluster}});
            let body = rendered(&policy(&json!({"secret": secret})), &Precondition::Absent);
            prop_assert_eq!(["name", "project", "server"].map(|key| text(&body, key)), [value, user, "https://api:6443".into()]);
        }
    }

    #[test]
    fn a_first_write_creates_and_a_later_one_is_fenced() {
        let first = rendered(&policy(&json!({})), &Precondition::Absent);
        assert_eq!((&first["metadata"]["resourceVersion"], &first["metadata"]["uid"]), (&json!("1"), &Value::Null));
        let fence = Precondition::Exactly { uid: "u".into(), resource_version: "9".into() };
        let later = rendered(&policy(&json!({})), &fence);
        assert_eq!((&later["metadata"]["resourceVersion"], &later["metadata"]["uid"]), (&json!("9"), &json!("u")));
    }

    #[test]
    fn a_target_tells_all_that_was_written_into_it() {
        let policy = policy(&json!({"secret": {"labels": {"team": "a"}, "annotations": {"note": "b"}}}));
        let body = rendered(&policy, &Precondition::Absent);
        let target = Target::read(&stored(&body)).unwrap();
        assert_eq!((&*target.policy, &*target.service_account, &*target.account_uid), ("p", "deployer", "sa-1"));
        assert_eq!((&*target.rotate, &*target.previous[0].token_id, target.marked), ("7", "id-0", true));
        assert_eq!(target.token.as_ref().map(|token| (&*token.id, &*token.anchor)), Some(("id-1", "tw-1")));
        assert_eq!((target.token_inputs, target.layout), (policy.token_inputs.clone(), policy.layout.clone()));
        assert_eq!(target.owned, owned(&policy));
        assert!(target.owners.fit(&policy));
        assert_eq!(
            (&body["metadata"]["labels"]["team"], &body["metadata"]["annotations"]["note"]),
            (&json!("a"), &json!("b"))
        );
    }

    #[test]
    fn previous_tokens_of_an_earlier_release_are_remembered() {
        let mut meta = stored(&rendered(&policy(&json!({})), &Precondition::Absent));
        let entry = json!([{"anchor": "tw-0", "uid": "u", "token-id": "id-0", "retires-at": "2026-01-01T00:00:00Z"}]);
        meta.annotations.as_mut().unwrap().insert(keys::PREVIOUS.into(), entry.to_string());
        let previous = Target::read(&meta).unwrap().previous;
        assert_eq!((&*previous[0].anchor, previous[0].issued_at), ("tw-0", Time::UNIX_EPOCH));
    }

    #[test]
    fn a_renamed_copy_is_not_ours() {
        let mut meta = stored(&rendered(&policy(&json!({})), &Precondition::Absent));
        meta.name = Some("copy".into());
        assert_eq!(Target::read(&meta), None);
    }

    #[test]
    fn names_that_no_object_can_have_are_not_believed() {
        let mut meta = stored(&rendered(&policy(&json!({})), &Precondition::Absent));
        let annotations = meta.annotations.as_mut().unwrap();
        annotations.insert(keys::ANCHOR.into(), "tw-decoy&x=".into());
        assert_eq!(Target::read(&meta).unwrap().token.map(|token| token.anchor), Some("".into()));
        meta.annotations.as_mut().unwrap().insert(keys::POLICY.into(), "../secrets".into());
        assert_eq!(Target::read(&meta), None);
    }

    #[test]
    fn retain_has_no_owner() {
        let retain = policy(&json!({"deletionPolicy": "Retain"}));
        let body = rendered(&retain, &Precondition::Absent);
        assert_eq!(body["metadata"]["ownerReferences"], json!([]));
        assert!(Target::read(&stored(&body)).unwrap().owners.fit(&retain));
        assert_ne!(retain.token_inputs, policy(&json!({})).token_inputs);
    }

    #[test]
    fn format_token_holds_what_a_projected_volume_does() {
        let body = rendered(&policy(&json!({})), &Precondition::Absent);
        assert_eq!(body["data"].as_object().unwrap().keys().collect::<Vec<_>>(), token::KEYS.to_vec());
        assert_eq!((text(&body, "namespace"), text(&body, "ca.crt")), ("ci".into(), "pem".into()));
        assert_eq!((text(&body, "server"), body["type"].as_str()), ("https://api:6443".into(), Some("Opaque")));
    }

    #[test]
    fn format_kubeconfig_is_complete_and_closed() {
        let names = json!({"clusterName": "a: {b}\n", "namespace": "other"});
        let body = rendered(
            &policy(&json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": names}}})),
            &Precondition::Absent,
        );
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
            let body = rendered(
                &policy(&json!({"secret": {"format": {"type": kind, (member): more}}})),
                &Precondition::Absent,
            );
            let keys = body["data"].as_object().unwrap().keys();
            let values: String = keys.map(|key| text(&body, key)).collect();
            assert!(values.contains(own) && !values.contains("https://api:6443"), "{values}");
        }
    }

    fn formats() -> [Value; 5] {
        [
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
            let policy =
                policy(&json!({"secret": {"format": format, "labels": {"argocd.argoproj.io/secret-type": "x"}}}));
            let body = rendered(&policy, &Precondition::Absent);
            assert_eq!(Target::read(&stored(&body)).unwrap().owned, owned(&policy), "{format}");
        }
    }

    #[test]
    fn format_argo_cd_cluster_is_a_cluster_of_its_declarative_setup() {
        let format = json!({"type": "ArgoCDCluster", "argoCDCluster": {"namespaces": ["a", "b"], "project": "p"}});
        let secret = json!({"format": format, "labels": {"argocd.argoproj.io/secret-type": "repository"}});
        let body = rendered(&policy(&json!({"secret": secret})), &Precondition::Absent);
        assert_eq!(body["metadata"]["labels"]["argocd.argoproj.io/secret-type"], "cluster", "the format's own wins");
        assert_eq!(
            ["name", "server", "namespaces", "project"].map(|key| text(&body, key)),
            ["p", "https://api:6443", "a,b", "p"]
        );
        let config: Value = serde_json::from_str(&text(&body, "config")).unwrap();
        assert_eq!(config["tlsClientConfig"], json!({"caData": STANDARD.encode("pem")}));
        let plain = rendered(&policy(&json!({"secret": {"format": {"type": "ArgoCDCluster"}}})), &Precondition::Absent);
        assert_eq!(plain["data"].as_object().unwrap().keys().collect::<Vec<_>>(), ["config", "name", "server"]);
    }

    #[test]
    fn format_istio_remote_secret_is_found_by_label_annotation_and_key() {
        let format = json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "west"}});
        let body = rendered(&policy(&json!({"secret": {"format": format}})), &Precondition::Absent);
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
        let body = rendered(&policy, &Precondition::Absent);
        assert_eq!(body["type"], "kubernetes.io/dockerconfigjson");
        let config: Value = serde_json::from_str(&text(&body, ".dockerconfigjson")).unwrap();
        let auth = &config["auths"]["s.example"];
        let expected = STANDARD.encode(format!("robot:{}", auth["password"].as_str().unwrap()));
        assert_eq!((&auth["username"], &auth["auth"]), (&json!("robot"), &json!(expected)));
        assert_eq!(config["auths"].as_object().unwrap().len(), 2);
        let grant = GrantKey { namespace: "ci".into(), policy: "p".into(), account: "deployer".into() };
        let empty: Value = serde_json::from_str(empty_target(&grant, &policy, "x").expose_secret()).unwrap();
        assert_eq!(text(&empty, ".dockerconfigjson"), r#"{"auths":{}}"#, "what its type demands");
    }

    #[test]
    fn an_empty_target_is_ours_and_describes_no_token() {
        let grant = GrantKey { namespace: "ci".into(), policy: "p".into(), account: "deployer".into() };
        let body: Value = serde_json::from_str(empty_target(&grant, &policy(&json!({})), "x").expose_secret()).unwrap();
        let target = Target::read(&stored(&body)).unwrap();
        assert_eq!((target.token, target.marked, &*target.policy), (None, true, "p"));
    }

    #[test]
    fn the_token_is_found_again_whatever_the_format() {
        for format in formats() {
            let body = rendered(&policy(&json!({"secret": {"format": format}})), &Precondition::Absent);
            let secret = json!({"metadata": stored(&body), "data": body["data"]}).to_string();
            let read = read_back::read(&secret.into()).unwrap();
            assert_eq!(read.token.map(|token| token.claims.token_id).as_deref(), Some("id-1"), "{format}");
        }
    }

    #[test]
    fn a_token_that_somebody_else_put_there_is_not_found() {
        let body = rendered(&policy(&json!({})), &Precondition::Absent);
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
}
