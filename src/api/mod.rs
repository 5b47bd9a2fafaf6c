//! The API types of the group `tokenward.dev`, one file per kind.

pub mod bootstrap_token_policy;
pub mod cron;
pub mod duration;
pub mod foreign;
pub mod format;
pub mod legacy_token_policy;
pub mod schema;
pub mod server;
pub mod template;
pub mod token_policy;

use kube::CustomResourceExt as _;

/// The kinds of this release as one YAML stream of `CustomResourceDefinition`s, or the one of this plural name;
/// byte-stable.
///
/// # Errors
/// When a generated schema cannot be written as YAML, which a unit test excludes.
pub fn yaml(plural: Option<&str>) -> Result<String, serde_saphyr::ser::Error> {
    let crds = [
        token_policy::TokenPolicy::crd(),
        bootstrap_token_policy::BootstrapTokenPolicy::crd(),
        legacy_token_policy::LegacyTokenPolicy::crd(),
    ];
    let wanted = crds.iter().filter(|crd| plural.is_none_or(|plural| crd.spec.names.plural == plural));
    let documents: Result<Vec<String>, _> = wanted.map(serde_saphyr::to_string).collect();
    Ok(documents?.join("---\n"))
}

#[cfg(test)]
mod tests;
