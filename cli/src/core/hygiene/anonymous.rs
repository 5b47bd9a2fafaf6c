//! Requests without credentials.

use k8s_openapi::api::rbac::v1::PolicyRule;

use super::{
    Facts,
    flags::Flags,
    rbac::{ANONYMOUS, Bound, Given, UNAUTHENTICATED, reads_configuration},
    rights::way,
    row::{Found, Row, Severity, names},
};

/// The paths that are asked for: the API, which restricted access does not cover, and what probes ask.
pub const PATHS: [&str; 5] = ["/api", "/healthz", "/livez", "/readyz", "/version"];
/// How an API server answers somebody whom it lets in as nobody else.
const UNAUTHORIZED: u16 = 401;
/// The documents by which others verify tokens; the role that allows them names each with a slash at its end, too.
const DISCOVERY: [&str; 2] = ["/.well-known/openid-configuration", "/openid/v1/jwks"];

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
    if open.is_empty() && facts.servers.iter().flatten().any(|flags| is_on(flags, facts)) {
        // One server has answered, and each has its own flags.
        row.found("a kube-apiserver runs without --anonymous-auth=false");
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
    if row.found == Found::Yes {
        // Without this file, such a server turns anonymous access off.
        let by_file = |flags: &Flags| flags.get("authentication-config").is_some();
        all_allowed(&mut row, facts, "whoever reaches the API server", by_file);
    }
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

/// Whether an API server's flags turn it on for all paths.
fn is_on(flags: &Flags, facts: &Facts) -> bool {
    let is_in_file = facts.authentication.as_ref().is_none_or(|file| file.anonymous.is_some());
    let by_file = is_in_file && flags.get("authentication-config").is_some();
    // An API server that allows everything turns it off, unless the file turns it on.
    flags.is_on("anonymous-auth", true) && !allows_all(flags) && !by_file
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

/// `AlwaysAllow` in the list allows whatever no webhook denies, and is the default.
fn allows_all(flags: &Flags) -> bool {
    let mode = flags.get("authorization-mode");
    let allows = mode.is_none_or(|mode| mode.split(',').any(|one| one == "AlwaysAllow"));
    allows && flags.get("authorization-config").is_none()
}

/// Judges API servers that allow everything to these.
pub fn all_allowed(row: &mut Row, facts: &Facts, who: &str, counts: impl Fn(&Flags) -> bool) {
    for flags in facts.servers.iter().flatten().filter(|flags| allows_all(flags) && counts(flags)) {
        let flag = match flags.get("authorization-mode") {
            Some(mode) => format!("with --authorization-mode={mode}"),
            None => "without --authorization-mode and --authorization-config, so with AlwaysAllow".to_owned(),
        };
        row.found(format!("kube-apiserver runs {flag}"));
        let problem = format!("{who} may do everything in the cluster, as kube-apiserver runs {flag}");
        row.finds(Severity::Critical, problem, "set --authorization-mode=Node,RBAC on kube-apiserver");
    }
}

/// Bindings say nothing of what other authorizers allow.
pub fn authorizers(row: &mut Row, facts: &Facts) {
    for flags in facts.servers.iter().flatten().filter(|flags| !allows_all(flags)) {
        let flag = match (flags.get("authorization-config"), flags.get("authorization-mode")) {
            (Some(file), _) => format!("--authorization-config={file}"),
            (None, Some(mode)) if mode.split(',').all(|one| ["Node", "RBAC"].contains(&one)) => continue,
            (None, mode) => format!("--authorization-mode={}", mode.unwrap_or_default()),
        };
        row.unknown(format!("bindings do not say all that authorizers allow with {flag}"));
    }
}

fn bound(row: &mut Row, facts: &Facts) {
    facts.rbac.unknown().for_each(|why| row.unknown(why));
    let is = |kind: &str, name: &str| [("User", ANONYMOUS), ("Group", UNAUTHENTICATED)].contains(&(kind, name));
    let all = facts.rbac.bindings(|subject| is(&subject.kind, &subject.name));
    let parts: Vec<Given> = all.iter().filter(|bound| !bound.is_admin()).flat_map(Bound::given).collect();
    let together = way(&parts);
    for bound in all {
        let place = bound.namespace.map_or_else(String::new, |namespace| format!(" in namespace {namespace}"));
        row.seen(format!("everybody has {}{place}", bound.role));
        if is_usual(&bound) {
            continue;
        }
        let is_part = together.is_some_and(|way| bound.given().any(|given| way.takes(&given)));
        let severity = if is_part || bound.is_admin() { Severity::Critical } else { Severity::High };
        let problem = format!("whoever reaches the API server has {}{place}", bound.role);
        let cure = "take system:anonymous and system:unauthenticated from the subjects of that binding, and restrict \
                    anonymous access to /livez, /readyz and /healthz in an AuthenticationConfiguration";
        row.finds(severity, problem, cure);
    }
}

/// A binding that Kubernetes or kubeadm makes, to a role that nobody widened.
fn is_usual(bound: &Bound) -> bool {
    let reads = |rule: &PolicyRule, is: fn(&str) -> bool| {
        rule.verbs == ["get"]
            && rule.resources.iter().flatten().next().is_none()
            && rule.non_resource_urls.iter().flatten().all(|url| is(url))
    };
    match (&*bound.role, bound.namespace) {
        ("ClusterRole system:public-info-viewer", None) => {
            bound.rules.iter().all(|rule| reads(rule, |url| !url.ends_with('*')))
        }
        ("ClusterRole system:service-account-issuer-discovery", None) => {
            bound.rules.iter().all(|rule| reads(rule, |url| DISCOVERY.contains(&url.trim_end_matches('/'))))
        }
        ("Role kubeadm:bootstrap-signer-clusterinfo", Some("kube-public")) => {
            bound.rules.iter().all(reads_configuration)
        }
        _ => false,
    }
}
