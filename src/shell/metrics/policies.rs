//! Metrics of every policy: gauges that are taken from its status, and vanish with it.

use std::{
    collections::BTreeMap,
    iter::once,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    api::token_policy::TokenPolicyStatus,
    core::{
        id::{Key, Name},
        meta,
    },
};

/// The series of all policies, replaced as a whole.
#[derive(Debug, Default)]
pub struct Policies(Mutex<Arc<Vec<PolicyRow>>>);

#[derive(Debug)]
struct PolicyRow {
    policy: Key,
    samples: Box<[Sample]>,
}

/// A sample of the n-th series. Most values of labels are short enough to lie in the sample itself.
#[derive(Debug)]
struct Sample {
    series: u8,
    label: Name,
    value: i64,
}

/// Names, and the label besides namespace and policy, if there is one.
const SERIES: [(&str, &str, &str); 6] = [
    ("policy_accounts", "state", "Accounts of a policy: selected, with a valid token, and failing"),
    ("policy_condition", "type", "Conditions of a policy: 1 while true, 0 while false"),
    ("policy_granted_lifetime_seconds", "", "Lifetime that the API server granted, the shortest where they differ"),
    ("policy_earliest_expiration_timestamp_seconds", "", "When the first token of a policy expires"),
    ("policy_next_rotation_timestamp_seconds", "", "When the next token of a policy is replaced"),
    ("policy_failing_accounts", "reason", "Accounts of a policy that fail and that its status names, by reason"),
];

/// Policies whose samples of a series are one piece of text, of 20 to 60 kB.
const PIECE: usize = 256;

impl Policies {
    /// Takes over the statuses there are.
    pub fn refresh<'a>(&self, statuses: impl Iterator<Item = (Key, &'a TokenPolicyStatus)>) {
        let row = |(policy, status): (Key, &TokenPolicyStatus)| PolicyRow { policy, samples: samples(status) };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(statuses.map(row).collect());
    }

    /// All of it as text, piece by piece: the whole would take more memory than the policies.
    pub fn encode(&self) -> impl Iterator<Item = String> + use<> {
        let rows = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (0..).zip(SERIES).flat_map(move |(series, (name, _, help))| {
            let rows = rows.clone();
            let pieces = (0..rows.len().div_ceil(PIECE)).map(move |n| {
                let rows = rows.iter().skip(n * PIECE).take(PIECE);
                rows.flat_map(|row| row.lines(series)).collect::<String>()
            });
            once(format!("# HELP tokenward_{name} {help}.\n# TYPE tokenward_{name} gauge\n")).chain(pieces)
        })
    }
}

impl PolicyRow {
    fn lines(&self, series: u8) -> impl Iterator<Item = String> {
        let (name, label, _) = SERIES[usize::from(series)];
        let Key { namespace, name: policy } = &self.policy;
        self.samples.iter().filter(move |sample| sample.series == series).map(
            move |Sample { label: text, value, .. }| {
                // Anybody who may write a status chooses the text.
                let text = text.replace(r"\", r"\\").replace(r#"""#, r#"\""#).replace("\n", r"\n");
                let label = if label.is_empty() { String::new() } else { format!(r#",{label}="{text}""#) };
                format!("tokenward_{name}{{namespace=\"{namespace}\",policy=\"{policy}\"{label}}} {value}\n")
            },
        )
    }
}

fn samples(status: &TokenPolicyStatus) -> Box<[Sample]> {
    let accounts = status
        .accounts
        .iter()
        .flat_map(|counts| [("selected", counts.selected), ("ready", counts.ready), ("failing", counts.failing)]);
    let accounts = accounts.map(|(state, count)| (0, state, i64::from(count)));
    let conditions =
        status.conditions.iter().map(|condition| (1, condition.type_.as_str(), i64::from(condition.status == "True")));
    let granted = status.granted_duration.and_then(|granted| i64::try_from(granted.as_secs()).ok());
    let instant = |text: &Option<String>| text.as_deref().and_then(meta::time).map(|time| time.timestamp());
    let times = [(2, granted), (3, instant(&status.earliest_expiration)), (4, instant(&status.next_rotation))];
    let times = times.into_iter().filter_map(|(series, value)| Some((series, "", value?)));
    let mut reasons: BTreeMap<&str, i64> = BTreeMap::new();
    for failure in &status.failures {
        *reasons.entry(&failure.reason).or_default() += 1;
    }
    let failing = reasons.into_iter().map(|(reason, count)| (5, reason, count));
    let all = accounts.chain(conditions).chain(times).chain(failing);
    all.map(|(series, label, value)| Sample { series, label: label.into(), value }).collect()
}

#[cfg(test)]
impl Policies {
    /// A series of each.
    pub fn one_of_each(&self) {
        let sample = |series| Sample { series, label: Name::default(), value: 0 };
        let samples = (0..).zip(SERIES).map(|(series, _)| sample(series)).collect();
        *self.0.lock().unwrap() = Arc::new(vec![PolicyRow { policy: Key::new("", ""), samples }]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(reason: &str) -> TokenPolicyStatus {
        let condition = json!({"type": "Ready", "status": "True", "reason": "TokensPublished", "message": "1 of 1",
            "lastTransitionTime": "2026-11-28T10:00:00Z"});
        let failure = json!({"serviceAccount": "a", "reason": reason, "message": "", "since": ""});
        serde_json::from_value(json!({
            "accounts": {"selected": 2, "ready": 1, "failing": 1, "summary": "1/2"}, "grantedDuration": "24h",
            "conditions": [condition], "failures": [failure], "earliestExpiration": "2026-11-28T10:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn the_samples_of_a_status() {
        let (policies, status) = (Policies::default(), status("a \"b\" \\ c"));
        policies.refresh([(Key::new("ci", "p"), &status)].into_iter());
        let text: String = policies.encode().collect();
        let samples: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("tokenward_policy_")).collect();
        assert_eq!(
            samples,
            [
                r#"accounts{namespace="ci",policy="p",state="selected"} 2"#,
                r#"accounts{namespace="ci",policy="p",state="ready"} 1"#,
                r#"accounts{namespace="ci",policy="p",state="failing"} 1"#,
                r#"condition{namespace="ci",policy="p",type="Ready"} 1"#,
                r#"granted_lifetime_seconds{namespace="ci",policy="p"} 86400"#,
                r#"earliest_expiration_timestamp_seconds{namespace="ci",policy="p"} 1795860000"#,
                r#"failing_accounts{namespace="ci",policy="p",reason="a \"b\" \\ c"} 1"#,
            ]
        );
        assert_eq!(text.lines().filter(|line| line.starts_with("# TYPE tokenward_policy_")).count(), SERIES.len());
    }

    /// A scrape holds one piece, and what is kept from one to the next is small.
    #[test]
    fn no_piece_grows_with_the_policies() {
        let (policies, status) = (Policies::default(), status("MintRefused"));
        let keys = (0..10_000).map(|n| Key::new("ci", format!("of-account-{n:05}")));
        policies.refresh(keys.map(|key| (key, &status)));
        let pieces: Vec<String> = policies.encode().collect();
        let samples = pieces.iter().flat_map(|piece| piece.lines()).filter(|line| !line.starts_with('#')).count();
        assert_eq!(samples, 70_000);
        assert!(pieces.iter().all(|piece| piece.len() < 100_000), "{:?}", pieces.iter().map(String::len).max());
        assert!(size_of::<Sample>() <= 32 && size_of::<PolicyRow>() <= 48);
    }
}
