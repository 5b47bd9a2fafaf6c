//! Schemas of Kubernetes' own types, with the bounds and descriptions that the generated ones lack.

use schemars::{Schema, SchemaGenerator, json_schema};

/// No key of a Secret's labels or annotations belongs to Kubernetes, to us, or to a controller that acts on sight of
/// it: copies the Secret elsewhere, deletes it as not its own, or takes it for something else.
pub const NO_FOREIGN_KEYS: &str = "self.all(k, !k.matches('(^|[.-])(kubernetes[.]io|k8s[.]io|tokenward[.]dev|cert-manager[.]io|external-secrets[.]io|emberstack[.]com|mittwald[.]de|appscode[.]com|gardener[.]cloud|open-cluster-management[.]io|projectsveltos[.]io|cattle[.]io|crossplane[.]io|helm[.]sh|fluxcd[.]io|openshift[.]io|clustersecret[.]io|banzaicloud[.]io|k14s[.]io|carvel[.]dev|bitnami[.]com|clastix[.]io)/'))";
/// Keys of Argo CD only on a Secret that is meant for it, and none by which Argo CD would take it for a part of an
/// application, and prune it.
pub const ARGO_CD_KEYS: &str = "(!has(self.labels) || self.labels.all(k, !k.matches('(^|[.])argoproj[.]io/') || (has(self.format) && self.format.type == 'ArgoCDCluster' && k.matches('^argocd[.]argoproj[.]io/(secret-type|auto-label-cluster-info|skip-reconcile|refresh)$')))) && (!has(self.annotations) || self.annotations.all(k, !k.matches('(^|[.])argoproj[.]io/') || (has(self.format) && self.format.type == 'ArgoCDCluster' && k.matches('^argocd[.]argoproj[.]io/(secret-type|auto-label-cluster-info|skip-reconcile|refresh)$'))))";
/// Keys of Istio only on a Secret that is meant for it.
pub const ISTIO_KEYS: &str = "(has(self.format) && self.format.type == 'IstioRemoteSecret') || ((!has(self.labels) || self.labels.all(k, !k.matches('(^istio|(^|[.])istio[.]io)/'))) && (!has(self.annotations) || self.annotations.all(k, !k.matches('(^istio|(^|[.])istio[.]io)/'))))";

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
