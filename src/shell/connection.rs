//! The way to the API server: as the kubeconfig or the pod says, if tokens are safe on it.

use std::{error::Error, path::PathBuf};

use kube::{
    Config,
    config::{InferConfigError, Kubeconfig},
};
use secrecy::{ExposeSecret as _, SecretString};
use tracing::warn;

use crate::core::connection::check;

/// There is no way to the API server, or none that is safe.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There is no usable client configuration.
    #[error("no connection to an API server: {0}; set KUBECONFIG, or run in a pod with a ServiceAccount")]
    None(#[from] InferConfigError),
    /// Tokens would not be safe on the way.
    #[error("the connection to the API server {0} is not safe: {1}")]
    Unsafe(http::Uri, &'static str),
    /// kube sends the file as it is, and what ends in a newline is no header.
    #[error(
        "the token file {0} of the kubeconfig has white space around the token, and is sent as it is: write it without a \
         newline at its end, as with `printf %s`"
    )]
    TokenFile(String),
}

/// The client configuration of KUBECONFIG, else that of the pod.
///
/// # Errors
/// When there is none, or tokens would not be safe, or the operator's own token cannot be sent.
pub async fn infer() -> Result<Config, ConnectionError> {
    let mut config = Config::infer().await?;
    config.root_cert_file = config.root_cert_file.or_else(ca_file);
    if config.proxy_url.is_some() && !kubeconfig_names(config.proxy_url.as_ref()) {
        warn!("HTTPS_PROXY is ignored: Tokenward connects to the API server directly");
        config.proxy_url = None;
    }
    let checked = check(&config.cluster_url, config.accept_invalid_certs, config.proxy_url.is_some());
    checked.map_err(|refusal| ConnectionError::Unsafe(config.cluster_url.clone(), refusal))?;
    match config.auth_info.token_file.take_if(|file| has_white_space(file)) {
        Some(file) => Err(ConnectionError::TokenFile(file)),
        None => Ok(config),
    }
}

/// An error and its causes: the outermost of an HTTP client says no more than that it failed.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

/// Whether there is any around the token. That a file cannot be read is told when the client is made.
fn has_white_space(token_file: &str) -> bool {
    let text = std::fs::read_to_string(token_file).map(SecretString::from);
    text.is_ok_and(|text| text.expose_secret().trim() != text.expose_secret())
}

/// The file that the kubeconfig names as its cluster's CA. kube takes its certificates once, but reads a file that it is
/// told of again every minute.
fn ca_file() -> Option<PathBuf> {
    let kubeconfig = Kubeconfig::read().ok()?;
    let context = kubeconfig.current_context?;
    let context = kubeconfig.contexts.into_iter().find(|named| named.name == context)?.context?;
    let cluster = kubeconfig.clusters.into_iter().find(|named| named.name == context.cluster)?.cluster?;
    cluster.certificate_authority.filter(|_| cluster.certificate_authority_data.is_none()).map(PathBuf::from)
}

/// Whether the kubeconfig names this proxy. kube takes the one of the environment where it names none.
fn kubeconfig_names(proxy: Option<&http::Uri>) -> bool {
    let clusters = Kubeconfig::read().map(|kubeconfig| kubeconfig.clusters).unwrap_or_default();
    let proxies = clusters.into_iter().filter_map(|named| named.cluster?.proxy_url);
    proxies.filter_map(|url| url.parse().ok()).any(|url: http::Uri| Some(&url) == proxy)
}
