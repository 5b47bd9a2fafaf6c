//! The credentials in a kubeconfig.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use kube::config::{AuthInfo, Kubeconfig};
use secrecy::ExposeSecret as _;
use serde_json::Value;

use super::certificates::{Certificate, certificates};
use crate::core::{text::plain, token::Claims};

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
    pub certificates: Vec<Certificate>,
    pub token: Option<Token>,
    /// It has a user name and a password.
    pub password: bool,
    /// The authentication provider that gets its tokens.
    pub provider: Option<String>,
}

/// The users that a kubeconfig has for the API server at this URL. Files that it names are embedded already.
pub fn logins(config: &Kubeconfig, url: &str) -> Vec<Login> {
    let is_here = |name: &str| {
        let cluster = config
            .clusters
            .iter()
            .find(|cluster| cluster.name == name)
            .and_then(|one| one.cluster.as_ref()?.server.as_ref());
        cluster.is_some_and(|server| server.trim_end_matches('/') == url.trim_end_matches('/'))
    };
    let contexts = config.contexts.iter().filter_map(|context| context.context.as_ref());
    let users: Vec<&String> =
        contexts.filter(|context| is_here(&context.cluster)).filter_map(|context| context.user.as_ref()).collect();
    let infos = config.auth_infos.iter().filter(|info| users.contains(&&info.name));
    infos.filter_map(|info| Some(login(&info.name, info.auth_info.as_ref()?))).collect()
}

fn login(name: &str, info: &AuthInfo) -> Login {
    let pem = info.client_certificate_data.as_ref().and_then(|data| STANDARD.decode(data).ok());
    Login {
        name: plain(name),
        certificates: certificates(&pem.unwrap_or_default()),
        token: info.token.as_ref().map(|token| {
            let account = Claims::read(token).map(|claims| Token::Account(Box::new(claims)));
            account.or_else(|| issuer(token.expose_secret()).map(Token::Issued)).unwrap_or(Token::Opaque)
        }),
        password: info.username.is_some() && info.password.is_some(),
        provider: info.auth_provider.as_ref().map(|provider| plain(&provider.name)),
    }
}

/// The users with a token of a ServiceAccount.
pub fn accounts(logins: Option<&Vec<Login>>) -> impl Iterator<Item = (&str, &Claims)> {
    logins.into_iter().flatten().filter_map(|login| match &login.token {
        Some(Token::Account(claims)) => Some((login.name.as_str(), claims.as_ref())),
        _ => None,
    })
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
    use crate::core::token::tests::{payload, token};

    /// A user without credentials.
    pub fn nobody(name: &str) -> Login {
        login(name, &AuthInfo::default())
    }

    fn of(users: &Value) -> Vec<Login> {
        let config = json!({
            "clusters": [{"name": "here", "cluster": {"server": "https://api:6443"}}, {"name": "away", "cluster": {"server": "https://other"}}],
            "contexts": [{"name": "a", "context": {"cluster": "here", "user": "a"}}, {"name": "b", "context": {"cluster": "away", "user": "b"}}],
            "users": users,
        });
        logins(&Kubeconfig::from_yaml(&config.to_string()).unwrap(), "https://api:6443/")
    }

    #[test]
    fn only_users_of_this_api_server_count_and_tokens_are_told_apart() {
        let foreign = token(&json!({"iss": "https://idp", "sub": "me"}));
        for (text, expected) in [
            (foreign.as_str(), Token::Issued("https://idp".into())),
            ("opaque", Token::Opaque),
            ("a.b.c", Token::Opaque),
        ] {
            let found = of(&json!([{"name": "a", "user": {"token": text}}, {"name": "b", "user": {"token": "x"}}]));
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].token.as_ref(), Some(&expected));
        }
        let found = of(&json!([{"name": "a", "user": {"token": token(&payload())}}]));
        assert!(matches!(&found[0].token, Some(Token::Account(claims)) if claims.account.name == "deployer"));
        assert!(!format!("{found:?}").contains("eyJ"));
    }
}
