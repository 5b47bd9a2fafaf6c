//! Reading a scrape.

use super::{SOON, Scene, Target, spec};
use crate::eventually;
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::collections::BTreeMap;

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    fn parse(line: &str) -> Result<Self> {
        let (series, value) = line.rsplit_once(' ').context("no value")?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').context("no end of the labels")?;
        // No value has a comma, a quote or an equals sign in it.
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').context("no value of a label")?;
            anyhow::Ok((name.to_owned(), value.trim_matches('"').to_owned()))
        };
        let labels = labels.split(',').filter(|pair| !pair.is_empty()).map(pair).collect::<Result<_>>()?;
        Ok(Self { name: name.to_owned(), labels, value: value.parse()? })
    }

    /// The value of a label, or an empty text.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// What an operator says at one moment.
#[derive(Debug)]
pub struct Scrape {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Scrape {
    pub fn parse(text: String) -> Result<Self> {
        let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| Sample::parse(line).with_context(|| line.to_owned())).collect::<Result<_>>()?;
        Ok(Self { text, samples })
    }

    /// Every series of this metric.
    pub fn of(&self, name: &str) -> impl Iterator<Item = &Sample> {
        let name = format!("tokenward_{name}");
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The value of the series with exactly these labels.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> =
            labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        self.of(name).find(|sample| sample.labels == wanted).map(|sample| sample.value)
    }
}

impl Scene {
    /// A first issue, a rotation whose overlap ends, the loss of an anchor, a repair, and a policy `failing` that cannot
    /// be met; the last of the three tokens.
    pub async fn story(&self) -> Result<Target> {
        let first = self.deployer(json!({"rotation": {"overlap": "2s"}})).await?;
        self.rotate("p", "1").await?;
        let second = self.next_target("p-deployer", &first).await?;
        self.gone(first.anchor()).await?;
        self.delete_secret(second.anchor()).await?;
        let third = self.next_target("p-deployer", &second).await?;
        self.patch_secret("p-deployer", json!({"metadata": {"labels": {"tokenward.dev/role": null}}})).await?;
        self.told("p", "SecretRepaired", "MetadataChanged").await?;
        self.policy("failing", &spec(&["nobody"], json!({}))).await?;
        self.not_ready("failing", "AccountNotFound").await?;
        self.ready("p").await?;
        Ok(third)
    }

    /// What the operator says now.
    pub async fn scrape(&self) -> Result<Scrape> {
        Scrape::parse(self.operator.metrics().await?)
    }

    /// Waits until a series has this value.
    pub async fn counts(&self, name: &str, labels: &[(&str, &str)], value: f64) -> Result<()> {
        let check = async || {
            let scrape = self.scrape().await?;
            let found = scrape.value(name, labels);
            let all: Vec<&Sample> = scrape.of(name).collect();
            ensure!(found == Some(value), "{found:?}; all of it: {all:?}");
            Ok(())
        };
        eventually(SOON, &format!("tokenward_{name}{labels:?} is {value}"), check).await
    }
}
