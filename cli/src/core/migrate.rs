//! `migrate`: the policy that takes the place of a legacy token, and the steps in which no consumer is without a valid one.

use std::{collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::core::v1::Secret;
use kube::{Resource, ResourceExt as _};
use serde_json::{Value, json};
use tokenward::record::{ACCOUNT, INVALID_SINCE, LAST_USED, Refers, SECRET_TYPE, Way, names::is_object_name};

use super::{
    target::Target,
    text::plain,
    token::{Claims, tokens},
    verify::Learnt,
};

/// The rights that the steps need, in the namespace of the account.
pub const NEEDS: [(u8, &str, &str); 6] = [
    (1, "create", "tokenpolicies.tokenward.dev"),
    // Tokenward's admission demands both of the author of a policy.
    (1, "create", "serviceaccounts/token"),
    (1, "create", "secrets"),
    (3, "get", "secrets"),
    (4, "patch", "secrets"),
    (5, "delete", "secrets"),
];

/// A Secret by namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub name: String,
}

/// A Secret that holds a legacy token.
#[derive(Clone, Debug, PartialEq)]
pub struct Old {
    /// The Secret that consumers read.
    pub place: Place,
    /// The Secret of the token itself, mostly the same one.
    pub source: Place,
    pub account: String,
    /// The format of the policy that writes the same shape.
    format: Value,
    /// The keys that the new Secret shares with the old one, and those that it lacks.
    kept: Vec<String>,
    lacking: Vec<String>,
    /// The API server that it names.
    server: Option<String>,
}

/// All that is known about a move.
pub struct Move {
    pub old: Old,
    /// Name of the new policy.
    pub name: String,
    /// Labels of the Secret of the token itself, as far as they may be read.
    pub labels: BTreeMap<String, String>,
    /// Who refers to the old Secret: pods and accounts.
    pub referrers: [Learnt<Vec<String>>; 2],
    /// The rights that the person lacks, and the steps that need them.
    pub missing: Vec<(u8, String)>,
    /// The flags that name the cluster, for the commands: they must not meet another one.
    pub flags: String,
}

impl Old {
    /// # Errors
    /// When it holds no legacy token, or in a shape that no format has.
    pub fn read(secret: &Secret) -> Result<Self, String> {
        let meta = &secret.metadata;
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let place = Place { namespace: text(&meta.namespace), name: text(&meta.name) };
        let Place { namespace, name } = &place;
        if let Some(target) = Target::read(meta) {
            return Err(format!("Secret {namespace}/{name} is that of policy {} already", target.record.policy));
        }
        let account = meta.annotations.iter().flatten().find(|(key, _)| *key == ACCOUNT);
        if let (Some(SECRET_TYPE), Some((_, account))) = (secret.type_.as_deref(), account) {
            return Ok(Self::new(place.clone(), place, plain(account), Shape::token(), secret));
        }
        let claims = only_legacy_token(secret).ok_or_else(|| {
            format!("Secret {namespace}/{name} holds not one legacy token; `kubectl get secrets -A --field-selector type={SECRET_TYPE}` lists those that do")
        })?;
        let shape = Shape::read(secret).ok_or_else(|| {
            format!("Secret {namespace}/{name} holds a legacy token in a shape that migrate cannot write; write a TokenPolicy with format Custom")
        })?;
        let source = claims.bound.map(|(_, source)| source.name).unwrap_or_default();
        let source = Place { namespace: claims.namespace, name: source };
        Ok(Self::new(place, source, claims.account.name, shape, secret))
    }

    fn new(place: Place, source: Place, account: String, shape: Shape, secret: &Secret) -> Self {
        let keys = secret.data.iter().flatten().map(|(key, _)| plain(key));
        let (kept, lacking) = keys.partition(|key| shape.keys.contains(key));
        Self { place, source, account, format: shape.format, kept, lacking, server: shape.server }
    }
}

/// Flags as a shell reads them.
pub fn flags<'a>(given: impl IntoIterator<Item = (&'static str, Option<&'a str>)>) -> String {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "_./:@-".contains(c);
    let quoted = |value: &str| {
        if value.chars().all(is_safe) { value.to_owned() } else { format!("'{}'", value.replace('\'', r"'\''")) }
    };
    let given = given.into_iter().filter_map(|(flag, value)| Some(format!(" --{flag}={}", quoted(&plain(value?)))));
    given.collect()
}

fn only_legacy_token(secret: &Secret) -> Option<Claims> {
    let texts = secret.data.iter().flatten().filter_map(|(_, value)| std::str::from_utf8(&value.0).ok());
    let found = tokens(&texts.collect::<Vec<_>>().join("\n"));
    let [token] = &found[..] else { return None };
    Claims::read(token).filter(|claims| claims.legacy)
}

/// The shape of a Secret, as a format of Tokenward's.
struct Shape {
    format: Value,
    keys: Vec<String>,
    server: Option<String>,
}

impl Shape {
    fn new(format: Value, keys: &[&str], server: Option<String>) -> Self {
        Self { format, keys: keys.iter().map(ToString::to_string).collect(), server }
    }

    fn token() -> Self {
        Self::new(json!({"type": "Token"}), &["ca.crt", "namespace", "server", "token"], None)
    }

    fn read(secret: &Secret) -> Option<Self> {
        let label = |key: &str| secret.metadata.labels.as_ref().and_then(|labels| labels.get(key)).map(String::as_str);
        if label("argocd.argoproj.io/secret-type") == Some("cluster") {
            return Some(Self::argo_cd(secret));
        }
        if value(secret, "token").is_some_and(|text| !tokens(&text).is_empty()) {
            return Some(Self::token());
        }
        let keys: Vec<&String> = secret.data.iter().flatten().map(|(key, _)| key).collect();
        let [key] = keys[..] else { return None };
        Self::kubeconfig(key, &value(secret, key)?, label("istio/multiCluster") == Some("true"))
    }

    fn argo_cd(secret: &Secret) -> Self {
        let text = |key| value(secret, key).filter(|text| !text.is_empty());
        let namespaces = text("namespaces");
        // Argo CD reads it together with namespaces only.
        let cluster_resources = text("clusterResources").filter(|_| namespaces.is_some());
        let mut options = json!({});
        for (option, value) in [
            ("clusterName", text("name").map(Value::from)),
            ("namespaces", namespaces.map(|names| names.split(',').map(str::trim).collect())),
            ("clusterResources", cluster_resources.map(|is| Value::from(is == "true"))),
            ("project", text("project").map(Value::from)),
            ("shard", text("shard").and_then(|shard| Some(shard.parse::<i32>().ok()?.into()))),
        ] {
            if let Some(value) = value {
                options[option] = value;
            }
        }
        let keys = ["name", "server", "config", "namespaces", "clusterResources", "project", "shard"];
        Self::new(json!({"type": "ArgoCDCluster", "argoCDCluster": options}), &keys, text("server"))
    }

    /// A kubeconfig with one context, as the formats write it.
    fn kubeconfig(key: &str, text: &str, istio: bool) -> Option<Self> {
        let config: Value = serde_saphyr::from_str(text).ok()?;
        let [context] = &config["contexts"].as_array()?[..] else { return None };
        let server = config["clusters"][0]["cluster"]["server"].as_str().map(plain);
        if istio {
            let format = json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": key}});
            return Some(Self::new(format, &[key], server));
        }
        let mut options = json!({"key": key, "clusterName": context["context"]["cluster"]});
        if let Some(namespace) = context["context"]["namespace"].as_str() {
            options["namespace"] = namespace.into();
        }
        Some(Self::new(json!({"type": "Kubeconfig", "kubeconfig": options}), &[key], server))
    }
}

fn value(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// The objects that refer to a Secret, with their owners and how they refer to it.
pub fn referrers<K: Refers + Resource<DynamicType = ()>>(objects: &[K], secret: &str) -> Vec<String> {
    let line = |object: &K| {
        let ways: Vec<&str> = object
            .references()
            .into_iter()
            .filter(|(name, _)| name.as_str() == secret)
            .map(|(_, way)| words(way))
            .collect();
        let owner = object.owner_references().first();
        let owner = owner.map(|owner| format!(" of {} {}", owner.kind, owner.name)).unwrap_or_default();
        let kind = K::kind(&()).to_lowercase();
        (!ways.is_empty()).then(|| format!("{kind} {}{owner}: {}", object.name_any(), ways.join("; ")))
    };
    objects.iter().filter_map(line).collect()
}

fn words(way: Way) -> &'static str {
    match way {
        Way::Environment => "environment, which never changes: restart it after each rotation",
        Way::SubPath => "subPath of a volume, which never changes: restart it after each rotation",
        Way::Volume => "volume, which changes about a minute after a rotation",
        Way::Driver => "volume of a driver, which decides when it reads the Secret",
        Way::Pull => "imagePullSecrets",
        Way::List => "secrets",
    }
}

impl Move {
    /// The name of the new Secret: that of the policy, mostly as the old Secret's, and a suffix, since the type of a Secret
    /// cannot change. As much of the name is kept as a name may be long.
    pub fn successor(&self) -> String {
        let name = &self.name;
        let mut names = (0..=name.len()).rev().filter_map(|end| Some(format!("{}-bound", name.get(..end)?)));
        names.find(|name| is_object_name(name)).unwrap_or_default()
    }

    pub fn policy(&self) -> Value {
        let Old { source, account, format, .. } = &self.old;
        json!({
            "apiVersion": "tokenward.dev/v1alpha1",
            "kind": "TokenPolicy",
            "metadata": {"name": self.name, "namespace": source.namespace},
            "spec": {
                "serviceAccounts": {"names": [account]},
                "secret": {"name": self.successor(), "format": format},
            },
        })
    }

    /// Whether a policy of the same name was written for this move.
    pub fn is_of(&self, policy: &Value) -> bool {
        let spec = &self.policy()["spec"];
        policy["spec"]["secret"]["name"] == spec["secret"]["name"]
            && policy["spec"]["serviceAccounts"] == spec["serviceAccounts"]
    }

    /// The steps, as YAML comments.
    pub fn comments(&self) -> String {
        let lines = [self.head(), self.referrers(), self.steps()].concat();
        let lines = ["kubectl tokenward", "kubectl"]
            .into_iter()
            .flat_map(|program| [" -n", " apply"].map(|next| (program, next)))
            .fold(lines, |text, (program, next)| {
                text.replace(&format!("{program}{next}"), &format!("{program}{}{next}", self.flags))
            });
        lines.lines().fold(String::new(), |text, line| text + format!("# {line}").trim_end() + "\n")
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    fn head(&self) -> String {
        let Old { place, source, account, .. } = &self.old;
        let state = match self.label(INVALID_SINCE) {
            Some(day) => format!("The API server refuses the old token since {}; step 4 has been done.", plain(day)),
            None => "The old token works until step 4, so no consumer is without a valid token.".to_owned(),
        };
        let used = self.label(LAST_USED).map_or_else(|| "never, or not recorded".to_owned(), plain);
        let mut text = format!(
            "Moves the consumers of Secret {}/{} from a legacy token, which never expires, to a TokenPolicy.\n\
             Nothing has changed yet. {state}\n\n\
             It is the token of ServiceAccount {}/{account}, last used: {used}.\n",
            place.namespace, place.name, source.namespace
        );
        if place != source {
            let Place { namespace, name } = source;
            let _ = writeln!(
                text,
                "It comes from Secret {namespace}/{name}, which may have other consumers: \
                 `kubectl tokenward -n {namespace} migrate {name}`."
            );
        }
        text
    }

    fn referrers(&self) -> String {
        let namespace = &self.old.place.namespace;
        let mut text = format!("It is referred to in namespace {namespace} by:\n");
        for (kind, found) in ["pods", "ServiceAccounts"].iter().zip(&self.referrers) {
            let lines = match found {
                Ok(found) if found.is_empty() => vec![format!("no {kind}")],
                Ok(found) => found.iter().map(|one| plain(one)).collect(),
                Err(why) => vec![format!("{kind}: not known; {why}")],
            };
            text.extend(lines.iter().map(|line| format!("  {line}\n")));
        }
        text += "Workloads without Pods at this moment (a CronJob, a Deployment scaled to 0) do not show here.\n";
        text + "Consumers outside of the cluster show in the audit log: `kubectl tokenward audit`.\n\n"
    }

    fn steps(&self) -> String {
        let steps = [self.apply(), self.point(), self.watch(), self.quarantine(), self.delete()];
        let with_rights =
            steps.into_iter().zip(1..).map(|(step, number)| format!("{number}. {step}{}", self.lacks(number)));
        with_rights.collect()
    }

    fn lacks(&self, step: u8) -> String {
        let missing = self.missing.iter().filter(|(needed, _)| *needed == step);
        let line = |(_, right): &(u8, String)| {
            format!("   You lack a right for this: `kubectl auth can-i {right}` says no.\n")
        };
        missing.map(line).fold(String::new(), |text, line| text + &line)
    }

    fn apply(&self) -> String {
        let (Place { namespace, name }, policy) = (&self.old.place, &self.name);
        let named = if policy == name { String::new() } else { format!(" --name {policy}") };
        let there = &self.old.source.namespace;
        format!(
            "Apply the policy, and wait for the new token:\n\
             \x20    kubectl tokenward -n {namespace} migrate {name}{named} | kubectl apply -f -\n\
             \x20    kubectl -n {there} wait tokenpolicy/{policy} --for=condition=Ready --timeout=60s\n"
        )
    }

    fn point(&self) -> String {
        let (old, new) = (&self.old, self.successor());
        let mut text = format!(
            "Point each consumer to Secret {}/{new}, which has the keys {}. A consumer must read it again when it changes.\n",
            old.source.namespace,
            old.kept.join(", ")
        );
        let mut note = |line: String| text.extend(["   ", &line, "\n"]);
        if old.place.namespace != old.source.namespace {
            note(format!("It must be copied to namespace {} after each rotation.", old.place.namespace));
        }
        if !old.lacking.is_empty() {
            note(format!("It lacks the keys {}, which no format writes.", old.lacking.join(", ")));
        }
        if let Some(server) = &old.server {
            note(format!(
                "The old Secret names {}. If the new one names another address, set `server` in its format.",
                plain(server)
            ));
        }
        text
    }

    fn watch(&self) -> String {
        let Place { namespace, name } = &self.old.source;
        format!(
            "Wait until nobody uses the old token: a day later, this still names a day before:\n\
             \x20    kubectl -n {namespace} get secret {name} -L {LAST_USED}\n"
        )
    }

    fn quarantine(&self) -> String {
        let Place { namespace, name } = &self.old.source;
        format!(
            "Let the API server refuse the old token. The second command takes that back:\n\
             \x20    kubectl -n {namespace} label secret {name} --overwrite {INVALID_SINCE}=$(date -u +%F)\n\
             \x20    kubectl -n {namespace} label secret {name} --overwrite {INVALID_SINCE}=\n"
        )
    }

    fn delete(&self) -> String {
        let Place { namespace, name } = &self.old.source;
        let copy = if self.old.place == self.old.source {
            String::new()
        } else {
            format!("     kubectl -n {} delete secret {}\n", self.old.place.namespace, self.old.place.name)
        };
        format!(
            "Delete the old Secret when nobody has missed it for a while. Nobody can bring its token back:\n\
             \x20    kubectl -n {namespace} delete secret {name}\n{copy}"
        )
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use tokenward::{
        api::token_policy::TokenPolicy,
        record::{AccountReferences, PodReferences},
    };

    use super::*;
    use crate::core::{
        target::tests::meta,
        token::tests::{payload, token},
    };

    fn legacy() -> String {
        let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
        token(&json!({
            (claim("namespace")): "ci",
            (claim("secret.name")): "robot-token",
            (claim("service-account.name")): "robot",
            (claim("service-account.uid")): "u1",
        }))
    }

    fn secret(namespace: &str, labels: &Value, data: &[(&str, &str)]) -> Secret {
        let metadata = json!({"name": "old", "namespace": namespace, "labels": labels});
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec())));
        Secret { data: Some(data.collect()), ..serde_json::from_value(json!({"metadata": metadata})).unwrap() }
    }

    fn of_type(data: &[(&str, &str)]) -> Secret {
        let mut secret = secret("ci", &json!({}), data);
        secret.type_ = Some(SECRET_TYPE.into());
        secret.metadata.annotations = Some([(ACCOUNT.to_owned(), "robot".to_owned())].into());
        secret
    }

    fn kubeconfig() -> String {
        json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://a:6443"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "apps", "user": "u"}}],
            "users": [{"name": "u", "user": {"token": legacy()}}],
        })
        .to_string()
    }

    fn moved(old: Old) -> Move {
        let referrers = [Ok(vec!["pod web: volume".to_owned()]), Err("you lack a right".to_owned())];
        Move {
            old,
            name: "old".into(),
            labels: BTreeMap::new(),
            referrers,
            missing: vec![(1, "create secrets -n ci".into())],
            flags: String::new(),
        }
    }

    fn format(secret: &Secret) -> Value {
        let policy = moved(Old::read(secret).unwrap()).policy();
        let parsed: TokenPolicy = serde_json::from_value(policy.clone()).unwrap();
        parsed.spec.secret.format.check().unwrap();
        policy["spec"]["secret"]["format"].clone()
    }

    #[test]
    fn a_secret_is_written_in_the_shape_that_it_has() {
        assert_eq!(format(&of_type(&[])), json!({"type": "Token"}));
        assert_eq!(format(&secret("ci", &json!({}), &[("token", &legacy()), ("x", "y")])), json!({"type": "Token"}));
        assert_eq!(format(&secret("ci", &json!({}), &[("token", &legacy())])), json!({"type": "Token"}));
        let config = kubeconfig();
        let options = json!({"key": "value", "clusterName": "c", "namespace": "apps"});
        let expected = json!({"type": "Kubeconfig", "kubeconfig": options});
        assert_eq!(format(&secret("ci", &json!({}), &[("value", &config)])), expected);
        let istio = secret("ci", &json!({"istio/multiCluster": "true"}), &[("west", &config)]);
        let expected = json!({"type": "IstioRemoteSecret", "istioRemoteSecret": {"clusterName": "west"}});
        assert_eq!(format(&istio), expected);
    }

    #[test]
    fn an_argo_cd_cluster_keeps_its_settings() {
        let config = json!({"bearerToken": legacy(), "tlsClientConfig": {}}).to_string();
        let data = [
            ("name", "spoke"),
            ("server", "https://a"),
            ("config", &config),
            ("namespaces", "a, b"),
            ("clusterResources", "true"),
            ("project", "p"),
            ("shard", "2"),
        ];
        let old = secret("argocd", &json!({"argocd.argoproj.io/secret-type": "cluster"}), &data);
        let options = json!({"clusterName": "spoke", "namespaces": ["a", "b"], "clusterResources": true, "project": "p",
            "shard": 2});
        assert_eq!(format(&old), json!({"type": "ArgoCDCluster", "argoCDCluster": options}));
        let bare = [("config", config.as_str()), ("namespaces", ""), ("clusterResources", "true"), ("project", "")];
        let bare = secret("argocd", &json!({"argocd.argoproj.io/secret-type": "cluster"}), &bare);
        assert_eq!(format(&bare), json!({"type": "ArgoCDCluster", "argoCDCluster": {}}));
        let text = moved(Old::read(&old).unwrap()).comments();
        for words in [
            "It comes from Secret ci/robot-token, which may have other consumers: `kubectl tokenward -n ci migrate robot-token`.",
            "# 2. Point each consumer to Secret ci/old-bound,",
            "It must be copied to namespace argocd after each rotation.",
            "The old Secret names https://a. ",
            "kubectl -n ci label secret robot-token --overwrite",
            "kubectl -n argocd delete secret old\n",
        ] {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
    }

    #[test]
    fn what_holds_no_legacy_token_is_refused() {
        let bound = token(&payload());
        let (one, other) = (legacy(), legacy().replace("c2ln", "b3RoZXI"));
        let mut target = secret("ci", &json!({}), &[]);
        target.metadata = meta("deployer");
        for (secret, words) in [
            (secret("ci", &json!({}), &[("token", &bound)]), "holds not one legacy token"),
            (secret("ci", &json!({}), &[("a", &one), ("b", &other)]), "holds not one legacy token"),
            (secret("ci", &json!({}), &[("a", &one), ("b", "x")]), "write a TokenPolicy with format Custom"),
            (secret("ci", &json!({}), &[("a", &one), ("token", "x")]), "write a TokenPolicy with format Custom"),
            (secret("ci", &json!({}), &[("a", &one)]), "write a TokenPolicy with format Custom"),
            (target, "is that of policy deployers already"),
        ] {
            let error = Old::read(&secret).unwrap_err();
            assert!(error.contains(words) && !error.contains("eyJ"), "{error}");
        }
    }

    #[test]
    fn the_comments_have_the_steps_with_what_is_missing() {
        let old = Old::read(&of_type(&[("token", &legacy()), ("ca.crt", "PEM"), ("extra", "x")])).unwrap();
        let mut plan = moved(old);
        plan.name = "robot".into();
        plan.labels = BTreeMap::from([LAST_USED, INVALID_SINCE].map(|key| (key.to_owned(), String::new())));
        let text = plan.comments();
        for words in [
            "#   pod web: volume\n#   ServiceAccounts: not known; you lack a right\n# Workloads without Pods at this moment",
            "#      kubectl tokenward -n ci migrate old --name robot | kubectl apply -f -\n",
            "#    You lack a right for this: `kubectl auth can-i create secrets -n ci` says no.\n# 2. ",
            "Secret ci/robot-bound, which has the keys ca.crt, token. ",
            "#    It lacks the keys extra, which no format writes.\n",
            "last used: never, or not recorded.\n",
        ] {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
        assert!(text.lines().all(|line| line.starts_with('#')) && !text.contains("eyJ"), "{text}");
        plan.labels.insert(INVALID_SINCE.to_owned(), "2026-11-28".to_owned());
        assert!(plan.comments().contains("refuses the old token since 2026-11-28; step 4 has been done."));
        assert!(plan.is_of(&plan.policy()) && !plan.is_of(&json!({"spec": {"secret": {"name": "old-bound"}}})));
    }

    #[test]
    fn every_command_names_the_cluster() {
        let mut plan = moved(Old::read(&of_type(&[("token", &legacy())])).unwrap());
        let before = plan.comments().matches("kubectl").count();
        plan.flags = flags([("context", Some("prod")), ("kubeconfig", None), ("as", Some("o'neil"))]);
        assert_eq!(plan.flags, r" --context=prod --as='o'\''neil'");
        let text = plan.comments();
        let named =
            ["kubectl", "kubectl tokenward"].map(|program| text.matches(&format!("{program}{} ", plan.flags)).count());
        // `tokenward audit` reads a file, and `auth can-i` is quoted from the API's answer.
        let others = text.matches("kubectl tokenward audit").count() + text.matches("kubectl auth can-i").count();
        assert_eq!(named.iter().sum::<usize>() + others, before, "{text}");
    }

    #[test]
    fn the_new_secret_of_a_long_name_has_a_legal_one() {
        for old in ["a".repeat(247), "a".repeat(253), format!("{}.b.b.b", "a".repeat(247))] {
            let mut secret = of_type(&[]);
            secret.metadata.name = Some(old.clone());
            let new = Move { name: old, ..moved(Old::read(&secret).unwrap()) }.successor();
            assert!(is_object_name(&new) && new.ends_with("aa-bound"), "{new}");
        }
    }

    #[test]
    fn every_way_of_pods_and_accounts_to_refer_to_a_secret_is_found() {
        let env = |source: Value| json!([{"name": "c", "env": [{"name": "T", "valueFrom": source}]}]);
        let source = json!([{"secret": {"name": "old"}}]);
        let all = json!([{"name": "c", "envFrom": [{"secretRef": {"name": "old"}}]}]);
        let volume = |source: Value| json!([{"name": "v", "csi": source["csi"], "secret": source["secret"], "projected": source["projected"]}]);
        let mounted = volume(json!({"secret": {"secretName": "old"}}));
        let part = json!([{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/t", "subPath": "token"}]}]);
        let driver = volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "old"}}}));
        for (spec, how) in [
            (json!({"volumes": mounted}), "volume, which changes about a minute after a rotation"),
            (json!({"volumes": volume(json!({"projected": {"sources": source}}))}), "volume, which changes about"),
            (json!({"volumes": mounted, "containers": part}), "subPath of a volume, which never changes"),
            (json!({"volumes": driver}), "volume of a driver, which decides"),
            (
                json!({"containers": env(json!({"secretKeyRef": {"name": "old", "key": "token"}}))}),
                "environment, which",
            ),
            (json!({"initContainers": all}), "environment, which never changes"),
            (json!({"ephemeralContainers": all}), "environment, which never changes"),
            (json!({"imagePullSecrets": [{"name": "old"}]}), "imagePullSecrets"),
            (json!({"containers": env(json!({"configMapKeyRef": {"name": "old", "key": "token"}}))}), ""),
            (json!({"volumes": volume(json!({"secret": {"secretName": "other"}}))}), ""),
        ] {
            let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "u"}]);
            let pod = json!({"metadata": {"name": "a", "ownerReferences": owner}, "spec": spec});
            let found = referrers::<PodReferences>(&[serde_json::from_value(pod).unwrap()], "old").join("|");
            let expected = format!("pod a of ReplicaSet web: {how}");
            assert!(if how.is_empty() { found.is_empty() } else { found.starts_with(&expected) }, "{spec}: {found}");
        }
        for (key, how) in [
            ("secrets", "serviceaccount robot: secrets"),
            ("imagePullSecrets", "serviceaccount robot: imagePullSecrets"),
        ] {
            let account = json!({"metadata": {"name": "robot"}, key: [{"name": "old"}]});
            let account: AccountReferences = serde_json::from_value(account).unwrap();
            assert_eq!(referrers(std::slice::from_ref(&account), "old"), [how]);
            assert!(referrers(&[account], "other").is_empty());
        }
    }
}
