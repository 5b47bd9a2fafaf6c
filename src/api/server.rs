//! Where a policy sends its consumer instead of the cluster's own address, and what the consumer trusts there.

use std::net::Ipv6Addr;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use kube::{
    KubeSchema,
    core::{Message, Rule},
};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer,
        pem::{PemObject as _, SectionKind},
    },
};
use serde::{Deserialize, Serialize};

use super::schema::{self, HOST, PORT};

/// A URL that hides nothing: no user, query or fragment, and no character that a log or a shell could stumble over. The port
/// is a number that there is, and the scheme in any letters, as in [`check_server`].
fn server() -> Rule {
    let url = format!(r"(?i:https)://({HOST}|\[[0-9a-fA-F:.]+\])(:{PORT})?(/[-._~A-Za-z0-9/]*)?");
    schema::matches(256, (&url, SERVER))
}

const SERVER: &str = "server must be the https URL of the API server as the consumer reaches it; write one like https://api.example.com:6443";
const NEED_SERVER: &str = "caBundle and systemRoots are for a server of the policy's own; set server, or remove them";
const NOT_BOTH: &str = "caBundle and systemRoots exclude each other; remove one of them";
const WRITE: &str = "write the output of `base64 -w0 ca.crt`, where ca.crt is PEM and holds certificates alone";

/// Each text in base64, as CEL for a list: it can begin at three places in a group of three bytes.
fn in_base64(text: &str) -> String {
    let parts = (0..3).map(|before| {
        let encoded = STANDARD.encode(format!("{}{text}", "\0".repeat(before)));
        // The characters at both ends tell of the bytes beside it, too.
        let (start, end) = ((before * 8).div_ceil(6), (before + text.len()) * 8 / 6);
        format!("'{}'", &encoded[start..end])
    });
    format!("[{}]", parts.collect::<Vec<_>>().join(", "))
}

/// A bundle, as far as admission can know it: CEL of CRDs reads no base64. Its value is never shown, as a private key may
/// stand beside the certificates, so that the rule is not the field's own.
fn ca_bundle() -> Rule {
    let bundle = ["\\n", "\\r", " "]
        .iter()
        .fold("self.caBundle".to_owned(), |text, blank| format!("{text}.replace('{blank}', '')"));
    let is_base64 = format!("{bundle}.matches('^([A-Za-z0-9+/]{{4}})*([A-Za-z0-9+/]{{2}}==|[A-Za-z0-9+/]{{3}}=)?$')");
    let holds = |text| format!("{}.exists(part, {bundle}.contains(part))", in_base64(text));
    let (certificate, key) = (holds("-----BEGIN CERTIFICATE-----"), holds("PRIVATE KEY-----"));
    let message = format!(
        "(!{is_base64} ? 'caBundle is no base64; ' : {key} ? 'caBundle holds a private key, which every reader of the Secret would have; replace that key, and ' : 'caBundle holds no PEM certificate; convert DER with `openssl x509 -inform DER`, and ') + '{WRITE}'"
    );
    Rule::new(format!("!has(self.caBundle) || ({is_base64} && {certificate} && !{key})"))
        .message(Message::Expression(message))
        .field_path(".caBundle")
}

/// The options about the API server that each format with a URL has.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.server) || !(has(self.caBundle) || (has(self.systemRoots) && self.systemRoots))")
        .message(NEED_SERVER),
    validation = Rule::new("!has(self.caBundle) || !has(self.systemRoots) || !self.systemRoots").message(NOT_BOTH),
    validation = ca_bundle()
)]
pub struct ServerOptions {
    /// URL of the API server as the consumer reaches it; by default the address that the operator knows. The
    /// administrator's limit servers must name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(256)))]
    #[x_kube(validation = server())]
    pub server: Option<String>,
    /// CA bundle of that server: PEM certificates in base64, as in Kubernetes' own fields of this name, with or without line
    /// breaks. By default the cluster's CA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Writes no CA, so that the consumer trusts the roots of its own system: for a server with a public certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system_roots: bool,
}

impl ServerOptions {
    /// The CA that stands beside a server of the policy's own, PEM: none at all for the roots of the consumer's system,
    /// `None` for the cluster's.
    #[must_use]
    pub fn ca(&self) -> Option<Vec<u8>> {
        let bundle = self.ca_bundle.as_ref().and_then(|bundle| decode(bundle).ok());
        bundle.or_else(|| self.system_roots.then(Vec::new))
    }

    /// Whether a consumer can use these options, which may have been stored without the rules above. These cannot read a
    /// bundle.
    ///
    /// # Errors
    /// With the field and the rule that it breaks. The bundle is not shown.
    pub fn check(&self) -> Result<(), String> {
        match (&self.server, &self.ca_bundle, self.system_roots) {
            (_, Some(_), true) => return Err(NOT_BOTH.into()),
            (None, Some(_), _) | (None, _, true) => return Err(NEED_SERVER.into()),
            _ => {}
        }
        let server = self
            .server
            .as_deref()
            .map_or(Ok(()), |server| check_server(server).map_err(|error| format!("server {server:?} {error}")));
        let bundle = self.ca_bundle.as_deref().map_or(Ok(()), |bundle| {
            decode(bundle).and_then(|pem| check_ca(&pem)).map_err(|error| format!("caBundle {error}; {WRITE}"))
        });
        server.and(bundle)
    }
}

/// Tokens would be sent in the clear, or it is no URL at all.
const NOT_HTTPS: &str = "is no https URL with a host: write one, as in https://api.example.com:6443";
/// Credentials of somebody else would be in every Secret.
const USER_INFO: &str =
    "has a user before the host: leave out everything up to the @, as in https://api.example.com:6443";
/// Clients append their paths to it.
const QUERY: &str = "has a query or a fragment: end it before the ? or #, as in https://api.example.com:6443";

/// Whether this is a URL that consumers can be given: https, with a host, without userinfo, query and fragment.
///
/// # Errors
/// When it is not; the words follow the name of the server.
pub fn check_server(server: &str) -> Result<(), &'static str> {
    let uri: Uri = server.parse().map_err(|_| NOT_HTTPS)?;
    let authority = uri.authority().ok_or(NOT_HTTPS)?;
    if uri.scheme_str() != Some("https") || authority.host().is_empty() {
        return Err(NOT_HTTPS);
    }
    if authority.as_str().contains('@') {
        return Err(USER_INFO);
    }
    // What follows the host is a port, which http takes without looking at its number.
    let no_port = authority.as_str() != authority.host() && authority.port_u16().is_none_or(|port| port == 0);
    if no_port || !is_host(authority.host()) {
        return Err(NOT_HTTPS);
    }
    if server.contains(['?', '#']) { Err(QUERY) } else { Ok(()) }
}

/// Whether a name can be looked up, or is an address. http looks at its characters alone.
fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-');
    host.strip_suffix('.').unwrap_or(host).split('.').all(is_label)
}

/// Reads base64, with line breaks as `base64` writes them.
///
/// # Errors
/// When it is none; the words follow the name of the text.
pub fn decode(text: &str) -> Result<Vec<u8>, &'static str> {
    STANDARD.decode(text.split_whitespace().collect::<String>()).map_err(|_| "is no base64")
}

/// Whether this is a PEM bundle that consumers can be given: whole, with a certificate at least, and nothing but
/// certificates, as a private key beside them would be in every Secret.
///
/// # Errors
/// When it is not; the words follow the name of the bundle.
pub fn check_ca(pem: &[u8]) -> Result<(), &'static str> {
    let sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let sections = sections.map_err(|_| "is no PEM, or not whole")?;
    if sections.iter().any(|(kind, _)| *kind != SectionKind::Certificate) {
        return Err("holds something else than certificates");
    }
    let certificates = sections.into_iter().map(|(_, der)| CertificateDer::from(der));
    match RootCertStore::empty().add_parsable_certificates(certificates) {
        (0, 0) => Err("holds no certificate"),
        (_, 0) => Ok(()),
        _ => Err("holds a certificate that does not parse"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate of no use to anybody, valid until 2126.
    pub const PEM: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBbzCCARWgAwIBAgIUAZE9qqlJavgA6npl3RZY7qqe3X4wCgYIKoZIzj0EAwIw\n\
        DDEKMAgGA1UEAwwBYTAgFw0yNjExMjgwNDA0MDJaGA8yMTI2MTEwNDA0MDQwMlow\n\
        DDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABAk/z+mDs+mg\n\
        7lqrd3TNB4Jc8xrYqeW+LQQMGhmiYu1BhAEy2vknVOKyJ6rQDBKPzSygS3wE2zHP\n\
        TqT6AuYjeIujUzBRMB0GA1UdDgQWBBRFO24L2dEuljiL0gaJntYeZDLiKDAfBgNV\n\
        HSMEGDAWgBRFO24L2dEuljiL0gaJntYeZDLiKDAPBgNVHRMBAf8EBTADAQH/MAoG\n\
        CCqGSM49BAMCA0gAMEUCIAuuMU0uKhGb6EiMuJh7il8CjjVlhmshANlwE7ILhpYj\n\
        AiEA7RuUynlHJVdRisIe9S9bPzOZP/0FffYLwMfXL8Pf4P0=\n\
        -----END CERTIFICATE-----\n";

    fn bundle(pem: &str) -> ServerOptions {
        let ca_bundle = Some(STANDARD.encode(pem));
        ServerOptions { server: Some("https://api".into()), ca_bundle, system_roots: false }
    }

    #[test]
    fn a_bundle_is_certificates_and_no_key() {
        let commented = format!("# ours\n{PEM}");
        let lines = STANDARD
            .encode(&commented)
            .as_bytes()
            .chunks(76)
            .map(|line| str::from_utf8(line).unwrap().to_owned())
            .collect::<Vec<_>>();
        let wrapped = ServerOptions { ca_bundle: Some(lines.join("\r\n ")), ..bundle("") };
        for options in [bundle(&commented), wrapped] {
            assert_eq!((options.check(), options.ca()), (Ok(()), Some(commented.clone().into())));
        }
        let section = |kind: &str| format!("{PEM}{}", PEM.replace("CERTIFICATE", kind));
        let garbage = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n";
        for (wrong, found) in [
            ("", "holds no certificate"),
            ("AAAA", "holds no certificate"),
            (&PEM[..200], "is no PEM, or not whole"),
            (garbage, "holds a certificate that does not parse"),
            (&section("PRIVATE KEY"), "holds something else than certificates"),
            (&section("CERTIFICATE REQUEST"), "holds something else than certificates"),
            (&section("X509 CRL"), "holds something else than certificates"),
        ] {
            assert_eq!(bundle(wrong).check(), Err(format!("caBundle {found}; {WRITE}")), "{wrong}");
        }
        let not_base64 = ServerOptions { ca_bundle: Some("%".into()), ..bundle("") };
        assert_eq!(not_base64.check(), Err(format!("caBundle is no base64; {WRITE}")));
    }

    #[test]
    fn the_roots_of_the_system_are_no_ca() {
        let roots = ServerOptions { ca_bundle: None, system_roots: true, ..bundle("") };
        assert_eq!((roots.check(), roots.ca()), (Ok(()), Some(Vec::new())));
        assert_eq!(ServerOptions { system_roots: true, ..bundle("x") }.check(), Err(NOT_BOTH.into()));
        assert_eq!(ServerOptions { server: None, ..roots }.check(), Err(NEED_SERVER.into()));
        assert_eq!(ServerOptions { server: None, ..bundle("x") }.check(), Err(NEED_SERVER.into()));
        assert_eq!((ServerOptions::default().check(), ServerOptions::default().ca()), (Ok(()), None));
        let elsewhere = ServerOptions { server: Some("https://x:99999".into()), ..ServerOptions::default() };
        assert_eq!(elsewhere.check(), Err(format!("server \"https://x:99999\" {NOT_HTTPS}")));
    }

    /// A flag, a ConfigMap and a policy are told the same of a URL.
    #[test]
    fn admission_takes_no_server_that_the_operator_refuses() {
        let Rule { rule, .. } = server();
        let pattern = regex::Regex::new(rule.split('\'').nth(1).unwrap()).unwrap();
        let hosts = ["a", "A.b-c", "a_b", "10.0.0.1", "[::1]", "", "-a", "a-", "a..b", "a.-b", "a b", "a@b"];
        let (schemes, ports) =
            (["https", "HTTPS", "http", ""], ["", ":1", ":0443", ":65535", ":65536", ":0", ":", ":x"]);
        for (scheme, host) in schemes.iter().flat_map(|scheme| hosts.map(|host| (scheme, host))) {
            for (port, path) in
                ports.iter().flat_map(|port| ["", "/", "/k8s/c-1", "/?a", "/#b"].map(|path| (port, path)))
            {
                let url = format!("{scheme}://{host}{port}{path}");
                assert_eq!(pattern.is_match(&url), check_server(&url).is_ok(), "{url}");
            }
        }
    }

    #[test]
    fn a_server_is_https_with_a_host_and_nothing_around_it() {
        for server in [
            "https://api",
            "https://api:6443",
            "https://[::1]:6443/",
            "HTTPS://api",
            "https://a_b.",
            "https://rancher/k8s/clusters/c-1",
        ] {
            assert_eq!(check_server(server), Ok(()), "{server}");
        }
        let bad = [
            "http://api",
            "api",
            "",
            "https://",
            "https://:6443",
            "https://api:99999",
            "https://api:x",
            "ftp://api",
            "https://api:0",
            "https://a..b",
            "https://[:1:]",
        ];
        for server in bad {
            assert_eq!(check_server(server), Err(NOT_HTTPS), "{server}");
        }
        assert_eq!(check_server("https://user:pw@x"), Err(USER_INFO));
        for server in ["https://api?a=b", "https://api/#f", "https://api/?"] {
            assert_eq!(check_server(server), Err(QUERY), "{server}");
        }
    }

    #[test]
    fn a_ca_is_whole_and_nothing_but_certificates() {
        let two = format!("{PEM}{PEM}");
        assert_eq!((check_ca(PEM.as_bytes()), check_ca(two.as_bytes())), (Ok(()), Ok(())));
        for end in [PEM.len() / 2, PEM.len() + 40, two.len() - 10] {
            assert_eq!(check_ca(&two.as_bytes()[..end]), Err("is no PEM, or not whole"), "{end}");
        }
        let other = PEM.replace("CERTIFICATE", "PRIVATE KEY");
        assert_eq!(check_ca(format!("{PEM}{other}").as_bytes()), Err("holds something else than certificates"));
        let garbage = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----\n";
        assert_eq!(check_ca(format!("{PEM}{garbage}").as_bytes()), Err("holds a certificate that does not parse"));
        assert_eq!((check_ca(b""), check_ca(b"text")), (Err("holds no certificate"), Err("holds no certificate")));
    }
}
