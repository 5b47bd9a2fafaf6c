//! Schemas of Kubernetes' own types, with the bounds and descriptions that the generated ones lack.

use schemars::{Schema, SchemaGenerator, json_schema};

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
