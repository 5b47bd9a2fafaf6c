//! Where values reach into the manifests.

use super::node::{Branch, Node, Source};
use super::objects::Object;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;

/// What is done to a field.
enum Edit {
    /// It is there under this condition alone.
    When(&'static str),
    /// A template expression gives it; `CONFIG` stands for what it is in `config/`.
    Scalar(&'static str),
    /// This key of `values.yaml` gives it, and it is that key's default.
    Value(&'static str),
    /// As [`Edit::Value`], for a map or list; it is left out where that is empty.
    Block(&'static str),
    /// A field that `config/` does not have, and which is left out where this gives nothing.
    New(Source),
    /// As [`Edit::New`], for a scalar.
    Text(&'static str),
    /// A map or list that goes on with what this gives.
    More(Source),
    /// A map or list that is what this gives.
    Whole(Source),
}

use Edit::{Block, More, New, Scalar, Text, Value as Given, When, Whole};
use Source::{Helper, Values};

const DEPLOYMENT: &str = "Deployment/tokenward";
/// Where the alerts in `monitoring/alerts.yaml` link to, and the default of the value.
const RUNBOOKS: &str = "https://tokenward.dev/docs";

/// Object, field (none: the object as a whole), edit.
const EDITS: [(&str, &str, Edit); 23] = [
    ("PriorityClass/tokenward", "", When("not $.Values.priorityClassName")),
    ("NetworkPolicy/tokenward", "", When("$.Values.networkPolicy.enabled")),
    ("NetworkPolicy/tokenward-metrics", "", When("$.Values.networkPolicy.enabled")),
    ("NetworkPolicy/tokenward", "spec/egress/0/ports", Whole(Helper("tokenward.apiServerPorts"))),
    ("ConfigMap/tokenward-limits", "data", Whole(Helper("tokenward.limits"))),
    (DEPLOYMENT, "spec/replicas", Given("replicas")),
    (DEPLOYMENT, "spec/template/metadata/labels", More(Values("podLabels"))),
    (DEPLOYMENT, "spec/template/metadata/annotations", New(Values("podAnnotations"))),
    (DEPLOYMENT, "spec/template/spec/priorityClassName", Scalar("$.Values.priorityClassName | default CONFIG | quote")),
    (DEPLOYMENT, "spec/template/spec/topologySpreadConstraints", Block("topologySpreadConstraints")),
    (DEPLOYMENT, "spec/template/spec/nodeSelector", New(Values("nodeSelector"))),
    (DEPLOYMENT, "spec/template/spec/tolerations", New(Values("tolerations"))),
    (DEPLOYMENT, "spec/template/spec/affinity", New(Values("affinity"))),
    (DEPLOYMENT, "spec/template/spec/imagePullSecrets", New(Values("image.pullSecrets"))),
    (DEPLOYMENT, "spec/template/spec/volumes", More(Values("extraVolumes"))),
    (DEPLOYMENT, "spec/template/spec/containers/0/image", Scalar("include \"tokenward.image\" $ | quote")),
    (DEPLOYMENT, "spec/template/spec/containers/0/imagePullPolicy", Text("image.pullPolicy")),
    (DEPLOYMENT, "spec/template/spec/containers/0/args/--leader-elect", When("$.Values.flags.leaderElect")),
    (DEPLOYMENT, "spec/template/spec/containers/0/args", More(Helper("tokenward.flags"))),
    (DEPLOYMENT, "spec/template/spec/containers/0/env", More(Values("extraEnv"))),
    (
        DEPLOYMENT,
        "spec/template/spec/containers/0/ports/0/containerPort",
        Scalar("regexFind \"[0-9]+$\" $.Values.flags.healthProbeBindAddress | default CONFIG"),
    ),
    (DEPLOYMENT, "spec/template/spec/containers/0/resources", Block("resources")),
    (DEPLOYMENT, "spec/template/spec/containers/0/volumeMounts", More(Values("extraVolumeMounts"))),
];

/// Lets the values reach the objects, and returns the defaults that `config/` gives to them.
///
/// # Errors
/// When an object or a field is not, or no longer, in `config/`.
pub(super) fn apply(objects: &mut [Object]) -> Result<BTreeMap<&'static str, Value>> {
    let mut defaults = BTreeMap::new();
    for (name, path, edit) in &EDITS {
        let object = objects.iter_mut().find(|object| object.to_string() == *name);
        let object = object.with_context(|| format!("{name} is not in config/"))?;
        if let (Given(key) | Block(key), Some(default)) = (edit, object.source.pointer(&format!("/{path}"))) {
            defaults.insert(*key, default.clone());
        }
        change(object, path, edit).with_context(|| format!("{name}, field {path}"))?;
    }
    objects.iter_mut().try_for_each(describe)?;
    let rules = objects.iter_mut().find(|object| object.kind() == "PrometheusRule");
    link_runbooks(rules.context("no PrometheusRule is in config/")?)?;
    Ok(defaults)
}

/// The alerts link to the site of the values.
fn link_runbooks(rules: &mut Object) -> Result<()> {
    let alerts = rules.source.pointer("/spec/groups/0/rules").and_then(Value::as_array).map_or(0, Vec::len);
    for alert in 0..alerts {
        let path = format!("spec/groups/0/rules/{alert}/annotations/runbook_url");
        let url = rules.source.pointer(&format!("/{path}")).and_then(Value::as_str).unwrap_or_default();
        let page = url.strip_prefix(RUNBOOKS).with_context(|| format!("{path} does not begin with {RUNBOOKS}"))?;
        let link = format!("printf \"%s{page}\" (trimSuffix \"/\" $.Values.monitoring.runbookBaseUrl) | quote");
        field(rules, &path)?.node = Node::Scalar(link);
    }
    Ok(())
}

fn change(object: &mut Object, path: &str, edit: &Edit) -> Result<()> {
    match edit {
        When(when) if path.is_empty() => object.when.push((*when).to_owned()),
        When(when) => field(object, path)?.when = Some((*when).to_owned()),
        Scalar(expression) => {
            let config = object.source.pointer(&format!("/{path}")).map(ToString::to_string).unwrap_or_default();
            field(object, path)?.node = Node::Scalar(expression.replace("CONFIG", &config));
        }
        Given(key) => field(object, path)?.node = Node::Scalar(format!("$.Values.{key}")),
        Block(key) => field(object, path)?.node = Node::Block(Values(key)),
        Whole(source) => field(object, path)?.node = Node::Block(*source),
        More(source) => {
            let branches = field(object, path)?.node.branches().context("it is empty now: it needs another edit")?;
            branches.push(Branch::new("", Node::Splice(*source)));
        }
        New(source) => insert(object, path, |key| Branch::new(key, Node::Block(*source)))?,
        Text(key) => {
            let value = format!("$.Values.{key}");
            insert(object, path, |key| Branch::new(key, Node::Scalar(value.clone())).when(&value))?;
        }
    }
    Ok(())
}

/// Adds a field that `config/` does not have.
fn insert(object: &mut Object, path: &str, branch: impl FnOnce(&str) -> Branch) -> Result<()> {
    ensure!(object.node.at(path).is_none(), "config/ has it now: it needs another edit");
    let (parent, key) = path.rsplit_once('/').context("no parent")?;
    field(object, parent)?.node.branches().context("its parent is empty")?.push(branch(key));
    Ok(())
}

fn field<'a>(object: &'a mut Object, path: &str) -> Result<&'a mut Branch> {
    object.node.at(path).with_context(|| format!("config/ has no {path} any longer"))
}

/// Labels and annotations, and what keeps an object when the release is uninstalled.
fn describe(object: &mut Object) -> Result<()> {
    let is_crd = object.kind() == "CustomResourceDefinition";
    let stays = object.source["metadata"]["labels"]["app.kubernetes.io/component"] == "api";
    ensure!(stays || !is_crd, "{object} would go with the release, and all objects of its kind with it");
    let annotations = match (is_crd, stays) {
        (true, _) => "tokenward.annotations.crd",
        (false, true) => "tokenward.annotations.kept",
        (false, false) => "tokenward.annotations",
    };
    if is_crd {
        object.when.push("$.Values.crds.install".to_owned());
    }
    let selected = ["PodMonitor", "PrometheusRule"].contains(&object.kind());
    let labels = Helper(if selected { "tokenward.labels.monitoring" } else { "tokenward.labels" });
    let labels = if object.source["metadata"]["labels"].is_object() { More(labels) } else { New(labels) };
    change(object, "metadata/labels", &labels).with_context(|| object.to_string())?;
    change(object, "metadata/annotations", &New(Helper(annotations))).with_context(|| object.to_string())
}
