//! A `CycloneDX` software bill of materials of the operator: every crate that goes into its build, as Cargo resolves it for
//! that one package. (`cargo metadata`, which most tools read, also tells what only the tests need.)

use crate::workspace_dir;
use anyhow::{Context, Result, ensure};
use cargo_lock::Lockfile;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The bill of the operator's release binary, as JSON.
///
/// # Errors
/// When Cargo fails, or a crate has no checksum.
pub fn operator() -> Result<String> {
    let lock = Lockfile::load(workspace_dir().join("Cargo.lock"))?;
    Ok(format!("{:#}\n", bill(&Tree::read(&tree()?)?, &lock)?))
}

/// A line for each crate and each way that leads to it, below the one that needs it.
fn tree() -> Result<String> {
    let asked = ["tree", "--locked", "--package=tokenward", "--edges=normal,build", "--no-dedupe", "--prefix=depth"];
    let mut cargo = Command::new("cargo");
    cargo.args(asked).args(["--format", "|{p}|{l}|{r}"]).current_dir(workspace_dir());
    let told = cargo.output().context("starting cargo tree")?;
    ensure!(told.status.success(), "cargo tree: {}", String::from_utf8_lossy(&told.stderr));
    Ok(String::from_utf8(told.stdout)?)
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    licence: String,
    repository: String,
}

impl Package {
    /// `name v1.2.3 (…)|licence|repository`
    fn read(line: &str) -> Option<Self> {
        let mut columns = line.split('|');
        let mut words = columns.next()?.split(' ');
        let (name, version) = (words.next()?.to_owned(), words.next()?.strip_prefix('v')?.to_owned());
        // Older manifests write a slash, which SPDX does not know.
        let licence = columns.next()?.replace('/', " OR ");
        Some(Self { name, version, licence, repository: columns.next()?.to_owned() })
    }

    /// Its name in every ecosystem: <https://github.com/package-url/purl-spec>.
    fn purl(&self) -> String {
        format!("pkg:cargo/{}@{}", self.name, self.version)
    }

    fn component(&self, kind: &str) -> Value {
        let purl = self.purl();
        json!({"type": kind, "bom-ref": purl, "name": self.name, "version": self.version, "purl": purl,
            "licenses": [{"expression": self.licence}]})
    }
}

/// What needs what.
struct Tree {
    root: Package,
    needs: BTreeMap<Package, BTreeSet<Package>>,
}

impl Tree {
    fn read(text: &str) -> Result<Self> {
        let mut needs: BTreeMap<Package, BTreeSet<Package>> = BTreeMap::new();
        let mut above: Vec<Package> = Vec::new();
        for line in text.lines() {
            let (depth, package) = line.split_once('|').with_context(|| format!("no depth in {line:?}"))?;
            let package = Package::read(package).with_context(|| format!("no package in {line:?}"))?;
            above.truncate(depth.parse()?);
            if let Some(parent) = above.last() {
                needs.entry(parent.clone()).or_default().insert(package.clone());
            }
            needs.entry(package.clone()).or_default();
            above.push(package);
        }
        Ok(Self { root: above.into_iter().next().context("cargo tree says nothing")?, needs })
    }
}

/// <https://cyclonedx.org/docs/1.6/json/>, without times and random numbers: equal sources have equal bills.
fn bill(tree: &Tree, lock: &Lockfile) -> Result<Value> {
    let others = tree.needs.keys().filter(|package| **package != tree.root);
    let components: Vec<Value> = others.map(|package| library(package, lock)).collect::<Result<_>>()?;
    let edge = |(package, needs): (&Package, &BTreeSet<Package>)| json!({"ref": package.purl(), "dependsOn": needs.iter().map(Package::purl).collect::<Vec<_>>()});
    let dependencies: Vec<Value> = tree.needs.iter().map(edge).collect();
    Ok(json!({"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "metadata": {"component": tree.root.component("application")},
        "components": components, "dependencies": dependencies}))
}

/// A crate of a registry, with what Cargo compares when it downloads it.
fn library(package: &Package, lock: &Lockfile) -> Result<Value> {
    let same = |locked: &&cargo_lock::Package| {
        locked.name.as_str() == package.name && locked.version.to_string() == package.version
    };
    let locked = lock.packages.iter().find(same).with_context(|| format!("{} is not locked", package.purl()))?;
    let checksum = locked.checksum.as_ref().with_context(|| format!("{} has no checksum", package.purl()))?;
    let mut component = package.component("library");
    component["hashes"] = json!([{"alg": "SHA-256", "content": checksum.to_string()}]);
    if !package.repository.is_empty() {
        component["externalReferences"] = json!([{"type": "vcs", "url": package.repository}]);
    }
    Ok(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_this_workspace() -> Value {
        serde_json::from_str(&operator().unwrap()).unwrap()
    }

    #[test]
    fn every_crate_has_a_licence_a_checksum_and_a_place_among_the_dependencies() {
        let bill = of_this_workspace();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let components = bill["components"].as_array().unwrap();
        assert!(components.iter().all(|crate_| !text(&crate_["licenses"][0]["expression"]).is_empty()), "{bill}");
        assert!(components.iter().all(|crate_| text(&crate_["hashes"][0]["content"]).len() == 64), "{bill}");
        let mut listed: BTreeSet<String> = components.iter().map(|crate_| text(&crate_["bom-ref"])).collect();
        assert_eq!(listed.len(), components.len());
        listed.insert(text(&bill["metadata"]["component"]["bom-ref"]));
        let dependencies = bill["dependencies"].as_array().unwrap();
        let known: BTreeSet<String> = dependencies.iter().map(|edge| text(&edge["ref"])).collect();
        assert_eq!(listed, known);
    }

    #[test]
    fn what_is_linked_is_listed_and_what_only_tests_need_is_not() {
        let bill = of_this_workspace();
        let names: Vec<&str> =
            bill["components"].as_array().unwrap().iter().filter_map(|crate_| crate_["name"].as_str()).collect();
        assert!(["kube-client", "rustls", "ring", "tokio"].iter().all(|name| names.contains(name)), "{names:?}");
        assert!(!["proptest", "cel", "rcgen", "mlua"].iter().any(|name| names.contains(name)), "{names:?}");
    }

    #[test]
    fn reads_depths_as_who_needs_whom() {
        let text =
            "0|a v1.0.0 (/x)|Apache-2.0|\n1|b v2.0.0|MIT/Apache-2.0|https://b\n2|c v3.0.0|ISC|\n1|c v3.0.0|ISC|\n";
        let tree = Tree::read(text).unwrap();
        let needs = |name: &str| {
            let (_, needs) = tree.needs.iter().find(|(package, _)| package.name == name).unwrap();
            needs.iter().map(|package| package.name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!((needs("a"), needs("b"), needs("c")), (vec!["b", "c"], vec!["c"], vec![]));
        assert_eq!(tree.root.name, "a");
        assert!(tree.needs.keys().any(|package| package.licence == "MIT OR Apache-2.0"));
    }
}
