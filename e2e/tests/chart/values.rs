//! Each value has a comment, a schema and an effect, and there are no others.

use crate::{helm, refusal, template};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;
use tokenward_e2e::operator::program;
use tokenward_e2e::{chart, workspace_dir};

/// A key, values that set it, and what the manifests then say, or with `!` say no more.
const EFFECTS: [(&str, &[&str], &str); 49] = [
    ("image.registry", &[r#"image.registry="r.example/m""#], r#"image: "r.example/m/tokenward:v"#),
    ("image.repository", &[r#"image.repository="other""#], r#"image: "other:v"#),
    ("image.tag", &[r#"image.tag="t1""#], r#"image: "tokenward:t1""#),
    ("image.digest", &[DIGEST], r#"image: "tokenward@sha256:0000"#),
    ("image.pullPolicy", &[r#"image.pullPolicy="Always""#], "imagePullPolicy: Always"),
    (
        "image.pullSecrets",
        &[r#"image.pullSecrets=[{"name":"registry"}]"#],
        "imagePullSecrets:\n        - name: registry",
    ),
    ("scope", &[r#"scope="Namespaces""#, r#"namespaces=["a","b"]"#], "!kind: ClusterRoleBinding"),
    ("namespaces", &[r#"scope="Namespace""#, r#"namespaces=["a"]"#], r#"- "--namespace=a""#),
    ("crds.install", &["crds.install=false"], "!kind: CustomResourceDefinition"),
    ("crds.keep", &["crds.keep=false"], "!name: tokenpolicies.tokenward.dev\n  annotations:"),
    ("limits.maxDuration", &[r#"limits.maxDuration="30h""#], "maxDuration: 30h"),
    ("limits.audiences", &[r#"limits.audiences=["a","b*"]"#], "audiences: |-\n    a\n    b*"),
    ("limits.apiAudiences", &[r#"limits.apiAudiences=["https://a"]"#], "apiAudiences: https://a"),
    ("limits.servers", &[r#"limits.servers=["https://b"]"#], "servers: https://b"),
    ("limits.bindingNone", &["limits.bindingNone=true"], "bindingNone: \"true\""),
    ("limits.reservedNamespaces", &[r#"limits.reservedNamespaces=["c"]"#], "reservedNamespaces: c"),
    ("flags.leaderElect", &["flags.leaderElect=false", "replicas=1"], "!--leader-elect"),
    ("flags.concurrency", &["flags.concurrency=8"], "- --concurrency=8\n"),
    ("flags.metricsBindAddress", &[r#"flags.metricsBindAddress=":8080""#], "- --metrics-bind-address=:8080"),
    ("flags.healthProbeBindAddress", &[r#"flags.healthProbeBindAddress=":99""#], "containerPort: 99"),
    ("flags.clusterServer", &[r#"flags.clusterServer="https://x""#], "- --cluster-server=https://x"),
    (
        "flags.clusterCaFile",
        &[r#"flags.clusterServer="https://x""#, r#"flags.clusterCaFile="/ca""#],
        "- --cluster-ca-file=/ca",
    ),
    ("flags.secretLabels", &[r#"flags.secretLabels={"a":"b","c":"d"}"#], "- --secret-labels=a=b,c=d"),
    ("flags.bootstrapTokenCleaner", &[r#"flags.bootstrapTokenCleaner="report""#], "- --bootstrap-token-cleaner=report"),
    ("flags.logFormat", &[r#"flags.logFormat="text""#], "- --log-format=text"),
    ("components.bootstrapTokenPolicy", &["components.bootstrapTokenPolicy=true"], "kind: BootstrapTokenPolicy"),
    ("components.legacyTokenPolicy", &["components.legacyTokenPolicy=true"], "kind: LegacyTokenPolicy"),
    ("components.bootstrapSigner", &["components.bootstrapSigner=true"], "--bootstrap-signer"),
    ("components.roles", &["components.roles=true"], "name: tokenward-edit"),
    ("monitoring.enabled", &["monitoring.enabled=true"], "kind: PodMonitor"),
    ("monitoring.labels", &["monitoring.enabled=true", r#"monitoring.labels={"release":"p"}"#], "    release: p\n"),
    (
        "monitoring.runbookBaseUrl",
        &["monitoring.enabled=true", r#"monitoring.runbookBaseUrl="https://docs.example/""#],
        "https://docs.example/runbooks.html#tokenwardnoleader",
    ),
    ("replicas", &["replicas=3"], "replicas: 3"),
    ("resources", &[r#"resources={"limits":{"memory":"1Gi"}}"#], "memory: 1Gi"),
    ("nodeSelector", &[r#"nodeSelector={"a":"b"}"#], "nodeSelector:\n        a: b"),
    ("tolerations", &[r#"tolerations=[{"key":"a"}]"#], "tolerations:\n        - key: a"),
    ("affinity", &[r#"affinity={"nodeAffinity":{}}"#], "affinity:\n        nodeAffinity: {}"),
    ("topologySpreadConstraints", &["topologySpreadConstraints=[]"], "!topologySpreadConstraints"),
    ("priorityClassName", &[r#"priorityClassName="mine""#], "!kind: PriorityClass"),
    ("networkPolicy.enabled", &["networkPolicy.enabled=false"], "!kind: NetworkPolicy"),
    ("networkPolicy.apiServerPorts", &["networkPolicy.apiServerPorts=[443,16443]"], "port: 16443"),
    ("extraArgs", &[r#"extraArgs=["--version"]"#], "- --version"),
    ("extraEnv", &[r#"extraEnv=[{"name":"A","value":"b"}]"#], "            - name: A\n"),
    ("extraVolumes", &[r#"extraVolumes=[{"name":"a"}]"#], "        - name: a\n"),
    ("extraVolumeMounts", &[r#"extraVolumeMounts=[{"name":"a","mountPath":"/a"}]"#], "- mountPath: /a\n"),
    ("commonLabels", &[r#"commonLabels={"team":"a"}"#], "team: a"),
    ("commonAnnotations", &[r#"commonAnnotations={"note":"a"}"#], "note: a"),
    ("podLabels", &[r#"podLabels={"pod":"a"}"#], "        pod: a"),
    ("podAnnotations", &[r#"podAnnotations={"note":"b"}"#], "      annotations:\n        note: b\n"),
];
const DIGEST: &str = r#"image.digest="sha256:0000000000000000000000000000000000000000000000000000000000000000""#;

fn read(name: &str) -> Result<String> {
    Ok(fs::read_to_string(chart::folder().join(name))?)
}

/// Every object of the schema, by the path of its key.
fn objects(schema: &Value, path: &str, found: &mut BTreeMap<String, Value>) {
    if schema["type"] == "object" {
        found.insert(path.to_owned(), schema.clone());
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        objects(property, format!("{path}.{name}").trim_start_matches('.'), found);
    }
}

/// The schema's objects, by the path of their key.
fn schema() -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    objects(&serde_json::from_str(&read("values.schema.json")?)?, "", &mut found);
    Ok(found)
}

/// The keys that hold no others, by path, with their schema.
fn leaves() -> Result<BTreeMap<String, Value>> {
    let mut leaves = BTreeMap::new();
    for (path, object) in schema()? {
        for (name, property) in object["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}").trim_start_matches('.').to_owned();
            // Of a parent chart.
            if property["properties"].is_null() && !["global", "enabled"].contains(&path.as_str()) {
                leaves.insert(path, property.clone());
            }
        }
    }
    Ok(leaves)
}

#[test]
fn each_key_has_a_comment_and_a_place_in_the_schema() -> Result<()> {
    let (text, leaves) = (read("values.yaml")?, leaves()?);
    let values: Value = serde_saphyr::from_str(&text)?;
    for (path, schema) in &leaves {
        let found = values.pointer(&format!("/{}", path.replace('.', "/")));
        ensure!(found.is_some(), "values.yaml has no {path}");
        let comment = schema["description"].as_str().filter(|comment| !comment.is_empty());
        let comment = comment.with_context(|| format!("{path} has no comment"))?;
        let name = path.rsplit('.').next().unwrap_or_default();
        let line = format!("# -- {comment}\n");
        let mut keys = text.split(&line).skip(1).filter_map(|rest| rest.trim_start().split_once(':'));
        ensure!(keys.any(|(key, _)| key == name), "the comment does not stand above {path}");
    }
    Ok(())
}

#[test]
fn the_schema_says_for_each_object_whether_it_takes_other_keys() -> Result<()> {
    let schema = schema()?;
    for (path, object) in schema.iter().filter(|(path, _)| *path != "global") {
        let closed = object["additionalProperties"] == false;
        ensure!(closed == object["properties"].is_object(), "{path}: {object}");
        ensure!(!object["additionalProperties"].is_null(), "{path}: {object}");
    }
    assert_eq!(schema[""]["additionalProperties"], false);
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_name() -> Result<()> {
    let helm = helm().await?;
    let closed = schema()?.into_iter().filter(|(_, object)| object["additionalProperties"] == false);
    for (path, _) in closed {
        let key = format!("{path}.replicaCuont=1");
        let error = refusal(&helm, &[key.trim_start_matches('.')]).await?;
        ensure!(error.contains("additional properties 'replicaCuont' not allowed"), "{path}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn each_value_has_its_effect() -> Result<()> {
    let helm = helm().await?;
    let usual = template(&helm, &[]).await?;
    let mut shown = BTreeSet::new();
    for (key, values, effect) in EFFECTS {
        let text = template(&helm, values).await?;
        let (before, after) = match effect.strip_prefix('!') {
            Some(gone) => (usual.contains(gone), !text.contains(gone)),
            None => (!usual.contains(effect), text.contains(effect)),
        };
        ensure!(before && after, "{key}: {effect} before: {before}, after: {after}\n{text}");
        shown.insert(key.to_owned());
    }
    assert_eq!(shown, leaves()?.into_keys().collect());
    Ok(())
}

#[tokio::test]
async fn values_that_do_not_fit_together_are_refused_with_what_to_do() -> Result<()> {
    let helm = helm().await?;
    for (values, says) in [
        (&[r#"namespaces=["a"]"#] as &[&str], "leave namespaces empty, or set scope to Namespaces or Namespace"),
        (&[r#"scope="Namespaces""#], "list the namespaces of scope Namespaces there"),
        (&[r#"scope="Namespace""#, r#"namespaces=["a","b"]"#], "list the one namespace of scope Namespace there"),
        (
            &["components.legacyTokenPolicy=true", r#"scope="Namespace""#, r#"namespaces=["a"]"#],
            "set scope to Cluster, or components.legacyTokenPolicy to false",
        ),
        (&["flags.leaderElect=false"], "set flags.leaderElect to true, or replicas to 1"),
        (&[r#"flags.clusterCaFile="/ca""#], "set that as well, or leave flags.clusterCaFile empty"),
        (&["monitoring.enabled=true", r#"flags.metricsBindAddress=":1""#], "leave flags.metricsBindAddress empty"),
        (&[r#"limits.maxDuration="3d""#], "at '/limits/maxDuration'"),
        (&[r#"commonLabels={"helm.sh/chart":"x"}"#], "at '/commonLabels/helm.sh~1chart'"),
        (&[r#"flags.healthProbeBindAddress=":8080""#], "both served on port 8080"),
        (&[r#"flags.healthProbeBindAddress=":99999""#], "at '/flags/healthProbeBindAddress'"),
        (&[r#"flags.healthProbeBindAddress="127.0.0.1:8081""#], "at '/flags/healthProbeBindAddress'"),
        (&[r#"flags.metricsBindAddress="abc""#], "at '/flags/metricsBindAddress'"),
        (&[r#"image.registry="https://x""#], "at '/image/registry'"),
        (&[r#"extraArgs=["--leader-elect"]"#], "extraArgs has a flag of the value flags.leaderElect"),
        (&[r#"extraArgs=["--namespace=a"]"#], "extraArgs has a flag of the value namespaces"),
        (&["flags.bootstrapTokenCleaner=false"], "at '/flags/bootstrapTokenCleaner'"),
    ] {
        let error = refusal(&helm, values).await?;
        ensure!(error.contains(says), "{values:?}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_value_of_null_is_refused_with_its_name() -> Result<()> {
    let helm = helm().await?;
    for path in leaves()?.into_keys().chain(["image", "flags", "crds", "monitoring"].map(str::to_owned)) {
        let values = [format!("{path}=null")];
        if path == "flags.concurrency" {
            template(&helm, &[&values[0]]).await?;
            continue;
        }
        let error = refusal(&helm, &[&values[0]]).await?;
        let name = path.rsplit('.').next().unwrap_or_default();
        ensure!(error.contains(&format!("missing property '{name}'")), "{path}: {error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_label_of_the_monitoring_wins_and_is_there_once() -> Result<()> {
    let values = [
        "monitoring.enabled=true",
        r#"monitoring.labels={"release":"p"}"#,
        r#"commonLabels={"release":"c","team":"t"}"#,
    ];
    let text = template(&helm().await?, &values).await?;
    for kind in ["PodMonitor", "PrometheusRule"] {
        let object = text.split("\n---\n").find(|object| object.contains(&format!("\nkind: {kind}\n")));
        let object = object.with_context(|| format!("no {kind}"))?;
        let labels: Vec<&str> = object.lines().filter(|line| line.starts_with("    release:")).collect();
        assert_eq!(labels, ["    release: p"], "{kind}");
        ensure!(object.contains("    team: t\n"), "{object}");
    }
    Ok(())
}

fn kebab(camel: &str) -> String {
    let dashed = |c: char| if c.is_ascii_uppercase() { format!("-{}", c.to_ascii_lowercase()) } else { c.to_string() };
    camel.chars().map(dashed).collect()
}

#[test]
fn each_flag_of_the_operator_is_a_value() -> Result<()> {
    let help = Command::new(program()?).args(["run", "--help"]).output()?;
    let help = String::from_utf8(help.stdout)?;
    let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
    let name = |flag: &str| flag.split([' ', '[']).next().map(str::to_owned);
    let flags: BTreeSet<String> = flags.filter_map(name).collect();
    let keys = schema()?;
    let keys = keys["flags"]["properties"].as_object().context("no flags")?;
    let mut values: BTreeSet<String> = keys.keys().map(|key| kebab(key)).collect();
    values.extend(["namespace", "bootstrap-signer"].map(str::to_owned));
    assert_eq!(values, flags);
    Ok(())
}

#[test]
fn each_limit_of_the_admission_policies_is_a_value() -> Result<()> {
    let mut limits = BTreeSet::new();
    for file in ["limits", "token-limits"] {
        let text = fs::read_to_string(workspace_dir().join(format!("config/admission/{file}.yaml")))?;
        let keys = text.split("params.?data[?'").skip(1).filter_map(|rest| rest.split('\'').next());
        limits.extend(keys.map(str::to_owned));
    }
    let schema = schema()?;
    let values = &schema["limits"]["properties"];
    assert_eq!(values.as_object().context("no limits")?.keys().cloned().collect::<BTreeSet<_>>(), limits);
    Ok(())
}
