//! Reads where consumers reach the API server, at the start and then once a minute.

use std::{path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Config;
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{api::Api, metrics::Metrics, turn::Input};
use crate::{
    api::server::check_ca,
    cli::Settings,
    core::{
        address::{Contest, KnownAddress, Sources},
        failure::Failure,
        grant::controller::Grants,
        reason::AddressReason,
        request::{self, Request},
    },
};

/// The pace of the kubelet, which changes the files of a pod, and of the client, which reads its own CA and token again.
const PERIOD: Duration = Duration::from_mins(1);

/// The CA beside `--cluster-server`, and of the operator's own connection.
enum Ca {
    /// It may change.
    File(PathBuf),
    /// That of a kubeconfig that holds it.
    Fixed(Vec<u8>),
}

/// Where to look.
pub struct Places {
    api: Api,
    flag: Option<String>,
    own: String,
    ca: Ca,
}

impl Places {
    /// Those of this configuration.
    #[must_use]
    pub fn new(api: Api, config: &Config, settings: &Settings) -> Self {
        let file = settings.cluster_ca_file.clone().or_else(|| config.root_cert_file.clone());
        let held = || config.root_cert.iter().flatten().map(|der| pem(der)).collect::<String>().into_bytes();
        let ca = file.map_or_else(|| Ca::Fixed(held()), Ca::File);
        Self { api, flag: settings.cluster_server.clone(), own: config.cluster_url.to_string(), ca }
    }

    /// The address, as it is now.
    ///
    /// # Errors
    /// While the API server does not tell whether there is a `cluster-info`, and when the CA file is not usable.
    pub async fn look(&self) -> Result<KnownAddress, Contest> {
        let (cluster_info, refused) = match self.flag {
            Some(_) => (None, None),
            None => self.cluster_info().await?,
        };
        let service = std::env::var("KUBERNETES_SERVICE_HOST").ok();
        let sources = Sources {
            flag: self.flag.as_deref(),
            cluster_info: cluster_info.as_deref(),
            refused: refused.as_ref(),
            own: &self.own,
            service: service.as_deref(),
        };
        KnownAddress::choose(sources, || self.ca())
    }

    /// The kubeconfig in `cluster-info`, or why that may not be read. That there is no such ConfigMap is an answer.
    async fn cluster_info(&self) -> Result<(Option<String>, Option<Failure>), Contest> {
        let unknown = |failure: Failure| Contest::new(AddressReason::ClusterInfoUnknown, &failure.message);
        let what = "get ConfigMap kube-public/cluster-info";
        let path = "/api/v1/namespaces/kube-public/configmaps/cluster-info";
        match self.api.send(&Request::read(what.into(), path.into())).await {
            Ok(body) => {
                let config_map: ConfigMap = request::parse(what, &body).map_err(unknown)?;
                let kubeconfig = config_map.data.and_then(|mut data| data.remove("kubeconfig"));
                Ok((Some(kubeconfig.unwrap_or_default()), None))
            }
            Err(refusal) if refusal.code == Some(404) => Ok((None, None)),
            Err(refusal) if refusal.code == Some(403) => Ok((None, Some(refusal.failure))),
            Err(refusal) => Err(unknown(refusal.failure)),
        }
    }

    fn ca(&self) -> Result<Vec<u8>, Contest> {
        let path = match &self.ca {
            Ca::Fixed(pem) => return Ok(pem.clone()),
            Ca::File(path) => path,
        };
        let unusable = |found: &str| {
            Contest::new(AddressReason::CaFileUnreadable, &format!("the CA file {} {found}", path.display()))
        };
        let pem = std::fs::read(path).map_err(|error| unusable(&format!("cannot be read: {error}")))?;
        check_ca(&pem).map_err(unusable)?;
        Ok(pem)
    }
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Looks again and again until the controller's task has ended.
pub async fn follow(
    places: Places,
    mut known: KnownAddress,
    metrics: Arc<Metrics>,
    inputs: mpsc::Sender<Input<Grants>>,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first comes at once, and the start has just looked.
    ticks.tick().await;
    metrics.cluster_address(&known, false);
    tell(None, &known);
    loop {
        ticks.tick().await;
        let next = known.after(places.look().await);
        if next == known {
            continue;
        }
        metrics.cluster_address(&next, next.address != known.address);
        tell(Some(&known), &next);
        known = next.clone();
        let look = Input::Call(Box::new(move |grants: &mut Grants, now| grants.observe_address(next, now)));
        if inputs.send(look).await.is_err() {
            return;
        }
    }
}

/// Logs a change of the address, and what begins or ceases to speak against it.
fn tell(before: Option<&KnownAddress>, now: &KnownAddress) {
    let (server, source): (_, &str) = (&now.address.server, now.source.into());
    if before.is_some_and(|before| before.address != now.address) {
        info!(
            server,
            source, "the address or the CA of the cluster has changed: Secrets are written again with the same token"
        );
    }
    let contest = |known: &KnownAddress| known.contest.as_ref().map(|contest| contest.reason);
    match &now.contest {
        _ if before.and_then(contest) == contest(now) => {}
        Some(contest) => warn!(server, source, "{contest}"),
        None => info!(server, source, "the address of the cluster is no longer contested"),
    }
}
