//! Tokens and passwords in files of the control plane.

use super::{
    Facts,
    logins::{Login, Token, tokens, users},
    row::{Row, Severity},
};

pub fn row(facts: &Facts) -> Row {
    let mut row = Row::new("static token file");
    for flags in row.servers(facts, "--token-auth-file, --basic-auth-file") {
        if let Some(file) = flags.get("token-auth-file") {
            row.found(format!("kube-apiserver runs with --token-auth-file={file}"));
            let problem = format!("the tokens in {file} never expire, and lie there as plain text");
            let cure = "give programs tokens by a TokenPolicy and people an OIDC login; remove the flag, which also revokes \
                        the tokens";
            row.finds(Severity::High, problem, cure);
        }
        if let Some(file) = flags.get("basic-auth-file") {
            row.found(format!("kube-apiserver runs with --basic-auth-file={file}"));
            let problem = format!("the passwords in {file} never expire, and Kubernetes 1.19 dropped the flag");
            row.finds(Severity::Critical, problem, "remove the flag, and upgrade the cluster");
        }
    }
    row.without(facts, "--token-auth-file and --basic-auth-file");
    for (name, _) in tokens(&mut row, facts).into_iter().filter(|(_, token)| **token == Token::Opaque) {
        row.seen(format!("kubeconfig user {name}: a token that is no JWT, so a static one or one for a webhook"));
    }
    for Login { name, .. } in users(&mut row, facts).iter().filter(|login| login.password) {
        row.found(format!("kubeconfig user {name}: a password"));
        let problem = format!("the password of kubeconfig user {name} is of no use since Kubernetes 1.19");
        row.finds(Severity::Low, problem, "remove username and password from the kubeconfig");
    }
    row
}
