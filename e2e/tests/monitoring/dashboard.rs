//! The dashboard is one that Grafana can import, and each of its queries shows something.

use crate::alerts::text;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use tokenward_e2e::pages::read;
use tokenward_e2e::prometheus::Prometheus;

/// `monitoring/dashboard.json`.
pub struct Dashboard(Value);

impl Dashboard {
    pub fn read() -> Result<Self> {
        Ok(Self(serde_json::from_str(&read("monitoring/dashboard.json")?)?))
    }

    fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
        value[field].as_array().into_iter().flatten()
    }

    fn panels(&self) -> impl Iterator<Item = &Value> {
        Self::list(&self.0, "panels")
    }

    fn variables(&self) -> impl Iterator<Item = &Value> {
        Self::list(&self.0["templating"], "list")
    }

    /// The queries, each with the title of its panel.
    fn queries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.panels()
            .flat_map(|panel| Self::list(panel, "targets").map(|target| (text(panel, "title"), text(target, "expr"))))
    }

    /// Runs every query, and names the panels of those that give no number.
    pub async fn shows_data(&self, prometheus: &Prometheus, namespace: &str) -> Result<()> {
        let mut empty = Vec::new();
        for (title, query) in self.queries() {
            // As Grafana fills them in. The range is that of the whole test.
            let query =
                query.replace("$namespace", namespace).replace("$__rate_interval", "10m").replace("$__range", "10m");
            let samples = prometheus.query(&query).await?;
            let number = |sample: &Value| sample["value"][1].as_str().is_some_and(|value| value != "NaN");
            if !samples.iter().any(number) {
                empty.push(format!("{title}: {query}"));
            }
        }
        ensure!(empty.is_empty(), "these show no data: {empty:#?}");
        Ok(())
    }
}

/// The cells of the grid that a panel covers.
fn cells(panel: &Value) -> Result<Vec<(u64, u64)>> {
    let side = |name: &str| panel["gridPos"][name].as_u64().with_context(|| format!("no {name}: {}", panel["title"]));
    let (x, y, w, h) = (side("x")?, side("y")?, side("w")?, side("h")?);
    ensure!(w > 0 && h > 0 && x + w <= 24, "{} is not on the grid of 24 columns", panel["title"]);
    Ok((x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))).collect())
}

#[test]
fn the_dashboard_is_whole() -> Result<()> {
    let dashboard = Dashboard::read()?;
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard.panels() {
        let title = text(panel, "title");
        ensure!(
            !title.is_empty() && ids.insert(panel["id"].as_u64()),
            "a panel without a title, or its id is taken: {title}"
        );
        for cell in cells(panel)? {
            ensure!(taken.insert(cell), "{title} lies over another panel");
        }
        if panel["type"] != "row" {
            ensure!(panel["datasource"]["uid"] == "${datasource}", "{title} has a data source of its own");
            ensure!(Dashboard::list(panel, "targets").next().is_some(), "{title} asks for nothing");
        }
    }
    let variables: Vec<&str> = dashboard.variables().map(|variable| text(variable, "name")).collect();
    assert_eq!(variables, ["datasource", "namespace"]);
    Ok(())
}
