//! No token text where people or other programs read. Any scenario may end with [`Scene::keeps_secrets`].

use super::Scene;
use crate::control_plane::ISSUER;
use crate::leak::{Finding, Scanner};
use crate::proxy::Minted;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use std::fs;

/// A text with its name.
pub type Text = (String, Vec<u8>);

impl Scene {
    /// A scanner for every token that the API server issued to this scene's operator, and for any JWT of the issuer.
    pub fn scanner(&self) -> Result<Scanner> {
        let minted = self.proxy.minted();
        ensure!(!minted.is_empty(), "no token was minted, so none can be looked for");
        Scanner::new(minted.iter().map(Minted::token), ISSUER)
    }

    /// Everything that is there to be read without the right to read a Secret's value: log, metrics, probes, events,
    /// policies with their status, the metadata of all Secrets, the audit log.
    pub async fn readable(&self) -> Result<Vec<Text>> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = ListParams::default();
        let mut texts = vec![
            ("log".to_owned(), self.operator.log()?.into_bytes()),
            ("events".to_owned(), serde_json::to_vec(&events.list(&all).await?)?),
            ("policies".to_owned(), serde_json::to_vec(&self.policies().list(&all).await?)?),
            ("metadata of Secrets".to_owned(), serde_json::to_vec(&self.secrets().list_metadata(&all).await?)?),
            ("audit.log".to_owned(), fs::read(self.plane.dir().join("audit.log")).context("audit.log")?),
        ];
        if self.operator.exited()?.is_none() {
            texts.push(("/metrics".to_owned(), self.operator.metrics().await?.into_bytes()));
            texts.push(("/readyz".to_owned(), self.operator.readyz().await?.1.into_bytes()));
        }
        Ok(texts)
    }

    /// That none of it holds token text, shown by a scanner that finds what is planted.
    pub async fn keeps_secrets(&self) -> Result<()> {
        let scanner = self.scanner()?;
        let mut texts = self.readable().await?;
        ensure!(texts.iter().all(|(_, text)| !text.is_empty()), "there is nothing to scan");
        let found: Vec<Finding> = texts.iter().flat_map(|(name, text)| scanner.scan(name, text)).collect();
        ensure!(found.is_empty(), "token text in {found:#?}");
        let (name, log) = &mut texts[0];
        let length = log.len();
        log.extend(self.proxy.minted().iter().flat_map(|minted| minted.token().bytes().chain(*b"\n")));
        let found = scanner.scan(name, log);
        ensure!(found.iter().any(|finding| finding.offset == length), "the scanner is blind: {found:?}");
        Ok(())
    }
}
