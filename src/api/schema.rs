//! Schemas of Kubernetes' own types, with the bounds and descriptions that the generated ones lack, and rules that more than
//! one field has. The API server puts the field before a message, and the value of a text; a list, map or object it leaves
//! out, so that the message itself names what is wrong in it.

use kube::core::{Message, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// The form of a text: a regular expression without `^` and `$`, and what to write.
pub type Form = (&'static str, &'static str);

/// Keys of Secrets.
pub const SECRET_KEY: Form = (
    "[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*",
    "write letters, digits, '-', '_' and '.', but neither '.' alone nor two dots at the start",
);
/// Names of namespaces (RFC 1123).
pub const NAMESPACE: Form = (
    "[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "write the name of a namespace: lower-case letters, digits and '-', with a letter or digit at both ends",
);
/// Names for people, which tools print on one line.
pub const LINE: Form = (r"\P{Cc}+", "write a text without line breaks and other control characters");
const LABEL_VALUE: Form = (
    "([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?",
    "write nothing, or letters, digits, '-', '_' and '.', with a letter or digit at both ends",
);
/// Names of most objects, and prefixes of keys (RFC 1123).
pub const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
/// Hosts in URLs.
pub const HOST: &str = "[A-Za-z0-9]([-_A-Za-z0-9]*[A-Za-z0-9])?([.][A-Za-z0-9]([-_A-Za-z0-9]*[A-Za-z0-9])?)*";
/// Ports in URLs, 1 to 65535.
pub const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

/// The `maxLength` of a text whose rule allows `max` characters. A `maxLength` that fails says neither value nor cure, so it
/// only bounds the cost of the rules.
#[must_use]
pub const fn ceiling(max: usize) -> usize {
    4 * max
}

/// A text of at most so many characters, of this form. A `pattern` that fails cannot say what to write instead.
#[must_use]
pub fn matches(max: usize, (pattern, write): (&str, &str)) -> Rule {
    Rule::new(format!("size(self) <= {max} && self.matches(r'^({pattern})$')"))
        .message(format!("{write} (at most {max} characters)").as_str())
}

/// The schema of the texts in a list or map.
#[must_use]
pub fn text(max: usize, form: (&str, &str)) -> Value {
    json!({"type": "string", "maxLength": ceiling(max), "x-kubernetes-validations": [matches(max, form)]})
}

/// The schema of the values of labels.
#[must_use]
pub fn label_value() -> Value {
    text(63, LABEL_VALUE)
}

/// The status of the condition `Ready` until the operator has written one; it writes True and False alone.
pub const PENDING: &str = "Unknown";

/// Leaves the format out: the API server's refusal of a number beyond it names no field.
pub fn unformatted(schema: &mut Schema) {
    schema.remove("format");
}

/// Longest value that a message shows, in characters: a message beyond 5 kB is dropped for the bare rule.
const SHOWN: usize = 100;

/// CEL for what a message shows of a text: a line break would have the message dropped.
#[must_use]
pub fn shown(text: &str) -> String {
    let start = format!(r"{text}.find('(?s)^.{{0,{SHOWN}}}').replace('\n', ' ')");
    format!(r#"('"' + {start} + (size({text}) > {SHOWN} ? '…"' : '"'))"#)
}

const LABEL_KEY_FORM: &str = "write a name of at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends, after a DNS name and '/' if it has a prefix";

/// CEL for whether a text can be the key of a label or annotation.
fn is_label_key(key: &str) -> String {
    format!(
        "{key}.indexOf('/') <= 253 && {key}.matches('^({SUBDOMAIN}/)?[A-Za-z0-9]([A-Za-z0-9_.-]{{0,61}}[A-Za-z0-9])?$')"
    )
}

/// The keys of a map, `member` in messages.
#[must_use]
pub fn keys(map: &str, member: &str, is_key: &str, write: &str) -> Rule {
    let message =
        format!("{map}.filter(k, !({is_key})).map(k, '{member} has the key ' + {})[0] + \"; {write}\"", shown("k"));
    Rule::new(format!("{map}.all(k, {is_key})")).message(Message::Expression(message))
}

/// Keys that labels and annotations can have.
#[must_use]
pub fn label_keys(member: &str) -> Rule {
    keys("self", member, &is_label_key("k"), LABEL_KEY_FORM)
}

/// An expression of a `LabelSelector`, as the API server takes it in kinds of its own.
fn expression() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : self.operator in ['Exists', 'DoesNotExist'] && (!has(self.values) || size(self.values) == 0)")
        .message(Message::Expression(format!("'the key ' + {} + ' has the operator ' + {} + (has(self.values) && size(self.values) > 0 ? ' with values' : ' without values') + ': write In or NotIn with values, or Exists or DoesNotExist without'", shown("self.key"), shown("self.operator"))))
}

/// A `LabelSelector` with the bounds that keep its CEL rule within the API server's cost limit.
#[must_use]
pub fn selector(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "nullable": true,
        "properties": {
            "matchLabels": {
                "type": "object",
                "description": "Labels that must all be there with this value.",
                "maxProperties": 16,
                "additionalProperties": label_value(),
                "x-kubernetes-validations": [label_keys("matchLabels")]
            },
            "matchExpressions": {
                "type": "array",
                "description": "Requirements that must all hold.",
                "maxItems": 16,
                "items": {
                    "type": "object",
                    "required": ["key", "operator"],
                    "x-kubernetes-validations": [expression()],
                    "properties": {
                        "key": {
                            "type": "string",
                            "description": "The label's key.",
                            "maxLength": ceiling(317),
                            "x-kubernetes-validations": [Rule::new(is_label_key("self")).message(LABEL_KEY_FORM)]
                        },
                        "operator": {
                            "type": "string",
                            "description": "In, NotIn, Exists or DoesNotExist.",
                            "maxLength": ceiling(12)
                        },
                        "values": {
                            "type": "array",
                            "description": "Values for In and NotIn.",
                            "maxItems": 64,
                            "items": label_value()
                        }
                    }
                }
            }
        }
    })
}

/// The status of a policy until the operator has written one: the API server shows it from the first read on, so that tools
/// which take an object without conditions for finished wait for it.
#[must_use]
pub fn pending() -> Value {
    let message = "no status has been written yet: the operator has just begun with this policy, does not run, governs other namespaces, or may not write statuses";
    let ready = json!({"type": "Ready", "status": PENDING, "reason": "Pending", "message": message,
        "lastTransitionTime": "1970-01-01T00:00:00Z"});
    json!({ "conditions": [ready] })
}

/// The schema of `metav1.Condition`, with a description on every field.
#[must_use]
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "description": "Name of the condition." },
                "status": { "type": "string", "description": "True, False or Unknown.", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "description": "Generation the condition was computed for." },
                "lastTransitionTime": { "type": "string", "format": "date-time", "description": "When the status last flipped." },
                "reason": { "type": "string", "description": "One word for the cause, from a documented list." },
                "message": { "type": "string", "description": "Cause and cure, for people." }
            }
        }
    })
}
