//! Which ways to the API server are safe for tokens.

use std::net::IpAddr;

use http::Uri;

const PLAIN: &str = "it is no https URL, so anyone on the way could read tokens: write an https URL as `server` of the \
    kubeconfig's cluster; plain http is accepted on loopback only, as for kubectl proxy";
const UNVERIFIED: &str = "`insecure-skip-tls-verify` is set, so anyone on the way could pose as the API server: remove \
    it from the kubeconfig's cluster, and give the cluster's CA in `certificate-authority-data`";
/// All tokens would pass through somebody else's hands, and nobody has decided that they may.
const PROXIED: &str = "`proxy-url` is set, and Tokenward connects to the API server directly: remove it from the kubeconfig's \
    cluster, and let `server` be a URL that is reached without a proxy";

/// Checks a connection to this server.
///
/// # Errors
/// When it is not safe, with why no token may travel on it, and what to do.
pub fn check(server: &Uri, skips_verification: bool, has_proxy: bool) -> Result<(), &'static str> {
    if server.scheme_str() != Some("https") && !(server.scheme_str() == Some("http") && is_loopback(server)) {
        return Err(PLAIN);
    }
    if skips_verification {
        return Err(UNVERIFIED);
    }
    if has_proxy { Err(PROXIED) } else { Ok(()) }
}

/// `localhost`, or an address of 127.0.0.0/8 or `::1`.
#[must_use]
pub fn is_loopback(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(server: &str) -> Result<(), &'static str> {
        check(&server.parse().unwrap(), false, false)
    }

    #[test]
    fn https_is_safe_and_so_is_plain_http_on_loopback() {
        let loopback = ["http://127.0.0.1:8001", "http://127.8.8.8", "http://[::1]:8001", "http://LOCALHOST:8001"];
        for server in ["https://api.example.com:6443", "https://10.0.0.1"].iter().chain(&loopback) {
            assert_eq!(checked(server), Ok(()), "{server}");
        }
    }

    #[test]
    fn plain_http_elsewhere_and_what_is_no_url_is_not() {
        let disguised =
            ["http://localhost.example.com", "http://127.0.0.1.example.com", "http://localhost@example.com"];
        let elsewhere = ["http://api.example.com", "http://10.0.0.1:8080", "http://[fe80::1]", "http://0.0.0.0"];
        for server in elsewhere.iter().chain(&disguised).chain(&["ws://127.0.0.1", "127.0.0.1:8001", "/path"]) {
            assert_eq!(checked(server), Err(PLAIN), "{server}");
        }
    }

    #[test]
    fn neither_skipped_verification_nor_a_proxy_is_safe() {
        let server = "https://127.0.0.1:6443".parse().unwrap();
        assert_eq!(check(&server, true, false), Err(UNVERIFIED));
        assert_eq!(check(&server, false, true), Err(PROXIED));
    }

    #[test]
    fn each_refusal_names_the_setting() {
        for (refusal, setting) in
            [(PLAIN, "`server`"), (UNVERIFIED, "`insecure-skip-tls-verify`"), (PROXIED, "`proxy-url`")]
        {
            assert!(refusal.contains(setting), "{refusal}");
        }
    }
}
