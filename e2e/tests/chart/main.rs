//! The Helm chart, in the hands of the real Helm: it installs what `config/` installs, is strict about its values, and
//! costs no token.

mod generated;
mod release;
mod rendered;
mod values;

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use tokenward_e2e::helm::Helm;
use tokenward_e2e::{chart, target_dir};

/// Writes a chart that differs from ours by this edit.
fn copy(folder: &Path, edit: impl Fn(&str) -> String) -> Result<()> {
    fs::create_dir_all(folder.join("templates"))?;
    for name in chart::files()?.keys() {
        fs::write(folder.join(name), edit(&fs::read_to_string(chart::folder().join(name))?))?;
    }
    Ok(())
}

/// Helm without a cluster.
async fn helm() -> Result<Helm> {
    Helm::new(target_dir().join("e2e/chart-helm")).await
}

/// What `helm template` prints with these values.
async fn template(helm: &Helm, values: &[&str]) -> Result<String> {
    let output = helm.with(&["template"], &chart::folder(), values).await?;
    ensure!(output.status.success(), "{values:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).context("no text")
}

/// What `helm template` complains about.
async fn refusal(helm: &Helm, values: &[&str]) -> Result<String> {
    let output = helm.with(&["template"], &chart::folder(), values).await?;
    ensure!(!output.status.success(), "{values:?} are accepted");
    String::from_utf8(output.stderr).context("no text")
}
