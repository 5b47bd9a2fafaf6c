//! Asks the API server once a minute which keys it publishes and what it calls itself.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use secrecy::SecretString;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::api::{Api, Call, JSON, parse};
use crate::core::failure::Failure;

/// Three polls without a key prove that it has gone, so that is seen within 4 minutes.
const PERIOD: Duration = Duration::from_mins(1);
/// `application/json` is answered 406 here: the set is of another media type.
const ANY: &str = "*/*";

/// The answers of one poll; `None` for one that was none.
#[derive(Debug)]
pub struct Poll {
    /// Ids of the published keys.
    pub keys: Option<BTreeSet<String>>,
    /// The issuer.
    pub issuer: Option<String>,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    kid: String,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

/// Polls until nobody reads any more. Every ServiceAccount may ask this where Kubernetes' own
/// `system:service-account-issuer-discovery` binding is in place; without it nothing is known, and that is logged.
pub async fn follow(api: Api, polls: mpsc::Sender<Poll>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let keys = get::<KeySet>(&api, "get the published signing keys", "/openid/v1/jwks").await;
        let issuer = get::<Discovery>(&api, "get the issuer", "/.well-known/openid-configuration").await;
        tell(keys.as_ref().err().or(issuer.as_ref().err()), &mut failing);
        let keys = keys.ok().map(|set| set.keys.into_iter().map(|key| key.kid).collect());
        let poll = Poll { keys, issuer: issuer.ok().map(|discovery| discovery.issuer) };
        if polls.send(poll).await.is_err() {
            return;
        }
    }
}

/// Logs the first failure of several in a row, and their end.
fn tell(failure: Option<&Failure>, failing: &mut bool) {
    match failure {
        Some(failure) if !*failing => warn!("{}: a key that is dropped meanwhile is not noticed", failure.message),
        None if *failing => info!("signing keys and issuer are known again"),
        _ => {}
    }
    *failing = failure.is_some();
}

async fn get<T: DeserializeOwned>(api: &Api, what: &str, path: &str) -> Result<T, Failure> {
    let body = SecretString::default();
    let call = Call { what, method: &Method::GET, path, accept: ANY, content: JSON, body: &body };
    api.call(call).await.and_then(|answer| parse(what, &answer)).map_err(|error| error.failure)
}
