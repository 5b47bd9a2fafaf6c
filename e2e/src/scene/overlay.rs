//! What is in `config/`, as kustomize renders it.

use crate::control_plane::binaries::Binaries;
use crate::write_overlay;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An overlay of `config/install` with this component, as the component's comment says.
pub fn with_component(folder: PathBuf, component: &str) -> Result<PathBuf> {
    write_overlay(folder, &format!("resources: [CONFIG/install]\ncomponents: [CONFIG/components/{component}]\n"))
}

/// What kustomize builds of an overlay.
pub fn text(folder: &Path) -> Result<String> {
    let output = Command::new(Binaries::find()?.path("kubectl")?).arg("kustomize").arg(folder).output()?;
    ensure!(output.status.success(), "{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The manifests of an overlay.
pub fn render(folder: &Path) -> Result<Vec<Value>> {
    manifests(&text(folder)?)
}

/// The manifests in a text; documents with nothing but comments are none.
pub fn manifests(text: &str) -> Result<Vec<Value>> {
    let has_fields = |document: &&str| document.lines().any(|line| !line.is_empty() && !line.starts_with(['#', '-']));
    let documents = text.split("\n---\n").filter(has_fields);
    documents.map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

/// The pod template of the Deployment among these manifests.
pub fn pod_template(manifests: &[Value]) -> Result<&Value> {
    let found = manifests.iter().find(|manifest| manifest["kind"] == "Deployment");
    Ok(&found.context("no Deployment")?["spec"]["template"])
}

/// The arguments that the Deployment among these manifests gives to `tokenward run`.
pub fn arguments(manifests: &[Value]) -> Result<Vec<String>> {
    let containers = &pod_template(manifests)?["spec"]["containers"];
    let args: Vec<String> = serde_json::from_value(containers[0]["args"].clone())?;
    let (command, args) = args.split_first().context("no arguments")?;
    ensure!(command == "run", "{command}");
    Ok(args.to_vec())
}
