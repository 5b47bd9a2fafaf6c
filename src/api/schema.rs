//! Schemas of Kubernetes' own types, with the bounds and descriptions that the generated ones lack, and rules that more than
//! one field has. The API server puts the field before a message, and the value of a text; a list, map or object it leaves
//! out, so that the message itself names what is wrong in it.

use kube::core::{Message, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

/// Keys of Secrets, as a regular expression.
pub const SECRET_KEY: &str = "^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$";
/// The rule for one such key.
pub const SECRET_KEY_FORM: &str = "write letters, digits, '-', '_' and '.', without two dots at the start";

/// A text of this form. A `pattern` that fails cannot say what to write instead.
#[must_use]
pub fn matches(pattern: &str, message: &str) -> Rule {
    Rule::new(format!("self.matches(r'{pattern}')")).message(message)
}

/// The schema of the texts in a list or map.
#[must_use]
pub fn text(max_length: usize, rule: &Rule) -> Value {
    json!({"type": "string", "maxLength": max_length, "x-kubernetes-validations": [rule]})
}

/// Longest key that a message shows, in characters: a message beyond 5 kB is dropped for the bare rule.
const SHOWN: usize = 100;

/// CEL for what a message shows of the key `k`: a line break would have the message dropped.
#[must_use]
pub fn shown() -> String {
    format!("(size(k) > {SHOWN} ? k.substring(0, {SHOWN}) + '…' : k).replace('\\n', ' ')")
}

const LABEL_KEY: &str =
    "size(k) <= 317 && k.matches('^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$')";

/// Keys that labels and annotations can have.
#[must_use]
pub fn label_keys(member: &str) -> Rule {
    let message = format!(
        "'secret.{member} must have valid keys, and has ' + self.filter(k, !({LABEL_KEY})).map(k, {})[0] + \"; write a name of at most 63 letters, digits, '-', '_' and '.', with an optional DNS prefix and '/'\"",
        shown()
    );
    Rule::new(format!("self.all(k, {LABEL_KEY})")).message(Message::Expression(message))
}

/// An expression of a `LabelSelector`, as the API server takes it in kinds of its own.
fn expression() -> Rule {
    Rule::new("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : self.operator in ['Exists', 'DoesNotExist'] && (!has(self.values) || size(self.values) == 0)")
        .message(Message::Expression("'key ' + self.key + ' has the operator ' + self.operator + (has(self.values) && size(self.values) > 0 ? ' with values' : ' without values') + ': operator must be In or NotIn with values, or Exists or DoesNotExist without'".into()))
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
                "additionalProperties": { "type": "string", "maxLength": 63 }
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
                        "key": { "type": "string", "description": "The label's key.", "maxLength": 317 },
                        "operator": { "type": "string", "description": "In, NotIn, Exists or DoesNotExist.", "maxLength": 12 },
                        "values": {
                            "type": "array",
                            "description": "Values for In and NotIn.",
                            "maxItems": 64,
                            "items": { "type": "string", "maxLength": 63 }
                        }
                    }
                }
            }
        }
    })
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
                "message": { "type": "string", "description": "What to do, for people." }
            }
        }
    })
}
