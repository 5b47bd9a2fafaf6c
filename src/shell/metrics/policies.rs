//! Metrics of every policy: gauges that are taken from its status, and vanish with it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
};

use crate::{
    api::token_policy::TokenPolicyStatus,
    core::{id::Key, meta},
};

/// The series of all policies, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Policies(Arc<Mutex<Vec<PolicyRow>>>);

#[derive(Debug)]
struct PolicyRow {
    namespace: String,
    policy: String,
    samples: Vec<Sample>,
}

/// A sample of the n-th series, with the label that it has besides namespace and policy.
#[derive(Debug)]
struct Sample {
    series: usize,
    label: Option<(&'static str, String)>,
    value: i64,
}

const SERIES: [(&str, &str); 6] = [
    ("policy_accounts", "Accounts of a policy: selected, with a valid token, and failing"),
    ("policy_condition", "Conditions of a policy: 1 while true, 0 while false"),
    ("policy_granted_lifetime_seconds", "Lifetime that the API server granted, the shortest where they differ"),
    ("policy_earliest_expiration_timestamp_seconds", "When the first token of a policy expires"),
    ("policy_next_rotation_timestamp_seconds", "When the next token of a policy is replaced"),
    ("policy_failing_accounts", "Accounts of a policy that fail and that its status names, by reason"),
];

impl Policies {
    /// Takes over the statuses there are.
    pub fn refresh<'a>(&self, statuses: impl Iterator<Item = (Key, &'a TokenPolicyStatus)>) {
        let row = |(key, status): (Key, &TokenPolicyStatus)| PolicyRow {
            namespace: key.namespace.to_string(),
            policy: key.name.to_string(),
            samples: samples(status),
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = statuses.map(row).collect();
    }
}

fn samples(status: &TokenPolicyStatus) -> Vec<Sample> {
    let counts = status.accounts.clone().unwrap_or_default();
    let states = [("selected", counts.selected), ("ready", counts.ready), ("failing", counts.failing)];
    let accounts = states.map(|(state, count)| (0, Some(("state", state.to_owned())), i64::from(count)));
    let conditions = status
        .conditions
        .iter()
        .map(|condition| (1, Some(("type", condition.type_.clone())), i64::from(condition.status == "True")));
    let granted = status.granted_duration.and_then(|granted| i64::try_from(granted.as_secs()).ok());
    let instant = |text: &Option<String>| text.as_deref().and_then(meta::time).map(|time| time.timestamp());
    let times = [(2, granted), (3, instant(&status.earliest_expiration)), (4, instant(&status.next_rotation))];
    let times = times.into_iter().filter_map(|(series, value)| Some((series, None, value?)));
    let mut reasons: BTreeMap<&str, i64> = BTreeMap::new();
    for failure in &status.failures {
        *reasons.entry(&failure.reason).or_default() += 1;
    }
    let failing = reasons.into_iter().map(|(reason, count)| (5, Some(("reason", reason.to_owned())), count));
    let all = accounts.into_iter().chain(conditions).chain(times).chain(failing);
    all.map(|(series, label, value)| Sample { series, label, value }).collect()
}

impl Collector for Policies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (n, (name, help)) in SERIES.into_iter().enumerate() {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (row, sample) in rows.iter().flat_map(|row| row.samples.iter().map(move |sample| (row, sample))) {
                if sample.series == n {
                    let place = [("namespace", row.namespace.as_str()), ("policy", row.policy.as_str())];
                    let label = sample.label.as_ref().map(|(name, value)| (*name, value.as_str()));
                    let labels: Vec<(&str, &str)> = place.into_iter().chain(label).collect();
                    ConstGauge::new(sample.value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Policies {
    /// A series of each.
    pub fn one_of_each(&self) {
        let label = |series| match series {
            0 => Some(("state", String::new())),
            1 => Some(("type", String::new())),
            5 => Some(("reason", String::new())),
            _ => None,
        };
        let samples = (0..SERIES.len()).map(|series| Sample { series, label: label(series), value: 0 }).collect();
        *self.0.lock().unwrap() = vec![PolicyRow { namespace: String::new(), policy: String::new(), samples }];
    }
}
