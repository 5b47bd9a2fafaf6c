//! The rows of the report, and how they are shown.

use std::fmt::Display;

use clap::ValueEnum;
use serde::Serialize;

use crate::core::{
    hygiene::{Facts, flags::Flags},
    text::{Paint, plain},
    verify::Learnt,
};

/// More names than these are counted.
const NAMES: usize = 5;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// A default that could be tighter.
    Low,
    /// A credential that is harder to take back than it should be.
    Medium,
    /// A credential that nobody can take back, or a way to more rights than were meant.
    High,
    /// A way to all rights of the cluster.
    Critical,
}

/// Whether a strategy is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Found {
    Yes,
    No,
    /// Nothing was found, and something could not be looked at.
    NotChecked,
}

/// A thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    pub problem: String,
    pub cure: String,
    /// All that it is about, where the problem names the first ones only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
}

/// One authentication strategy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub strategy: &'static str,
    pub found: Found,
    /// That of the worst finding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    pub evidence: Vec<String>,
    /// What could not be looked at, and why.
    pub not_checked: Vec<String>,
    pub findings: Vec<Finding>,
}

impl Row {
    pub fn new(strategy: &'static str) -> Self {
        let (evidence, not_checked, findings) = (Vec::new(), Vec::new(), Vec::new());
        Self { strategy, found: Found::No, severity: None, evidence, not_checked, findings }
    }

    /// The strategy is in use, by this evidence.
    pub fn found(&mut self, evidence: impl Display) {
        self.found = Found::Yes;
        self.seen(evidence);
    }

    /// Evidence, which does not make the strategy one that is in use. Several API servers say the same.
    pub fn seen(&mut self, evidence: impl Display) {
        push(&mut self.evidence, evidence);
    }

    /// Something could not be looked at.
    pub fn unknown(&mut self, why: impl Display) {
        if self.found == Found::No {
            self.found = Found::NotChecked;
        }
        push(&mut self.not_checked, why);
    }

    /// Something is wrong.
    pub fn finds(&mut self, severity: Severity, problem: impl Display, cure: impl Display) {
        self.finds_in(severity, problem, cure, Vec::new());
    }

    /// Something is wrong with these objects.
    pub fn finds_in(&mut self, severity: Severity, problem: impl Display, cure: impl Display, objects: Vec<String>) {
        let (problem, cure) = (plain(&problem.to_string()), plain(&cure.to_string()));
        let finding = Finding { severity, problem, cure, objects };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
        self.severity = self.severity.max(Some(severity));
    }

    /// A fact, if it could be learnt.
    pub fn learn<'a, T>(&mut self, fact: &'a Learnt<T>) -> Option<&'a T> {
        fact.as_ref().map_err(|why| self.unknown(why)).ok()
    }

    /// The flags of each kube-apiserver, if they can be seen; this row needs these of them.
    pub fn servers<'a>(&mut self, facts: &'a Facts, wanted: &str) -> &'a [Flags] {
        match &facts.servers {
            Ok(servers) => servers,
            Err(why) => {
                self.unknown(format!("{wanted}: {why}"));
                &[]
            }
        }
    }

    /// Evidence of a row for which none of these flags was found.
    pub fn without(&mut self, facts: &Facts, wanted: &str) {
        if facts.servers.is_ok() && self.found == Found::No {
            self.seen(format!("kube-apiserver runs without {wanted}"));
        }
    }
}

fn push(texts: &mut Vec<String>, text: impl Display) {
    let text = plain(&text.to_string());
    if !texts.contains(&text) {
        texts.push(text);
    }
}

/// Some names as text, and how many more there are.
pub fn names<T: Display>(all: &[T]) -> String {
    let first: Vec<String> = all.iter().take(NAMES).map(ToString::to_string).collect();
    let more = all.len().saturating_sub(NAMES);
    if more > 0 { format!("{} and {more} more", first.join(", ")) } else { first.join(", ") }
}

/// The worst severity of a report.
pub fn worst(rows: &[Row]) -> Option<Severity> {
    rows.iter().filter_map(|row| row.severity).max()
}

/// A warning, as those of kubectl, where a report without findings must not be taken for a clean cluster.
pub fn unchecked(rows: &[Row]) -> Option<String> {
    let unchecked: Vec<&str> = rows.iter().filter(|row| !row.not_checked.is_empty()).map(|row| row.strategy).collect();
    let text = || {
        format!(
            "Warning: {} of {} rows could not be checked, or not in full: {}. --fail-on counts findings only.",
            unchecked.len(),
            rows.len(),
            unchecked.join(", ")
        )
    };
    (!unchecked.is_empty()).then(text)
}

/// A table of the rows, and the findings, the worst first.
pub fn draw(rows: &[Row], paint: Paint) -> String {
    let head = format!("{:<21}  {:<11}  {:<8}  EVIDENCE\n", "STRATEGY", "FOUND", "SEVERITY");
    let table = rows.iter().fold(head, |text, row| text + &row.draw(paint));
    let mut findings: Vec<(&Row, &Finding)> =
        rows.iter().flat_map(|row| row.findings.iter().map(move |finding| (row, finding))).collect();
    findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.severity));
    findings.iter().fold(table, |text, (row, finding)| text + &finding.draw(row.strategy, paint))
}

impl Row {
    fn draw(&self, paint: Paint) -> String {
        let found = match self.found {
            Found::Yes => "yes",
            Found::No => "no",
            Found::NotChecked => "not checked",
        };
        let cell = self.severity.map_or_else(|| format!("{:<8}", "-"), |severity| severity.cell(paint));
        let unknown = self.not_checked.iter().map(|why| paint.faint(&format!("not checked: {why}")));
        let mut lines = self.evidence.iter().cloned().chain(unknown);
        let first = lines.next().unwrap_or_else(|| "-".to_owned());
        let head = format!("{:<21}  {found:<11}  {cell}  {first}\n", self.strategy);
        lines.fold(head, |text, line| text + &format!("{:46}{line}\n", ""))
    }
}

impl Severity {
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    fn cell(self, paint: Paint) -> String {
        let cell = format!("{:<8}", self.word());
        if self >= Self::High { paint.bad(&cell) } else { cell }
    }
}

impl Finding {
    fn draw(&self, strategy: &str, paint: Paint) -> String {
        format!("\n{}  {strategy}: {}\n{:10}{}\n", self.severity.cell(paint), self.problem, "", self.cure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let mut first = Row::new("bound tokens");
        first.found("granted");
        first.finds(Severity::Low, "too long", "shorten");
        first.finds(Severity::Low, "too long", "shorten");
        let mut second = Row::new("webhook");
        second.unknown("no right");
        let mut third = Row::new("static token file");
        third.found("one\u{1b}[31m");
        third.seen("two");
        third.unknown("more");
        third.finds(Severity::High, "never ends", "remove it");
        vec![first, second, third, Row::new("legacy tokens")]
    }

    #[test]
    fn the_worst_finding_is_first_and_a_finding_of_three_servers_is_one() {
        let expected = "\
STRATEGY               FOUND        SEVERITY  EVIDENCE
bound tokens           yes          low       granted
webhook                not checked  -         not checked: no right
static token file      yes          high      one [31m
                                              two
                                              not checked: more
legacy tokens          no           -         -

high      static token file: never ends
          remove it

low       bound tokens: too long
          shorten
";
        assert_eq!(draw(&rows(), Paint(false)), expected);
        assert_eq!(worst(&rows()), Some(Severity::High));
        assert_eq!(worst(&[Row::new("x")]), None);
        let warning = "Warning: 2 of 4 rows could not be checked, or not in full: webhook, static token file. --fail-on counts findings only.";
        assert_eq!((unchecked(&rows()).as_deref(), unchecked(&[Row::new("x")])), (Some(warning), None));
    }

    #[test]
    fn what_was_not_checked_is_never_nothing() {
        let mut row = Row::new("x");
        row.seen("evidence");
        assert_eq!(row.found, Found::No);
        row.unknown("why");
        assert_eq!(row.found, Found::NotChecked);
        row.found("there");
        row.unknown("why");
        assert_eq!((row.found, row.not_checked.len()), (Found::Yes, 1));
    }

    #[test]
    fn many_names_are_counted() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&[1, 2, 3, 4, 5, 6, 7]), "1, 2, 3, 4, 5 and 2 more");
    }
}
