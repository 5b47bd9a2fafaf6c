//! Each refusal of the CRDs and of `config/admission` names the field, the value or key, the rule, and what to do: all rules,
//! bounds and validations, read from the files themselves.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tokenward_e2e::scene::caller::Wanted::Accepted;
use tokenward_e2e::scene::caller::{
    Caller, administrator, grant, in_force, policy, policy_path, secret_path, token_path,
};
use tokenward_e2e::scene::forged::{BELT, FOREIGN, marked, request};
use tokenward_e2e::scene::{SOON, plane, spec};
use tokenward_e2e::{eventually, workspace_dir};

const CLUSTER: &str = "/apis/tokenward.dev/v1alpha1";
/// The files of the CRDs, in the order of [`Policies::all`].
const FILES: [&str; 3] =
    ["crds/tokenpolicies.yaml", "crds/bootstrap/bootstraptokenpolicies.yaml", "crds/legacy/legacytokenpolicies.yaml"];

fn read(file: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(workspace_dir().join(file))?)?)
}

/// Where policies of one kind are created, without storing them.
struct Policies {
    plural: &'static str,
    kind: &'static str,
    path: String,
}

impl Policies {
    /// Every kind, the one with a namespace in that of this name.
    async fn all(namespace: &str) -> Result<[Self; 3]> {
        let plane = plane().await?;
        plane.create_namespace(namespace).await?;
        for file in &FILES[1..] {
            plane.apply(&std::fs::read_to_string(workspace_dir().join(file))?).await?;
        }
        plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
        let kind = |plural, kind, path| Self { plural, kind, path };
        Ok([
            kind("tokenpolicies", "TokenPolicy", policy_path(namespace, "")),
            kind("bootstraptokenpolicies", "BootstrapTokenPolicy", format!("{CLUSTER}/bootstraptokenpolicies")),
            kind("legacytokenpolicies", "LegacyTokenPolicy", format!("{CLUSTER}/legacytokenpolicies")),
        ])
    }

    fn object(&self, spec: &Value) -> Value {
        let mut object = policy("p", spec);
        object["kind"] = self.kind.into();
        object
    }

    /// The spec of a case of `e2e/cases/refusals.yaml`.
    fn whole(&self, case: &Value) -> Value {
        let mut spec = case.clone();
        if self.kind == "TokenPolicy" && spec.is_object() && spec.get("serviceAccounts").is_none() {
            spec["serviceAccounts"] = json!({"names": ["deployer"]});
        }
        spec
    }

    /// The refusal of this object; `from` is what is there before.
    async fn refusal(&self, admin: &Caller, spec: &Value, from: &Value) -> Result<String> {
        let (verb, path) = if from.is_null() {
            ("POST", self.path.clone())
        } else {
            Accepted.check(&admin.send("POST", &self.path, &self.object(from)).await?)?;
            ("MERGE", format!("{}/p", self.path))
        };
        let answer = admin.send(verb, &format!("{path}?dryRun=All"), &self.object(spec)).await?;
        ensure!(answer.code == 422, "{spec}: {answer:?}");
        Ok(answer.message)
    }
}

fn said(message: &str, texts: &[&str]) -> Result<()> {
    let missing: Vec<_> = texts.iter().filter(|text| !message.contains(**text)).collect();
    ensure!(missing.is_empty(), "{missing:?} is not in: {message}");
    Ok(())
}

/// That a refusal does not show the CA bundle, beside which a private key may stand, and that no message was lost.
fn shown(spec: &Value, message: &str) -> Result<()> {
    ensure!(!message.contains("failed rule"), "the message of a rule is lost: {message}");
    let formats = spec["secret"]["format"].as_object().into_iter().flat_map(Map::values);
    for bundle in formats.filter_map(|options| options["caBundle"].as_str()) {
        let start = bundle.lines().next_back().unwrap_or_default();
        ensure!(!message.contains(start), "{start} of the CA bundle is shown: {message}");
    }
    Ok(())
}

#[tokio::test]
async fn each_rule_says_what_is_wrong_and_what_to_do() -> Result<()> {
    let admin = Caller::admin(plane().await?).await?;
    let cases = read("e2e/cases/refusals.yaml")?;
    let mut wrong = Vec::new();
    for kind in Policies::all("rule-words").await? {
        for case in cases[kind.plural].as_array().context("no cases")? {
            let answer = kind.refusal(&admin, &kind.whole(&case["spec"]), &kind.whole(&case["from"])).await;
            let at = format!("{}: ", case["at"].as_str().context("no field")?);
            let says = case["says"].as_array().context("no words")?.iter().filter_map(Value::as_str);
            let texts: Vec<&str> = says.chain([at.as_str()]).collect();
            let told = answer.and_then(|message| shown(&case["spec"], &message).and(said(&message, &texts)));
            wrong.extend(told.err().map(|error| error.to_string()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// A value that breaks this keyword of the schema of the field `at`, and what the refusal has to say.
fn fault(keyword: &str, bound: &Value, schema: &Value, at: &str) -> Option<(Value, Vec<String>)> {
    let whole = bound.as_f64().map(|bound| format!("{bound}"));
    let count = whole.as_ref().and_then(|count| count.parse::<usize>().ok());
    let many = || (0..=count.unwrap_or_default()).map(|n| format!("k{n}"));
    let (value, says) = match (keyword, bound.as_str()) {
        ("type", Some("string")) => (json!(3600), format!(r#"{at} in body must be of type string: "integer""#)),
        ("type", Some(kind)) => (json!("x"), format!(r#"{at} in body must be of type {kind}: "string""#)),
        // Beyond it the API server's refusal names no field.
        ("format", Some("int32")) => (json!(1_u64 << 31), format!("{at}: Invalid value: 2147483648: {at} in body")),
        ("x-kubernetes-list-type", Some("set")) => (json!(["a", "a"]), format!(r#"{at}[1]: Duplicate value: "a""#)),
        ("minimum", _) => {
            (json!(-1), format!("{at}: Invalid value: -1: {at} in body should be greater than or equal to {}", whole?))
        }
        ("maximum", _) => {
            let beyond = count? + 1;
            let says =
                format!("{at}: Invalid value: {beyond}: {at} in body should be less than or equal to {}", whole?);
            (json!(beyond), says)
        }
        ("minLength", _) => {
            (json!(""), format!(r#"{at}: Invalid value: "": {at} in body should be at least {} chars long"#, count?))
        }
        ("maxLength", _) => {
            (json!("a".repeat(count? + 4)), format!("{at}: Too long: may not be more than {} bytes", count?))
        }
        ("minItems", _) => (json!([]), format!("{at} in body should have at least {} items", count?)),
        ("minProperties", _) => (json!({}), format!("{at} in body should have at least {} properties", count?)),
        ("maxItems", _) if schema["items"]["type"] == "object" => (
            json!(vec![json!({}); count? + 1]),
            format!("{at}: Too many: {}: must have at most {} items", count? + 1, count?),
        ),
        ("maxItems", _) => {
            (many().collect(), format!("{at}: Too many: {}: must have at most {} items", count? + 1, count?))
        }
        ("maxProperties", _) => {
            let entries: Map<String, Value> = many().map(|key| (key, json!("x"))).collect();
            (entries.into(), format!("{at}: Too many: {}: must have at most {} items", count? + 1, count?))
        }
        ("enum", _) => {
            let says =
                names(bound).map(|name| format!("\"{name}\"")).chain([format!(r#"{at}: Unsupported value: "Other""#)]);
            return Some((json!("Other"), says.collect()));
        }
        ("required", _) => {
            return Some((json!({}), names(bound).map(|name| format!("{at}.{name}: Required value")).collect()));
        }
        _ => return None,
    };
    Some((value, vec![says]))
}

fn names(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// A text so long that more than its value cannot be shown: the API server says the bound alone.
const LONG: u64 = 4096;

/// The longest text that the schema of the field lets through is beyond the bound of the field's own rule, which shows it.
fn too_long(schema: &Value) -> Option<(Value, Vec<String>)> {
    let text = "a".repeat(schema["maxLength"].as_u64().filter(|bound| *bound < LONG)?.try_into().ok()?);
    let says = vec![format!("{text:.100}"), "write".to_owned()];
    (schema["type"] == "string").then(|| (json!(text), says))
}

/// The least value of a schema's type. Rules are not asked where a field is missing.
fn least(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("string") => json!("x"),
        Some("array") => json!([least(&schema["items"])]),
        _ if schema["additionalProperties"].is_object() => json!({"k": "x"}),
        _ => json!({}),
    }
}

/// An object with this field, and those that it must have.
fn with_field(schema: &Value, name: &str, value: Value) -> Value {
    let required = names(&schema["required"]).map(|name| (name.to_owned(), least(&schema["properties"][name])));
    required.chain([(name.to_owned(), value)]).collect::<Map<String, Value>>().into()
}

/// All that breaks one bound of a schema: specs, into which `wrap` puts the value, and what the refusal has to say.
fn faults(schema: &Value, at: &str, wrap: &dyn Fn(Value) -> Value, found: &mut Vec<(Value, Vec<String>)>) {
    for (keyword, bound) in schema.as_object().into_iter().flatten() {
        found.extend(fault(keyword, bound, schema, at).map(|(value, says)| (wrap(value), says)));
    }
    found.extend(too_long(schema).map(|(value, says)| (wrap(value), says)));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        faults(field, &format!("{at}.{name}"), &|value| wrap(with_field(schema, name, value)), found);
    }
    if schema["items"].is_object() {
        faults(&schema["items"], &format!("{at}[0]"), &|value| wrap(json!([value])), found);
    }
    if schema["additionalProperties"].is_object() {
        faults(&schema["additionalProperties"], &format!("{at}.k"), &|value| wrap(json!({"k": value})), found);
    }
}

#[tokio::test]
async fn each_bound_says_the_field_and_the_bound() -> Result<()> {
    let admin = Caller::admin(plane().await?).await?;
    let mut wrong = Vec::new();
    for (kind, file) in Policies::all("bound-words").await?.iter().zip(FILES) {
        let crd = read(file)?;
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut found = Vec::new();
        faults(schema, "spec", &|value| value, &mut found);
        ensure!(found.len() > 20, "{} bounds", found.len());
        for (spec, says) in found {
            let texts: Vec<&str> = says.iter().map(String::as_str).collect();
            let answer = kind.refusal(&admin, &spec, &Value::Null).await.and_then(|message| said(&message, &texts));
            wrong.extend(answer.err().map(|error| format!("{error:.500}")));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

const OPERATOR: &str = "system:serviceaccount:tokenward-system:tokenward";
const ADMIN: &str = "words-admin";

/// A request that one validation of `config/admission` alone refuses, and what the refusal has to say: the value or key, the
/// rule, and what to do.
struct Denied {
    /// Name of the policy and number of the validation.
    rule: (&'static str, usize),
    user: String,
    path: String,
    body: Value,
    says: Vec<String>,
}

fn denied(rule: (&'static str, usize), user: &str, path: String, body: Value, says: &[&str]) -> Denied {
    let says = says.iter().map(ToString::to_string).collect();
    Denied { rule, user: user.to_owned(), path: path + "?dryRun=All", body, says }
}

/// The rights of an author of policies, and of whom nothing else is known.
const WRITES: &str = r#"{"apiGroups": ["tokenward.dev"], "resources": ["tokenpolicies"], "verbs": ["create"]}"#;

/// Each author lacks one right.
async fn authors() -> Result<Vec<Denied>> {
    let (plane, space) = (plane().await?, "vap-words");
    let rule = |n| ("tokenward-authors", n);
    let writes: Value = serde_json::from_str(WRITES)?;
    let secrets = json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]});
    let whoever = "whoever grants roles there can give it (verb create, resource ";
    let names: Vec<String> = (0..16).map(|n| format!("n{n}")).collect();
    let asks = policy("p", &json!({"serviceAccounts": {"names": names}}));
    let selects = policy("p", &json!({"serviceAccounts": {"selector": {}}}));
    grant(plane, space, "lacks-secrets", &json!([writes])).await?;
    grant(plane, space, "lacks-tokens", &json!([writes, secrets])).await?;
    let mut all = vec![
        denied(
            rule(0),
            "lacks-secrets",
            policy_path(space, ""),
            asks.clone(),
            &["lacks-secrets lacks the right to create secrets in namespace vap-words", whoever],
        ),
        denied(
            rule(1),
            "lacks-tokens",
            policy_path(space, ""),
            selects,
            &[
                "lacks-tokens lacks the right to create serviceaccounts/token in namespace vap-words for every account",
                "name the accounts, or",
            ],
        ),
    ];
    for (n, name) in names.iter().enumerate() {
        let user = format!("lacks-{name}");
        let others: Vec<&String> = names.iter().filter(|other| *other != name).collect();
        let tokens = json!({
            "apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"], "resourceNames": others,
        });
        grant(plane, space, &user, &json!([writes, secrets, tokens])).await?;
        let says = format!(
            "{user} lacks the right to create serviceaccounts/token in namespace vap-words for the account {name};"
        );
        all.push(denied(rule(3 + n), &user, policy_path(space, ""), asks.clone(), &[&says, whoever]));
    }
    Ok(all)
}

fn cure(limit: &str) -> String {
    format!("an administrator may change it there, or for one namespace by its annotation tokenward.dev/{limit}")
}

/// Limits that bind policies and requests for tokens alike: each is broken in a namespace of its own.
fn of_namespaces(policy: &'static str, user: &str, path: fn(&str) -> String, body: &Value) -> [Denied; 2] {
    let at = |limit: &str| format!("annotation tokenward.dev/{limit})");
    let first = usize::from(policy == "tokenward-limits");
    let unreadable =
        ["the limit 3d is no duration", &at("max-duration"), "24h or 1h30m", "an administrator must correct it"];
    [
        denied(
            (policy, first),
            user,
            path("vap-reserved"),
            body.clone(),
            &["namespace vap-reserved is reserved", &at("reserved"), &cure("reserved")],
        ),
        denied((policy, first + 1), user, path("vap-unreadable"), body.clone(), &unreadable),
    ]
}

/// Each policy is beyond one limit.
fn policies_beyond_limits() -> Vec<Denied> {
    let asks = |more: Value| policy("p", &spec(&["default"], more));
    let beyond = |n, more: Value, key: &str, cures: &str, value: &str| {
        let says = [value, &format!("key {key}"), &cure(cures)];
        denied(("tokenward-limits", n), ADMIN, policy_path("vap-words", ""), asks(more), &says)
    };
    let server = json!({"secret": {"format": {"type": "Kubeconfig", "kubeconfig": {"server": "https://a"}}}});
    let (lasts, speaks) = (json!({"token": {"duration": "169h"}}), json!({"token": {"audiences": ["vault", "sts"]}}));
    let system = ["namespace kube-public is reserved", "choose another namespace"];
    let mut all = vec![
        denied(("tokenward-limits", 0), ADMIN, policy_path("kube-public", ""), asks(json!({})), &system),
        beyond(3, lasts, "maxDuration", "max-duration", "token.duration 169h is over the limit 168h"),
        beyond(4, speaks, "audiences", "audiences", "token.audiences vault, sts is not among those allowed"),
        beyond(5, server, "servers", "servers", "server https://a is not among those allowed"),
        beyond(
            6,
            json!({"token": {"binding": "None"}}),
            "bindingNone",
            "binding-none",
            "token.binding None is not allowed",
        ),
    ];
    all.extend(of_namespaces("tokenward-limits", ADMIN, |space| policy_path(space, ""), &asks(json!({}))));
    all
}

/// A request for a token that is bound to an anchor.
fn bound(mut spec: Value) -> Value {
    spec["boundObjectRef"] = json!({"kind": "Secret", "apiVersion": "v1", "name": "tw-0", "uid": "1"});
    request(&spec)
}

/// Each request for a token is beyond one limit.
fn tokens_beyond_limits() -> Vec<Denied> {
    let beyond = |n, body, says: &[&str]| {
        denied(("tokenward-token-limits", n), OPERATOR, token_path("vap-words", "default"), body, says)
    };
    let (lasts, speaks) = (json!({"expirationSeconds": 604_801}), json!({"audiences": ["vault"]}));
    let over = ["604801s is over the limit 168h", "key maxDuration", &cure("max-duration")];
    let foreign = ["audience vault is not allowed", "key audiences", "an administrator may add it there"];
    let unbound = ["unbound tokens are not allowed", "key bindingNone", &cure("binding-none")];
    let mut all = vec![
        beyond(2, bound(lasts), &over),
        beyond(3, bound(speaks), &foreign),
        beyond(4, request(&json!({})), &unbound),
    ];
    let path = |space: &str| token_path(space, "default");
    all.extend(of_namespaces("tokenward-token-limits", OPERATOR, path, &bound(json!({}))));
    all
}

/// Each call of the operator is beyond one belt.
fn belts() -> Vec<Denied> {
    let move_it = "move the policy to another namespace";
    let reference = json!({"kind": "Pod", "apiVersion": "v1", "name": "web-0", "uid": "7"});
    let mut foreign = marked("theirs", "Opaque");
    foreign["metadata"]["annotations"] = json!({});
    let secret = |space| secret_path(space, "");
    vec![
        denied(
            ("tokenward-tokens", 0),
            OPERATOR,
            token_path("kube-public", "default"),
            bound(json!({})),
            &["namespace kube-public is reserved", "requests no token there", BELT, move_it],
        ),
        denied(
            ("tokenward-tokens", 1),
            OPERATOR,
            token_path("vap-words", "default"),
            request(&json!({"boundObjectRef": reference})),
            &["Pod web-0, UID 7", "to Secrets only, by name and UID", BELT],
        ),
        denied(
            ("tokenward-secrets", 0),
            OPERATOR,
            secret("vap-words"),
            foreign,
            &["Secret vap-words/theirs", FOREIGN, BELT, "choose another secret.name"],
        ),
        denied(
            ("tokenward-secrets", 1),
            OPERATOR,
            secret("vap-words"),
            marked("x", "example.helm.sh/x"),
            &["no Secret of type example.helm.sh/x", BELT, "choose another secretType"],
        ),
        denied(
            ("tokenward-secrets", 2),
            OPERATOR,
            secret("kube-public"),
            marked("x", "Opaque"),
            &["namespace kube-public is reserved", "writes no Secret there", BELT, move_it],
        ),
    ]
}

/// Name of the policy and number of every validation of `config/admission`.
fn validations() -> Result<BTreeSet<(String, usize)>> {
    let mut found = BTreeSet::new();
    for file in ["authors", "limits", "tokens", "token-limits", "secrets"] {
        let text = std::fs::read_to_string(workspace_dir().join(format!("config/admission/{file}.yaml")))?;
        for document in text.split("\n---\n") {
            let object: Value = serde_saphyr::from_str(document)?;
            let name = object["metadata"]["name"].as_str().context("no name")?;
            let count = object["spec"]["validations"].as_array().map_or(0, Vec::len);
            found.extend((0..count).map(|n| (name.to_owned(), n)));
        }
    }
    Ok(found)
}

#[tokio::test]
async fn each_validation_says_the_value_the_rule_and_what_to_do() -> Result<()> {
    let plane = plane().await?;
    in_force(plane, OPERATOR).await?;
    plane.apply(&administrator(ADMIN).to_string()).await?;
    for (name, limit) in [
        ("vap-words", None),
        ("vap-reserved", Some(("reserved", "true"))),
        ("vap-unreadable", Some(("max-duration", "3d"))),
    ] {
        plane.create_namespace(name).await?;
        if let Some((key, value)) = limit {
            tokenward_e2e::scene::limits::limit(&plane.client().await?, name, key, Some(value)).await?;
        }
    }
    // The CRD refuses a seventeenth name before: this one stands behind it.
    let mut shown = BTreeSet::from([("tokenward-authors".to_owned(), 2)]);
    for Denied { rule: (name, n), user, path, body, says } in
        authors().await?.into_iter().chain(policies_beyond_limits()).chain(tokens_beyond_limits()).chain(belts())
    {
        let caller = Caller::user(plane, &user).await?;
        let check = async || {
            said(
                &caller.send("POST", &path, &body).await?.message,
                &says.iter().map(String::as_str).collect::<Vec<_>>(),
            )
        };
        eventually(SOON, &format!("{name} {n}"), check).await?;
        shown.insert((name.to_owned(), n));
    }
    assert_eq!(shown, validations()?);
    Ok(())
}
