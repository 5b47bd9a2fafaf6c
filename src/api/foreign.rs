//! Keys of labels and annotations, and types of Secrets, on which somebody else acts: copies the Secret elsewhere,
//! deletes it as not its own, or takes it for something else. A key that only describes is nobody's trigger.

use kube::core::{Message, Rule};

use super::schema::shown;

/// What is done with a Secret that has a key under one of these domains, and the domains.
pub const ACTING: [(&str, &[&str]); 5] = [
    ("Kubernetes and kubectl act on such keys", &["kubernetes.io", "k8s.io"]),
    ("the operator keeps its own record there", &["tokenward.dev"]),
    (
        "a controller copies Secrets with such keys elsewhere",
        &[
            "emberstack.com",
            "mittwald.de",
            "appscode.com",
            "clustersecret.io",
            "carvel.dev",
            "hnc.x-k8s.io",
            "karmada.io",
            "kubefed.io",
            "kyverno.io",
        ],
    ),
    (
        "a controller deletes Secrets with such keys as parts of what it has applied",
        &[
            "helm.sh",
            "fluxcd.io",
            "k14s.io",
            "cattle.io",
            "projectsveltos.io",
            "crossplane.io",
            "kro.run",
            "configsync.gke.io",
            "configmanagement.gke.io",
            "kluctl.io",
            "tanka.dev",
        ],
    ),
    (
        "a controller takes Secrets with such keys for its own",
        &[
            "cert-manager.io",
            "external-secrets.io",
            "gardener.cloud",
            "open-cluster-management.io",
            "openshift.io",
            "banzaicloud.io",
            "bitnami.com",
            "clastix.io",
            "cluster.x-k8s.io",
        ],
    ),
];

/// Owners whose keys come with their own format, while nothing of ours is of their types.
const OF_FORMATS: [(&str, &str); 2] = [("argoproj.io", "Argo CD acts on such keys"), ("istio.io", ISTIO)];
const ISTIO: &str = "Istio acts on such keys";

/// The type under these domains on which nobody acts. The API server demands a user name or a password of it.
pub const BASIC_AUTH: &str = "kubernetes.io/basic-auth";

/// Keys under these domains that only describe: all of these owners, but for the operator's own.
const DESCRIBING: [&str; 2] = ["app.kubernetes.io/", "sigs.k8s.io/"];
/// Label for people; other tools overwrite it, so nothing here reads it.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Single keys that only describe, or by which a consumer chooses what it reads.
const HARMLESS: [&str; 3] = ["kubernetes.io/description", "reconcile.fluxcd.io/watch", "secrets-store.csi.k8s.io/used"];
const MANAGED: &str = "the operator sets it itself";

/// CEL for whether the key `k` only describes.
fn describes() -> String {
    format!(
        "(['{}'].exists(d, k.startsWith(d)) && k != '{MANAGED_BY}' || k in ['{}'])",
        DESCRIBING.join("', '"),
        HARMLESS.join("', '")
    )
}

fn under<'a>(domains: impl IntoIterator<Item = &'a &'a str>) -> String {
    let domains: Vec<String> = domains.into_iter().map(|domain| domain.replace('.', "[.]")).collect();
    format!("(^|[.])({})/", domains.join("|"))
}

/// Labels or annotations on which nobody acts. The message names the first key on which somebody does, and why.
#[must_use]
pub fn keys(member: &str) -> Rule {
    let acts = under(ACTING.iter().flat_map(|(_, domains)| *domains));
    let acts = format!("k.matches('{acts}') && !{}", describes());
    let [reasons @ .., (last, _)] = &ACTING;
    let reasons = reasons.iter().map(|(why, domains)| format!("k.matches('{}') ? '{why}' : ", under(*domains)));
    let own = format!("k == '{MANAGED_BY}' ? '{MANAGED}' : ");
    let reason = std::iter::once(own).chain(reasons).chain([format!("'{last}'")]).collect::<String>();
    let message = format!(
        "self.filter(k, {acts}).map(k, 'secret.{member} must not have the key ' + {} + ': ' + ({reason}))[0] + '; choose other keys'",
        shown("k")
    );
    Rule::new(format!("self.all(k, !({acts}))")).message(Message::Expression(message))
}

/// Keys of labels and annotations together for which a condition on `k` holds.
fn both(condition: &str) -> String {
    let of = |member| format!("(has(self.{member}) ? self.{member}.filter(k, {condition}) : [])");
    format!("({} + {})", of("labels"), of("annotations"))
}

fn none_of(condition: &str, why: &str) -> Rule {
    let keys = both(condition);
    let message = format!("'the key ' + {keys}.map(k, {})[0] + ' {why}'", shown("k"));
    Rule::new(format!("size({keys}) == 0")).message(Message::Expression(message))
}

/// Keys of Argo CD only on a Secret that is meant for it, and none by which Argo CD would take it for a part of an
/// application, and prune it.
#[must_use]
pub fn argo_cd_keys() -> Rule {
    none_of(
        "k.matches('(^|[.])argoproj[.]io/') && !(has(self.format) && self.format.type == 'ArgoCDCluster' && k.matches('^argocd[.]argoproj[.]io/(secret-type|auto-label-cluster-info|skip-reconcile|refresh)$'))",
        "makes Argo CD act; choose other keys, or with format type ArgoCDCluster secret-type, auto-label-cluster-info, skip-reconcile or refresh of argocd.argoproj.io",
    )
}

/// Keys of Istio only on a Secret that is meant for it.
#[must_use]
pub fn istio_keys() -> Rule {
    none_of(
        "k.matches('(^istio|(^|[.])istio[.]io)/') && !(has(self.format) && self.format.type == 'IstioRemoteSecret')",
        "makes Istio act; choose other keys, or format type IstioRemoteSecret",
    )
}

fn domains() -> impl Iterator<Item = &'static &'static str> {
    ACTING.iter().flat_map(|(_, domains)| *domains).chain(OF_FORMATS.iter().map(|(domain, _)| domain))
}

/// Domains of the types that no policy may choose, as a regular expression. `config/admission/secrets.yaml` has it too.
#[must_use]
pub fn types() -> String {
    under(domains())
}

/// A type of Secret on which nobody acts.
#[must_use]
pub fn type_rule() -> Rule {
    let message = format!(
        "'controllers act on Secrets of type ' + {} + '; choose Opaque, {BASIC_AUTH}, or a type of the consumer itself'",
        shown("self")
    );
    Rule::new(format!("self == '{BASIC_AUTH}' || !self.matches('{}')", types())).message(Message::Expression(message))
}

/// The same rule for a policy that was stored without it.
///
/// # Errors
/// When somebody acts on Secrets of this type.
pub fn check_type(kind: &str) -> Result<(), String> {
    if kind == BASIC_AUTH || !domains().any(|domain| is_under(kind, domain)) {
        return Ok(());
    }
    Err(format!(
        "controllers act on Secrets of type {kind:?}; choose Opaque, {BASIC_AUTH}, or a type of the consumer itself"
    ))
}

/// Whether a key or type has an owner within this domain.
fn is_under(name: &str, domain: &str) -> bool {
    let owner = name.split_once('/').map_or("", |(owner, _)| owner);
    owner.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The same rule for a label of every Secret, whatever its format.
///
/// # Errors
/// When somebody acts on Secrets with this key: why.
pub fn check_key(key: &str) -> Result<(), &'static str> {
    if key == MANAGED_BY {
        return Err(MANAGED);
    }
    if HARMLESS.contains(&key) || DESCRIBING.iter().any(|owner| key.starts_with(owner)) {
        return Ok(());
    }
    if key.starts_with("istio/") {
        return Err(ISTIO);
    }
    let of_formats = OF_FORMATS.iter().map(|(domain, why)| (*domain, *why));
    let acting = ACTING.iter().flat_map(|(why, domains)| domains.iter().map(|domain| (*domain, *why)));
    of_formats.chain(acting).find(|(domain, _)| is_under(key, domain)).map_or(Ok(()), |(_, why)| Err(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seat_belt_refuses_the_same_types() {
        let belt = include_str!("../../config/admission/secrets.yaml");
        assert!(belt.contains(&types()), "config/admission/secrets.yaml must have {}", types());
    }

    #[test]
    fn types_on_which_somebody_acts_are_refused() {
        for kind in [
            "kubernetes.io/tls",
            "kubernetes.io/service-account-token",
            "bootstrap.kubernetes.io/token",
            "helm.sh/release.v1",
            "tokenward.dev/anchor",
            "addons.cluster.x-k8s.io/resource-set",
            "istio.io/ca-root",
            "rke.cattle.io/machine-plan",
        ] {
            assert!(check_type(kind).is_err(), "{kind}");
        }
        for kind in ["Opaque", BASIC_AUTH, "mirror.linkerd.io/remote-kubeconfig", "notkubernetes.io/x", "kubernetes.io"]
        {
            assert_eq!(check_type(kind), Ok(()), "{kind}");
        }
    }
}
