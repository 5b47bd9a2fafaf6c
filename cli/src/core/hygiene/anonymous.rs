//! Requests without credentials.

use super::{
    Facts,
    rbac::{ADMIN, Bound},
    row::{Row, Severity, names},
};

/// The paths that are asked for: the API, which restricted access does not cover, and what probes ask.
pub const PATHS: [&str; 3] = ["/api", "/livez", "/version"];
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
        return row;
    }
    row.found(format!("without credentials, the API server answers {}", names(&open)));
    for path in facts.authentication.iter().flat_map(|file| &file.anonymous).flat_map(|anonymous| &anonymous.conditions)
    {
        row.seen(format!("the authentication configuration allows {}", path.path));
    }
    bound(&mut row, facts);
    row
}

fn bound(row: &mut Row, facts: &Facts) {
    let Some(rbac) = row.learn(&facts.rbac) else { return };
    let is = |kind: &str, name: &str| {
        matches!((kind, name), ("User", "system:anonymous") | ("Group", "system:unauthenticated"))
    };
    for bound in rbac.bindings(|subject| is(&subject.kind, &subject.name)) {
        let place = bound.namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        row.seen(format!("everybody has {}{place}", bound.role));
        if is_usual(&bound) {
            continue;
        }
        let severity = if bound.role.ends_with(ADMIN) { Severity::Critical } else { Severity::High };
        let problem = format!("whoever reaches the API server has {}{place}", bound.role);
        let cure = "take system:anonymous and system:unauthenticated from the subjects of that binding, or set \
                    --anonymous-auth=false on kube-apiserver";
        row.finds(severity, problem, cure);
    }
}

/// A binding that Kubernetes or kubeadm makes.
fn is_usual(bound: &Bound) -> bool {
    let usual = [
        ("ClusterRole system:public-info-viewer", None),
        ("Role kubeadm:bootstrap-signer-clusterinfo", Some("kube-public")),
    ];
    usual.contains(&(&*bound.role, bound.namespace))
}
