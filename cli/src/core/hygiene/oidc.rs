//! OIDC, by flags or by a structured authentication configuration.

use serde::{Deserialize, Deserializer};

use super::{
    Facts,
    flags::Flags,
    logins::{Login, Token, tokens, users},
    row::{Row, Severity},
};
use crate::core::verify::Learnt;

/// An `AuthenticationConfiguration`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Authentication {
    #[serde(deserialize_with = "given")]
    api_version: String,
    #[serde(deserialize_with = "given")]
    kind: String,
    #[serde(deserialize_with = "given")]
    jwt: Vec<Jwt>,
    pub anonymous: Option<Anonymous>,
}

impl Authentication {
    /// Any YAML would do else, as each field may be left out.
    pub fn is_one(&self) -> bool {
        let group = self.api_version.split('/').next();
        self.kind == "AuthenticationConfiguration" && group == Some("apiserver.config.k8s.io")
    }
}

/// To whom anonymous requests are restricted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Anonymous {
    #[serde(deserialize_with = "given")]
    pub conditions: Vec<Path>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Path {
    #[serde(deserialize_with = "given")]
    pub path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Jwt {
    #[serde(deserialize_with = "given")]
    issuer: Issuer,
    #[serde(deserialize_with = "given")]
    claim_mappings: Mappings,
    #[serde(deserialize_with = "given")]
    claim_validation_rules: Vec<ClaimRule>,
    #[serde(deserialize_with = "given")]
    user_validation_rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Issuer {
    #[serde(deserialize_with = "given")]
    url: String,
    #[serde(rename = "discoveryURL", deserialize_with = "given")]
    discovery_url: String,
    #[serde(deserialize_with = "given")]
    certificate_authority: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Mappings {
    #[serde(deserialize_with = "given")]
    username: Mapping,
    #[serde(deserialize_with = "given")]
    groups: Mapping,
}

/// How a name comes from a token: a claim with a prefix, or an expression.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Mapping {
    #[serde(deserialize_with = "given")]
    claim: String,
    #[serde(deserialize_with = "given")]
    prefix: String,
    #[serde(deserialize_with = "given")]
    expression: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rule {
    #[serde(deserialize_with = "given")]
    expression: String,
}

/// A claim must have a value, or an expression must be true.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct ClaimRule {
    #[serde(deserialize_with = "given")]
    claim: String,
    #[serde(deserialize_with = "given")]
    expression: String,
}

impl ClaimRule {
    /// Whether it may keep names that begin with `system:` out of a mapping.
    fn restricts(&self, mapping: &Mapping) -> bool {
        self.expression.contains("system:") || (!self.claim.is_empty() && self.claim == mapping.claim)
    }
}

/// A field that is there without a value has its default, as in Go.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(field: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(field)?.unwrap_or_default())
}

/// An issuer that the API server believes.
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    pub issuer: String,
    /// Where its discovery document is.
    pub discovery: String,
    /// CA as PEM; empty for those that everybody trusts.
    pub ca: String,
    /// CA in a file of the control plane's machine.
    pub ca_file: Option<String>,
    username: Mapping,
    groups: Mapping,
    /// Rules that a user must pass.
    rules: Vec<String>,
    /// Rules that the claims must pass.
    claim_rules: Vec<ClaimRule>,
}

/// A provider, and what it answered, if it was asked and could be reached: the issuer that its discovery document names, or
/// what is wrong with the answer.
pub type Asked = (Provider, Option<Learnt<Learnt<String>>>);

/// The issuers of flags and file.
pub fn providers(servers: &Learnt<Vec<Flags>>, file: Option<&Authentication>) -> Vec<Provider> {
    let flagged = servers.iter().flatten().filter_map(by_flags);
    let mut all: Vec<Provider> = flagged.chain(file.into_iter().flat_map(|file| &file.jwt).map(by_file)).collect();
    all.dedup();
    all
}

fn discovery(url: &str) -> String {
    format!("{}/.well-known/openid-configuration", url.trim_end_matches('/'))
}

fn by_flags(flags: &Flags) -> Option<Provider> {
    let issuer = flags.get("oidc-issuer-url")?.to_owned();
    let text = |name: &str| flags.get(name).unwrap_or_default().to_owned();
    let claim = flags.get("oidc-username-claim").unwrap_or("sub").to_owned();
    // By default, only names from the claim email have no prefix.
    let prefix = match flags.get("oidc-username-prefix") {
        Some("-") => String::new(),
        Some(prefix) => prefix.to_owned(),
        None if claim == "email" => String::new(),
        None => format!("{issuer}#"),
    };
    Some(Provider {
        discovery: discovery(&issuer),
        ca: String::new(),
        ca_file: flags.get("oidc-ca-file").map(str::to_owned),
        username: Mapping { claim, prefix, ..Mapping::default() },
        groups: Mapping { claim: text("oidc-groups-claim"), prefix: text("oidc-groups-prefix"), ..Mapping::default() },
        rules: Vec::new(),
        claim_rules: Vec::new(),
        issuer,
    })
}

fn by_file(jwt: &Jwt) -> Provider {
    let Issuer { url, discovery_url, certificate_authority } = &jwt.issuer;
    Provider {
        issuer: url.clone(),
        discovery: if discovery_url.is_empty() { discovery(url) } else { discovery_url.clone() },
        ca: certificate_authority.clone(),
        ca_file: None,
        username: jwt.claim_mappings.username.clone(),
        groups: jwt.claim_mappings.groups.clone(),
        rules: jwt.user_validation_rules.iter().map(|rule| rule.expression.clone()).collect(),
        claim_rules: jwt.claim_validation_rules.clone(),
    }
}

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("OIDC");
    for flags in row.servers(facts, "--oidc-issuer-url, --authentication-config") {
        if let Some(file) = flags.get("authentication-config") {
            row.seen(format!("kube-apiserver runs with --authentication-config={file}"));
            if facts.authentication.is_none() {
                row.unknown(format!(
                    "{file} is on the control plane's machine; give a copy with --authentication-config"
                ));
            }
        }
    }
    for (provider, answer) in &facts.providers {
        row.found(format!("tokens of {} log in", provider.issuer));
        reached(&mut row, provider, answer.as_ref());
        mapped(&mut row, provider);
    }
    if facts.authentication.as_ref().is_some_and(|file| file.jwt.is_empty()) {
        row.seen("the file of --authentication-config has no issuers");
    } else {
        row.without(facts, "--oidc-issuer-url and --authentication-config");
    }
    of_kubeconfig(&mut row, facts);
    row
}

fn of_kubeconfig(row: &mut Row, facts: &Facts) {
    let own = facts.issuer.as_deref().unwrap_or_default();
    for (name, token) in tokens(row, facts) {
        if let Token::Issued(issuer) = token
            && issuer != own
        {
            row.found(format!("kubeconfig user {name}: a token of {issuer}"));
        }
    }
    for Login { name, provider, command, .. } in users(row, facts) {
        if let Some(provider) = provider {
            row.found(format!("kubeconfig user {name}: the authentication provider {provider}"));
        }
        if let Some(command) = command {
            row.unknown(format!("kubeconfig user {name}: what the command {command} logs in with"));
        }
    }
}

fn reached(row: &mut Row, provider: &Provider, answer: Option<&Learnt<Learnt<String>>>) {
    let Provider { issuer, discovery, .. } = provider;
    match answer {
        Some(Ok(Ok(named))) if named == issuer => row.seen(format!("{discovery} answers, and names that issuer")),
        Some(Ok(Ok(named))) => {
            let problem =
                format!("{discovery} names the issuer {named}, so the API server refuses each token of {issuer}");
            row.finds(Severity::Medium, problem, "write the issuer as its discovery document does");
        }
        Some(Ok(Err(why))) => {
            let problem = format!("{discovery} holds no discovery document: {why}");
            let cure = "correct the issuer or its discoveryURL, or remove it from the API server's configuration";
            row.finds(Severity::Medium, problem, cure);
        }
        // The API server may have another way there, and trust other certificates.
        Some(Err(why)) => row.unknown(format!("{discovery} does not answer this machine: {why}")),
        None => row.unknown(format!(
            "{discovery}: its CA is on the control plane's machine; --authentication-config can give it"
        )),
    }
}

/// Names that an issuer may give out and that mean something to Kubernetes.
fn mapped(row: &mut Row, provider: &Provider) {
    let Provider { issuer, username, groups, rules, claim_rules, .. } = provider;
    let cure =
        "set a prefix, for example \"oidc:\", or a userValidationRule that refuses names that begin with system:";
    for (mapping, name, gift) in [
        (groups, "user.groups", "put a user into any group, as system:masters"),
        (username, "user.username", "call a user by any name, as system:kube-controller-manager"),
    ] {
        if rules.iter().any(|rule| refuses(rule, name)) {
            continue;
        }
        let ruled = rules.iter().any(|rule| rule.contains(name) && rule.contains("system:"))
            || claim_rules.iter().any(|rule| rule.restricts(mapping));
        match (mapping.reach(), ruled) {
            (Reach::Open, false) => row.finds(Severity::High, format!("{issuer} may {gift}: {}", mapping.text()), cure),
            (Reach::Closed, _) => {}
            (Reach::Open, true) | (Reach::Unclear, _) => {
                row.unknown(format!("whether {issuer} may {gift}: {}", mapping.text()));
            }
        }
    }
}

/// Whether a rule refuses every name that begins with `system:`, in the one form that is known here. Others may refuse
/// fewer.
fn refuses(rule: &str, name: &str) -> bool {
    let rule = rule.replace('"', "'").replace(char::is_whitespace, "");
    let terms: Vec<&str> = rule.split("&&").collect();
    // A term is decisive only by itself: not in an alternative, behind a comment, or inside of brackets or a text.
    if ["||", "?", "//"].iter().any(|token| rule.contains(token)) || !terms.iter().all(|term| is_whole(term)) {
        return false;
    }
    let refused = |one: &str| format!("!{one}.startsWith('system:')");
    let all = |term: &str| {
        let (each, rest) = term.strip_prefix("user.groups.all(")?.split_once(',')?;
        Some(rest == refused(each) + ")")
    };
    let is_refused =
        |term: &&str| if name == "user.groups" { all(term).unwrap_or(false) } else { **term == refused(name) };
    terms.iter().any(is_refused)
}

/// Whether brackets and quotes end where they began.
fn is_whole(term: &str) -> bool {
    let count = |wanted| term.matches(wanted).count();
    count('(') == count(')') && count('[') == count(']') && count('{') == count('}') && count('\'') % 2 == 0
}

/// Whether an issuer can make a name that begins with `system:`.
enum Reach {
    Open,
    Closed,
    /// An expression decides, which is not evaluated here.
    Unclear,
}

/// Whether a name that begins with this can begin with `system:`.
fn leads(prefix: &str) -> bool {
    prefix.starts_with("system:") || "system:".starts_with(prefix)
}

impl Mapping {
    fn reach(&self) -> Reach {
        let Self { claim, prefix, expression } = self;
        // An expression without a text has no prefix; one with a text may add it, or compare with it.
        let bare = !expression.is_empty() && !expression.contains(['\'', '"']);
        let given = !claim.is_empty() && leads(prefix);
        let texts = expression.replace('"', "'").replace("startsWith('system:')", "");
        let added = texts.split('\'').skip(1).step_by(2).any(|text| !text.is_empty() && leads(text));
        match (bare || given || added, expression.is_empty()) {
            (true, _) => Reach::Open,
            (false, true) => Reach::Closed,
            (false, false) => Reach::Unclear,
        }
    }

    fn text(&self) -> String {
        match (&*self.expression, &*self.prefix) {
            ("", "") => format!("claim {} without prefix", self.claim),
            ("", prefix) => format!("claim {} with prefix {prefix}", self.claim),
            (expression, _) => format!("expression {expression}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::hygiene::flags::tests::flags;

    const CONFIG: &str = "
jwt:
- issuer: {url: https://idp, discoveryURL: https://inside/.well-known/openid-configuration, audiences: [k8s]}
  claimMappings:
    username: {claim: sub, prefix: 'idp:'}
    groups: {claim: groups, prefix: ''}
";

    fn findings(providers: &[Provider]) -> Vec<String> {
        let mut row = Row::new("OIDC");
        for provider in providers {
            mapped(&mut row, provider);
        }
        row.findings.into_iter().map(|finding| finding.problem).collect()
    }

    fn of_file(text: &str) -> Vec<Provider> {
        providers(&Err(String::new()), Some(&serde_saphyr::from_str(text).unwrap()))
    }

    fn of_flags(words: &[&str]) -> Vec<Provider> {
        providers(&Ok(vec![flags(words)]), None)
    }

    #[test]
    fn a_claim_without_prefix_reaches_groups_of_kubernetes() {
        let found = of_file(CONFIG);
        assert_eq!(found[0].discovery, "https://inside/.well-known/openid-configuration");
        let open = "https://idp may put a user into any group, as system:masters: claim groups without prefix";
        assert_eq!(findings(&found), [open]);
        let rule = "  userValidationRules:\n  - {expression: \"user.groups.all(g, !g.startsWith('system:'))\"}\n";
        assert_eq!(findings(&of_file(&format!("{CONFIG}{rule}"))), [""; 0]);
        for weak in [
            "g, g != 'system:nodes'",
            "g, !g.startsWith('system:') || true",
            "g, !g.startsWith('system:x')",
            "g, !g.startsWith('system:')) && user.groups.size() > 5 || (true",
            "g, !g.startsWith('system:')) && user.groups.size() > 5 ? true : (true",
            "g, true) && !(true && user.groups.all(g, !g.startsWith('system:')) && true",
        ] {
            let weak = format!("{CONFIG}{}", rule.replace("g, !g.startsWith('system:')", weak));
            let mut row = Row::new("OIDC");
            mapped(&mut row, &of_file(&weak)[0]);
            assert!(row.findings.is_empty() && row.not_checked.len() == 1, "{weak}");
        }
        assert_eq!(findings(&of_file(&CONFIG.replace("prefix: ''", "prefix: 'idp:'"))), [""; 0]);
        let by = |expression: &str| {
            of_file(&CONFIG.replace("{claim: groups, prefix: ''}", &format!("{{expression: \"{expression}\"}}")))
        };
        assert!(findings(&by("claims.roles"))[0].ends_with("expression claims.roles"));
        assert_eq!(findings(&by("claims.roles.map(r, 'idp:' + r)")), [""; 0]);
        assert_eq!(findings(&by("claims.roles.filter(r, !r.startsWith('system:'))")), [""; 0]);
        for open in ["claims.admin ? ['system:masters'] : []", "claims.roles.map(r, 'system' + r)"] {
            assert!(findings(&by(open))[0].ends_with(open), "{open}");
        }
    }

    #[test]
    fn a_prefix_that_a_claim_completes_is_none() {
        for prefix in ["system", "system:", "s"] {
            assert_eq!(findings(&of_file(&CONFIG.replace("prefix: ''", &format!("prefix: '{prefix}'")))).len(), 1);
        }
        for rule in
            ["{expression: \"!claims.groups.exists(g, g.startsWith('system:'))\"}", "{claim: groups, requiredValue: a}"]
        {
            let mut row = Row::new("OIDC");
            mapped(&mut row, &of_file(&format!("{CONFIG}  claimValidationRules: [{rule}]\n"))[0]);
            assert!(row.findings.is_empty() && row.not_checked.len() == 1, "{row:?}");
        }
        let hd = format!("{CONFIG}  claimValidationRules: [{{claim: hd, requiredValue: example.com}}]\n");
        assert_eq!(findings(&of_file(&hd)).len(), 1);
    }

    #[test]
    fn a_mapping_that_is_not_set_is_not_judged() {
        let rule = "  userValidationRules: [{expression: \"user.groups.size() < 5 || 'system:x' in user.groups\"}]\n";
        let mut row = Row::new("OIDC");
        mapped(
            &mut row,
            &of_file(&format!("{}{rule}", CONFIG.replace("    groups: {claim: groups, prefix: ''}\n", "")))[0],
        );
        assert!(row.findings.is_empty() && row.not_checked.is_empty(), "{row:?}");
    }

    #[test]
    fn a_field_without_a_value_has_its_default() {
        let text = "{apiVersion: apiserver.config.k8s.io/v1, kind: AuthenticationConfiguration, anonymous: , jwt: [{issuer: {url: https://idp, \
                    certificateAuthority: }, claimMappings: {username: {claim: sub, prefix: }, groups: , uid: }, \
                    claimValidationRules: , userValidationRules: }]}";
        let read: Authentication = serde_saphyr::from_str(text).unwrap();
        assert!(read.is_one() && read.anonymous.is_none());
        assert_eq!(findings(&providers(&Err(String::new()), Some(&read))).len(), 1);
        let empty: Authentication = serde_saphyr::from_str("jwt:\nanonymous: {conditions: }").unwrap();
        assert!(empty.jwt.is_empty() && empty.anonymous.unwrap().conditions.is_empty());
    }

    #[test]
    fn flags_have_the_defaults_of_the_api_server() {
        let issuer = "--oidc-issuer-url=https://idp";
        assert_eq!(findings(&of_flags(&[issuer])), [""; 0]);
        assert_eq!(findings(&of_flags(&[issuer, "--oidc-groups-claim=groups"])).len(), 1);
        assert_eq!(findings(&of_flags(&[issuer, "--oidc-groups-claim=groups", "--oidc-groups-prefix=idp:"])), [""; 0]);
        assert!(findings(&of_flags(&[issuer, "--oidc-username-prefix=-"]))[0].contains("any name"));
        assert_eq!(findings(&of_flags(&[issuer, "--oidc-username-claim=email"])).len(), 1);
        let servers = Ok(vec![flags(&[issuer]), flags(&[issuer, "--oidc-username-prefix=-"])]);
        assert_eq!(findings(&providers(&servers, None)).len(), 1, "each API server counts");
        assert_eq!(of_flags(&["--x"]).len(), 0);
    }
}
