//! Where consumers reach the API server: the URL and the CA, always from one source, and which source that is.

use std::fmt::Display;

use http::Uri;
use serde::Deserialize;
use strum::IntoStaticStr;

use super::{connection::is_loopback, failure::Failure, reason::AddressReason};
use crate::api::server::{check_ca, check_server, decode};

/// The ConfigMap in which kubeadm and others publish the address, for messages.
const CLUSTER_INFO: &str = "ConfigMap kube-public/cluster-info";

/// The data that every target holds besides the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAddress {
    /// URL of the API server as consumers reach it.
    pub server: String,
    /// The CA bundle of that server, PEM.
    pub ca: Vec<u8>,
    /// Whether `server` is only reachable from inside the cluster.
    pub internal: bool,
}

/// The sources of an address, the better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr)]
#[strum(const_into_str)]
pub enum Source {
    /// `--cluster-server`, with the CA of `--cluster-ca-file` or of the operator's own connection.
    Flag,
    /// `kube-public/cluster-info`.
    ClusterInfo,
    /// The operator's own connection.
    OwnConnection,
}

/// What speaks against the address that Secrets carry: a better source is not taken, or the source does not tell whether
/// the address is still right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}; {}", .reason.cure())]
pub struct Contest {
    /// In one word.
    pub reason: AddressReason,
    /// What was found.
    pub message: String,
}

impl Contest {
    /// This reason, with what was found.
    #[must_use]
    pub fn new(reason: AddressReason, found: &dyn Display) -> Self {
        Self { reason, message: found.to_string() }
    }

    fn of_cluster_info(reason: AddressReason, found: &str) -> Self {
        Self::new(reason, &format!("{CLUSTER_INFO} is there but not usable: {found}"))
    }
}

/// The address in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAddress {
    /// The address.
    pub address: ClusterAddress,
    /// The source that tells it.
    pub source: Source,
    /// What speaks against it.
    pub contest: Option<Contest>,
}

/// What the sources say.
#[derive(Clone, Copy, Debug)]
pub struct Sources<'a> {
    /// `--cluster-server`.
    pub flag: Option<&'a str>,
    /// The key `kubeconfig` of the ConfigMap `cluster-info`, if there is one; empty where it has no such key.
    pub cluster_info: Option<&'a str>,
    /// The ConfigMap may not be read.
    pub refused: Option<&'a Failure>,
    /// URL of the operator's own connection.
    pub own: &'a str,
    /// `KUBERNETES_SERVICE_HOST`.
    pub service: Option<&'a str>,
}

impl KnownAddress {
    /// The address of the best source that can be taken. `ca` tells the CA beside the flag and the own connection.
    ///
    /// # Errors
    /// When that CA cannot be had.
    pub fn choose(sources: Sources<'_>, ca: impl FnOnce() -> Result<Vec<u8>, Contest>) -> Result<Self, Contest> {
        let known = |source, server: &str, ca, contest| {
            let server = server.trim_end_matches('/').to_owned();
            let internal = source != Source::Flag && is_internal(&server, sources.service);
            Self { address: ClusterAddress { server, ca, internal }, source, contest }
        };
        if let Some(server) = sources.flag {
            return Ok(known(Source::Flag, server, ca()?, None));
        }
        let refused = |failure: &Failure| Contest::new(AddressReason::ClusterInfoUnknown, &failure.message);
        match sources.refused.map(refused).map_or_else(|| sources.cluster_info.map(published).transpose(), Err) {
            Ok(Some((server, ca))) => Ok(known(Source::ClusterInfo, &server, ca, None)),
            Ok(None) => Ok(known(Source::OwnConnection, sources.own, ca()?, None)),
            Err(contest) => Ok(known(Source::OwnConnection, sources.own, ca()?, Some(contest))),
        }
    }

    /// The address after another look. One that failed proves nothing, nor does a `cluster-info` that is half written: the
    /// address last known stays.
    #[must_use]
    pub fn after(&self, look: Result<Self, Contest>) -> Self {
        let contest = match look {
            Ok(Self { contest: Some(contest), .. }) if self.source == Source::ClusterInfo => contest,
            Ok(seen) => return seen,
            Err(contest) => contest,
        };
        Self { contest: Some(contest), ..self.clone() }
    }
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: Option<String>,
}

/// The server and CA of the first cluster of the kubeconfig in `cluster-info`.
fn published(kubeconfig: &str) -> Result<(String, Vec<u8>), Contest> {
    let unusable = Contest::of_cluster_info;
    let unreadable = |found| unusable(AddressReason::ClusterInfoUnreadable, found);
    let config = serde_saphyr::from_str::<Kubeconfig>(kubeconfig);
    let config = config.map_err(|_| unreadable("its key kubeconfig is missing or does not parse"))?;
    let cluster = config.clusters.into_iter().next().ok_or_else(|| unreadable("its kubeconfig names no cluster"))?;
    let Cluster { server, certificate_authority_data: ca } = cluster.cluster;
    let invalid = |error| unusable(AddressReason::ClusterInfoServerInvalid, &format!("its server {server:?} {error}"));
    check_server(&server).map_err(invalid)?;
    let without =
        |found| unusable(AddressReason::ClusterInfoWithoutCa, &format!("its certificate-authority-data {found}"));
    let ca = decode(&ca.unwrap_or_default()).map_err(without)?;
    check_ca(&ca).map_err(without)?;
    Ok((server, ca))
}

/// An address that consumers outside the cluster, or elsewhere, cannot reach: a Service's, or loopback.
fn is_internal(server: &str, service: Option<&str>) -> bool {
    let Ok(uri) = server.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default();
    host.split('.').any(|label| label == "svc") || service == Some(host) || is_loopback(&uri)
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;
    use crate::api::server::tests::PEM;

    const OWN: Result<Vec<u8>, Contest> = Ok(Vec::new());

    fn sources<'a>(flag: Option<&'a str>, cluster_info: Option<&'a str>) -> Sources<'a> {
        Sources { flag, cluster_info, refused: None, own: "https://10.96.0.1/", service: Some("10.96.0.1") }
    }

    fn kubeconfig(server: &str, ca: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: \"\"\n  cluster:\n    server: {server:?}\n    certificate-authority-data: {}\nusers: null\n",
            STANDARD.encode(ca)
        )
    }

    fn chosen(text: &str) -> KnownAddress {
        KnownAddress::choose(sources(None, Some(text)), || Ok(b"own".to_vec())).unwrap()
    }

    #[test]
    fn server_and_ca_come_from_one_source() {
        let text = kubeconfig("https://api.example.com:6443/", PEM);
        let known = chosen(&text);
        assert_eq!((known.source, &*known.address.server), (Source::ClusterInfo, "https://api.example.com:6443"));
        assert_eq!((known.address.ca, known.contest), (PEM.as_bytes().to_vec(), None));
        let flag = KnownAddress::choose(sources(Some("https://flag"), Some(&text)), || Ok(b"flag".to_vec())).unwrap();
        assert_eq!(
            (flag.source, &*flag.address.server, &*flag.address.ca),
            (Source::Flag, "https://flag", &b"flag"[..])
        );
        let own = KnownAddress::choose(sources(None, None), || Ok(b"own".to_vec())).unwrap();
        assert_eq!((own.source, own.contest), (Source::OwnConnection, None));
        assert_eq!((&*own.address.server, &*own.address.ca), ("https://10.96.0.1", &b"own"[..]));
    }

    #[test]
    fn a_cluster_info_that_is_not_usable_is_passed_over_with_its_reason() {
        let server = |server: &str| kubeconfig(server, PEM);
        let cases = [
            (server("http://10.0.0.1:8080"), AddressReason::ClusterInfoServerInvalid, "http://10.0.0.1:8080"),
            (server(""), AddressReason::ClusterInfoServerInvalid, "its server \"\" is no https URL"),
            (server("https://u:p@api"), AddressReason::ClusterInfoServerInvalid, "has a user before the host"),
            (server("https://"), AddressReason::ClusterInfoServerInvalid, "no https URL"),
            (kubeconfig("https://api", ""), AddressReason::ClusterInfoWithoutCa, "holds no certificate"),
            (kubeconfig("https://api", "x"), AddressReason::ClusterInfoWithoutCa, "holds no certificate"),
            (kubeconfig("https://api", &PEM[..200]), AddressReason::ClusterInfoWithoutCa, "not whole"),
            ("{}".into(), AddressReason::ClusterInfoUnreadable, "does not parse"),
            ("clusters: []".into(), AddressReason::ClusterInfoUnreadable, "names no cluster"),
            ("{".into(), AddressReason::ClusterInfoUnreadable, "does not parse"),
            (String::new(), AddressReason::ClusterInfoUnreadable, "is missing"),
        ];
        for (text, reason, words) in cases {
            let known = chosen(&text);
            assert_eq!((known.source, &*known.address.ca), (Source::OwnConnection, &b"own"[..]), "{text}");
            let contest = known.contest.unwrap();
            assert_eq!(contest.reason, reason, "{text}");
            let told = contest.to_string();
            assert!(told.contains(words) && told.ends_with(reason.cure()), "{told}");
        }
    }

    #[test]
    fn no_error_falls_back_to_a_worse_source_or_an_empty_ca() {
        let known = chosen(&kubeconfig("https://api", PEM));
        let failed = || Contest::new(AddressReason::CaFileUnreadable, &"/ca.crt is no PEM, or not whole");
        let after = known.after(Err(failed()));
        assert_eq!((&after.address, after.source, &after.contest), (&known.address, known.source, &Some(failed())));
        assert_eq!(after.after(Ok(known.clone())), known);
        let broken = known.after(Ok(chosen("{}")));
        assert_eq!((&broken.address, broken.source), (&known.address, known.source), "it was there a minute ago");
        assert_eq!(broken.contest.map(|contest| contest.reason), Some(AddressReason::ClusterInfoUnreadable));
        let deleted = KnownAddress::choose(sources(None, None), || OWN).unwrap();
        assert_eq!(known.after(Ok(deleted.clone())), deleted, "that there is none is an answer");
        let refused = Failure::new(crate::core::reason::FailureReason::Forbidden, "get ConfigMap");
        let refused = Sources { refused: Some(&refused), ..sources(None, None) };
        let refused = KnownAddress::choose(refused, || OWN).unwrap();
        assert_eq!(refused.contest.as_ref().map(|contest| contest.reason), Some(AddressReason::ClusterInfoUnknown));
        assert_eq!(known.after(Ok(refused)).address, known.address, "a right that is lost says nothing of the address");
        assert_eq!(KnownAddress::choose(sources(None, None), || Err(failed())), Err(failed()));
    }

    #[test]
    fn knows_internal_addresses() {
        let internal = |server: &str| is_internal(server, Some("10.96.0.1"));
        for server in [
            "https://kubernetes.default.svc",
            "https://kubernetes.default.svc.cluster.local:443",
            "https://10.96.0.1:443",
            "https://localhost:6443",
            "https://127.0.0.1:6443",
            "https://127.8.8.8",
            "https://[::1]:6443",
        ] {
            assert!(internal(server), "{server}");
        }
        assert!(!internal("https://api.example.com:6443") && !internal("https://10.0.0.1"));
        let flag = KnownAddress::choose(sources(Some("https://localhost:6443"), None), || OWN).unwrap();
        assert!(!flag.address.internal, "whoever sets the flag knows");
    }
}
