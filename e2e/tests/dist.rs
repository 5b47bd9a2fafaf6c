//! The files of a release: they agree with each other, and the tools that people use take them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokenward_e2e::control_plane::shared;
use tokenward_e2e::dist;
use tokenward_e2e::helm::Helm;
use tokenward_e2e::scene::overlay::{manifests, pod_template};
use tokenward_e2e::{VERSION, target_dir};

const REPOSITORY: &str = "registry.example.com/team/tokenward";

/// Writes a release, and returns its folder.
fn release(name: &str, repository: Option<&str>) -> Result<PathBuf> {
    let folder = target_dir().join("e2e").join(name);
    dist::write(&folder, &dist::release(repository)?)?;
    Ok(folder)
}

/// The image of the operator among these manifests.
fn image(text: &str) -> Result<String> {
    let manifests = manifests(text)?;
    let containers = &pod_template(&manifests)?["spec"]["containers"];
    Ok(containers[0]["image"].as_str().context("no image")?.to_owned())
}

/// Runs a program in this folder and returns what it printed.
fn run(folder: &Path, program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(folder).output().context(program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The entry of the archive's index for the image.
fn index(folder: &Path) -> Result<Value> {
    let index = run(folder, "tar", &["-xOf", &dist::archive_name(), "index.json"])?;
    Ok(serde_json::from_str::<Value>(&index)?["manifests"][0].take())
}

#[tokio::test]
async fn manifests_and_chart_name_the_image_of_the_archive_by_its_digest() -> Result<()> {
    let folder = release("dist-pinned", Some(REPOSITORY))?;
    let index = index(&folder)?;
    let pinned = format!("{REPOSITORY}@{}", index["digest"].as_str().context("no digest")?);
    ensure!(index["annotations"]["io.containerd.image.name"] == format!("{REPOSITORY}:v{VERSION}"), "{index}");
    ensure!(image(&fs::read_to_string(folder.join("install.yaml"))?)? == pinned);
    let helm = Helm::new(target_dir().join("e2e/dist-helm")).await?;
    let chart = folder.join(format!("tokenward-{VERSION}.tgz"));
    let chart = chart.to_string_lossy();
    helm.ok(&["lint", "--strict", &chart]).await?;
    ensure!(image(&helm.ok(&["template", "tokenward", &chart, "--namespace", "tokenward-system"]).await?)? == pinned);
    let shown: Value = serde_saphyr::from_str(&helm.ok(&["show", "chart", &chart]).await?)?;
    ensure!(shown["version"] == VERSION && shown["appVersion"] == VERSION, "{shown}");
    Ok(())
}

#[test]
fn every_file_is_in_the_sums_and_comes_out_the_same_again() -> Result<()> {
    let folder = release("dist-sums", None)?;
    run(&folder, "sha256sum", &["--check", "--strict", "SHA256SUMS"])?;
    let written: BTreeMap<String, Vec<u8>> = dist::release(None)?;
    for (name, content) in &written {
        ensure!(&fs::read(folder.join(name))? == content, "{name} differs the second time");
    }
    let listed = fs::read_to_string(folder.join("SHA256SUMS"))?.lines().count();
    ensure!(written.len() == 8 && listed == 7, "{:?}", written.keys());
    let plugin = written.keys().find(|name| name.starts_with("kubectl-tokenward-")).context("no plugin")?;
    run(&folder, "tar", &["-xzf", plugin])?;
    let version = run(&folder, "./kubectl-tokenward", &["--version"])?;
    ensure!(version == format!("kubectl-tokenward {VERSION}\n"), "{version}");
    let bill: Value = serde_json::from_slice(&written["tokenward.cdx.json"])?;
    ensure!(bill["metadata"]["component"]["version"] == VERSION, "{}", bill["metadata"]);
    ensure!(String::from_utf8(written["RELEASE-NOTES.md"].clone())?.lines().count() > 10, "no notes");
    Ok(())
}

#[tokio::test]
async fn the_manifests_install_and_the_crds_are_the_same_ones() -> Result<()> {
    let plane = shared().await?;
    let folder = release("dist-installed", None)?;
    let apply = async |file: &str| plane.kubectl_ok(["apply", "-f", &folder.join(file).to_string_lossy()]).await;
    let installed = apply("install.yaml").await?;
    ensure!(installed.contains("deployment.apps/tokenward created"), "{installed}");
    let crds = apply("crds.yaml").await?;
    ensure!(!crds.is_empty() && crds.lines().all(|line| line.ends_with(" unchanged")), "{crds}");
    Ok(())
}
