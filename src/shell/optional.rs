//! Kinds that a component of `config/` brings: their watch is quiet while they are not installed, and what they are about is
//! watched only while there is a policy.

use std::{fmt::Debug, time::Duration};

use kube::{api::Api, core::Resource, runtime::watcher::Config};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    turn::Input,
    watch::{Watch, WatchClient},
};
use crate::core::{
    failure::Failure,
    kernel::{
        controller::Controller,
        policies::{Policy, Stored},
        store::WatchEvent,
    },
    meta::version,
    object::Object,
    reason::FailureReason,
};

/// Whether the kind has been installed meanwhile is looked up this often.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// Calls under way at once: what these controllers do, nobody waits for.
pub const SLOTS: usize = 32;

/// Follows the policies of the kind `K`.
pub async fn policies<K, P, C>(
    client: WatchClient,
    inputs: mpsc::Sender<Input<C>>,
    change: fn(WatchEvent<Stored<P>>) -> C::Change,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + 'static,
    P: Policy,
    C: Controller,
{
    let watch = Watch {
        kind: P::PLURAL,
        number: 0,
        scope: None,
        inputs,
        metrics: None,
        absent_pause: Some(LOOK_AGAIN),
        needed: None,
    };
    let read = |policy: Object<K>| Some((version(&policy.metadata), Stored::parse(policy)));
    watch.follow(client, Api::<Object<K>>::all, Config::default(), read, change).await;
}

/// Whether what policies are about is needed from now on.
pub fn need(needed: &watch::Sender<bool>, is: bool) {
    needed.send_if_modified(|needed| std::mem::replace(needed, is) != is);
}

/// The kind is not installed, or not for this operator: that is no fault. The API server tells a stranger that it may not look
/// before it tells that there is nothing.
pub fn watch_health<P: Policy>(component: &str, kind: &'static str, failure: Option<&Failure>) {
    let absent = |reason| kind == P::PLURAL && matches!(reason, FailureReason::Forbidden | FailureReason::Conflict);
    match failure {
        Some(failure) if absent(failure.reason) => {
            info!(kind, "no {} is read: the component {component} is not installed", P::KIND);
        }
        Some(failure) => warn!(kind, "{}", failure.message),
        None => info!(kind, "the watch fails no more"),
    }
}
