//! What kustomize builds of `config/` in all its variants: the objects of the chart, each with the condition under which
//! it is there.

use super::node::{NAMESPACES, Node, WATCH, WATCHED, action};
use crate::scene::overlay::{arguments, render, with_component};
use crate::{target_dir, workspace_dir, write_overlay};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;

pub(super) use crate::operator::NAMESPACE;

/// Each folder of `config/components`, and the values that ask for it.
const COMPONENTS: [(&str, &str); 6] = [
    (NO_CLEANER, r#"eq (include "tokenward.cleaner" $) "off""#),
    ("bootstrap-signer", "$.Values.components.bootstrapSigner"),
    ("bootstrap-token-policy", "$.Values.components.bootstrapTokenPolicy"),
    ("legacy-token-policy", "$.Values.components.legacyTokenPolicy"),
    ("monitoring", "$.Values.monitoring.enabled"),
    ("roles", "$.Values.components.roles"),
];
/// Both shapes below include it.
const NO_CLEANER: &str = "no-bootstrap-token-cleaner";
/// The overlays for some namespaces, and the values that ask for them.
const SHAPES: [(&str, &str); 2] = [
    ("config/multi-namespace", r#"eq $.Values.scope "Namespaces""#),
    ("config/namespaced", r#"eq $.Values.scope "Namespace""#),
];

/// An object of the chart.
pub(super) struct Object {
    /// As kustomize built it.
    pub source: Value,
    pub node: Node,
    /// All must be true.
    pub when: Vec<String>,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.name())
    }
}

impl Object {
    fn new(source: &Value, when: &[&str]) -> Self {
        let when = when.iter().map(ToString::to_string).collect();
        Self { source: source.clone(), node: source.into(), when }
    }

    pub(super) fn kind(&self) -> &str {
        self.source["kind"].as_str().unwrap_or_default()
    }

    pub(super) fn name(&self) -> &str {
        self.source["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// One document, or one for each watched namespace, or none.
    pub(super) fn template(&self) -> String {
        let mut text = format!("---\n{}", self.node.print(0));
        if self.source["metadata"]["namespace"] == WATCHED {
            text = wrap("range $.Values.namespaces", &text);
        }
        match &self.when[..] {
            [] => text,
            [one] => wrap(&format!("if {one}"), &text),
            all => wrap(&format!("if and ({})", all.join(") (")), &text),
        }
    }
}

fn wrap(lead: &str, text: &str) -> String {
    format!("{}\n{text}{}\n", action(lead), action("end"))
}

/// The objects of the chart.
///
/// # Errors
/// When a variant does something else than to add or leave out objects, and to add fields.
pub(super) fn all() -> Result<Vec<Object>> {
    let base = built(&workspace_dir().join("config/install"))?;
    let mut objects: Vec<Object> = base.iter().map(|source| Object::new(source, &[])).collect();
    listed()?;
    for (name, when) in COMPONENTS {
        let variant = built(&with_component(target_dir().join("chart").join(name), name)?)?;
        add(&mut objects, &base, &variant, when).with_context(|| format!("the component {name}"))?;
    }
    let base = format!("resources: [CONFIG/default]\ncomponents: [CONFIG/components/{NO_CLEANER}]\n");
    let base = built(&write_overlay(target_dir().join("chart/shape"), &base)?)?;
    for (path, when) in SHAPES {
        let variant = unnamed(built(&workspace_dir().join(path))?).with_context(|| path.to_owned())?;
        add(&mut objects, &base, &variant, when).with_context(|| path.to_owned())?;
    }
    Ok(objects)
}

/// That the table has every component.
fn listed() -> Result<()> {
    let entries = fs::read_dir(workspace_dir().join("config/components"))?;
    let found: BTreeSet<String> =
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    let known: BTreeSet<String> = COMPONENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    ensure!(found == known, "config/components has {found:?}, and the chart knows {known:?}: see COMPONENTS");
    Ok(())
}

/// Without the namespace, in which Helm has put its release before it installs anything.
fn built(folder: &std::path::Path) -> Result<Vec<Value>> {
    let mut manifests = render(folder)?;
    manifests.retain(|manifest| manifest["kind"] != "Namespace");
    Ok(manifests)
}

/// Takes the names of the watched namespaces out again, and all but one of the objects that differ by nothing else.
fn unnamed(mut manifests: Vec<Value>) -> Result<Vec<Value>> {
    let args = arguments(&manifests)?;
    let list = args.iter().find_map(|arg| arg.strip_prefix(NAMESPACES)).context("no flag --namespace")?;
    let watched: Vec<&str> = list.split(',').collect();
    let mut unnamed: Vec<Value> = Vec::new();
    for mut manifest in manifests.drain(..) {
        if manifest["metadata"]["namespace"].as_str().is_some_and(|namespace| watched.contains(&namespace)) {
            manifest["metadata"]["namespace"] = WATCHED.into();
        }
        if let Some(Value::Array(args)) = manifest.pointer_mut("/spec/template/spec/containers/0/args") {
            args.iter_mut().filter(|arg| **arg == format!("{NAMESPACES}{list}")).for_each(|arg| *arg = WATCH.into());
        }
        if !unnamed.contains(&manifest) {
            unnamed.push(manifest);
        }
    }
    Ok(unnamed)
}

/// What identifies an object.
fn id(manifest: &Value) -> [&Value; 3] {
    [&manifest["kind"], &manifest["metadata"]["namespace"], &manifest["metadata"]["name"]]
}

/// Adds what a variant has beyond this base, and the condition to what it leaves out.
fn add(objects: &mut Vec<Object>, base: &[Value], variant: &[Value], when: &str) -> Result<()> {
    for old in base {
        let object =
            objects.iter_mut().find(|object| id(&object.source) == id(old)).context("not in config/install")?;
        match variant.iter().find(|new| id(new) == id(old)) {
            Some(new) => object.node.add(old, new, when).with_context(|| object.to_string())?,
            None => object.when.push(format!("not ({when})")),
        }
    }
    let added = variant.iter().filter(|new| !base.iter().any(|old| id(old) == id(new)));
    objects.extend(added.map(|new| Object::new(new, &[when])));
    Ok(())
}
