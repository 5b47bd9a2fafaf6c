//! What a person sees.

use crate::seconds;
use std::io::{IsTerminal, stderr, stdout};
use std::path::Path;
use std::time::Duration;

/// Columns of a line before it is cut; the widest table has 122.
const WIDTH: usize = 124;

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const CYAN: &str = "36";

/// Standard output, in colour where that is wanted.
#[derive(Clone)]
pub struct Screen {
    colour: bool,
    brief: bool,
    silent: bool,
}

impl Screen {
    /// Colour on a terminal, unless `NO_COLOR` is set; everywhere if `CLICOLOR_FORCE` is. `BRIEF` leaves the details out.
    pub fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let colour = set("CLICOLOR_FORCE") || stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { colour, brief: set("BRIEF"), silent: false }
    }

    /// Whether only the picture of the README is wanted.
    pub fn is_brief(&self) -> bool {
        self.brief
    }

    /// The screen for details, which a brief demo does not show.
    pub fn details(&self) -> Self {
        Self { silent: self.brief, ..self.clone() }
    }

    fn line(&self, text: &str) {
        if !self.silent {
            println!("{text}");
        }
    }

    /// The headline of a step.
    pub fn step(&self, title: &str) {
        self.line(&format!("\n{}", self.paint(BOLD, title)));
    }

    /// A command as it is about to run.
    pub fn command(&self, command: &str) {
        self.line(&format!("{} {}", self.paint(DIM, "$"), self.paint(CYAN, command)));
    }

    /// The first `most` lines of what a command printed.
    pub fn output(&self, text: &str, most: usize) {
        let lines: Vec<&str> = text.lines().collect();
        for line in lines.iter().take(most) {
            self.line(&cut(line));
        }
        if let Some(more) = lines.len().checked_sub(most).filter(|more| *more > 0) {
            self.line(&self.paint(DIM, &format!("… {more} more lines")));
        }
    }

    /// Why nothing happens for a moment.
    pub fn wait(&self, why: &str) {
        self.line(&self.paint(DIM, &format!("… {why}")));
    }

    /// Something that was checked and is true.
    pub fn check(&self, what: &str) {
        self.line(&format!("{} {what}", self.paint(GREEN, "✓")));
    }

    /// The last line of a demo that went well.
    pub fn end(&self, took: Duration) {
        let line = format!("All of this was checked, in {}.", seconds(took));
        self.line(&format!("\n{}", self.paint(BOLD, &line)));
    }

    /// How to go on at the keyboard.
    pub fn by_hand(&self, kubeconfig: &Path, log: &Path) {
        println!("\nIt is all still running. In another terminal:");
        self.command(&format!("export KUBECONFIG={}", kubeconfig.display()));
        self.command("kubectl get tokenpolicies -n ci --watch");
        self.command("kubectl explain tokenpolicy.spec");
        self.command(&format!("tail -f {}", log.display()));
        println!("Enter stops everything.");
    }

    /// Why the demo ended early.
    pub fn failure(&self, why: &str) {
        let mark =
            if self.colour && stderr().is_terminal() { format!("\x1b[{RED}m✗\x1b[0m") } else { "✗".to_owned() };
        eprintln!("\n{mark} {why}");
    }

    fn paint(&self, style: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{style}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn cut(line: &str) -> String {
    let line = line.trim_end();
    if line.chars().count() <= WIDTH {
        return line.to_owned();
    }
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}
