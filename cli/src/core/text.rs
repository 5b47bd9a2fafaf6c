//! Texts for people: spans of time, bars, trees and colours.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use chrono::TimeDelta;

/// Cells of a bar.
const CELLS: i64 = 12;

/// A span of time in its two largest units, as `3d4h` or `12s`.
pub fn span(length: TimeDelta) -> String {
    let seconds = length.num_seconds().max(0);
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let largest = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(units.len() - 1);
    let part =
        |(size, unit): &(i64, &str), above: i64| (seconds % above / size, format!("{}{unit}", seconds % above / size));
    let (_, first) = part(&units[largest], i64::MAX);
    let second = units.get(largest + 1).map(|unit| part(unit, units[largest].0)).filter(|(count, _)| *count > 0);
    first + &second.map(|(_, text)| text).unwrap_or_default()
}

/// A number of things that have a regular plural.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// A text that others wrote, without characters that show nothing: some move the cursor of a terminal, others turn the
/// order of a line around, or make two names look alike.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || (!c.is_ascii() && is_unseen(c)) { ' ' } else { c }).collect()
}

/// Rust shows such a character by its number only. An accent has a shape once a letter is before it.
fn is_unseen(c: char) -> bool {
    format!("a{c}").escape_debug().nth(2) == Some('u')
}

/// How much of a life is over.
pub fn bar(age: TimeDelta, life: TimeDelta) -> String {
    let (age, life) = (age.num_seconds(), life.num_seconds().max(1));
    let full = (age * CELLS / life).clamp(0, CELLS);
    let cells = |count: i64, cell: &str| cell.repeat(usize::try_from(count).unwrap_or(0));
    cells(full, "█") + &cells(CELLS - full, "░")
}

/// Colours, if the output is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Paint(pub bool);

impl Paint {
    pub fn good(self, text: &str) -> String {
        self.with(AnsiColor::Green.on_default(), text)
    }

    pub fn bad(self, text: &str) -> String {
        self.with(AnsiColor::Red.on_default(), text)
    }

    pub fn faint(self, text: &str) -> String {
        self.with(Style::new().dimmed(), text)
    }

    fn with(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// A line, and the lines below it.
pub struct Node {
    pub line: String,
    pub below: Vec<Self>,
}

impl Node {
    pub fn leaf(line: impl Into<String>) -> Self {
        Self { line: line.into(), below: Vec::new() }
    }

    /// The tree as text.
    pub fn draw(&self) -> String {
        let mut text = format!("{}\n", self.line);
        self.draw_below("", &mut text);
        text
    }

    fn draw_below(&self, indent: &str, text: &mut String) {
        for (at, node) in self.below.iter().enumerate() {
            let (branch, next) = if at + 1 == self.below.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            let _ = writeln!(text, "{indent}{branch}{}", node.line);
            node.draw_below(&format!("{indent}{next}"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, text) in [
            (-5, "0s"),
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (61, "1m1s"),
            (7200, "2h"),
            (90_061, "1d1h"),
            (86_459, "1d"),
        ] {
            assert_eq!(span(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn a_bar_is_never_longer_than_a_life() {
        for (age, life, text) in [
            (0, 12, "░░░░░░░░░░░░"),
            (6, 12, "██████░░░░░░"),
            (24, 12, "████████████"),
            (-1, 12, "░░░░░░░░░░░░"),
            (1, 0, "████████████"),
        ] {
            assert_eq!(bar(TimeDelta::seconds(age), TimeDelta::seconds(life)), text);
        }
    }

    #[test]
    fn characters_that_show_nothing_are_taken_out() {
        let unseen = [
            '\u{0}',
            '\n',
            '\u{1b}',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200d}',
            '\u{200e}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{fff9}',
            '\u{e0041}',
        ];
        for c in unseen {
            assert_eq!(plain(&format!("a{c}b")), "a b", "{c:?}");
        }
        for seen in ["a b", "\"'\\", "e\u{301}é", "नमस्ते", "日本語", "u/{x}", "🙂", "█"] {
            assert_eq!(plain(seen), seen);
        }
    }

    #[test]
    fn colours_are_for_terminals() {
        assert_eq!(Paint(false).bad("x"), "x");
        assert_eq!(Paint(true).bad("x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_tree_has_branches() {
        let inner = Node { line: "a".into(), below: vec![Node::leaf("b"), Node::leaf("c")] };
        let tree = Node { line: "top".into(), below: vec![inner, Node::leaf("d")] };
        assert_eq!(tree.draw(), "top\n├─ a\n│  ├─ b\n│  └─ c\n└─ d\n");
    }
}
