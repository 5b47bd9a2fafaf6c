//! Finds the address of the cluster that every target tells: the server's URL and its CA bundle.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Config;
use serde::Deserialize;

use super::api::Api;
use crate::core::{
    address::ClusterAddress,
    failure::Failure,
    request::{self, Request},
};

/// Finds out what goes into targets: `--cluster-server`, else what kubeadm published in
/// `kube-public/cluster-info`, else the server that the operator itself uses.
///
/// # Errors
/// While the API server does not answer. That there is no such ConfigMap, or that it may not be read, is no error.
pub async fn discover(
    api: &Api,
    config: &Config,
    ca: Vec<u8>,
    wanted: Option<&str>,
) -> Result<ClusterAddress, Failure> {
    let published = cluster_info(api).await?;
    let own = config.cluster_url.to_string();
    let server = wanted.map(str::to_owned).or(published).unwrap_or_else(|| own.clone());
    let server = server.trim_end_matches('/').to_owned();
    Ok(ClusterAddress { internal: wanted.is_none() && is_internal(&server), server, ca })
}

async fn cluster_info(api: &Api) -> Result<Option<String>, Failure> {
    let what = "get ConfigMap kube-public/cluster-info";
    let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
    match api.send(&Request::read(what.into(), path.into())).await {
        Ok(body) => {
            let config_map: ConfigMap = request::parse(what, &body)?;
            Ok(config_map.data.and_then(|data| server_of(data.get("kubeconfig")?)))
        }
        Err(refusal) if matches!(refusal.code, Some(403 | 404)) => Ok(None),
        Err(refusal) => Err(refusal.failure),
    }
}

#[derive(Deserialize)]
struct ClusterInfo {
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
}

fn server_of(kubeconfig: &str) -> Option<String> {
    let kubeconfig: ClusterInfo = serde_saphyr::from_str(kubeconfig).ok()?;
    kubeconfig.clusters.into_iter().next().map(|named| named.cluster.server)
}

/// An address that consumers outside the cluster cannot reach.
fn is_internal(server: &str) -> bool {
    let host = server.parse::<http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let service = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    host.split('.').any(|label| label == "svc") || service.as_deref() == Some(&host)
}

/// The CA bundle that the operator itself trusts, as PEM: the file it is configured with, or the certificates of
/// its kubeconfig.
///
/// # Errors
/// When the file cannot be read.
pub fn ca_bundle(config: &Config) -> std::io::Result<Vec<u8>> {
    match (&config.root_cert_file, &config.root_cert) {
        (Some(path), _) => std::fs::read(path),
        (None, Some(certificates)) => Ok(certificates.iter().map(|der| pem(der)).collect::<String>().into_bytes()),
        (None, None) => Ok(Vec::new()),
    }
}

fn pem(der: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_server_that_kubeadm_publishes() {
        let kubeconfig = "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: https://10.0.0.1:6443\n    certificate-authority-data: QQ==\nusers: null\n";
        assert_eq!(server_of(kubeconfig).as_deref(), Some("https://10.0.0.1:6443"));
        assert_eq!(server_of("clusters: 1"), None);
    }

    #[test]
    fn knows_cluster_internal_names() {
        assert!(is_internal("https://kubernetes.default.svc"));
        assert!(is_internal("https://kubernetes.default.svc.cluster.local:443"));
        assert!(!is_internal("https://api.example.com:6443"));
    }
}
