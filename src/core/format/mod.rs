//! Formats: the shape in which a consumer reads a token. Each has a file of its own; [`of`] is the only place that knows
//! them all.

mod argo_cd;
mod custom;
mod docker_config;
mod istio;
mod kubeconfig;
pub mod read_back;
mod token;

use std::{borrow::Cow, collections::BTreeMap};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::{
    address::ClusterAddress,
    id::{GrantKey, Secs},
};
use crate::api::format::{FormatOptions, FormatType, OPAQUE};

/// The data of a Secret, before base64.
pub type Data = BTreeMap<String, SecretSlice<u8>>;

/// A token, and whom it is for.
#[derive(Clone, Copy, Debug)]
pub struct Material<'a> {
    /// Policy and account.
    pub key: &'a GrantKey,
    /// The token.
    pub token: &'a SecretString,
    /// Its end.
    pub expires: Secs,
}

/// One shape.
pub trait Format {
    /// The keys of the Secret that it writes.
    fn keys(&self) -> Vec<&str>;
    /// The data of the Secret. An address without a CA is of a server that the consumer's system trusts.
    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data;
    /// The data that its type demands while there is no token.
    fn empty(&self) -> Data {
        Data::new()
    }
    /// The type of the Secret.
    fn secret_type(&self) -> &str {
        OPAQUE
    }
    /// The label that its consumer finds the Secret by.
    fn label(&self) -> Option<(&'static str, &'static str)> {
        None
    }
    /// The annotation that its consumer reads.
    fn annotation(&self) -> Option<(String, String)> {
        None
    }
    /// Whether the Secret tells where the API server is.
    fn tells_server(&self) -> bool {
        true
    }
}

/// The format of these options. Options that a type needs are demanded by the CRD; without them there would be nothing to
/// write.
#[must_use]
pub fn of(options: &FormatOptions) -> Box<dyn Format + '_> {
    match options.kind {
        FormatType::Token => Box::new(token::PlainToken),
        FormatType::Kubeconfig => Box::new(kubeconfig::Kubeconfig(options.kubeconfig.as_deref())),
        FormatType::ArgoCDCluster => Box::new(argo_cd::ArgoCdCluster(options.argo_cd_cluster.as_deref())),
        FormatType::IstioRemoteSecret => Box::new(istio::IstioRemoteSecret(options.istio_remote_secret.as_deref())),
        FormatType::DockerConfigJson => {
            Box::new(docker_config::DockerConfigJson(options.docker_config_json.as_deref()))
        }
        FormatType::Custom => Box::new(custom::Custom(options.custom.as_deref())),
    }
}

/// The address that a Secret of these options tells: the server of the policy's own, with the CA that it gives, goes
/// before the cluster's.
#[must_use]
pub fn told<'a>(options: &FormatOptions, address: &'a ClusterAddress) -> Cow<'a, ClusterAddress> {
    let chosen = options.server().and_then(|chosen| Some((chosen.server.clone()?, chosen.ca())));
    chosen.map_or(Cow::Borrowed(address), |(server, ca)| {
        Cow::Owned(ClusterAddress { server, ca: ca.unwrap_or_else(|| address.ca.clone()), internal: false })
    })
}

/// Most bytes of data that the API server takes in one Secret.
pub const MAX_SIZE: usize = 1 << 20;

/// How many bytes of data the Secret would have.
#[must_use]
pub fn size(options: &FormatOptions, material: &Material<'_>, address: &ClusterAddress) -> usize {
    let data = of(options).data(material, &told(options, address));
    data.values().map(|value| value.expose_secret().len()).sum()
}
