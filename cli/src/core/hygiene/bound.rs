//! Bound tokens.

use chrono::TimeDelta;
use tokenward::record::{Time, text};

use super::{
    Facts,
    logins::{accounts, others},
    row::{Row, Severity},
};
use crate::core::{text::span, token::Claims};

/// The longest lifetime that a TokenRequest may ask for, in seconds: 136 years.
pub const LONGEST: i64 = 1 << 32;
/// GKE grants 48 h, the most of the large providers.
const LONG: i64 = 48 * 3600;
/// As long as the tokens that Tokenward issues by default.
const HELD: TimeDelta = TimeDelta::hours(24);
/// The lifetime of pods' tokens for which the API server extends it, in seconds.
pub const EXTENDABLE: i64 = 3607;

pub fn row(facts: &Facts, now: Time) -> Row {
    let mut row = Row::new("bound tokens");
    if let Some(issuer) = row.learn(&facts.issuer) {
        row.found(format!("the API server issues them as {issuer}"));
    }
    granted(&mut row, facts);
    extended(&mut row, facts);
    others(&mut row, facts);
    for (name, claims) in accounts(&mut row, facts).into_iter().filter(|(_, claims)| !claims.legacy) {
        row.found(format!("kubeconfig user {name}: {}", held(claims, now)));
        if let Some(end) = claims.expires_at.filter(|end| *end > now && *end - claims.issued_at.unwrap_or(now) > HELD) {
            let problem = format!("the token of kubeconfig user {name} works for another {}", span(end - now));
            row.finds(Severity::Medium, problem, "get a kubeconfig from a TokenPolicy with the format Kubeconfig");
        }
    }
    row
}

/// A token that somebody holds.
fn held(claims: &Claims, now: Time) -> String {
    let Claims { namespace, account, expires_at, .. } = claims;
    let end = expires_at.map(|end| format!(", which expires in {}, at {}", span(end - now), text(end)));
    format!("a token of ServiceAccount {namespace}/{}{}", account.name, end.unwrap_or_default())
}

fn granted(row: &mut Row, facts: &Facts) {
    let Some(&granted) = row.learn(&facts.granted) else { return };
    let text = if granted >= LONGEST { "136 years".to_owned() } else { span(TimeDelta::seconds(granted)) };
    row.found(format!("a TokenRequest (dry run) for 136 years was granted {text}"));
    let cure = "set --service-account-max-token-expiration=24h on kube-apiserver";
    if granted >= LONGEST {
        let problem = format!("the API server has no maximum: whoever may create a token may create one for {text}");
        row.finds(Severity::Medium, problem, cure);
    } else if granted > LONG {
        row.finds(Severity::Low, format!("tokens may live for {text}"), cure);
    }
}

fn extended(row: &mut Row, facts: &Facts) {
    let extended = if let Ok(servers) = &facts.servers {
        let on = servers.iter().any(|flags| flags.is_on("service-account-extend-token-expiration", true));
        row.seen(format!("kube-apiserver runs with --service-account-extend-token-expiration={on}"));
        on
    } else {
        let Some(&life) = row.learn(&facts.pod_token) else { return };
        row.seen(format!(
            "the token of a Pod that asks for an hour (dry run) lives for {}",
            span(TimeDelta::seconds(life))
        ));
        life > EXTENDABLE
    };
    if extended {
        let problem = "extended expiry is on: the token of a Pod, which says that it lives for an hour, works for a year while the Pod lives";
        let cure = "watch the metric serviceaccount_stale_tokens_total of kube-apiserver; once it stays, set \
                    --service-account-extend-token-expiration=false";
        row.finds(Severity::Low, problem, cure);
    }
}
