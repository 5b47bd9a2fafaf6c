//! Schedules: the grammar of a CronJob, which is that of `robfig/cron` v3, and the times on a wall clock that match.

use jiff::{
    Span,
    civil::{Date, DateTime},
};

use crate::api::cron::{FORM, NO_EVERY, NO_TZ};

/// A schedule by a wall clock.
#[derive(Clone, Debug)]
pub struct Schedule {
    minutes: Set,
    hours: Set,
    days: Set,
    months: Set,
    weekdays: Set,
}

/// The values of one field.
#[derive(Clone, Copy, Debug, Default)]
struct Set {
    /// Bit n stands for value n, which is at most 59.
    bits: u64,
    /// The list has a plain `*` or `?`: the field says nothing.
    open: bool,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: i8,
    most: i8,
    /// Names of the values, from the least on.
    names: &'static [&'static str],
    /// What can be written.
    values: &'static str,
}

const MINUTE: Field = Field { name: "minute", least: 0, most: 59, names: &[], values: "0 to 59" };
const HOUR: Field = Field { name: "hour", least: 0, most: 23, names: &[], values: "0 to 23" };
const DAY: Field = Field { name: "day of month", least: 1, most: 31, names: &[], values: "1 to 31" };
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    values: "1 to 12 or JAN to DEC",
};
const WEEKDAY: Field = Field {
    name: "day of week",
    least: 0,
    most: 6,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
    values: "0 to 6 or SUN to SAT, with 0 for Sunday",
};

impl Schedule {
    /// Reads what a CronJob takes, except `@every …`. A schedule that never happens is one.
    ///
    /// # Errors
    /// With the field, its rule and the cure.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.contains("TZ") {
            return Err(NO_TZ.to_owned());
        }
        if text.starts_with("@every") {
            return Err(NO_EVERY.to_owned());
        }
        let fields: Vec<&str> = described(text).split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("it has {} of five fields; {FORM}", fields.len()));
        };
        Ok(Self {
            minutes: MINUTE.read(minutes)?,
            hours: HOUR.read(hours)?,
            days: DAY.read(days)?,
            months: MONTH.read(months)?,
            weekdays: WEEKDAY.read(weekdays)?,
        })
    }

    /// All times that match, after one and up to another. Each day between them is looked at, as far as the result is
    /// asked for.
    pub fn between(&self, after: DateTime, until: DateTime) -> impl DoubleEndedIterator<Item = DateTime> {
        let first = after.date();
        let days = first.until(until.date()).map_or(0, |span| span.get_days());
        (0..=days)
            .filter_map(move |day| first.checked_add(Span::new().days(day)).ok())
            .filter(|date| self.has(*date))
            .flat_map(|date| self.times().map(move |(hour, minute)| date.at(hour, minute, 0, 0)))
            .filter(move |time| after < *time && *time <= until)
    }

    /// As in every cron: where both days are restricted, one of them is enough.
    fn has(&self, date: Date) -> bool {
        let day = self.days.has(date.day());
        let weekday = self.weekdays.has(date.weekday().to_sunday_zero_offset());
        let either = !self.days.open && !self.weekdays.open;
        // A list of nothing but commas is legal and never matches: there is no need to search the day for it.
        let empty = self.hours.bits == 0 || self.minutes.bits == 0;
        !empty && self.months.has(date.month()) && if either { day || weekday } else { day && weekday }
    }

    fn times(&self) -> impl DoubleEndedIterator<Item = (i8, i8)> {
        let minutes = move |hour| (0..60).filter(|minute| self.minutes.has(*minute)).map(move |minute| (hour, minute));
        (0..24).filter(|hour| self.hours.has(*hour)).flat_map(minutes)
    }
}

/// What a descriptor stands for.
fn described(text: &str) -> &str {
    match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        fields => fields,
    }
}

impl Set {
    fn has(self, value: i8) -> bool {
        self.bits >> value & 1 == 1
    }

    fn or(self, other: Self) -> Self {
        Self { bits: self.bits | other.bits, open: self.open || other.open }
    }
}

impl Field {
    /// Reads a list. Between its commas may be nothing.
    fn read(&self, list: &str) -> Result<Set, String> {
        let items = list.split(',').filter(|item| !item.is_empty());
        let mut sets = items.map(|item| self.item(item).map_err(|what| format!("{} {item:?}: {what}", self.name)));
        sets.try_fold(Set::default(), |all, set| Ok(all.or(set?)))
    }

    /// Reads a value, a range or everything, with or without a step.
    fn item(&self, item: &str) -> Result<Set, String> {
        let (range, step) = item.split_once('/').map_or((item, None), |(range, step)| (range, Some(step)));
        let (low, high) = range.split_once('-').map_or((range, None), |(low, high)| (low, Some(high)));
        let every = step.map_or(Ok(1), nth)?;
        let open = matches!(low, "*" | "?");
        let first = if open { self.least } else { self.value(low)? };
        let last = match (high, step) {
            // Whatever follows `*-` is ignored, and `n/step` goes on to the end.
            _ if open => self.most,
            (Some(high), _) => self.value(high)?,
            (None, Some(_)) => self.most,
            (None, None) => first,
        };
        if first > last {
            return Err("this range ends before it begins; write two ranges, or the lower value first".to_owned());
        }
        let bits = (first..=last).step_by(every).fold(0, |bits, value| bits | 1 << value);
        Ok(Set { bits, open: open && every == 1 })
    }

    fn value(&self, text: &str) -> Result<i8, String> {
        let named = (self.least..).zip(self.names).find(|(_, name)| name.eq_ignore_ascii_case(text));
        let value = named.map_or_else(|| text.parse().ok(), |(value, _)| Some(value));
        let legal = value.filter(|value| (self.least..=self.most).contains(value));
        legal.ok_or_else(|| format!("{text:?} is no {}; write {}", self.name, self.values))
    }
}

/// Reads a step: at least 1, and of a size that Go's `int` can hold.
fn nth(text: &str) -> Result<usize, String> {
    let step = text.parse::<i64>().ok().and_then(|step| usize::try_from(step).ok());
    step.filter(|step| *step > 0)
        .ok_or_else(|| format!("the step {text:?} is no number of 1 or more; write one, as in */5"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FOREVER: (DateTime, DateTime) =
        (DateTime::constant(2026, 1, 1, 0, 0, 0, 0), DateTime::constant(2162, 1, 1, 0, 0, 0, 0));

    fn first(text: &str) -> Option<String> {
        Schedule::read(text).unwrap().between(FOREVER.0, FOREVER.1).next().map(|time| time.to_string())
    }

    #[test]
    fn what_is_no_schedule_is_told_with_field_rule_and_cure() {
        for (text, told) in [
            ("", "it has 0 of five fields; write five fields as for a CronJob"),
            ("0 2 * *", "it has 4 of five fields"),
            ("0 0 2 * * *", "it has 6 of five fields"),
            ("@fortnightly", "it has 1 of five fields"),
            (" @daily", "or @yearly, @monthly, @weekly, @daily or @hourly"),
            ("@every 1h", NO_EVERY),
            ("@every", NO_EVERY),
            ("TZ=Asia/Tokyo 0 2 * * *", NO_TZ),
            ("CRON_TZ=UTC @daily", NO_TZ),
            ("61 2 * * *", r#"minute "61": "61" is no minute; write 0 to 59"#),
            ("0 24 * * *", r#"hour "24": "24" is no hour; write 0 to 23"#),
            ("0 2 0 * *", r#"day of month "0": "0" is no day of month; write 1 to 31"#),
            ("0 2 * 1-JUM *", r#"month "1-JUM": "JUM" is no month; write 1 to 12 or JAN to DEC"#),
            ("0 2 * * 7", r#"day of week "7": "7" is no day of week; write 0 to 6 or SUN to SAT, with 0 for Sunday"#),
            ("0 2 * * 1-2-3", r#""2-3" is no day of week"#),
            ("0 2,22-4 * * *", r#"hour "22-4": this range ends before it begins; write two ranges"#),
            ("*/0 2 * * *", r#"minute "*/0": the step "0" is no number of 1 or more"#),
            ("*/5/5 2 * * *", r#"the step "5/5" is no number"#),
            ("5/ 2 * * *", r#"the step "" is no number"#),
            ("*/9223372036854775808 2 * * *", "is no number of 1 or more"),
        ] {
            let error = Schedule::read(text).unwrap_err();
            assert!(error.contains(told), "{text:?}: {error}");
        }
    }

    /// Each was tried with robfig/cron v3.0.1.
    #[test]
    fn the_corners_of_the_grammar() {
        for (text, opens) in [
            ("*-x-y 2 * * *", Some("2026-01-01T02:00:00")),
            ("+5\u{a0}0002\u{3000}*\u{b}*\u{85}*", Some("2026-01-01T02:05:00")),
            ("*/9223372036854775807 5-5/70 * * *", Some("2026-01-01T05:00:00")),
            ("0 2 15 * 0-6", Some("2026-01-01T02:00:00")),
            ("0 2 15 * *", Some("2026-01-15T02:00:00")),
            ("0 2 15 * */2", Some("2026-01-01T02:00:00")),
            ("0 2 29 FEB *", Some("2028-02-29T02:00:00")),
            ("0 2 30 2 *", None),
            (", , , , ,", None),
            ("0 2 * * ,", None),
        ] {
            assert_eq!(first(text).as_deref(), opens, "{text:?}");
        }
    }

    /// A search looks at each day once, and no token lives longer than 2^32 seconds.
    #[test]
    fn a_schedule_that_never_happens_is_searched_for_no_longer_than_a_token_can_live() {
        for text in ["0 2 30 2 *", ", * * * *", "0 2 * * ,"] {
            let never = Schedule::read(text).unwrap();
            assert_eq!(never.between(FOREVER.0, FOREVER.1).next(), None, "{text}");
            assert_eq!(never.between(FOREVER.0, FOREVER.1).next_back(), None, "{text}");
        }
        let any = Schedule::read("* * * * *").unwrap();
        assert_eq!(any.between(FOREVER.1, FOREVER.0).next(), None, "the end before the beginning");
        assert_eq!(any.between(FOREVER.0, FOREVER.0).next(), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", near in "([0-9*?,/+-]|[A-Za-z]{3}|[ \\t]){0,40}", fields in "([0-9*?]{1,2}([-/][0-9]{1,2})?,? ){5}") {
            for text in [text, near, fields] {
                let Ok(schedule) = Schedule::read(&text) else { continue };
                let year = FOREVER.0.checked_add(Span::new().years(1)).unwrap();
                let (next, last) = (schedule.between(FOREVER.0, year).next(), schedule.between(FOREVER.0, year).next_back());
                prop_assert!(next <= last && next.is_none_or(|next| FOREVER.0 < next) && last.is_none_or(|last| last <= year));
            }
        }
    }
}
