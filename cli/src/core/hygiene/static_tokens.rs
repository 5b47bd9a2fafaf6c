//! Tokens and passwords in files of the control plane.

use super::{
    Facts,
    logins::Token,
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
    for login in row.learn(&facts.logins).into_iter().flatten() {
        if login.token == Some(Token::Opaque) {
            row.seen(format!(
                "kubeconfig user {}: a token that is no JWT, so a static one or one for a webhook",
                login.name
            ));
        }
        if login.password {
            row.found(format!("kubeconfig user {}: a password", login.name));
            let problem = format!("the password of kubeconfig user {} is of no use since Kubernetes 1.19", login.name);
            row.finds(Severity::Low, problem, "remove username and password from the kubeconfig");
        }
    }
    row
}
