//! The chart in the repository is the one that `make chart` writes, and Helm takes it.

use crate::{copy, helm};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use tokenward_e2e::{chart, target_dir};

/// The files of a folder and of the folders in it, by their paths below it.
fn files(folder: &Path, below: &str) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder.join(below))? {
        let entry = entry?;
        let path = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            found.extend(files(folder, &format!("{path}/"))?);
        } else {
            found.insert(path);
        }
    }
    Ok(found)
}

#[test]
fn the_chart_is_what_the_generator_writes() -> Result<()> {
    let wanted = chart::files()?;
    let found = files(&chart::folder(), "")?;
    assert_eq!(found, wanted.keys().cloned().collect(), "run `make chart`");
    for (name, text) in wanted {
        ensure!(fs::read_to_string(chart::folder().join(&name))? == text, "{name} differs: run `make chart`");
    }
    Ok(())
}

#[tokio::test]
async fn helm_lints_and_packages_it() -> Result<()> {
    let (helm, folder, packages) = (helm().await?, chart::folder(), target_dir().join("e2e/chart-packages"));
    let folder = folder.to_string_lossy();
    helm.ok(&["lint", "--strict", &folder]).await?;
    helm.ok(&["package", &folder, "--destination", &packages.to_string_lossy()]).await?;
    // Chart and operator have the version of the workspace.
    let version = tokenward_e2e::VERSION;
    let package = packages.join(format!("tokenward-{version}.tgz"));
    let shown = helm.ok(&["show", "chart", &package.to_string_lossy()]).await?;
    ensure!(shown.contains(&format!("appVersion: {version}\n")), "{shown}");
    Ok(())
}

#[tokio::test]
async fn another_chart_can_depend_on_it() -> Result<()> {
    let parent = target_dir().join("e2e/chart-parent");
    copy(&parent.join("charts/tokenward"), str::to_owned)?;
    let version = tokenward_e2e::VERSION;
    let dependency = format!("[{{name: tokenward, version: {version}, condition: tokenward.enabled}}]");
    let text = format!("apiVersion: v2\nname: parent\nversion: 1.0.0\ndependencies: {dependency}\n");
    fs::write(parent.join("Chart.yaml"), text)?;
    fs::write(parent.join("values.yaml"), "global: {team: a}\ntokenward: {replicas: 1, enabled: true}\n")?;
    let helm = helm().await?;
    for (values, is_there) in [(&[] as &[&str], true), (&["tokenward.enabled=false"], false)] {
        let output = helm.with(&["template"], &parent, values).await?;
        ensure!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(String::from_utf8(output.stdout)?.contains("replicas: 1\n") == is_there, "{values:?}");
    }
    Ok(())
}
