//! Asks the API server once a minute which keys it publishes and what it calls itself.

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{api::Api, turn::Input};
use crate::core::{
    failure::Failure,
    grant::controller::Grants,
    request::{self, Accept, Request},
};

/// Three polls without a key prove that it has gone, so that is seen within 4 minutes.
const PERIOD: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<JsonWebKey>,
}

#[derive(Deserialize)]
struct JsonWebKey {
    #[serde(default)]
    kid: String,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

/// Polls until the controller's task has ended. Every ServiceAccount may ask this where Kubernetes' own
/// `system:service-account-issuer-discovery` binding is in place; without it nothing is known, and that is logged.
pub async fn follow(api: Api, inputs: mpsc::Sender<Input<Grants>>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    loop {
        ticks.tick().await;
        let keys = get::<KeySet>(&api, "get the published signing keys", "/openid/v1/jwks").await;
        let issuer = issuer(&api).await;
        tell(keys.as_ref().err().or(issuer.as_ref().err()), &mut failing);
        let keys = keys.ok().map(|set| set.keys.into_iter().map(|key| key.kid).collect::<BTreeSet<String>>());
        let issuer = issuer.ok();
        let poll = Input::Call(Box::new(move |grants: &mut Grants, now| {
            grants.observe_keys(keys.as_ref(), issuer.as_deref(), now);
        }));
        if inputs.send(poll).await.is_err() {
            return;
        }
    }
}

/// The name that the API server gives to itself.
pub(super) async fn issuer(api: &Api) -> Result<String, Failure> {
    let discovery = get::<Discovery>(api, "get the issuer", "/.well-known/openid-configuration").await?;
    Ok(discovery.issuer)
}

/// Logs the first failure of several in a row, and their end.
fn tell(failure: Option<&Failure>, failing: &mut bool) {
    match failure {
        Some(failure) if !*failing => {
            warn!("{}: until this works again, a dropped signing key goes unnoticed", failure.message);
        }
        None if *failing => info!("signing keys and issuer are known again"),
        _ => {}
    }
    *failing = failure.is_some();
}

async fn get<T: DeserializeOwned>(api: &Api, what: &str, path: &str) -> Result<T, Failure> {
    let request = Request { accept: Accept::Any, ..Request::read(what.into(), path.into()) };
    let answer = api.send(&request).await.map_err(|refusal| refusal.failure)?;
    request::parse(what, &answer)
}
