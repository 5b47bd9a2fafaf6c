//! Progress as the API server tells it: scraping the operator would be work for what is measured.

use anyhow::{Result, bail};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, WatchEvent, WatchParams};
use std::collections::HashSet;
use std::time::Instant;
use tokenward_e2e::Cluster;

/// Longest watch that the API server grants, in seconds; the largest sizes take a few minutes.
const LONGEST: u32 = 290;

/// A watch of one kind in all namespaces, from now on.
pub struct Watched {
    api: Api<DynamicObject>,
    params: WatchParams,
    version: String,
    events: BoxStream<'static, kube::Result<WatchEvent<DynamicObject>>>,
}

impl Watched {
    pub async fn start(cluster: &Cluster, kind: &ApiResource, params: WatchParams) -> Result<Self> {
        let api: Api<DynamicObject> = Api::all_with(cluster.client().await?, kind);
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let (params, version) = (params.timeout(LONGEST), version.unwrap_or_default());
        let events = api.watch(&params, &version).await?.boxed();
        Ok(Self { api, params, version, events })
    }

    /// Waits until `counts` held for so many objects, each at least once.
    pub async fn until(&mut self, many: usize, counts: impl Fn(&WatchEvent<DynamicObject>) -> bool) -> Result<Instant> {
        let mut done = HashSet::new();
        while done.len() < many {
            let event = match self.events.try_next().await? {
                Some(WatchEvent::Error(status)) => bail!("a watch ended: {}", status.message),
                Some(event) => event,
                None => {
                    self.events = self.api.watch(&self.params, &self.version).await?.boxed();
                    continue;
                }
            };
            let Some(object) = object(&event) else { continue };
            self.version = object.metadata.resource_version.clone().unwrap_or_default();
            if counts(&event) {
                done.insert((object.metadata.namespace.clone(), object.metadata.name.clone()));
            }
        }
        Ok(Instant::now())
    }
}

/// The object of an event.
pub fn object(event: &WatchEvent<DynamicObject>) -> Option<&DynamicObject> {
    match event {
        WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => Some(object),
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    }
}
