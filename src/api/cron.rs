//! The grammar of `windows[].schedule`, which is a CronJob's, as far as admission can know it. `core/cron.rs` reads the
//! rest: ranges that end before they begin.

use super::schema::Form;

/// The syntax.
pub const FORM: &str = "write five fields as for a CronJob: minute 0-59, hour 0-23, day of month 1-31, month 1-12 or JAN-DEC, day of week 0-6 or SUN-SAT, each * or a list of values and ranges like 1-5, with /n for every nth, in at most 400 characters; or @yearly, @monthly, @weekly, @daily or @hourly";
/// Why `@every …` is refused, which a CronJob takes.
pub const NO_EVERY: &str =
    "@every has no fixed instants at which a window could open; write five fields, as 0 * * * * for every hour";
/// Why `TZ=…` and `CRON_TZ=…` are refused, as in a CronJob.
pub const NO_TZ: &str = "a schedule has no place for TZ or CRON_TZ; write the time zone into timeZone";

/// A time zone, as far as admission can know it.
pub const ZONE: Form = (
    "[A-Za-z0-9_+/-]+",
    "must be a name of the IANA time zone database; write one like Europe/Berlin, or remove the field for UTC",
);

/// Longest schedule: every value of every field is 391 characters. The bound keeps the cost of the CEL rules small.
pub const MAX_LENGTH: usize = 400;

/// No schedule by intervals, as a CEL rule.
pub const EVERY_RULE: &str = "!self.startsWith('@every')";
/// No time zone in a schedule, as a CEL rule.
pub const TZ_RULE: &str = "!self.contains('TZ')";

/// What Go's `unicode.IsSpace` is true for, in a class.
macro_rules! space {
    () => {
        r"\s\v\x{85}\pZ"
    };
}

/// One item of a list: a value, a range or everything, and a step. Whatever follows `*-` and `?-` is ignored.
macro_rules! item {
    ($value:literal) => {
        concat!("([*?](-[^,/", space!(), "]*)?|", $value, "(-", $value, ")?)(/[+]?0*[1-9][0-9]*)?")
    };
}

/// A list. Between its commas may be nothing.
macro_rules! list {
    ($value:literal) => {
        concat!("(,*", item!($value), "(,+", item!($value), ")*,*|,+)")
    };
}

/// The fields, with what separates them before and after.
macro_rules! fields {
    ($($value:literal),*) => { concat!("[", space!(), "]*", $(list!($value), "([", space!(), "]+|$)"),*) };
}

/// The grammar.
pub const GRAMMAR: &str = concat!(
    "^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|",
    fields!(
        "[+]?0*[0-5]?[0-9]",
        "[+]?0*(1?[0-9]|2[0-3])",
        "[+]?0*([1-9]|[12][0-9]|3[01])",
        "([+]?0*([1-9]|1[0-2])|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))",
        "([+]?0*[0-6]|(?i:sun|mon|tue|wed|thu|fri|sat))"
    ),
    ")$"
);

/// The grammar as a CEL rule, because a `pattern` that fails cannot say what to write instead. It leaves to the other
/// two rules what they refuse.
#[must_use]
pub fn rule() -> String {
    format!(
        "self.startsWith('@every') || self.contains('TZ') || (size(self) <= {MAX_LENGTH} && self.matches(r'{GRAMMAR}'))"
    )
}
