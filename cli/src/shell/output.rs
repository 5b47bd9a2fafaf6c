//! Standard output.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use serde::Serialize;

use super::cluster::MissingRight;
use crate::{args::Format, core::text::Paint};

/// Colours for a terminal, unless <https://no-color.org> forbids them.
pub fn paint() -> Paint {
    Paint(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
}

pub fn print(text: &str) -> Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Prints a value for machines, or its text for people.
pub fn show<T: Serialize>(format: Option<Format>, value: &T, text: impl FnOnce() -> String) -> Result<()> {
    match format {
        Some(Format::Json) => print(&format!("{:#}\n", serde_json::to_value(value)?)),
        Some(Format::Yaml) => print(&serde_saphyr::to_string(value)?),
        None => print(&text()),
    }
}

/// Says something that is no result.
pub fn note(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Nothing, with a note, where the person lacks the right to see it.
pub fn shown<T>(what: &str, answer: Result<Vec<T>>) -> Result<Vec<T>> {
    match answer {
        Err(error) if error.is::<MissingRight>() => {
            note(format!("{what} are not shown: {error}"));
            Ok(Vec::new())
        }
        answer => answer,
    }
}
