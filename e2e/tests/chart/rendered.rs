//! `helm template` and `kubectl kustomize` give the same objects.

use crate::helm;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use tokenward_e2e::helm::RELEASE;
use tokenward_e2e::scene::overlay::{manifests, render};
use tokenward_e2e::{chart, target_dir, workspace_dir, write_overlay};

/// What `helm list` and people who look for a release go by; kustomize has no release.
const LABELS: [&str; 4] =
    ["helm.sh/chart", "app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"];
/// Helm keeps what has this annotation; with kustomize, `kubectl delete -l app.kubernetes.io/component!=api` keeps the same.
const KEEP: &str = "helm.sh/resource-policy";

/// An overlay, and the namespace and values that ask for the same.
struct Case {
    overlay: String,
    namespace: &'static str,
    values: &'static [&'static str],
}

fn case(overlay: &str, values: &'static [&'static str]) -> Case {
    Case { overlay: overlay.to_owned(), namespace: "tokenward-system", values }
}

fn component(name: &str, values: &'static [&'static str]) -> Case {
    case(&format!("resources: [CONFIG/install]\ncomponents: [CONFIG/components/{name}]\n"), values)
}

fn cases() -> Vec<Case> {
    let moved = "namespace: acme\nresources: [CONFIG/install]\ntransformers: [CONFIG/other-namespace]\n";
    vec![
        case("resources: [CONFIG/install]\n", &[]),
        case("resources: [CONFIG/default]\n", &["crds.install=false"]),
        case(
            "resources: [CONFIG/multi-namespace]\n",
            &["crds.install=false", r#"scope="Namespaces""#, r#"namespaces=["team-a","team-b"]"#],
        ),
        case(
            "resources: [CONFIG/namespaced]\n",
            &["crds.install=false", r#"scope="Namespace""#, r#"namespaces=["ci"]"#],
        ),
        Case { namespace: "acme", ..case(moved, &[]) },
        component("bootstrap-signer", &["components.bootstrapSigner=true"]),
        component("bootstrap-token-policy", &["components.bootstrapTokenPolicy=true"]),
        component("legacy-token-policy", &["components.legacyTokenPolicy=true"]),
        component("monitoring", &["monitoring.enabled=true"]),
        component("no-bootstrap-token-cleaner", &[r#"flags.bootstrapTokenCleaner="off""#]),
        component("roles", &["components.roles=true"]),
    ]
}

/// Takes a map's entry; a map that is empty then goes as well.
fn take(metadata: &mut Value, field: &str, key: &str) -> Option<Value> {
    let map = metadata.get_mut(field)?.as_object_mut()?;
    let taken = map.remove(key);
    if map.is_empty() {
        metadata.as_object_mut()?.remove(field);
    }
    taken
}

/// Takes away what Helm alone has.
fn strip(manifest: &mut Value) -> Result<()> {
    let metadata = &mut manifest["metadata"];
    for label in LABELS {
        take(metadata, "labels", label).with_context(|| format!("{metadata} lacks {label}"))?;
    }
    let kept = take(metadata, "annotations", KEEP);
    let stays = metadata["labels"]["app.kubernetes.io/component"] == "api";
    ensure!(kept == stays.then(|| "keep".into()), "{metadata}: {KEEP} is {kept:?}");
    Ok(())
}

fn by_name(manifests: Vec<Value>) -> BTreeMap<String, Value> {
    let name = |manifest: &Value| {
        format!("{} {}/{}", manifest["kind"], manifest["metadata"]["namespace"], manifest["metadata"]["name"])
    };
    manifests.into_iter().map(|manifest| (name(&manifest), manifest)).collect()
}

/// What kustomize builds.
fn wanted(n: usize, case: &Case) -> Result<BTreeMap<String, Value>> {
    let folder = write_overlay(target_dir().join(format!("e2e/chart-overlays/{n}")), &case.overlay)?;
    let mut manifests = render(&folder)?;
    // Helm keeps the release in the namespace, so it is there before anything is installed: `--create-namespace`.
    manifests.retain(|manifest| manifest["kind"] != "Namespace");
    // With `namespace:` kustomize puts it on these as well, and kubectl ignores it: they have none.
    let admission = |kind: &Value| kind.as_str().is_some_and(|kind| kind.starts_with("ValidatingAdmissionPolicy"));
    for manifest in manifests.iter_mut().filter(|manifest| admission(&manifest["kind"])) {
        manifest["metadata"].as_object_mut().and_then(|metadata| metadata.remove("namespace"));
    }
    Ok(by_name(manifests))
}

#[tokio::test]
async fn each_shape_and_component_is_what_kustomize_builds() -> Result<()> {
    let (helm, folder) = (helm().await?, chart::folder());
    let folder = folder.to_string_lossy();
    for (n, case) in cases().iter().enumerate() {
        let mut args = vec!["template", RELEASE, &folder, "--namespace", case.namespace];
        args.extend(case.values.iter().flat_map(|value| ["--set-json", value]));
        let mut rendered = manifests(&helm.ok(&args).await?)?;
        rendered.iter_mut().try_for_each(strip).with_context(|| case.overlay.clone())?;
        let (rendered, wanted) = (by_name(rendered), wanted(n, case)?);
        let names = |manifests: &BTreeMap<String, Value>| manifests.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&rendered), names(&wanted), "{}", case.overlay);
        for (name, manifest) in &wanted {
            assert_eq!(&rendered[name], manifest, "{}: {name}", case.overlay);
        }
    }
    Ok(())
}

#[test]
fn each_component_is_compared() -> Result<()> {
    for entry in fs::read_dir(workspace_dir().join("config/components"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let compared = cases().iter().any(|case| case.overlay.contains(&format!("CONFIG/components/{name}]")));
        ensure!(compared, "no case compares {name}");
    }
    Ok(())
}
