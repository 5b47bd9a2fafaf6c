//! The files of a release: they agree with each other, and the tools that people use take them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokenward_e2e::control_plane::{binaries, shared};
use tokenward_e2e::dist;
use tokenward_e2e::helm::Helm;
use tokenward_e2e::scene::overlay::{manifests, pod_template};
use tokenward_e2e::{VERSION, target_dir};

const REPOSITORY: &str = "registry.example.com/team/tokenward";
const DOWNLOADS: &str = "https://downloads.example.com/tokenward";

/// Writes a release, and returns its folder.
fn release(name: &str, repository: Option<&str>) -> Result<PathBuf> {
    let folder = target_dir().join("e2e").join(name);
    dist::write(&folder, &dist::release(repository, Some(DOWNLOADS))?)?;
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
    let written: BTreeMap<String, Vec<u8>> = dist::release(None, Some(DOWNLOADS))?;
    for (name, content) in &written {
        ensure!(&fs::read(folder.join(name))? == content, "{name} differs the second time");
    }
    let listed = fs::read_to_string(folder.join("SHA256SUMS"))?.lines().count();
    ensure!(written.len() == 9 && listed == 8, "{:?}", written.keys());
    ensure!(!dist::release(None, None)?.contains_key("krew.yaml"), "a manifest for krew without an address");
    let bill: Value = serde_json::from_slice(&written["tokenward.cdx.json"])?;
    ensure!(bill["metadata"]["component"]["version"] == VERSION, "{}", bill["metadata"]);
    ensure!(String::from_utf8(written["RELEASE-NOTES.md"].clone())?.lines().count() > 10, "no notes");
    Ok(())
}

#[test]
fn the_archive_of_the_plugin_has_the_program_and_its_manual() -> Result<()> {
    let folder = release("dist-plugin", None)?;
    run(&folder, "tar", &["-xzf", &dist::plugin_name()])?;
    let version = run(&folder, "./kubectl-tokenward", &["--version"])?;
    ensure!(version == format!("kubectl-tokenward {VERSION}\n"), "{version}");
    let help = run(&folder, "./kubectl-tokenward", &["--help"])?;
    let (_, commands) = help.split_once("Commands:\n").context("no commands")?;
    let commands = commands.lines().map_while(|line| line.strip_prefix("  ")?.split(' ').next());
    for command in commands.filter(|command| *command != "help") {
        let page = fs::read_to_string(folder.join(format!("man/man1/kubectl-tokenward-{command}.1")))?;
        ensure!(page.contains(&format!(".TH kubectl-tokenward-{command} 1")), "{page}");
    }
    let page = fs::read_to_string(folder.join("man/man1/kubectl-tokenward-revoke.1"))?;
    ensure!(page.contains("token\\-id"), "{page}");
    Ok(())
}

#[test]
fn krew_installs_the_plugin_by_its_manifest() -> Result<()> {
    let folder = release("dist-krew", None)?;
    let archive = dist::plugin_name();
    let manifest: Value = serde_saphyr::from_str(&fs::read_to_string(folder.join("krew.yaml"))?)?;
    let platform = &manifest["spec"]["platforms"][0];
    ensure!(platform["uri"] == format!("{DOWNLOADS}/{archive}"), "{platform}");
    // What krew would have downloaded from there; it compares the digest.
    let root = folder.join("root");
    let mut krew = Command::new(binaries::krew()?);
    krew.args(["install", "--manifest=krew.yaml", &format!("--archive={archive}")]);
    let installed = krew.current_dir(&folder).env("KREW_ROOT", &root).output()?;
    ensure!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let version = run(&root, "./bin/kubectl-tokenward", &["--version"])?;
    ensure!(version == format!("kubectl-tokenward {VERSION}\n"), "{version}");
    ensure!(root.join(format!("store/tokenward/v{VERSION}/LICENSE")).is_file(), "the licence is not there");
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
