//! The Helm chart: the manifests that kustomize builds of `config/`, as templates, and the hand-written parts in
//! `config/chart`.

mod edits;
mod node;
mod objects;
mod values;

use crate::{VERSION, workspace_dir};
use anyhow::{Context, Result, ensure};
use objects::Object;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use values::Values;

/// Where the hand-written parts are.
const SOURCE: &str = "config/chart";
/// Hand-written templates, which go into the chart as they are.
const COPIED: [&str; 3] = ["templates/_helpers.tpl", "templates/NOTES.txt", "templates/validate.yaml"];

/// The folder of the chart.
#[must_use]
pub fn folder() -> PathBuf {
    workspace_dir().join("charts/tokenward")
}

/// Every file of the chart, by its path in its folder.
///
/// # Errors
/// When `config/` has changed so that the chart cannot follow; the message names the object and the field.
pub fn files() -> Result<BTreeMap<String, String>> {
    let mut objects = objects::all()?;
    let defaults = edits::apply(&mut objects)?;
    let values = Values::read(&source("values.yaml")?, &defaults)?;
    let mut files = templates(&objects)?;
    for name in COPIED {
        files.insert(name.to_owned(), source(name)?);
    }
    let chart = source("Chart.yaml")?.replace("@VERSION@", VERSION).replace("@CRDS@", crds(&objects)?.trim_end());
    files.insert("Chart.yaml".to_owned(), chart);
    files.insert("README.md".to_owned(), source("README.md")?.replace("@VALUES@", values.table().trim_end()));
    files.insert("values.schema.json".to_owned(), format!("{:#}\n", values.schema()));
    files.insert("values.yaml".to_owned(), values.text);
    Ok(files)
}

fn source(name: &str) -> Result<String> {
    let path = workspace_dir().join(SOURCE).join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

/// A file for each kind.
fn templates(objects: &[Object]) -> Result<BTreeMap<String, String>> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for object in objects {
        let text = object.template();
        // Whatever names it elsewhere, such as a CEL expression, would not follow the release into its namespace.
        ensure!(
            !text.contains(objects::NAMESPACE),
            "{object} names the namespace {} inside a text",
            objects::NAMESPACE
        );
        let file = files.entry(format!("templates/{}.yaml", object.kind().to_lowercase()));
        let header = || "{{- /* Written by `make chart` from config/. */ -}}\n".to_owned();
        file.or_insert_with(header).push_str(&text);
    }
    Ok(files)
}

/// The kinds, as Artifact Hub lists them, with the indentation that they have in `Chart.yaml`.
fn crds(objects: &[Object]) -> Result<String> {
    let mut kinds = Vec::new();
    for crd in objects.iter().filter(|object| object.kind() == "CustomResourceDefinition") {
        let spec = &crd.source["spec"];
        let version = &spec["versions"][0];
        let description = version["schema"]["openAPIV3Schema"]["description"].as_str().context("no description")?;
        let kind = &spec["names"]["kind"];
        kinds.push(json!({"kind": kind, "version": version["name"], "name": crd.name(), "displayName": kind,
            "description": description}));
    }
    Ok(node::Node::from(&json!(kinds)).print(4))
}
