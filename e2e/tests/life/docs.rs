//! The documents say what the code says: each word has its entry, each link leads somewhere, and each policy in them
//! passes a real API server.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tokenward_e2e::pages::{FORMATS, apply, consumers, documents, files, has_heading, manifests, read};
use tokenward_e2e::scene::{Scene, limits, plane};
use tokenward_e2e::workspace_dir;

const STATUS: &str = "docs/reference/status.md";
const CONDITIONS: &str = "docs/runbooks/conditions.md";
const METRICS: &str = "docs/reference/metrics.md";

/// The pages of the site.
fn site() -> Result<Vec<PathBuf>> {
    files(&workspace_dir().join("docs"), "md")
}

/// The pages of the site, and the documents in the root.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = site()?;
    let root = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"];
    pages.extend(root.map(|page| workspace_dir().join(page)));
    Ok(pages)
}

/// The words in backquotes that a page explains: in its headings and in the first cells of its tables.
fn explained(page: &str) -> BTreeSet<String> {
    let heads = page.lines().filter_map(|line| match line.strip_prefix('|') {
        Some(row) => row.split('|').next(),
        None => line.starts_with('#').then_some(line),
    });
    heads.flat_map(|head| head.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

fn assert_explained(page: &str, words: &BTreeSet<String>) -> Result<()> {
    let explained = explained(&read(page)?);
    let missing: Vec<&String> = words.difference(&explained).collect();
    ensure!(missing.is_empty(), "no heading and no row of {page} explains {missing:?}");
    Ok(())
}

/// The condition types that the CRD names.
fn conditions() -> Result<BTreeSet<String>> {
    let crd: Value = serde_saphyr::from_str(&read("crds/tokenpolicies.yaml")?)?;
    let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions/description";
    let text = crd.pointer(status).and_then(Value::as_str).context("conditions have no description")?;
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    Ok(words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase())).map(str::to_owned).collect())
}

#[test]
fn each_condition_is_explained_and_has_its_cure() -> Result<()> {
    let conditions = conditions()?;
    ensure!(conditions.contains("Ready"), "the list of conditions is not where it was: {conditions:?}");
    for page in [STATUS, CONDITIONS] {
        assert_explained(page, &conditions)?;
    }
    Ok(())
}

/// The rows of the tables of a page whose first cell is such.
fn rows(page: &str, is_row: impl Fn(&str) -> bool) -> Vec<(&str, &str)> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    rows.filter(|(first, _)| is_row(first)).collect()
}

/// The tests that a text names, as `file.rs::function` in backquotes.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('`').skip(1).step_by(2).filter_map(|word| {
        word.split_once("::").filter(|(file, _)| Path::new(file).extension().is_some_and(|end| end == "rs"))
    })
}

#[test]
fn each_attack_and_each_question_is_answered_by_tests_that_exist() -> Result<()> {
    let (threats, security) = (read("docs/explanation/threat-model.md")?, read("SECURITY.md")?);
    let attacks = rows(&threats, |first| first.starts_with('T'));
    let ids: Vec<String> = attacks.iter().map(|(id, _)| (*id).to_owned()).collect();
    assert_eq!(ids, (1..=46).map(|n| format!("T{n}")).collect::<Vec<_>>());
    let questions = rows(&security, |first| first.parse::<u32>().is_ok());
    assert!(questions.len() >= 20, "{} questions", questions.len());
    for (id, answer) in attacks.iter().chain(&questions) {
        ensure!(named_tests(answer).next().is_some(), "no test answers {id}");
        for (file, name) in named_tests(answer) {
            let source = read(file)?;
            let (before, _) =
                source.split_once(&format!("fn {name}(")).with_context(|| format!("{id}: no {file}::{name}"))?;
            let attribute = before.trim_end().trim_end_matches("async").trim_end();
            ensure!(attribute.ends_with("test]"), "{id}: {file}::{name} is no test");
        }
    }
    Ok(())
}

/// The links of a text that lead to no other site.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://"))
}

/// A link of a page: the file that it leads to, which exists and has the heading.
fn target(page: &Path, link: &str) -> Result<PathBuf> {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let to = if path.is_empty() { page.to_owned() } else { page.parent().context("no folder")?.join(path) };
    let to = to.canonicalize().with_context(|| format!("{} links to {link}", page.display()))?;
    let found = heading.is_empty() || has_heading(&fs::read_to_string(&to)?, heading);
    ensure!(found, "{}: no heading for {link}", page.display());
    Ok(to)
}

#[test]
fn each_link_leads_somewhere() -> Result<()> {
    for page in pages()? {
        for link in links(&fs::read_to_string(&page)?) {
            target(&page, link)?;
        }
    }
    Ok(())
}

/// A page of the site is found in its contents, and leads to nothing that the site does not have.
#[test]
fn the_site_is_complete_in_itself() -> Result<()> {
    let docs = workspace_dir().join("docs").canonicalize()?;
    let contents = docs.join("SUMMARY.md");
    let text = fs::read_to_string(&contents)?;
    let mut listed = links(&text).map(|link| target(&contents, link)).collect::<Result<Vec<_>>>()?;
    listed.sort();
    let mut written = site()?.iter().map(fs::canonicalize).collect::<std::io::Result<Vec<_>>>()?;
    written.retain(|page| *page != contents);
    written.sort();
    assert_eq!(listed, written, "docs/SUMMARY.md lists each page once");
    for page in written {
        for link in links(&fs::read_to_string(&page)?) {
            let to = target(&page, link)?;
            ensure!(
                to.starts_with(&docs) && to.is_file(),
                "{} links to {link}, which is no page of the site",
                page.display()
            );
        }
    }
    Ok(())
}

/// Creates the namespaces of a manifest that are not there yet.
async fn prepare(manifest: &str, there: &mut BTreeSet<String>) -> Result<()> {
    for document in documents(manifest)? {
        let namespace = document["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        if there.insert(namespace.clone()) {
            plane().await?.create_namespace(&namespace).await?;
            limits::widen(&plane().await?.client().await?, &namespace).await?;
        }
    }
    Ok(())
}

/// Applies the manifests of a page on a format, and expects each key of the Secrets they bring on that page.
async fn works(scene: &Scene, page: &str, text: &str) -> Result<()> {
    for manifest in manifests(text) {
        apply(page, manifest, &[]).await?;
        for document in documents(manifest)?.iter().filter(|document| document["kind"] == "TokenPolicy") {
            let policy = document["metadata"]["name"].as_str().context("a policy without name")?;
            scene.ready(policy).await.with_context(|| page.to_owned())?;
            let targets = scene.targets().await?;
            let mut own = targets.values().filter(|target| target.says("policy") == policy).peekable();
            ensure!(own.peek().is_some(), "{page}: {policy} has no Secret");
            for key in own.flat_map(|target| target.data.keys()) {
                ensure!(text.contains(&format!("`{key}`")), "{page} does not tell of the key {key}");
            }
        }
    }
    Ok(())
}

/// All pages but those of consumers, whose manifests the tests of the consumers apply.
fn others() -> Result<Vec<(String, String)>> {
    let consumers: BTreeSet<PathBuf> =
        consumers()?.iter().map(|of| workspace_dir().join(format!("{FORMATS}/{}.md", of.page))).collect();
    let others = pages()?.into_iter().filter(|page| !consumers.contains(page));
    others.map(|page| Ok((page.display().to_string(), fs::read_to_string(page)?))).collect()
}

#[tokio::test]
async fn each_policy_in_the_documents_passes_the_server_and_the_formats_work() -> Result<()> {
    let scene = Scene::start("ci").await?;
    let mut there = BTreeSet::from(["ci".to_owned(), "default".to_owned()]);
    let (pages, mut passed) = (others()?, 0);
    for (page, text) in &pages {
        for manifest in manifests(text) {
            prepare(manifest, &mut there).await?;
            apply(page, manifest, &["--dry-run=server"]).await?;
            passed += 1;
        }
    }
    assert!(passed >= 6, "only {passed} policies were found");
    for (page, text) in pages.iter().filter(|(page, _)| page.contains(FORMATS)) {
        works(&scene, page, text).await?;
    }
    Ok(())
}

#[tokio::test]
async fn each_metric_and_each_label_is_explained() -> Result<()> {
    let scene = Scene::start("metrics").await?;
    scene.deployer(serde_json::json!({})).await?;
    let metrics = scene.operator.metrics().await?;
    let names = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let labels = metrics.lines().filter_map(|line| line.split_once('{')?.1.split_once('}')).map(|(labels, _)| labels);
    let labels = labels.flat_map(|labels| labels.split(',').filter_map(|label| label.split_once('=')));
    // The bounds of a histogram are Prometheus' own.
    let labels = labels.map(|(name, _)| name).filter(|name| *name != "le");
    assert_explained(METRICS, &names.chain(labels).map(str::to_owned).collect())
}
