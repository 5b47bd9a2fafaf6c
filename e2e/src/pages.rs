//! The project's documents, and the manifests in them.

use crate::scene::plane;
use crate::workspace_dir;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the pages on formats and consumers.
pub const FORMATS: &str = "docs/consumers";

/// A file of the workspace as text.
///
/// # Errors
/// When it cannot be read; the message names it.
pub fn read(path: &str) -> Result<String> {
    fs::read_to_string(workspace_dir().join(path)).with_context(|| path.to_owned())
}

/// Every file below a folder with this extension, in order.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, extension)?);
        } else if path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The code blocks of a page in this language.
pub fn blocks<'a>(page: &'a str, language: &str) -> impl Iterator<Item = &'a str> {
    let opening = format!("{language}\n");
    page.split("\n```").filter_map(move |block| block.strip_prefix(&opening))
}

/// Whether a link can lead to a heading of this page by this name.
#[must_use]
pub fn has_heading(page: &str, wanted: &str) -> bool {
    let heading = |line: &str| line.trim_start_matches('#').strip_prefix(' ').map(slug);
    page.lines().filter(|line| line.starts_with('#')).filter_map(heading).any(|heading| heading == wanted)
}

/// The name by which a link leads to a heading.
#[must_use]
pub fn slug(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The YAML blocks of a page that hold a `TokenPolicy`.
pub fn manifests(page: &str) -> impl Iterator<Item = &str> {
    blocks(page, "yaml").filter(|block| block.lines().any(|line| line == "kind: TokenPolicy"))
}

/// The documents of a YAML text.
///
/// # Errors
/// When one of them is no YAML.
pub fn documents(manifest: &str) -> Result<Vec<Value>> {
    manifest.split("\n---\n").map(|document| Ok(serde_saphyr::from_str(document)?)).collect()
}

/// Runs `kubectl apply` on a manifest of the page of this name, and expects that it works without a warning.
///
/// # Errors
/// With what kubectl complains of.
pub async fn apply(page: &str, manifest: &str, more: &[&str]) -> Result<()> {
    let args = ["apply", "-f", "-"].iter().chain(more);
    let answer = plane().await?.kubectl_with(args, manifest).await?;
    let complaint = String::from_utf8_lossy(&answer.stderr);
    ensure!(answer.status.success() && complaint.is_empty(), "{page}: {complaint}\n{manifest}");
    Ok(())
}

/// A row of the table of consumers.
pub struct Consumer {
    /// Name of its page in [`FORMATS`], without extension.
    pub page: String,
    /// The format that the table names.
    pub format: String,
}

/// The consumers that the table in the folder's README lists.
///
/// # Errors
/// When there is no such table, or a row of it names no page or no format.
pub fn consumers() -> Result<Vec<Consumer>> {
    let readme = read(&format!("{FORMATS}/README.md"))?;
    let (_, rest) = readme.split_once("| consumer |").context("README has no table of consumers")?;
    let rows = rest.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| consumer(row).with_context(|| format!("no page or no format: {row}"))).collect()
}

fn consumer(row: &str) -> Option<Consumer> {
    let (_, link) = row.split_once("](")?;
    Some(Consumer { page: link.split_once(".md)")?.0.to_owned(), format: link.split('`').nth(1)?.to_owned() })
}
