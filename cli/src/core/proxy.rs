//! The proxy on the way to a server, as Go's programs take it from the environment.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;

/// The proxy for requests to this URL, if the environment names one.
pub fn proxy(url: &Uri, environment: impl Fn(&str) -> Option<String>) -> Option<String> {
    let get = |name: &str| [name.to_owned(), name.to_lowercase()].iter().find_map(|name| given(&environment, name));
    let https = url.scheme_str() != Some("http");
    let proxy = get(if https { "HTTPS_PROXY" } else { "HTTP_PROXY" })?;
    let host = url.host()?.trim_matches(['[', ']']).to_lowercase();
    let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
    let exceptions = get("NO_PROXY").unwrap_or_default().to_lowercase();
    let proxied = !is_local(&host) && !exceptions.split(',').any(|one| covers(one.trim(), &host, port));
    proxied.then(|| if proxy.contains("://") { proxy } else { format!("http://{proxy}") })
}

fn given(environment: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    environment(name).filter(|value| !value.is_empty())
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Whether an entry of `NO_PROXY` is about a host: `*`, a range or address, a name with those below it, or `.` and a name for
/// those below it alone. All but `*` and ranges may have a port.
fn covers(entry: &str, host: &str, port: u16) -> bool {
    if let Ok(range) = entry.parse::<IpNet>() {
        return host.parse().is_ok_and(|ip: IpAddr| range.contains(&ip));
    }
    let is_address = entry.parse::<IpAddr>().is_ok();
    let (name, wanted) = match entry.rsplit_once(':').filter(|_| !is_address) {
        Some((name, port)) => (name, port.parse::<u16>().ok()),
        None => (entry, None),
    };
    let name = name.trim_matches(['[', ']']);
    let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
    let named =
        host.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.') || name.starts_with('.'));
    entry == "*" || (named && !name.is_empty() && wanted.is_none_or(|wanted| wanted == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(url: &str, variables: &[(&str, &str)]) -> Option<String> {
        let get = |name: &str| Some(variables.iter().find(|(known, _)| *known == name)?.1.to_owned());
        proxy(&url.parse().unwrap(), get)
    }

    #[test]
    fn the_variable_is_that_of_the_scheme() {
        let both = [("HTTPS_PROXY", "http://one:1"), ("http_proxy", "two:2")];
        assert_eq!(chosen("https://api:6443", &both).as_deref(), Some("http://one:1"));
        assert_eq!(chosen("http://api", &both).as_deref(), Some("http://two:2"));
        assert_eq!(chosen("http://api", &both[..1]), None);
        assert_eq!(
            chosen("https://api", &[("HTTPS_PROXY", ""), ("https_proxy", "x:1")]).as_deref(),
            Some("http://x:1")
        );
    }

    #[test]
    fn this_machine_and_exceptions_are_reached_without_it() {
        for (url, exceptions, direct) in [
            ("https://localhost:6443", "", true),
            ("https://127.0.0.5:6443", "", true),
            ("https://[::1]:6443", "", true),
            ("https://api.corp", "*", true),
            ("https://api.corp", "x, API.corp,", true),
            ("https://api.corp", "corp", true),
            ("https://api.corp", ".corp", true),
            ("https://api.corp", "*.corp", true),
            ("https://api.corp", ".api.corp", false),
            ("https://xcorp", "corp", false),
            ("https://api.corp:6443", "api.corp:6443", true),
            ("https://api.corp:6443", "api.corp:443", false),
            ("https://api.corp", "api.corp:443", true),
            ("https://10.1.2.3", "10.0.0.0/8", true),
            ("https://10.1.2.3", "10.1.2.3", true),
            ("https://[fd00::1]", "fd00::1", true),
            ("https://11.1.2.3", "10.0.0.0/8,,10.1.2.3", false),
            ("https://api.corp", "", false),
        ] {
            let found = chosen(url, &[("HTTPS_PROXY", "http://proxy:3128"), ("NO_PROXY", exceptions)]);
            assert_eq!(found.is_none(), direct, "{url} {exceptions}");
        }
    }
}
