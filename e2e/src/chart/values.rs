//! `values.yaml` with its comments, and the schema and the table that follow from it.

use super::node::block;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Stands for a default that is in `config/`.
const CONFIG: &str = "\"@CONFIG@\"";
/// A default longer than this does not fit into a table.
const WIDE: usize = 60;

/// A key of `values.yaml`.
#[derive(Debug)]
pub(super) struct Key {
    /// With those above it, separated by dots.
    pub path: String,
    /// Its comment.
    pub comment: String,
    /// What its schema says beside the type and the comment.
    rules: Map<String, Value>,
}

/// The values of the chart.
#[derive(Debug)]
pub(super) struct Values {
    /// The file.
    pub text: String,
    /// Every key, in the order of the file.
    pub keys: Vec<Key>,
    /// What the file says.
    pub defaults: Value,
}

impl Values {
    /// Reads the hand-written file: `# -- ` begins a comment, `# @schema ` a line of rules.
    ///
    /// # Errors
    /// When a default is missing or left over, or the text is no YAML.
    pub(super) fn read(source: &str, defaults: &BTreeMap<&str, Value>) -> Result<Self> {
        let mut reader = Reader { defaults: defaults.clone(), ..Reader::default() };
        for line in source.lines() {
            reader.line(line).with_context(|| line.to_owned())?;
        }
        ensure!(reader.defaults.is_empty(), "values.yaml lacks {:?}", reader.defaults.keys());
        let defaults = serde_saphyr::from_str(&reader.text).context("values.yaml")?;
        Ok(Self { text: reader.text, keys: reader.keys, defaults })
    }

    /// The default of a key.
    fn default(&self, path: &str) -> &Value {
        self.defaults.pointer(&format!("/{}", path.replace('.', "/"))).unwrap_or(&Value::Null)
    }

    /// The keys that hold no others.
    fn leaves(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter().filter(|key| self.below(&key.path).next().is_none())
    }

    fn below(&self, section: &str) -> impl Iterator<Item = &Key> {
        let parent = |path: &str| path.rsplit_once('.').map_or(String::new(), |(parent, _)| parent.to_owned());
        self.keys.iter().filter(move |key| parent(&key.path) == section)
    }

    /// The JSON schema: no key that the file does not have.
    pub(super) fn schema(&self) -> Value {
        let mut schema = self.section("");
        schema["$schema"] = "http://json-schema.org/draft-07/schema#".into();
        // Helm gives it to every chart that another one depends on.
        schema["properties"]["global"] = json!({"type": "object", "description": "Values of a parent chart."});
        schema["properties"]["enabled"] = json!({"type": "boolean", "description": "Condition of a parent chart."});
        schema
    }

    fn section(&self, path: &str) -> Value {
        let properties: Map<String, Value> = self.below(path).map(|key| (last(&key.path), self.of(key))).collect();
        // Helm takes a key away that somebody sets to null, and the templates need it.
        let needed = self.below(path).filter(|key| !self.default(&key.path).is_null());
        let required: Vec<String> = needed.map(|key| last(&key.path)).collect();
        json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required})
    }

    fn of(&self, key: &Key) -> Value {
        let mut schema = match self.below(&key.path).next() {
            Some(_) => self.section(&key.path),
            None => json!({"type": kind(self.default(&key.path))}),
        };
        schema["description"] = key.comment.clone().into();
        for (name, rule) in &key.rules {
            schema[name] = rule.clone();
        }
        schema
    }

    /// The table of the README.
    pub(super) fn table(&self) -> String {
        let mut table = "| key | default | |\n|---|---|---|\n".to_owned();
        for key in self.leaves() {
            let default = self.default(&key.path).to_string();
            let default = if default.len() > WIDE { "see `values.yaml`".to_owned() } else { format!("`{default}`") };
            // Writing to a string cannot fail.
            let _ = writeln!(table, "| `{}` | {default} | {} |", key.path, key.comment.replace('|', "\\|"));
        }
        table
    }
}

fn last(path: &str) -> String {
    path.rsplit('.').next().unwrap_or_default().to_owned()
}

fn kind(default: &Value) -> &'static str {
    match default {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[derive(Default)]
struct Reader<'a> {
    defaults: BTreeMap<&'a str, Value>,
    above: Vec<String>,
    comment: String,
    rules: Map<String, Value>,
    keys: Vec<Key>,
    text: String,
}

impl Reader<'_> {
    fn line(&mut self, line: &str) -> Result<()> {
        let text = line.trim_start();
        if let Some(rules) = text.strip_prefix("# @schema ") {
            self.rules = serde_json::from_str(rules)?;
            return Ok(());
        }
        if let Some(comment) = text.strip_prefix("# -- ") {
            comment.clone_into(&mut self.comment);
        } else if !text.is_empty() && !text.starts_with('#') {
            return self.key(line, (line.len() - text.len()) / 2);
        }
        self.text.push_str(line);
        self.text.push('\n');
        Ok(())
    }

    fn key(&mut self, line: &str, depth: usize) -> Result<()> {
        let Some((name, default)) = line.trim_start().split_once(':') else { bail!("this is no key") };
        self.above.truncate(depth);
        self.above.push(name.to_owned());
        let path = self.above.join(".");
        if default.trim() == CONFIG {
            let found = self.defaults.remove(path.as_str()).context("config/ gives no default for it")?;
            self.text.push_str(&line.replace(&format!(" {CONFIG}"), &block(&found, 2 * depth + 2)));
        } else {
            self.text.push_str(line);
            self.text.push('\n');
        }
        self.keys.push(Key {
            path,
            comment: std::mem::take(&mut self.comment),
            rules: std::mem::take(&mut self.rules),
        });
        Ok(())
    }
}
