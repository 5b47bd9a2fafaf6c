//! The authenticating proxy, by which API aggregation works as well.

use tokenward::record::{Time, text};

use super::{
    Facts,
    certificates::{certificates, ends},
    row::{Row, Severity, names},
};

pub fn row(facts: &Facts, now: Time) -> Row {
    let mut row = Row::new("authenticating proxy");
    let Some(published) = row.learn(&facts.published) else { return row };
    let key = |key: &str| published.as_ref().and_then(|map| map.data.as_ref()?.get(key)).map(String::as_str);
    let authorities = certificates(key("requestheader-client-ca-file").unwrap_or_default().as_bytes());
    if authorities.is_empty() {
        row.seen("the API server publishes no requestheader CA in kube-system/extension-apiserver-authentication");
        return row;
    }
    for authority in &authorities {
        row.found(format!("the requestheader CA {} is believed until {}", authority.user, text(authority.ends)));
        ends(&mut row, "requestheader CA", authority, now);
    }
    let allowed: Vec<String> =
        serde_json::from_str(key("requestheader-allowed-names").unwrap_or("[]")).unwrap_or_default();
    if !allowed.is_empty() {
        row.seen(format!("allowed names: {}", names(&allowed)));
    }
    let clients = certificates(key("client-ca-file").unwrap_or_default().as_bytes());
    let shared = authorities.iter().any(|authority| clients.iter().any(|client| client.key == authority.key));
    judge(&mut row, allowed.is_empty(), shared);
    row
}

fn judge(row: &mut Row, anyone: bool, shared: bool) {
    let allow = "set --requestheader-allowed-names=front-proxy-client, or the common name that your proxy has";
    let own = "give the proxy a CA of its own, and --requestheader-client-ca-file that CA";
    match (anyone, shared) {
        // Newer API servers do not start so.
        (true, true) => {
            let problem = "the CA of clients signs proxies as well, and no name is required: whoever has a client certificate \
                           may be anybody, by a header";
            row.finds(Severity::Critical, problem, format!("{own}; {allow}"));
        }
        (true, false) => {
            let problem =
                "each certificate of the requestheader CA may act as any user: --requestheader-allowed-names is empty";
            row.finds(Severity::Medium, problem, allow);
        }
        (false, true) => {
            let problem = "the CA of clients signs proxies as well: a client certificate with an allowed name may act as any user";
            row.finds(Severity::Medium, problem, own);
        }
        (false, false) => {}
    }
}
