//! The tables of `docs/reference/` that the code knows: `make reference` writes them, and a test fails while they differ.

use std::{collections::BTreeMap, env, fs, path::Path};

use clap::{Arg, CommandFactory as _};
use kube::CustomResourceExt as _;
use serde_json::Value;
use strum::{EnumMessage, IntoEnumIterator};

use crate::{
    api::{
        bootstrap_token_policy::BootstrapTokenPolicy, duration, foreign, legacy_token_policy::LegacyTokenPolicy,
        token_policy::TokenPolicy,
    },
    cli::Cli,
    core::reason::{AddressReason, FailureReason, IssueReason, RetireReason},
    shell::metrics::Metrics,
};

/// A page, the name of a table in it, and the table.
type Table = (&'static str, &'static str, fn() -> String);

const TABLES: [Table; 11] = [
    ("token-policy", "token-policy", || fields(&TokenPolicy::crd())),
    ("bootstrap-token-policy", "bootstrap-token-policy", || fields(&BootstrapTokenPolicy::crd())),
    ("legacy-token-policy", "legacy-token-policy", || fields(&LegacyTokenPolicy::crd())),
    ("flags", "flags", flags),
    ("metrics", "metrics", metrics),
    ("alerts", "alerts", alerts),
    ("reasons", "failure-reasons", failures),
    ("events", "issue-reasons", || meanings::<IssueReason>("cause")),
    ("events", "retire-reasons", || meanings::<RetireReason>("cause")),
    ("address", "address-reasons", || meanings::<AddressReason>("reason")),
    ("labels-and-annotations", "refused-keys", refused_keys),
];

#[test]
fn tables_are_those_of_the_code() {
    for (page, name, table) in TABLES {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("docs/reference/{page}.md"));
        let stored = fs::read_to_string(&path).unwrap();
        let head = format!("<!-- written by `make reference`: {name} -->\n");
        let (before, rest) = stored.split_once(&head).expect(name);
        let (_, after) = rest.split_once("<!-- end -->").expect(name);
        let fresh = format!("{before}{head}\n{}\n<!-- end -->{after}", table());
        if env::var_os("WRITE_REFERENCE").is_some() {
            fs::write(&path, fresh).unwrap();
        } else {
            assert!(
                stored == fresh,
                "the table {name} of {} is not that of the code: run `make reference`",
                path.display()
            );
        }
    }
}

/// Lines of a table; an empty cell stays empty.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace("|  |", "| |"));
    let head: Vec<String> = head.iter().map(|&cell| cell.into()).collect();
    let rule = format!("|{}\n", "---|".repeat(head.len()));
    std::iter::once(line(&head)).chain([rule]).chain(rows.into_iter().map(|row| line(&row))).collect()
}

/// A text as Markdown shows it unchanged in a cell.
fn plain(text: &str) -> String {
    let text = text.replace('|', "\\|").replace('<', "\\<").replace('*', "\\*");
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_owned()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

/// The fields of spec and status, one table for each object among them.
fn fields(crd: &impl serde::Serialize) -> String {
    let crd = serde_json::to_value(crd).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    ["spec", "status"].map(|part| format!("## `{part}`\n\n{}", object("", &schema[part]))).join("\n")
}

/// The table of an object's own fields, and then those of the objects in it, by their path.
fn object(path: &str, schema: &Value) -> String {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let members: BTreeMap<&String, &Value> = schema["properties"].as_object().unwrap().iter().collect();
    let (objects, leaves): (Vec<_>, Vec<_>) = members.into_iter().partition(|(_, field)| inner(field).is_some());
    let row = |(name, field): (&String, &Value)| field_row(name, field, required.contains(&name.as_str()));
    let head = ["field", "type", "default", "meaning"];
    let own = if leaves.is_empty() { String::new() } else { table(&head, leaves.into_iter().map(row)) };
    std::iter::once(own).chain(objects.into_iter().map(|(name, field)| section(path, name, field))).collect()
}

/// The heading, description and tables of an object within another.
fn section(path: &str, name: &str, field: &Value) -> String {
    let of_each = if field["items"].is_object() { "[]" } else { "" };
    let path = format!("{path}{name}{of_each}");
    let about = plain(field["description"].as_str().unwrap());
    format!("\n### `{path}`\n\n{about}.\n\n{}", object(&format!("{path}."), inner(field).unwrap()))
}

/// The object that a field is, or is a list of; Kubernetes' own types are not taken apart.
fn inner(field: &Value) -> Option<&Value> {
    let within = if field["items"].is_object() { &field["items"] } else { field };
    let ours = within["properties"]
        .as_object()
        .filter(|of| !of.contains_key("matchLabels") && !of.contains_key("lastTransitionTime"));
    ours.map(|_| within)
}

fn field_row(name: &str, field: &Value, required: bool) -> Vec<String> {
    let default = match &field["default"] {
        Value::Null if required => "required".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => code(text),
        other => code(&other.to_string()),
    };
    vec![code(name), kind(field), default, plain(field["description"].as_str().unwrap_or_default())]
}

/// The type of a field in words, with its bounds.
fn kind(field: &Value) -> String {
    let rules = field["x-kubernetes-validations"].as_array();
    if let Some(words) = field["enum"].as_array() {
        return words.iter().filter_map(Value::as_str).map(code).collect::<Vec<_>>().join(", ");
    }
    match field["type"].as_str().unwrap_or_default() {
        "string" if rules.into_iter().flatten().any(|rule| rule["rule"] == duration::RULE) => "duration".into(),
        "object" if field["additionalProperties"].is_object() => {
            format!("map of strings{}", count(field, "Properties"))
        }
        "object" => "label selector".into(),
        "array" if field["items"]["properties"].is_object() => "list of conditions".into(),
        "array" => format!("list of strings{}", count(field, "Items")),
        "integer" => format!("integer{}", range(&field["minimum"], &field["maximum"])),
        other => other.into(),
    }
}

fn count(field: &Value, of: &str) -> String {
    range(&field[format!("min{of}")], &field[format!("max{of}")])
}

fn range(least: &Value, most: &Value) -> String {
    match (least.as_f64(), most.as_f64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (None, Some(most)) => format!(", at most {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, None) => String::new(),
    }
}

/// The flags of `tokenward run`.
fn flags() -> String {
    let cli = Cli::command();
    let run = cli.find_subcommand("run").unwrap();
    let rows = run.get_arguments().filter(|arg| arg.get_long() != Some("help")).map(flag);
    table(&["flag", "environment variable", "default", "meaning"], rows)
}

fn flag(arg: &Arg) -> Vec<String> {
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| code(&value.to_string_lossy())).collect();
    let words = arg.get_possible_values();
    let words = words.iter().filter_map(|word| Some(format!("{}: {}", code(word.get_name()), word.get_help()?)));
    let help = plain(&arg.get_long_help().or(arg.get_help()).unwrap().to_string());
    let meaning: Vec<String> = std::iter::once(help).chain(words.map(|word| plain(&word))).collect();
    let (long, env) = (arg.get_long().unwrap(), arg.get_env().unwrap().to_string_lossy());
    vec![code(&format!("--{long}")), code(&env), defaults.join(", "), meaning.join(". ")]
}

/// The metrics, with the labels that their samples have.
fn metrics() -> String {
    let text = Metrics::one_of_each().text();
    let described = |mark: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(mark)?.split_once(' '));
        lines.collect::<BTreeMap<_, _>>()
    };
    let (help, kinds) = (described("# HELP "), described("# TYPE "));
    let row = |(name, help): (&str, &str)| vec![code(name), kinds[name].into(), labels(&text, name), plain(help)];
    table(&["metric", "type", "labels", "meaning"], help.into_iter().map(row))
}

/// The labels of a metric's first sample; that of a histogram which has the labels is its count.
fn labels(text: &str, name: &str) -> String {
    let samples = text.lines().filter_map(|line| line.strip_prefix(name));
    let mut labels =
        samples.filter_map(|rest| rest.strip_prefix("_count").unwrap_or(rest).strip_prefix('{')?.split_once('}'));
    let pairs = labels.next().map_or("", |(labels, _)| labels).split(',');
    pairs.filter_map(|pair| pair.split_once('=')).map(|(label, _)| code(label)).collect::<Vec<_>>().join(", ")
}

/// The alerts with their runbooks, in the order of the rule file.
fn alerts() -> String {
    let rules: Value = serde_saphyr::from_str(include_str!("../monitoring/alerts.yaml")).unwrap();
    let rules = rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap());
    let row = |rule: &Value| {
        let text = |path: &str| rule.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let alert = text("/alert");
        let link = format!("[`{alert}`](../runbooks.md#{})", alert.to_lowercase());
        vec![link, text("/labels/severity").into(), text("/for").into(), plain(text("/annotations/summary"))]
    };
    table(&["alert", "severity", "after", "summary"], rules.map(row))
}

/// Each failure with its cause, and the cure that its messages end with.
fn failures() -> String {
    let row = |reason: FailureReason| {
        let word: &str = reason.into();
        let link = format!("[`{word}`](../runbooks/reasons.md#{})", word.to_lowercase());
        vec![link, plain(reason.get_documentation().unwrap()), plain(reason.cure())]
    };
    table(&["reason", "cause", "cure"], FailureReason::iter().map(row))
}

/// Each word of a closed list with its meaning.
fn meanings<T: EnumMessage + IntoEnumIterator + Into<&'static str> + Copy>(title: &str) -> String {
    let row = |word: T| vec![code(word.into()), plain(word.get_documentation().unwrap())];
    table(&[title, "meaning"], T::iter().map(row))
}

/// Domains of the keys that policies may not give a Secret, by the reason.
fn refused_keys() -> String {
    let row = |(why, domains): (&str, &[&str])| {
        vec![domains.iter().map(|domain| code(domain)).collect::<Vec<_>>().join(", "), plain(why)]
    };
    table(&["keys under", "are refused because"], foreign::ACTING.map(row))
}
