//! The API types of the group `tokenward.dev`, one file per kind.

pub mod duration;
pub mod token_policy;

use kube::CustomResourceExt as _;

/// The kinds of this release as one YAML stream of `CustomResourceDefinition`s, byte-stable.
///
/// # Errors
/// When a generated schema cannot be written as YAML, which a unit test excludes.
pub fn yaml() -> Result<String, serde_saphyr::ser::Error> {
    serde_saphyr::to_string(&token_policy::TokenPolicy::crd())
}

#[cfg(test)]
mod tests;
