//! The credentials in a kubeconfig.

use std::collections::BTreeSet;

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::Uri;
use kube::config::{AuthInfo, Kubeconfig};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::{
    Facts,
    certificates::{Certificate, certificates},
    row::{Row, names},
};
use crate::core::{text::plain, token::Claims, verify::Learnt};

/// What a token in a kubeconfig is.
#[derive(Debug, PartialEq, Eq)]
pub enum Token {
    /// Of a ServiceAccount.
    Account(Box<Claims>),
    /// A JWT of this issuer.
    Issued(String),
    /// No JWT.
    Opaque,
}

/// A user of a kubeconfig.
#[derive(Debug)]
pub struct Login {
    pub name: String,
    pub certificate: Learnt<Option<Certificate>>,
    pub token: Learnt<Option<Token>>,
    /// It has a user name and a password.
    pub password: bool,
    /// The authentication provider that gets its tokens.
    pub provider: Option<String>,
    /// The command that gets its credentials.
    pub command: Option<String>,
}

/// The users of a kubeconfig.
#[derive(Debug)]
pub struct Logins {
    /// Those that a context has for this API server, and that of the context in use.
    pub here: Vec<Login>,
    /// The names of the others: they have no context, or one with another address, be it of the same cluster.
    pub elsewhere: Vec<String>,
}

/// The users that a kubeconfig has for the API server at this URL, and the others. No file of the others is read.
pub fn logins(config: &Kubeconfig, url: &str, used: Option<&str>, read: impl Fn(&str) -> Learnt<String>) -> Logins {
    let is_here = |name: &str| {
        let cluster = config
            .clusters
            .iter()
            .find(|cluster| cluster.name == name)
            .and_then(|one| one.cluster.as_ref()?.server.as_ref());
        cluster.is_some_and(|server| address(server) == address(url))
    };
    let is_used = |name: &str| used == Some(name);
    let contexts = config.contexts.iter().filter_map(|one| Some((&one.name, one.context.as_ref()?)));
    let users: BTreeSet<&String> = contexts
        .filter(|(name, context)| is_used(name) || is_here(&context.cluster))
        .filter_map(|(_, context)| context.user.as_ref())
        .collect();
    let (here, elsewhere): (Vec<_>, Vec<_>) = config.auth_infos.iter().partition(|info| users.contains(&info.name));
    Logins {
        here: here.into_iter().filter_map(|info| Some(login(&info.name, info.auth_info.as_ref()?, &read))).collect(),
        elsewhere: elsewhere.into_iter().map(|info| info.name.clone()).collect(),
    }
}

/// A URL with its port, in the spelling that all spellings of it share.
fn address(url: &str) -> String {
    let text = url.trim_end_matches('/').to_lowercase();
    let parsed: Option<Uri> = text.parse().ok();
    let port = |uri: &Uri| uri.port_u16().or(if uri.scheme_str() == Some("http") { Some(80) } else { Some(443) });
    let spelled = |uri: Uri| Some(format!("{}//{}:{}{}", uri.scheme_str()?, uri.host()?, port(&uri)?, uri.path()));
    parsed.and_then(spelled).unwrap_or(text)
}

fn login(name: &str, info: &AuthInfo, read: impl Fn(&str) -> Learnt<String>) -> Login {
    let named = |why| format!("kubeconfig user {name}: {why}");
    Login {
        name: plain(name),
        certificate: certificate(info, &read).map_err(named),
        token: token(info, &read).map(|token| token.as_ref().map(kind)).map_err(named),
        password: info.username.is_some() && info.password.is_some(),
        provider: info.auth_provider.as_ref().map(|provider| provider.name.clone()),
        command: info.exec.as_ref().map(|exec| exec.command.clone().unwrap_or_default()),
    }
}

/// The client's own certificate: others after it lead to its CA.
fn certificate(info: &AuthInfo, read: impl Fn(&str) -> Learnt<String>) -> Learnt<Option<Certificate>> {
    let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    let pem = match (given(&info.client_certificate_data), given(&info.client_certificate)) {
        (Some(data), _) => decoded(&data)?,
        (None, Some(file)) => read(&file)?.into_bytes(),
        (None, None) => return Ok(None),
    };
    let first = certificates(&pem).into_iter().next();
    first.map(Some).ok_or_else(|| "its client certificate is no PEM; correct the kubeconfig".to_owned())
}

/// Go skips line ends in base64.
fn decoded(data: &str) -> Learnt<Vec<u8>> {
    let bytes = STANDARD.decode(data.replace(['\r', '\n'], ""));
    bytes.map_err(|_| "its client-certificate-data is no base64; correct the kubeconfig".to_owned())
}

/// As client-go chooses: the token of the file, unless that cannot be read and there is another.
fn token(info: &AuthInfo, read: impl Fn(&str) -> Learnt<String>) -> Learnt<Option<SecretString>> {
    let given = info.token.clone().filter(|token| !token.expose_secret().is_empty());
    let Some(file) = info.token_file.as_ref().filter(|file| !file.is_empty()) else { return Ok(given) };
    let found = read(file).and_then(|text| match text.trim() {
        "" => Err(format!("{file} holds no token; correct the kubeconfig")),
        token => Ok(token.to_owned().into()),
    });
    found.map(Some).or_else(|why| given.map(Some).ok_or(why))
}

fn kind(token: &SecretString) -> Token {
    let account = Claims::read(token).map(|claims| Token::Account(Box::new(claims)));
    account.or_else(|| issuer(token.expose_secret()).map(Token::Issued)).unwrap_or(Token::Opaque)
}

/// The users for this API server, if they can be read.
pub fn users<'a>(row: &mut Row, facts: &'a Facts) -> &'a [Login] {
    row.learn(&facts.logins).map(|logins| logins.here.as_slice()).unwrap_or_default()
}

/// The users with a token.
pub fn tokens<'a>(row: &mut Row, facts: &'a Facts) -> Vec<(&'a str, &'a Token)> {
    let users = users(row, facts).iter();
    users.filter_map(|login| Some((login.name.as_str(), row.learn(&login.token)?.as_ref()?))).collect()
}

/// The users with a token of a ServiceAccount.
pub fn accounts<'a>(row: &mut Row, facts: &'a Facts) -> Vec<(&'a str, &'a Claims)> {
    let all = tokens(row, facts).into_iter();
    all.filter_map(|(name, token)| if let Token::Account(claims) = token { Some((name, &**claims)) } else { None })
        .collect()
}

/// Names the users that no row judges.
pub fn others(row: &mut Row, facts: &Facts) {
    let elsewhere = facts.logins.as_ref().map(|logins| logins.elsewhere.as_slice()).unwrap_or_default();
    if !elsewhere.is_empty() {
        row.seen(format!("not judged, as no context has them for this address: kubeconfig users {}", names(elsewhere)));
    }
}

/// The issuer of a JWT.
fn issuer(token: &str) -> Option<String> {
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?).ok()?;
    Some(plain(payload["iss"].as_str()?))
}

#[cfg(test)]
pub mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::{
        hygiene::tests::ALICE,
        token::tests::{payload, token},
    };

    /// A user without credentials.
    pub fn nobody(name: &str) -> Login {
        login(name, &AuthInfo::default(), |_| Err(String::new()))
    }

    fn of(users: &Value) -> Logins {
        let config = json!({
            "clusters": [{"name": "here", "cluster": {"server": "https://api:6443"}}, {"name": "away", "cluster": {"server": "https://other"}}],
            "contexts": [{"name": "a", "context": {"cluster": "here", "user": "a"}}, {"name": "b", "context": {"cluster": "away", "user": "b"}}],
            "users": users,
        });
        let read = |file: &str| match file {
            "/token" => Ok("opaque\n".to_owned()),
            "/empty" => Ok("\n".to_owned()),
            _ => Err(format!("reading {file}")),
        };
        logins(&Kubeconfig::from_yaml(&config.to_string()).unwrap(), "https://api:6443/", None, read)
    }

    #[test]
    fn spellings_of_an_address_are_one_and_the_user_in_use_is_always_judged() {
        for (one, other, same) in [
            ("HTTPS://Api:6443/", "https://api:6443", true),
            ("https://api", "https://API:443/", true),
            ("https://api/a", "https://api/b", false),
            ("https://api:6443", "https://api:8443", false),
            ("http://api", "https://api", false),
        ] {
            assert_eq!(address(one) == address(other), same, "{one} {other}");
        }
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://other"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}, {"name": "y", "context": {"cluster": "c", "user": "v"}}],
            "users": [{"name": "u", "user": {}}, {"name": "v", "user": {}}],
        });
        let config = Kubeconfig::from_yaml(&config.to_string()).unwrap();
        let found = logins(&config, "https://api", Some("x"), |_| Err(String::new()));
        assert_eq!((found.here.len(), found.here[0].name.as_str(), found.elsewhere), (1, "u", vec!["v".to_owned()]));
    }

    fn first(user: &Value) -> Login {
        of(&json!([{"name": "a", "user": user}])).here.remove(0)
    }

    #[test]
    fn only_users_of_this_api_server_count_and_tokens_are_told_apart() {
        let foreign = token(&json!({"iss": "https://idp", "sub": "me"}));
        for (text, expected) in [
            (foreign.as_str(), Token::Issued("https://idp".into())),
            ("opaque", Token::Opaque),
            ("a.b.c", Token::Opaque),
        ] {
            let users = json!([{"name": "a", "user": {"token": text}}, {"name": "b", "user": {"tokenFile": "/none"}}, {"name": "c"}]);
            let found = of(&users);
            assert_eq!((found.here.len(), found.elsewhere), (1, vec!["b".to_owned(), "c".to_owned()]));
            assert_eq!(found.here[0].token, Ok(Some(expected)));
        }
        let found = first(&json!({"token": token(&payload())}));
        assert!(matches!(&found.token, Ok(Some(Token::Account(claims))) if claims.account.name == "deployer"));
        assert!(!format!("{found:?}").contains("eyJ"));
    }

    #[test]
    fn the_token_of_a_file_counts_as_client_go_counts_it() {
        let foreign = token(&json!({"iss": "https://idp", "sub": "me"}));
        let issued = || Ok(Some(Token::Issued("https://idp".into())));
        for (user, expected) in [
            (json!({"token": foreign, "tokenFile": "/token"}), Ok(Some(Token::Opaque))),
            (json!({"token": foreign, "tokenFile": "/none"}), issued()),
            (json!({"token": foreign, "tokenFile": "/empty"}), issued()),
            (json!({"token": "", "tokenFile": ""}), Ok(None)),
            (json!({"tokenFile": "/none"}), Err("kubeconfig user a: reading /none".to_owned())),
            (
                json!({"tokenFile": "/empty"}),
                Err("kubeconfig user a: /empty holds no token; correct the kubeconfig".to_owned()),
            ),
        ] {
            assert_eq!(first(&user).token, expected, "{user}");
        }
    }

    #[test]
    fn certificates_are_read_as_go_reads_them() {
        let data = STANDARD.encode(ALICE);
        let lines = format!("{}\r\n{}\n", &data[..64], &data[64..]);
        for (user, expected) in [
            (json!({"client-certificate-data": data}), "alice"),
            (json!({"client-certificate-data": lines, "client-certificate": "/none"}), "alice"),
            (json!({"client-certificate-data": "?"}), "kubeconfig user a: its client-certificate-data is no base64"),
            (json!({"client-certificate": "/token"}), "kubeconfig user a: its client certificate is no PEM"),
            (json!({"client-certificate": "/none"}), "kubeconfig user a: reading /none"),
        ] {
            let found = first(&user).certificate;
            let found = found.map_or_else(|why| why, |found| found.unwrap().user);
            assert!(found.starts_with(expected), "{user}: {found}");
        }
    }

    #[test]
    fn a_command_is_named_without_its_arguments() {
        let found = first(
            &json!({"exec": {"command": "login", "args": ["hidden"], "env": [{"name": "A", "value": "hidden"}]}}),
        );
        assert_eq!(found.command.as_deref(), Some("login"));
    }
}
