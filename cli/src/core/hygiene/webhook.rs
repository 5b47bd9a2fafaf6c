//! Webhook token authentication.

use chrono::TimeDelta;
use tokenward::api::duration::Duration;

use super::{
    Facts,
    row::{Row, Severity},
};
use crate::core::{text::span, verify::Learnt};

/// How long an answer counts by default.
const DEFAULT_TTL: Duration = Duration::from_secs(120);

/// The service that the file of `--authentication-token-webhook-config-file` names.
pub struct Webhook {
    pub server: String,
    /// Its certificate is not checked.
    pub insecure: bool,
    /// Whether it answers.
    pub reached: Learnt<()>,
}

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("webhook");
    let flag = "authentication-token-webhook-config-file";
    for flags in row.servers(facts, "--authentication-token-webhook-config-file") {
        if let Some(file) = flags.get(flag) {
            row.found(format!("kube-apiserver runs with --{flag}={file}"));
            cached(&mut row, flags.get("authentication-token-webhook-cache-ttl"));
            if facts.webhook.is_none() {
                row.unknown(format!("{file} is on the control plane's machine; give a copy with --webhook-config"));
            }
        }
    }
    if let Some(webhook) = facts.webhook.as_ref().and_then(|webhook| row.learn(webhook)) {
        row.found(format!("{} is asked whether a token is good", webhook.server));
        judge(&mut row, webhook);
    }
    row.without(facts, "--authentication-token-webhook-config-file");
    row
}

fn cached(row: &mut Row, ttl: Option<&str>) {
    let Ok(ttl) = ttl.map_or(Ok(DEFAULT_TTL), str::parse::<Duration>) else {
        return row.unknown("--authentication-token-webhook-cache-ttl is no duration that is known here");
    };
    row.seen(format!("an answer counts for {ttl}"));
    if ttl > DEFAULT_TTL {
        let problem = format!(
            "a token that the service revokes works for up to another {}",
            span(ttl.delta().max(TimeDelta::zero()))
        );
        row.finds(Severity::Medium, problem, "set --authentication-token-webhook-cache-ttl=2m or less");
    }
}

fn judge(row: &mut Row, webhook: &Webhook) {
    let server = &webhook.server;
    if webhook.insecure || !server.starts_with("https://") {
        let problem = format!("whoever stands between the API server and {server} sees each token, and may be anybody");
        row.finds(
            Severity::Critical,
            problem,
            "use https, and certificate-authority in place of insecure-skip-tls-verify",
        );
    }
    match &webhook.reached {
        Ok(()) => row.seen(format!("{server} answers")),
        // The API server may have another way there, and trust other certificates.
        Err(why) => row.unknown(format!("{server} does not answer this machine: {why}")),
    }
}
