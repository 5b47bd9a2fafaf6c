//! Each refusal of the CRDs names the field, the value or key, the rule, and what to do: all rules and all bounds, read from
//! the CRDs themselves.

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use tokenward_e2e::scene::caller::Wanted::Accepted;
use tokenward_e2e::scene::caller::{Caller, policy, policy_path};
use tokenward_e2e::scene::plane;
use tokenward_e2e::workspace_dir;

const BOOTSTRAP: &str = "/apis/tokenward.dev/v1alpha1/bootstraptokenpolicies";

fn read(file: &str) -> Result<Value> {
    Ok(serde_saphyr::from_str(&std::fs::read_to_string(workspace_dir().join(file))?)?)
}

/// Where policies of one kind are created, without storing them.
struct Kind {
    plural: &'static str,
    kind: &'static str,
    path: String,
}

impl Kind {
    /// Both kinds, the one with a namespace of this name.
    async fn both(namespace: &str) -> Result<[Self; 2]> {
        let plane = plane().await?;
        plane.create_namespace(namespace).await?;
        plane
            .apply(&std::fs::read_to_string(workspace_dir().join("crds/bootstrap/bootstraptokenpolicies.yaml"))?)
            .await?;
        plane.kubectl_ok(["wait", "crd", "--all", "--for=condition=Established", "--timeout=30s"]).await?;
        let kind = |plural, kind, path| Self { plural, kind, path };
        Ok([
            kind("tokenpolicies", "TokenPolicy", policy_path(namespace, "")),
            kind("bootstraptokenpolicies", "BootstrapTokenPolicy", BOOTSTRAP.to_owned()),
        ])
    }

    fn object(&self, spec: &Value) -> Value {
        let mut object = policy("p", spec);
        object["kind"] = self.kind.into();
        if self.kind == "TokenPolicy" && spec.is_object() && spec.get("serviceAccounts").is_none() {
            object["spec"]["serviceAccounts"] = json!({"names": ["deployer"]});
        }
        object
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

#[tokio::test]
async fn each_rule_says_what_is_wrong_and_what_to_do() -> Result<()> {
    let admin = Caller::admin(plane().await?).await?;
    let cases = read("e2e/cases/refusals.yaml")?;
    let mut wrong = Vec::new();
    for kind in Kind::both("rule-words").await? {
        for case in cases[kind.plural].as_array().context("no cases")? {
            let message = kind.refusal(&admin, &case["spec"], &case["from"]).await?;
            let at = format!("{}: ", case["at"].as_str().context("no field")?);
            let says = case["says"].as_array().context("no words")?.iter().filter_map(Value::as_str);
            let texts: Vec<&str> = says.chain([at.as_str()]).collect();
            wrong.extend(said(&message, &texts).err().map(|error| error.to_string()));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// What breaks one bound of the schema.
struct Fault {
    at: String,
    spec: Value,
    says: Vec<String>,
}

/// A value that breaks this keyword of the schema, and what the refusal has to say.
fn fault(keyword: &str, bound: &Value, schema: &Value) -> Option<(Value, Vec<String>)> {
    let count = bound.as_f64();
    let number = count.map(|count| format!("{count}"));
    let many = |count: f64| (0..=count as usize).map(|n| format!("k{n}"));
    let says = |text: &str| vec![text.to_owned()];
    let limit = number.clone().map(|number| vec![number]);
    Some(match keyword {
        "type" if bound == "string" => (json!(3600), says(r#"must be of type string: "integer""#)),
        "type" => (json!("x"), says(&format!(r#"must be of type {}: "string""#, bound.as_str()?))),
        "enum" => (json!("Other"), [says(r#"Unsupported value: "Other": supported values: "#), names(bound)].concat()),
        "minimum" => (json!(count? as i64 - 1), [says("greater than or equal to"), limit?].concat()),
        "maximum" => (json!(count? as i64 + 1), [says("less than or equal to"), limit?].concat()),
        "maxLength" => (json!("a".repeat(count? as usize + 4)), [says("may not be more than"), limit?].concat()),
        "minLength" => (json!(""), says("at least 1 chars long")),
        "minItems" => (json!([]), says("at least 1 items")),
        "minProperties" => (json!({}), says("at least 1 properties")),
        "maxItems" if schema["items"]["type"] == "object" => (json!(vec![json!({}); count? as usize + 1]), limit?),
        "maxItems" => (many(count?).collect(), [says("must have at most"), limit?].concat()),
        "maxProperties" => {
            let entries: Map<String, Value> = many(count?).map(|key| (key, json!("x"))).collect();
            (entries.into(), [says("must have at most"), limit?].concat())
        }
        "x-kubernetes-list-type" => (json!(["a", "a"]), says(r#"Duplicate value: "a""#)),
        "format" if bound == "byte" => (json!("%"), says("byte")),
        "required" => (json!({}), names(bound).iter().map(|name| format!("{name}: Required value")).collect()),
        _ => return None,
    })
}

fn names(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// All faults of a schema, whose values `wrap` puts into their place in a spec.
fn faults(schema: &Value, at: &str, wrap: &dyn Fn(Value) -> Value, found: &mut Vec<Fault>) {
    for (keyword, bound) in schema.as_object().into_iter().flatten() {
        found.extend(fault(keyword, bound, schema).map(|(value, says)| {
            let at = at.to_owned();
            Fault { at, spec: wrap(value), says }
        }));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        faults(field, &format!("{at}.{name}"), &|value| wrap(json!({(name): value})), found);
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
    for (kind, file) in
        Kind::both("bound-words").await?.iter().zip(["tokenpolicies", "bootstrap/bootstraptokenpolicies"])
    {
        let crd = read(&format!("crds/{file}.yaml"))?;
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut found = Vec::new();
        faults(schema, "spec", &|value| value, &mut found);
        ensure!(found.len() > 20, "{} bounds", found.len());
        for Fault { at, spec, says } in found {
            let message = kind.refusal(&admin, &spec, &Value::Null).await?;
            eprintln!("{message:.300}");
            let texts: Vec<&str> = says.iter().map(String::as_str).chain([at.as_str()]).collect();
            wrong.extend(said(&message, &texts).err().map(|error| format!("{at}: {error:.500}")));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
