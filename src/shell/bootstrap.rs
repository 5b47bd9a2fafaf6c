//! The bootstrap tokens' loop. It shares nothing with the loop of the grants but the clock and the API server, so that
//! neither waits for the other.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{api::Api as KubeApi, core::PartialObjectMeta, runtime::watcher::Config};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    events::Reporter,
    metrics::Metrics,
    optional,
    turn::{Host, Input},
    watch::{Watch, WatchClient},
};
use crate::{
    api::bootstrap_token_policy::BootstrapTokenPolicy,
    core::{
        Time,
        bootstrap::{
            NAMESPACE, SECRET_TYPE, cluster_info,
            controller::{Bootstrap, BootstrapChange, TOKENS},
            event::BootstrapEvent,
            policy::BootstrapPolicy,
            token::{BootstrapSecret, BootstrapToken},
        },
        failure::Failure,
        kernel::{controller::Outcome, store::WatchEvent},
        meta::version,
    },
};

/// Tells and counts; lets the tokens be watched while they are needed.
pub struct BootstrapHost {
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The way to people.
    pub reporter: Reporter,
    /// Whether the tokens have to be watched.
    pub needed: watch::Sender<bool>,
}

impl Host<Bootstrap> for BootstrapHost {
    fn decided(&self, count: usize, took: Duration) {
        self.metrics.decided("bootstrap", count, took);
    }

    /// The controller counts by itself what its answers bring.
    fn answered(&self, _: &Outcome) {}

    fn report(&self, news: BootstrapEvent) {
        self.reporter.report_bootstrap(&news);
    }

    fn watch_health(&self, kind: &'static str, failure: Option<&Failure>) {
        optional::watch_health::<BootstrapPolicy>("bootstrap-token-policy", kind, failure);
    }

    fn turned(&mut self, bootstrap: &mut Bootstrap, _: Time) {
        for count in bootstrap.counts() {
            self.metrics.bootstrap.count(count);
        }
        optional::need(&self.needed, bootstrap.needs_tokens());
    }
}

/// Starts the watches: that of the tokens while they are needed, that of the ConfigMap if it is signed.
pub fn watch(
    tasks: &mut JoinSet<()>,
    client: &WatchClient,
    metrics: &Arc<Metrics>,
    signs: bool,
    needed: watch::Receiver<bool>,
    inputs: &mpsc::Sender<Input<Bootstrap>>,
) {
    let watch = |kind, namespace: &str, needed| Watch {
        kind,
        number: 0,
        scope: Some(namespace.into()),
        inputs: inputs.clone(),
        metrics: Some(metrics.clone()),
        absent_pause: None,
        needed,
    };
    let policies =
        optional::policies::<BootstrapTokenPolicy, _, _>(client.clone(), inputs.clone(), BootstrapChange::Policy);
    tasks.spawn(policies);
    let tokens = watch(TOKENS, NAMESPACE, Some(needed)).follow(
        client.clone(),
        |client| KubeApi::<BootstrapSecret>::namespaced(client, NAMESPACE),
        Config::default().fields(&format!("type={SECRET_TYPE}")),
        |secret: BootstrapSecret| Some((version(&secret.metadata), BootstrapToken::read(secret))),
        BootstrapChange::Token,
    );
    tasks.spawn(tokens);
    if signs {
        tasks.spawn(watch("configmaps (cluster-info)", cluster_info::NAMESPACE, None).follow(
            client.clone(),
            |client| KubeApi::<PartialObjectMeta<ConfigMap>>::namespaced(client, cluster_info::NAMESPACE),
            Config::default().fields(&format!("metadata.name={}", cluster_info::NAME)),
            |object| Some((version(&object.metadata), ())),
            |_: WatchEvent<()>| BootstrapChange::ClusterInfo,
        ));
    }
}
