//! Looks after the start whether the administrator's limits let tokens for the API server pass.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Config;
use secrecy::SecretString;
use tokio::{sync::mpsc, time::sleep};
use tracing::{info, warn};

use super::{api::Api, lease::namespace, signers, turn::Input};
use crate::core::{
    api_audience::{LIMITS, refusal},
    credential::token,
    failure::Failure,
    grant::controller::Grants,
    request::{self, Request},
};

/// Pause between two looks while they do not.
const PERIOD: Duration = Duration::from_mins(1);

/// Looks until tokens pass, or nobody can tell. From then on a refused request tells what is wrong.
pub async fn follow(api: Api, config: Config, inputs: mpsc::Sender<Input<Grants>>) {
    let namespace = namespace(&config);
    let mut told = None;
    loop {
        let look = look(&api, &config, &namespace).await;
        let passes = look == Ok(None);
        if let Ok(refusal) = look
            && refusal != told
        {
            tell(refusal.as_deref());
            told.clone_from(&refusal);
            let news = Input::Call(Box::new(move |grants: &mut Grants, now| grants.observe_audience(refusal, now)));
            if inputs.send(news).await.is_err() {
                return;
            }
        }
        if passes {
            return;
        }
        sleep(PERIOD).await;
    }
}

fn tell(refusal: Option<&str>) {
    if let Some(refusal) = refusal {
        warn!("{refusal}");
    } else {
        info!("the limits list the API server's audiences now");
    }
}

/// What the limits hold back. Without a ConfigMap there are none, and one that may not be read tells nothing.
async fn look(api: &Api, config: &Config, namespace: &str) -> Result<Option<String>, Failure> {
    let what = format!("get ConfigMap {namespace}/{LIMITS}");
    let path = format!("/api/v1/namespaces/{namespace}/configmaps/{LIMITS}");
    let limits: BTreeMap<String, String> = match api.send(&Request::read(what.clone(), path)).await {
        Ok(body) => request::parse::<ConfigMap>(&what, &body)?.data.unwrap_or_default(),
        Err(refusal) if matches!(refusal.code, Some(403 | 404)) => return Ok(None),
        Err(refusal) => return Err(refusal.failure),
    };
    let own = match own_audiences(config) {
        Some(own) => own,
        None => vec![signers::issuer(api).await?],
    };
    Ok(refusal(&own, namespace, &limits))
}

/// The API server's audiences are in the operator's own token, if that is one of a ServiceAccount. They are the issuer, unless
/// somebody has chosen others.
fn own_audiences(config: &Config) -> Option<Vec<String>> {
    let auth = &config.auth_info;
    let file = auth.token_file.as_ref().and_then(|file| std::fs::read_to_string(file).ok()).map(SecretString::from);
    let token = file.or_else(|| auth.token.clone())?;
    token::read(&token).ok().map(|claims| claims.audiences).filter(|audiences| !audiences.is_empty())
}
