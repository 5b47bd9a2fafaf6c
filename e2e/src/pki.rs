//! Certificate authorities, and what they sign.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::time::{Duration, SystemTime};

/// A certificate and its private key, both as PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// A certificate authority that lives as long as its process.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A fresh CA.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> Result<Self> {
        Self::of(named(CertificateParams::new(Vec::new())?, name))
    }

    /// A fresh CA that ends so long after now.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn ending(name: &str, life: Duration) -> Result<Self> {
        let mut params = named(CertificateParams::new(Vec::new())?, name);
        params.not_after = (SystemTime::now() + life).into();
        Self::of(params)
    }

    fn of(mut params: CertificateParams) -> Result<Self> {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// Its certificate.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Its private key.
    #[must_use]
    pub fn key(&self) -> String {
        self.0.key().serialize_pem()
    }

    pub(crate) fn server(&self, names: &[&str]) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        self.sign(&named(CertificateParams::new(names)?, "server"))
    }

    /// A client certificate: Kubernetes reads the common name as user, the organisation as group.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn client(&self, user: &str, group: &str) -> Result<Identity> {
        self.sign(&client(user, group)?)
    }

    fn sign(&self, params: &CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Identity { certificate, key: key.serialize_pem() })
    }
}

/// A request for a client certificate, as PEM.
///
/// # Errors
/// When no key can be made.
pub fn request(user: &str, group: &str) -> Result<String> {
    Ok(client(user, group)?.serialize_request(&KeyPair::generate()?)?.pem()?)
}

fn client(user: &str, group: &str) -> Result<CertificateParams> {
    let mut params = named(CertificateParams::new(Vec::new())?, user);
    params.distinguished_name.push(DnType::OrganizationName, group);
    Ok(params)
}

/// A fresh ECDSA P-256 key: private and public PEM.
pub(crate) fn signing_key() -> Result<(String, String)> {
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn named(mut params: CertificateParams, name: &str) -> CertificateParams {
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
