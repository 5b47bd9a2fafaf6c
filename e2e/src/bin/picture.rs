//! Draws a terminal's output as an SVG; `make pictures` draws those of the documents.

use anyhow::Result;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _, stdin, stdout};

const SIZE: f32 = 14.0;
/// The advance of the usual monospaced fonts.
const COLUMN: f32 = SIZE * 0.602;
const LINE: usize = 19;
const MARGIN: usize = 20;
const HEAD: usize = 40;
const STYLE: &str = "text{font:14px ui-monospace,SFMono-Regular,Menlo,'DejaVu Sans Mono','Liberation Mono',monospace;\
fill:#c9d1d9;white-space:pre}.s1{font-weight:bold;fill:#f0f6fc}.s2{fill:#8b949e}.s31{fill:#ff7b72}.s32{fill:#56d364}.s36{fill:#79c0ff}";

fn main() -> Result<()> {
    let mut text = String::new();
    stdin().read_to_string(&mut text)?;
    Ok(stdout().write_all(draw(&text)?.as_bytes())?)
}

fn draw(text: &str) -> Result<String> {
    let lines = spans(text.trim_matches('\n'));
    let columns = lines.iter().map(|line| line.iter().map(|span| span.text.chars().count()).sum()).max().unwrap_or(0);
    let height = HEAD + lines.len() * LINE + MARGIN;
    let width = width(columns);
    let mut svg = String::new();
    writeln!(svg, r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">"#)?;
    writeln!(svg, "<style>{STYLE}</style>")?;
    writeln!(svg, r##"<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>"##)?;
    for (x, colour) in [(20, "#ff5f57"), (40, "#febc2e"), (60, "#28c840")] {
        writeln!(svg, r#"<circle cx="{x}" cy="18" r="6" fill="{colour}"/>"#)?;
    }
    for (number, line) in lines.iter().enumerate().filter(|(_, line)| !line.is_empty()) {
        let y = HEAD + (number + 1) * LINE - 5;
        let spans: String = line.iter().map(Span::draw).collect();
        writeln!(svg, r#"<text x="{MARGIN}" y="{y}" xml:space="preserve">{spans}</text>"#)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a few columns"
)]
fn width(columns: usize) -> usize {
    (columns as f32 * COLUMN).ceil() as usize + 2 * MARGIN
}

/// Text of one style, which is the number of its escape sequence.
#[derive(Debug, PartialEq)]
struct Span {
    style: String,
    text: String,
}

impl Span {
    fn draw(&self) -> String {
        let text = self.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        if self.style.is_empty() { text } else { format!("<tspan class=\"s{}\">{text}</tspan>", self.style) }
    }
}

/// The spans of every line; a style goes on until the next escape sequence, also over the end of a line.
fn spans(text: &str) -> Vec<Vec<Span>> {
    let mut style = String::new();
    let line = |line: &str| {
        let mut spans = Vec::new();
        for (number, part) in line.split("\x1b[").enumerate() {
            let text = match part.split_once('m').filter(|_| number > 0) {
                Some((next, text)) => {
                    style = if next == "0" { String::new() } else { next.to_owned() };
                    text
                }
                None => part,
            };
            if !text.is_empty() {
                spans.push(Span { style: style.clone(), text: text.to_owned() });
            }
        }
        spans
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(style: &str, text: &str) -> Span {
        Span { style: style.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn styles_go_on_over_lines() {
        let lines = spans("\x1b[2m$\x1b[0m \x1b[36mls \\\n  -l\x1b[0m\nmore");
        assert_eq!(lines[0], [span("2", "$"), span("", " "), span("36", "ls \\")]);
        assert_eq!(lines[1], [span("36", "  -l")]);
        assert_eq!(lines[2], [span("", "more")]);
    }

    #[test]
    fn text_is_escaped() {
        assert_eq!(span("1", "a<b>&").draw(), "<tspan class=\"s1\">a&lt;b&gt;&amp;</tspan>");
    }
}
