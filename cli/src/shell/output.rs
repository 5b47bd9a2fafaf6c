//! Standard output.

use std::io::{self, ErrorKind, IsTerminal as _, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::cluster::MissingRight;
use crate::{args::Format, core::text::Paint};

/// Colours for a terminal, unless <https://no-color.org> forbids them.
pub fn paint() -> Paint {
    Paint(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
}

pub fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

pub fn print_bytes(bytes: &[u8]) -> Result<()> {
    write(io::stdout().lock(), bytes).context("writing standard output")
}

/// Without a flush, a full disk would pass unnoticed. A reader that has gone, as `head` does, is no error: it must neither
/// stop an order half done nor change the exit code.
fn write(mut out: impl Write, bytes: &[u8]) -> io::Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_a_closed_pipe_is_none() {
        let written = |kind| write(io::LineWriter::new(Failing(kind)), b"no line end").map_err(|error| error.kind());
        assert_eq!(written(ErrorKind::StorageFull), Err(ErrorKind::StorageFull));
        assert_eq!(written(ErrorKind::BrokenPipe), Ok(()));
    }
}
