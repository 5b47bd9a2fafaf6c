//! Requests without credentials.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::{
    Facts,
    rbac::{Bound, reads_configuration, way},
    row::{Found, Row, Severity, names},
};

/// The paths that are asked for: the API, which restricted access does not cover, and what probes ask.
pub const PATHS: [&str; 5] = ["/api", "/healthz", "/livez", "/readyz", "/version"];
/// How an API server answers somebody whom it lets in as nobody else.
const UNAUTHORIZED: u16 = 401;

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("anonymous access");
    let Some(answers) = row.learn(&facts.anonymous) else { return row };
    let open: Vec<String> = answers
        .iter()
        .filter(|(_, status)| **status != UNAUTHORIZED)
        .map(|(path, status)| format!("{path} {status}"))
        .collect();
    if open.is_empty() {
        let paths: Vec<&String> = answers.keys().collect();
        row.seen(format!("without credentials, the API server answers {UNAUTHORIZED} to GET {}", names(&paths)));
    } else {
        row.found(format!("without credentials, the API server answers {}", names(&open)));
    }
    let conditions = facts.authentication.iter().flat_map(|file| &file.anonymous).flat_map(|one| &one.conditions);
    for path in conditions {
        row.found(format!("the authentication configuration allows {}", path.path));
    }
    if row.found == Found::No && have_no_conditions(facts) {
        return row;
    }
    if open.is_empty() && !have_no_conditions(facts) && facts.authentication.is_none() {
        row.unknown(
            "conditions of --authentication-config may open other paths; give a copy with --authentication-config",
        );
    }
    api(&mut row, answers.get("/api").copied().unwrap_or_default());
    authorizers(&mut row, facts);
    bound(&mut row, facts);
    row
}

/// Without conditions, anonymous access is on or off for all paths alike.
fn have_no_conditions(facts: &Facts) -> bool {
    match (&facts.authentication, &facts.servers) {
        (Some(file), _) => file.anonymous.iter().all(|anonymous| anonymous.conditions.is_empty()),
        (None, Ok(servers)) => servers.iter().all(|flags| flags.get("authentication-config").is_none()),
        (None, Err(_)) => false,
    }
}

fn api(row: &mut Row, status: u16) {
    if (200..300).contains(&status) {
        let problem = format!("whoever reaches the API server may read /api: it answers {status} without credentials");
        row.finds(
            Severity::High,
            problem,
            "take everybody's right to /api away, in the bindings or --authorization-mode",
        );
    }
}

/// Bindings say nothing of what other authorizers allow.
pub fn authorizers(row: &mut Row, facts: &Facts) {
    for flags in facts.servers.iter().flatten() {
        let flag = match (flags.get("authorization-config"), flags.get("authorization-mode")) {
            (Some(file), _) => format!("--authorization-config={file}"),
            (None, Some(mode)) if mode.split(',').all(|one| ["Node", "RBAC"].contains(&one)) => continue,
            (None, mode) => format!("--authorization-mode={}", mode.unwrap_or("AlwaysAllow")),
        };
        row.unknown(format!("bindings do not say all that authorizers allow with {flag}"));
    }
}

fn bound(row: &mut Row, facts: &Facts) {
    let Some(rbac) = row.learn(&facts.rbac) else { return };
    let is = |kind: &str, name: &str| {
        matches!((kind, name), ("User", "system:anonymous") | ("Group", "system:unauthenticated"))
    };
    let all = rbac.bindings(|subject| is(&subject.kind, &subject.name));
    let rules: Vec<&PolicyRule> =
        all.iter().filter(|bound| bound.namespace.is_none()).flat_map(|bound| bound.rules.iter().copied()).collect();
    let together = way(&rules).is_some();
    for bound in all {
        let place = bound.namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        row.seen(format!("everybody has {}{place}", bound.role));
        if is_usual(&bound) {
            continue;
        }
        let is_part = together && bound.namespace.is_none();
        let severity = if is_part || bound.is_admin() { Severity::Critical } else { Severity::High };
        let problem = format!("whoever reaches the API server has {}{place}", bound.role);
        let cure = "take system:anonymous and system:unauthenticated from the subjects of that binding, and restrict \
                    anonymous access to /livez, /readyz and /healthz in an AuthenticationConfiguration";
        row.finds(severity, problem, cure);
    }
}

/// A binding that Kubernetes or kubeadm makes, to a role that nobody widened.
fn is_usual(bound: &Bound) -> bool {
    let reads = |rule: &&PolicyRule| {
        rule.verbs == ["get"]
            && rule.resources.iter().flatten().next().is_none()
            && !rule.non_resource_urls.iter().flatten().any(|url| url.ends_with('*'))
    };
    match (&*bound.role, bound.namespace) {
        ("ClusterRole system:public-info-viewer", None) => bound.rules.iter().all(reads),
        ("Role kubeadm:bootstrap-signer-clusterinfo", Some("kube-public")) => {
            bound.rules.iter().all(|rule| reads_configuration(rule))
        }
        _ => false,
    }
}
