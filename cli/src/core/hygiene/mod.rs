//! `hygiene`: every way into the cluster, as a report of one row for each authentication strategy of Kubernetes.

pub mod admins;
pub mod anonymous;
pub mod bootstrap;
pub mod bound;
pub mod certificates;
pub mod flags;
pub mod legacy;
pub mod logins;
pub mod oidc;
pub mod proxy;
pub mod rbac;
pub mod rights;
pub mod row;
pub mod secrets;
pub mod static_tokens;
pub mod webhook;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{certificates::v1::CertificateSigningRequest, core::v1::ConfigMap},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use tokenward::record::Time;

use super::{target::Target, verify::Learnt};
use flags::Flags;
use logins::Logins;
use rbac::Rbac;
pub use row::{Row, Severity, draw, unchecked, worst};

/// Everything that the report is made of. An `Err` says why it could not be learnt.
pub struct Facts {
    /// The flags of each kube-apiserver that shows them.
    pub servers: Learnt<Vec<Flags>>,
    /// Why those of other ones cannot be seen.
    pub unseen: Vec<String>,
    /// The lifetime that a request for the longest one was granted, in seconds.
    pub granted: Learnt<i64>,
    /// How long a token lives that a pod asks for an hour, in seconds.
    pub pod_token: Learnt<i64>,
    /// Issuer of the API server's own tokens.
    pub issuer: Learnt<String>,
    /// Secrets of type `kubernetes.io/service-account-token`.
    pub legacy: Learnt<Vec<ObjectMeta>>,
    /// `kube-system/kube-apiserver-legacy-service-account-token-tracking`: the day since when their uses are recorded.
    pub tracked: Learnt<Option<ConfigMap>>,
    /// The Secrets that Tokenward wrote.
    pub targets: Learnt<Vec<Target>>,
    pub bootstrap: Learnt<Vec<bootstrap::Token>>,
    pub requests: Learnt<Vec<CertificateSigningRequest>>,
    pub rbac: Rbac,
    /// `kube-system/extension-apiserver-authentication`, where the API server publishes whom it believes.
    pub published: Learnt<Option<ConfigMap>>,
    /// The status of answers to requests without credentials, by path.
    pub anonymous: Learnt<BTreeMap<String, u16>>,
    pub logins: Learnt<Logins>,
    /// The file of `--authentication-config`, if it was given.
    pub authentication: Option<oidc::Authentication>,
    /// The issuers that the API server believes.
    pub providers: Vec<oidc::Asked>,
    /// The service that the file of `--authentication-token-webhook-config-file` names, if that file was given.
    pub webhook: Option<Learnt<webhook::Webhook>>,
}

/// The rows for which no flag counts.
const FLAGLESS: [&str; 2] = ["client certificates", "authenticating proxy"];

/// The report. Nothing in it is a token or a private key.
pub fn report(facts: &Facts, now: Time) -> Vec<Row> {
    let mut rows = vec![
        bound::row(facts, now),
        legacy::row(facts, now),
        bootstrap::row(facts, now),
        certificates::row(facts, now),
        static_tokens::row(facts),
        oidc::row(facts),
        webhook::row(facts),
        proxy::row(facts, now),
        anonymous::row(facts),
        admins::row(facts),
    ];
    for row in rows.iter_mut().filter(|row| !FLAGLESS.contains(&row.strategy)) {
        facts.unseen.iter().for_each(|why| row.unknown(why));
    }
    rows
}
