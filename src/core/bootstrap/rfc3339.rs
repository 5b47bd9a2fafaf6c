//! Go's `time.Parse(time.RFC3339, …)`, whose verdict decides in the in-tree cleaner and in the API server.

use chrono::{NaiveDate, TimeDelta};

use crate::core::Time;

/// Reads a time exactly as Go does: neither strict RFC 3339 nor the grammar of any time crate. The hour may have one
/// digit, a fraction may begin with `,` and counts to nine digits, an offset may be up to `24:60`; small letters,
/// leap seconds and surrounding blanks are refused.
#[must_use]
pub fn parse(text: &[u8]) -> Option<Time> {
    let mut rest = text;
    let year = digits(&mut rest, 4)?.cast_signed();
    let (month, day) = (after(&mut rest, b'-')?, after(&mut rest, b'-')?);
    literal(&mut rest, b'T')?;
    let hour = hour(&mut rest)?;
    let (minute, second) = (after(&mut rest, b':')?, after(&mut rest, b':')?);
    let nanos = fraction(&mut rest)?;
    let offset = offset(&mut rest)?;
    let local = NaiveDate::from_ymd_opt(year, month, day)?.and_hms_nano_opt(hour, minute, second, nanos)?;
    rest.is_empty().then(|| local.and_utc().checked_sub_signed(offset)).flatten()
}

/// One or two digits: Go's layout `15` takes both.
fn hour(rest: &mut &[u8]) -> Option<u32> {
    let width = if rest.get(1).is_some_and(u8::is_ascii_digit) { 2 } else { 1 };
    digits(rest, width)
}

/// Nanoseconds; digits beyond the ninth are read and do not count.
fn fraction(rest: &mut &[u8]) -> Option<u32> {
    if !matches!(rest.first(), Some(b'.' | b',')) {
        return Some(0);
    }
    let width = rest[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (read, tail) = rest[1..].split_at(width);
    *rest = tail;
    let nine = read.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    (width > 0).then(|| nine.fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0')))
}

/// East of UTC. Go takes 24 hours and 60 minutes for legal.
fn offset(rest: &mut &[u8]) -> Option<TimeDelta> {
    let (sign, tail) = rest.split_first()?;
    *rest = tail;
    let sign = match sign {
        b'Z' => return Some(TimeDelta::zero()),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(rest, 2).filter(|hours| *hours <= 24)?;
    let minutes = after(rest, b':').filter(|minutes| *minutes <= 60)?;
    Some(TimeDelta::minutes((hours * 60 + minutes).into()) * sign)
}

/// Two digits behind this byte.
fn after(rest: &mut &[u8], byte: u8) -> Option<u32> {
    literal(rest, byte)?;
    digits(rest, 2)
}

fn literal(rest: &mut &[u8], byte: u8) -> Option<()> {
    *rest = rest.strip_prefix(&[byte])?;
    Some(())
}

fn digits(rest: &mut &[u8], width: usize) -> Option<u32> {
    let (read, tail) = rest.split_at_checked(width)?;
    *rest = tail;
    read.iter().try_fold(0, |number, byte| byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0')))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use proptest::prelude::*;

    use super::*;

    /// Raw values with the verdict of Go's own parser, in nanoseconds since 1970 or `invalid`.
    const CASES: &str = include_str!("../../../e2e/cases/bootstrap-expirations.tsv");

    fn nanoseconds(time: Time) -> String {
        (i128::from(time.timestamp()) * 1_000_000_000 + i128::from(time.timestamp_subsec_nanos())).to_string()
    }

    #[test]
    fn every_case_has_the_verdict_of_go() {
        let mut cases = 0;
        for line in CASES.lines().filter(|line| !line.starts_with('#')) {
            let (raw, verdict) = line.split_once('\t').unwrap();
            let raw = STANDARD.decode(raw).unwrap();
            let read = parse(&raw).map_or_else(|| "invalid".into(), nanoseconds);
            assert_eq!(read, verdict, "{:?}", String::from_utf8_lossy(&raw));
            cases += 1;
        }
        assert_eq!(cases, 4000);
    }

    #[test]
    fn the_edges_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2000-02-29T0:00:00Z", Some(951_782_400)),
            ("1900-02-29T00:00:00Z", None),
            ("0000-01-01T00:00:00+24:60", Some(-62_167_219_200 - 90_000)),
            ("9999-12-31T23:59:59-24:60", Some(253_402_300_799 + 90_000)),
            ("2030-01-02T24:00:00Z", None),
            ("2030-00-02T00:00:00Z", None),
            ("2030-01-00T00:00:00Z", None),
            ("2030-01-02T03:04:05.Z", None),
            ("", None),
        ] {
            assert_eq!(parse(text.as_bytes()).map(|time| time.timestamp()), seconds, "{text}");
        }
    }

    /// Pieces of times, so that random texts get far into the grammar.
    fn near_times() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"2030-01-02".to_vec()),
            Just(b"T03:04:05".to_vec()),
            Just(b".123456789".to_vec()),
            Just(b"Z".to_vec()),
            Just(b"+24:60".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..8),
        ];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..64), near in near_times()) {
            let _ = (parse(&text), parse(&near));
        }
    }

    /// Each byte is looked at once, so the longest value that a Secret can hold (1 MiB) is the worst.
    #[test]
    fn the_longest_value_is_read_in_a_millisecond() {
        let mut longest = b"2030-01-02T03:04:05.".to_vec();
        // Without optimisation a byte takes some fifty times as long.
        longest.resize(if cfg!(debug_assertions) { 1 << 14 } else { 1 << 20 }, b'9');
        let fastest = (0..5)
            .map(|_| {
                let start = std::time::Instant::now();
                assert_eq!(parse(&longest), None);
                start.elapsed()
            })
            .min()
            .unwrap();
        assert!(fastest <= std::time::Duration::from_millis(1), "{fastest:?}");
    }
}
