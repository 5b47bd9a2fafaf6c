//! Durations as Gateway API's GEP-2257 defines them: `1h30m`, `90s`, at most four parts of five digits.

use std::{fmt, str::FromStr};

use chrono::TimeDelta;
use kube::core::Rule;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::schema::ceiling;

/// The grammar as a CEL rule, because a `pattern` that fails cannot say what to write instead.
pub const RULE: &str = "self.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')";
/// The syntax.
const HINT: &str = "write a duration of one to four parts like 24h, 1h30m or 90s (units h, m, s, ms; a day is 24h)";

/// A duration that is not shorter than `least`, as a CEL rule; [`RULE`] alone refuses other texts.
#[must_use]
pub fn at_least(least: &str, message: &str) -> Rule {
    Rule::new(format!("!{RULE} || duration(self) >= duration('{least}')")).message(message)
}

/// A length of time of at most 4 × 99,999 hours, in whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    millis: u64,
}

/// The text is not a duration as GEP-2257 defines it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration; {HINT}")]
pub struct InvalidDuration(String);

impl Duration {
    /// A whole number of seconds.
    #[must_use]
    pub const fn from_secs(secs: u32) -> Self {
        Self { millis: secs as u64 * 1000 }
    }

    /// Whole seconds, rounded down, as a TokenRequest's `expirationSeconds` wants them.
    #[must_use]
    pub const fn as_secs(self) -> u64 {
        self.millis / 1000
    }

    /// The same length for arithmetic on instants.
    #[must_use]
    pub fn delta(self) -> TimeDelta {
        i64::try_from(self.millis).map_or(TimeDelta::MAX, TimeDelta::milliseconds)
    }
}

/// Milliseconds of one unit.
fn unit(name: &str) -> Option<u64> {
    match name {
        "h" => Some(3_600_000),
        "m" => Some(60_000),
        "s" => Some(1000),
        "ms" => Some(1),
        _ => None,
    }
}

/// Splits one part such as `30m` off the front and returns its milliseconds.
fn part(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, rest) = text.split_at(digits);
    let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let number = (number.len() <= 5).then(|| number.parse::<u64>().ok())??;
    Some((number * unit(name)?, rest))
}

fn parse(text: &str) -> Option<u64> {
    let (mut millis, mut rest) = part(text)?;
    for _ in 1..4 {
        if rest.is_empty() {
            break;
        }
        let (more, tail) = part(rest)?;
        millis += more;
        rest = tail;
    }
    rest.is_empty().then_some(millis)
}

impl FromStr for Duration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map(|millis| Self { millis }).ok_or_else(|| InvalidDuration(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Duration {
    /// The shortest form: `1h`, `1h30m`, `0s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.millis;
        for (name, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            if rest >= size {
                write!(f, "{}{name}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        // Four parts are 28 characters.
        json_schema!({
            "type": "string",
            "maxLength": ceiling(28),
            "x-kubernetes-validations": [{ "rule": RULE, "message": HINT }],
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_pattern_allows() {
        for (text, millis) in [
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
            ("1h1m1s1ms", 3_661_001),
            ("99999h99999h99999h99999h", 4 * 99_999 * 3_600_000),
            ("1m1m", 120_000),
        ] {
            assert_eq!(text.parse(), Ok(Duration { millis }), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest_with_a_hint() {
        for text in ["", "30d", "5", "h", "-1h", "1h-5m", "1.5h", "100000h", "1h1h1h1h1h", " 1h", "1H", "1h ", "١h"] {
            let error = text.parse::<Duration>().expect_err(text).to_string();
            assert!(error.contains("a day is 24h"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = text.parse::<Duration>();
        }

        #[test]
        fn survives_a_round_trip(millis in 0..359_996_400_000_u64) {
            let duration = Duration { millis };
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
