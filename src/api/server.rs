//! Where a policy sends its consumer instead of the cluster's own address, and what the consumer trusts there.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::KubeSchema;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use serde::{Deserialize, Serialize};

/// A URL that hides nothing: no user, query or fragment, and no character that a log or a shell could stumble over.
const SERVER: &str = r"self.matches('^https://([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?|\\[[0-9a-fA-F:.]+\\])(:[0-9]{1,5})?(/[-._~A-Za-z0-9/]*)?$')";
const SERVER_MESSAGE: &str = "server must be the https URL of the API server as the consumer reaches it; write one like https://api.example.com:6443";

const NEED_SERVER: &str = "caBundle and systemRoots are for a server of the policy's own; set server, or remove them";
const NOT_BOTH: &str = "caBundle and systemRoots exclude each other; remove one of them";
/// A private key would be published with the certificates.
const PEM: &str = "!has(self.caBundle) || (string(self.caBundle).contains('-----BEGIN CERTIFICATE-----') && !string(self.caBundle).contains('PRIVATE KEY'))";
const PEM_MESSAGE: &str =
    "caBundle must be the base64 of PEM certificates without a private key, as of `base64 -w0 ca.crt`";

/// The options about the API server that each format with a URL has.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.server) || !(has(self.caBundle) || (has(self.systemRoots) && self.systemRoots))")
        .message(NEED_SERVER),
    validation = Rule::new("!has(self.caBundle) || !has(self.systemRoots) || !self.systemRoots").message(NOT_BOTH),
    // A rule of the field itself would have its value in the refusal: 64 KiB, and perhaps a private key.
    validation = Rule::new(PEM).message(PEM_MESSAGE).field_path(".caBundle")
)]
pub struct ServerOptions {
    /// URL of the API server as the consumer reaches it; by default what the operator knows. The administrator's limit
    /// servers must name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(SERVER).message(SERVER_MESSAGE))]
    pub server: Option<String>,
    /// CA bundle of that server: PEM certificates in base64, as in Kubernetes' own fields of this name. By default the
    /// cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536), extend("format" = "byte"))]
    pub ca_bundle: Option<String>,
    /// Writes no CA, so that the consumer trusts whom its system does: for a server with a public certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub system_roots: bool,
}

impl ServerOptions {
    /// The CA that stands beside a server of the policy's own, PEM: none at all for the roots of the consumer's system,
    /// `None` for the cluster's.
    ///
    /// # Errors
    /// With the rule above that these options break: they may have been stored without it.
    pub fn ca(&self) -> Result<Option<Vec<u8>>, String> {
        match (&self.server, &self.ca_bundle, self.system_roots) {
            (_, None, false) => Ok(None),
            (None, ..) => Err(NEED_SERVER.into()),
            (Some(_), Some(_), true) => Err(NOT_BOTH.into()),
            (Some(_), Some(bundle), false) => pem(bundle).map(Some).ok_or_else(|| PEM_MESSAGE.into()),
            (Some(_), None, true) => Ok(Some(Vec::new())),
        }
    }
}

fn pem(bundle: &str) -> Option<Vec<u8>> {
    let pem = STANDARD.decode(bundle).ok()?;
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().ok()?;
    let private = str::from_utf8(&pem).is_ok_and(|text| text.contains("PRIVATE KEY"));
    (!certificates.is_empty() && !private).then_some(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(pem: &str) -> ServerOptions {
        let ca_bundle = Some(STANDARD.encode(pem));
        ServerOptions { server: Some("https://api".into()), ca_bundle, system_roots: false }
    }

    #[test]
    fn a_bundle_is_certificates_and_no_key() {
        let certificate = "# ours\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(bundle(certificate).ca(), Ok(Some(certificate.into())));
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let cut = "-----BEGIN CERTIFICATE-----\nAAAA";
        for wrong in ["", "AAAA", key, cut, &format!("{certificate}{key}")] {
            assert_eq!(bundle(wrong).ca(), Err(PEM_MESSAGE.into()), "{wrong}");
        }
        let not_base64 = ServerOptions { ca_bundle: Some("%".into()), ..bundle("") };
        assert_eq!(not_base64.ca(), Err(PEM_MESSAGE.into()));
    }

    #[test]
    fn the_roots_of_the_system_are_no_ca() {
        let roots = ServerOptions { ca_bundle: None, system_roots: true, ..bundle("") };
        assert_eq!(roots.ca(), Ok(Some(Vec::new())));
        assert_eq!(ServerOptions { system_roots: true, ..bundle("x") }.ca(), Err(NOT_BOTH.into()));
        assert_eq!(ServerOptions { server: None, ..roots }.ca(), Err(NEED_SERVER.into()));
        assert_eq!(ServerOptions::default().ca(), Ok(None));
    }
}
