//! Numbers as they are printed.

use std::time::Duration;

/// Grants per second of the operator and of the bare loop, round by round.
#[derive(Default)]
pub struct Race {
    operator: Vec<f64>,
    bare: Vec<f64>,
}

impl Race {
    pub fn add(&mut self, grants: usize, operator: Duration, bare: Duration) {
        self.operator.push(rate(grants, operator));
        self.bare.push(rate(grants, bare));
    }

    pub fn print(&self, title: &str) {
        println!("\n{title:<34}{:>10}{:>11}{:>8}", "operator", "bare loop", "ratio");
        for (round, (operator, bare)) in self.operator.iter().zip(&self.bare).enumerate() {
            line(&format!("round {}", round + 1), *operator, *bare);
        }
        let (operator, bare) = (median(&self.operator), median(&self.bare));
        line("median", operator, bare);
        println!("  spread, slowest to fastest      {:>10}{:>11}", spread(&self.operator), spread(&self.bare));
    }
}

fn line(name: &str, operator: f64, bare: f64) {
    println!("  {name:<30}{operator:>8.0}/s{bare:>9.0}/s{:>8.2}", operator / bare);
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn rate(grants: usize, took: Duration) -> f64 {
    grants as f64 / took.as_secs_f64()
}

/// One figure at each size, and the last beside the first.
pub fn row(name: &str, values: &[f64], digits: usize) -> String {
    let figures = values.iter().map(|value| format!("{value:>10.digits$}")).collect::<Vec<_>>().concat();
    match values {
        [first, .., last] if *first > 0.0 => format!("{name:<46}{figures}{:>10.2}", last / first),
        _ => format!("{name:<46}{figures}"),
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// How far the slowest and the fastest lie from the median.
fn spread(values: &[f64]) -> String {
    let median = median(values);
    let part = |value: f64| 100.0 * (value / median - 1.0);
    let (least, most) =
        values.iter().fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(*value), most.max(*value)));
    format!("{:+.0}…{:+.0} %", part(least), part(most))
}

/// Decimal megabytes.
#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_ends_with_its_slope() {
        assert!(row("x", &[1.0, 5.0, 2.0], 1).ends_with("1.0       5.0       2.0      2.00"));
        assert!(row("x", &[0.0, 5.0], 0).ends_with("0         5"));
    }

    #[test]
    fn the_middle_is_what_counts() {
        assert!((median(&[3.0, 1.0, 100.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0]) - 1.5).abs() < f64::EPSILON);
        assert_eq!(spread(&[90.0, 100.0, 120.0]), "-10…+20 %");
    }
}
