//! A manifest as a template: its fields, some of which depend on values.

use crate::operator::NAMESPACE;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// What kustomize has in the place of the watched namespaces, before it fills them in.
pub(super) const WATCHED: &str = "watched";
/// The flag that names them.
pub(super) const NAMESPACES: &str = "--namespace=";
pub(super) const WATCH: &str = "--namespace=watched";

/// A field's content.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// What is the same for all values.
    Leaf(Value),
    Map(Vec<Branch>),
    List(Vec<Branch>),
    /// A scalar that a template expression gives.
    Scalar(String),
    /// A whole field, which is left out where the source gives nothing.
    Block(Source),
    /// More fields or items beside those there are.
    Splice(Source),
}

/// A field or item, and the condition under which it is there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Branch {
    /// Empty in a list.
    pub key: String,
    pub when: Option<String>,
    pub node: Node,
}

/// Where YAML comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Source {
    /// A key of `values.yaml`.
    Values(&'static str),
    /// A template of `_helpers.tpl`.
    Helper(&'static str),
}

impl Source {
    /// An expression that is empty where there is nothing, and how to print it.
    fn expressions(self) -> (String, &'static str) {
        match self {
            Self::Values(key) => (format!("$.Values.{key}"), "toYaml ."),
            Self::Helper(name) => (format!("include \"{name}\" $"), "."),
        }
    }
}

impl From<&Value> for Node {
    fn from(value: &Value) -> Self {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                Self::Map(fields.iter().map(|(key, value)| Branch::new(key, value.into())).collect())
            }
            Value::Array(items) if !items.is_empty() => {
                Self::List(items.iter().map(|item| Branch::new("", item.into())).collect())
            }
            Value::String(text) => expression(text).map_or_else(|| Self::Leaf(value.clone()), Self::Scalar),
            leaf => Self::Leaf(leaf.clone()),
        }
    }
}

/// Texts that stand for what the release decides.
fn expression(text: &str) -> Option<String> {
    match text {
        NAMESPACE => Some("$.Release.Namespace | quote".to_owned()),
        WATCHED => Some(". | quote".to_owned()),
        WATCH => Some(format!("printf \"{NAMESPACES}%s\" (join \",\" $.Values.namespaces) | quote")),
        _ => None,
    }
}

impl Node {
    /// Adds what `variant` has beyond `reference`, under this condition.
    pub(super) fn add(&mut self, reference: &Value, variant: &Value, when: &str) -> Result<()> {
        match (self, reference, variant) {
            (_, reference, variant) if reference == variant => {}
            (Self::Map(branches), Value::Object(old), Value::Object(new)) => {
                ensure!(old.keys().all(|key| new.contains_key(key)), "a field is gone: {variant}");
                for (key, value) in new {
                    match (old.get(key), branches.iter_mut().find(|branch| branch.key == *key)) {
                        (Some(old), Some(branch)) => branch.node.add(old, value, when).with_context(|| key.clone())?,
                        (None, None) => branches.push(Branch::new(key, value.into()).when(when)),
                        _ => bail!("two variants add {key}"),
                    }
                }
            }
            (Self::List(branches), Value::Array(old), Value::Array(new)) => {
                ensure!(new.len() >= old.len(), "an item is gone: {variant}");
                for ((branch, old), new) in branches.iter_mut().zip(old).zip(new) {
                    branch.node.add(old, new, when)?;
                }
                branches.extend(new[old.len()..].iter().map(|item| Branch::new("", item.into()).when(when)));
            }
            _ => bail!("{variant} takes the place of {reference}, and only additions can depend on a value"),
        }
        Ok(())
    }

    /// The field at a path like `spec/containers/0/args/--flag`: an item is found by its number or its text.
    pub(super) fn at(&mut self, path: &str) -> Option<&mut Branch> {
        let (first, rest) = path.split_once('/').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let (Self::Map(branches) | Self::List(branches)) = self else { return None };
        let number = first.parse().ok();
        let is_meant = |n: usize, branch: &Branch| {
            number == Some(n) || branch.key == first || branch.node == Self::Leaf(first.into())
        };
        let (_, branch) = branches.iter_mut().enumerate().find(|(n, branch)| is_meant(*n, branch))?;
        match rest {
            Some(rest) => branch.node.at(rest),
            None => Some(branch),
        }
    }

    /// The fields or items of a map or list.
    pub(super) fn branches(&mut self) -> Option<&mut Vec<Branch>> {
        match self {
            Self::Map(branches) | Self::List(branches) => Some(branches),
            _ => None,
        }
    }

    /// The lines of a map or list.
    pub(super) fn print(&self, indent: usize) -> String {
        match self {
            Self::Map(branches) | Self::List(branches) => branches.iter().map(|branch| branch.print(indent)).collect(),
            _ => String::new(),
        }
    }
}

impl Branch {
    pub(super) fn new(key: &str, node: Node) -> Self {
        Self { key: key.to_owned(), when: None, node }
    }

    pub(super) fn when(self, when: &str) -> Self {
        Self { when: Some(when.to_owned()), ..self }
    }

    fn print(&self, indent: usize) -> String {
        let text = self.content(indent);
        match &self.when {
            Some(when) => {
                let pad = " ".repeat(indent);
                format!("{pad}{}\n{text}{pad}{}\n", action(&format!("if {when}")), action("end"))
            }
            None => text,
        }
    }

    fn content(&self, indent: usize) -> String {
        let pad = " ".repeat(indent);
        let lead = if self.key.is_empty() {
            format!("{pad}-")
        } else {
            format!("{pad}{}:", scalar(&self.key.as_str().into()))
        };
        match &self.node {
            Node::Leaf(value) => format!("{lead} {}\n", scalar(value)),
            Node::Scalar(expression) => format!("{lead} {{{{ {expression} }}}}\n"),
            Node::Map(_) if self.key.is_empty() => item(&self.node.print(indent + 2), indent),
            Node::Map(_) | Node::List(_) => format!("{lead}\n{}", self.node.print(indent + 2)),
            Node::Block(source) => {
                let (given, print) = source.expressions();
                let content = action(&format!("{print} | nindent {}", indent + 2));
                format!("{pad}{}\n{lead}\n{pad}  {content}\n{pad}{}\n", action(&format!("with {given}")), action("end"))
            }
            Node::Splice(source) => {
                let (given, print) = source.expressions();
                let content = action(&format!("{print} | nindent {indent}"));
                format!("{pad}{}\n{pad}{content}\n{pad}{}\n", action(&format!("with {given}")), action("end"))
            }
        }
    }
}

/// Takes the line break before it away, so that what prints nothing leaves no empty line.
pub(super) fn action(text: &str) -> String {
    ["{{- ", text, " }}"].concat()
}

/// The fields of a map as an item of a list; the dash stands before the first, unless that is an action.
fn item(fields: &str, indent: usize) -> String {
    let pad = " ".repeat(indent);
    match fields.strip_prefix(&" ".repeat(indent + 2)) {
        Some(first) if !first.starts_with("{{") => format!("{pad}- {first}"),
        _ => format!("{pad}-\n{fields}"),
    }
}

/// JSON is YAML; the rest is for readers. Braces that are not the template's own are printed by it.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string().replace("{{", r#"{{ "{{" }}"#),
    }
}

/// Whether YAML reads it as this text without quotes.
fn is_plain(text: &str) -> bool {
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " ._/-".contains(c))
        && !text.ends_with(' ')
        && !words.contains(&text.to_ascii_lowercase().as_str())
}

/// A value as lines of YAML below its key.
pub(super) fn block(value: &Value, indent: usize) -> String {
    match Node::from(value) {
        Node::Leaf(value) => format!(" {}\n", scalar(&value)),
        node => format!("\n{}", node.print(indent)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(base: &Value, variant: &Value) -> Result<String> {
        let mut node = Node::from(base);
        node.add(base, variant, "x")?;
        Ok(node.print(0))
    }

    #[test]
    fn what_a_variant_adds_has_its_condition() {
        let base = json!({"a": [{"b": ["c"]}]});
        let text = template(&base, &json!({"a": [{"b": ["c", "--d"]}], "e": {}})).unwrap();
        let item = "a:\n  - b:\n      - c\n      {{- if x }}\n      - \"--d\"\n      {{- end }}\n";
        assert_eq!(text, format!("{item}{{{{- if x }}}}\ne: {{}}\n{{{{- end }}}}\n"));
    }

    #[test]
    fn what_a_variant_takes_or_changes_is_an_error() {
        let base = json!({"a": {"b": [1]}});
        for variant in [json!({}), json!({"a": {"b": [2]}}), json!({"a": {"b": []}}), json!({"a": []})] {
            assert!(template(&base, &variant).is_err(), "{variant}");
        }
    }

    #[test]
    fn texts_that_yaml_or_the_template_would_read_otherwise_are_quoted() {
        let words = ["yes", "1", "a: b", "{{ a }}", "say \"x\"", "-a", "plain text", "/livez", ""];
        let read = words.map(|word| scalar(&word.into()));
        let wanted = [
            "\"yes\"",
            "\"1\"",
            "\"a: b\"",
            r#""{{ "{{" }} a }}""#,
            r#""say \"x\"""#,
            "\"-a\"",
            "plain text",
            "/livez",
            "\"\"",
        ];
        assert_eq!(read, wanted);
    }
}
