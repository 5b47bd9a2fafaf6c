//! The files of a release. Equal sources have equal files, so that a test which makes them anew tries what is shipped.

use crate::chart;
use crate::image::{File, Image, NAME, architecture, sha256, tar};
use crate::operator::program;
use crate::scene::overlay;
use crate::{VERSION, plugin, sbom, workspace_dir};
use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// The archive of the image, and its digest. Engines load it as the repository's, such as `registry.example.com/tokenward`.
///
/// # Errors
/// When there is no release binary.
pub fn image(repository: Option<&str>) -> Result<(Vec<u8>, String)> {
    let mut image = Image::operator(&program()?)?;
    image.name = repository.map_or_else(|| NAME.to_owned(), |repository| format!("{repository}:v{VERSION}"));
    image.archive()
}

/// `install.yaml`, with this image.
///
/// # Errors
/// When `config/install` names another image than [`NAME`], or names it more than once.
pub fn manifests(image: &str) -> Result<String> {
    let install = overlay::text(&workspace_dir().join("config/install"))?;
    let named = format!("image: {NAME}\n");
    ensure!(install.matches(&named).count() == 1, "config/install does not name the image {NAME} once");
    Ok(install.replace(&named, &format!("image: {image}\n")))
}

/// The files of a release by their names. With a repository, manifests and chart name the image there by its digest;
/// without, by the tag under which engines load the archive. With the address that the files are to be downloaded from, they
/// have a manifest for krew.
///
/// # Errors
/// As [`image`] and [`manifests`], and when the plugin is not built.
pub fn release(repository: Option<&str>, downloads: Option<&str>) -> Result<BTreeMap<String, Vec<u8>>> {
    let (archive, digest) = image(repository)?;
    let reference = repository.map_or_else(|| NAME.to_owned(), |repository| format!("{repository}@{digest}"));
    let chart = packed_chart(repository.map(|repository| (repository, &*digest)))?;
    let plugin = packed(&plugin::files()?)?;
    let manifest = downloads.map(|downloads| plugin::manifest(&plugin_name(), &plugin, downloads)).transpose()?;
    let notes = notes(&fs::read_to_string(workspace_dir().join("CHANGELOG.md"))?)?;
    let mut files = BTreeMap::from([
        (archive_name(), archive),
        ("install.yaml".to_owned(), manifests(&reference)?.into_bytes()),
        ("crds.yaml".to_owned(), overlay::text(&workspace_dir().join("config/crd"))?.into_bytes()),
        (format!("tokenward-{VERSION}.tgz"), chart),
        (plugin_name(), plugin),
        ("tokenward.cdx.json".to_owned(), sbom::operator()?.into_bytes()),
        ("RELEASE-NOTES.md".to_owned(), notes.into_bytes()),
    ]);
    files.extend(manifest.map(|manifest| ("krew.yaml".to_owned(), manifest.into_bytes())));
    let sums: Vec<String> = files.iter().map(|(name, content)| format!("{}  {name}\n", sha256(content))).collect();
    files.insert("SHA256SUMS".to_owned(), sums.concat().into_bytes());
    Ok(files)
}

fn packed(files: &[File]) -> Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().write(Vec::new(), Compression::default());
    gzip.write_all(&tar(files)?)?;
    Ok(gzip.finish()?)
}

/// Whether this names a repository with its registry, by the grammar of
/// <https://github.com/distribution/reference>: a registry has a dot or a port, or is `localhost`.
#[must_use]
pub fn is_repository(name: &str) -> bool {
    let Some((registry, path)) = name.split_once('/') else { return false };
    let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
    let is_part = |part: &str| {
        let outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        part.starts_with(outer) && part.ends_with(outer) && part.chars().all(|c| outer(c) || "._-".contains(c))
    };
    let is_host = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    (host == "localhost" || port.is_some() || host.contains('.'))
        && host.split('.').all(is_host)
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && path.split('/').all(is_part)
}

/// Whether this is an address that krew downloads from.
#[must_use]
pub fn is_https(address: &str) -> bool {
    let host = address.strip_prefix("https://").unwrap_or_default();
    host.starts_with(|c: char| c.is_ascii_alphanumeric()) && host.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The file with the image.
#[must_use]
pub fn archive_name() -> String {
    format!("tokenward-{VERSION}-linux-{}.tar", architecture())
}

/// The file with the kubectl plugin.
#[must_use]
pub fn plugin_name() -> String {
    format!("kubectl-tokenward-{VERSION}-linux-{}.tar.gz", architecture())
}

/// Writes these files into this folder, which holds nothing else afterwards.
///
/// # Errors
/// When the folder cannot be written.
pub fn write(folder: &Path, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for (name, content) in files {
        fs::write(folder.join(name), content)?;
    }
    Ok(())
}

/// The chart as `helm package` packs it; its default values name this image.
fn packed_chart(image: Option<(&str, &str)>) -> Result<Vec<u8>> {
    let mut chart = chart::files()?;
    if let Some((reference, digest)) = image {
        let (registry, repository) = reference.rsplit_once('/').context("write IMAGE with its registry")?;
        let values = chart.get_mut("values.yaml").context("the chart has no values.yaml")?;
        for (key, before, after) in
            [("registry", "\"\"", registry), ("repository", "tokenward", repository), ("digest", "\"\"", digest)]
        {
            let line = format!("\n  {key}: {before}\n");
            ensure!(values.matches(&line).count() == 1, "values.yaml has not one line{line}");
            *values = values.replace(&line, &format!("\n  {key}: \"{after}\"\n"));
        }
    }
    let file = |(name, text): (String, String)| File {
        path: format!("tokenward/{name}"),
        content: text.into_bytes(),
        mode: 0o644,
    };
    packed(&chart.into_iter().map(file).collect::<Vec<_>>())
}

/// The section of the changelog for this version, before its release that of the changes since the last.
fn notes(changelog: &str) -> Result<String> {
    let section = |name: &str| {
        let (_, rest) = changelog.split_once(&format!("\n## [{name}]"))?;
        let text = rest.split_once('\n')?.1;
        Some(text.split_once("\n## ").map_or(text, |(text, _)| text))
    };
    let text = section(VERSION).or_else(|| section("Unreleased"));
    Ok(format!("# Tokenward {VERSION}\n\n{}\n", text.context("CHANGELOG.md has no section for this version")?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_has_a_registry_and_neither_scheme_nor_tag() {
        for name in ["registry.example.com/tokenward", "localhost/a", "reg:5000/team-a/tokenward", "R.example/a_b.c"] {
            assert!(is_repository(name), "{name}");
        }
        let bad = "tokenward team/tokenward https://r.example/a r.example/A /a r.example/ r.example/a:v1 r.example/a@sha256:0 r:x/a";
        for name in
            bad.split(' ').chain(["", "r.example/a b", "r.example/a\"c", "r.example/a\n", "r.example//a", ".r/a"])
        {
            assert!(!is_repository(name), "{name}");
        }
    }

    #[test]
    fn downloads_are_at_an_https_address() {
        assert!(is_https("https://downloads.example.com/tokenward/v1"));
        for address in ["", "https://", "http://a.example", "a.example", "https://a.example/a b", "https:///a"] {
            assert!(!is_https(address), "{address}");
        }
    }

    #[test]
    fn notes_are_those_of_the_version() {
        let of = |version: &str| {
            format!(
                "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [{version}] - 2026-11-28\n\n- this\n\n## [0.0.1]\n\n- old\n"
            )
        };
        assert_eq!(notes(&of(VERSION)).unwrap(), format!("# Tokenward {VERSION}\n\n- this\n"));
        assert_eq!(notes(&of("0.0.2")).unwrap(), format!("# Tokenward {VERSION}\n\n- new\n"));
        assert!(notes("# Changelog\n").is_err());
    }
}
