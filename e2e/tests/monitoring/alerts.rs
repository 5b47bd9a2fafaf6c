//! The alerts: each fires in its case, none does over what is healthy, and each leads to its runbook.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use tokenward_e2e::pages::{files, has_heading, read};
use tokenward_e2e::prometheus::promtool_ok;
use tokenward_e2e::workspace_dir;

pub const ALERTS: &str = "monitoring/alerts.yaml";
/// Where the sections of the runbooks will be read.
const RUNBOOKS: &str = "https://tokenward.dev/docs/runbooks.html#";

/// The rules of the alerts.
pub fn rules() -> Result<Vec<Value>> {
    let mut alerts: Value = serde_saphyr::from_str(&read(ALERTS)?)?;
    Ok(serde_json::from_value(alerts["groups"][0]["rules"].take())?)
}

pub fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

fn cases() -> Result<Vec<PathBuf>> {
    files(&workspace_dir().join("monitoring/tests"), "yaml")
}

#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_rules() -> Result<()> {
    let path = workspace_dir().join(ALERTS).display().to_string();
    promtool_ok(["check", "rules", "--lint=all", "--lint-fatal", &path]).await?;
    Ok(())
}

#[tokio::test]
async fn each_alert_fires_in_its_case_and_none_over_what_is_healthy() -> Result<()> {
    let cases: Vec<String> = cases()?.iter().map(|path| path.display().to_string()).collect();
    assert!(cases.len() >= 3, "{cases:?}");
    promtool_ok(["test", "rules"].into_iter().map(str::to_owned).chain(cases)).await?;
    Ok(())
}

/// The alerts that a case expects to fire.
fn expected() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for path in cases()? {
        let file: Value = serde_saphyr::from_str(&std::fs::read_to_string(&path)?)?;
        let groups = file["tests"].as_array().with_context(|| format!("{} has no tests", path.display()))?;
        let tests = groups.iter().filter_map(|group| group["alert_rule_test"].as_array()).flatten();
        let fires = |test: &&Value| test["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty());
        names.extend(tests.filter(fires).map(|test| text(test, "alertname").to_owned()));
    }
    Ok(names)
}

#[test]
fn each_alert_has_a_case_in_which_it_fires() -> Result<()> {
    let names: BTreeSet<String> = rules()?.iter().map(|rule| text(rule, "alert").to_owned()).collect();
    assert!(names.len() >= 14, "{names:?}");
    assert_eq!(names, expected()?);
    Ok(())
}

#[test]
fn each_alert_says_what_whose_and_where_to_read_on() -> Result<()> {
    let (runbooks, table) = (read("docs/runbooks.md")?, read("docs/monitoring.md")?);
    for rule in rules()? {
        let (name, severity) = (text(&rule, "alert"), text(&rule["labels"], "severity"));
        let row = table.lines().find(|line| line.starts_with(&format!("| `{severity}` |")));
        ensure!(row.is_some_and(|row| row.contains(&format!("`{name}`"))), "{name} is not among the {severity}");
        let (summary, description) = (text(&rule["annotations"], "summary"), text(&rule["annotations"], "description"));
        ensure!(!summary.is_empty() && !description.is_empty(), "{name} does not say what is wrong");
        let of_policy = text(&rule, "expr").contains("tokenward_policy_");
        for label in ["$labels.namespace", "$labels.policy"].into_iter().filter(|_| of_policy) {
            ensure!(summary.contains(label) && description.contains(label), "{name} does not name {label}");
        }
        let anchor = text(&rule["annotations"], "runbook_url").strip_prefix(RUNBOOKS).context("no runbook")?;
        ensure!(anchor == name.to_lowercase() && has_heading(&runbooks, anchor), "no section for {name}");
    }
    Ok(())
}

#[test]
fn each_runbook_is_of_an_alert_and_complete() -> Result<()> {
    let runbooks = read("docs/runbooks.md")?;
    let names: Vec<String> = rules()?.iter().map(|rule| text(rule, "alert").to_owned()).collect();
    for section in runbooks.split("\n## ").skip(1) {
        let name = section.lines().next().unwrap_or_default();
        ensure!(names.iter().any(|alert| alert == name), "{name} is no alert");
        for part in ["**Meaning.**", "**Impact.**", "**Diagnosis.**", "**Cure.**"] {
            ensure!(section.contains(part), "{name} has no {part}");
        }
    }
    Ok(())
}

/// The metrics that a text asks for, by the names under which they are described.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words =
        text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.starts_with("tokenward_"));
    words
        .map(|word| ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word))
        .collect()
}

#[test]
fn each_metric_that_is_asked_for_is_documented() -> Result<()> {
    let reference = read("docs/reference/metrics.md")?;
    for file in [ALERTS, "monitoring/dashboard.json", "docs/runbooks.md"] {
        let asked = read(file)?;
        let missing: Vec<&str> =
            metrics(&asked).into_iter().filter(|name| !reference.contains(&format!("| `{name}` |"))).collect();
        ensure!(missing.is_empty(), "{file} asks for {missing:?}, of which docs/reference/metrics.md says nothing");
    }
    Ok(())
}
