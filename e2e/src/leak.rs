//! Finds token text where it must not be, without ever printing it.

use aho_corasick::{AhoCorasick, MatchKind};
use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

// Every window of 24 characters holds one of the aligned blocks of 12, and 12 random characters are 72 bits.
const BLOCK: usize = 12;
const MIN_SIGNATURE: usize = 24;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A known token, complete.
    Token,
    /// Part of the signature of a known token.
    Signature,
    /// Part of the signature of a known token, inside of base64.
    Base64,
    /// A JWT of our issuer, known or not.
    Jwt,
}

/// One place where token text was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the name that the caller gave the text.
    pub place: String,
    /// Bytes from its beginning.
    pub offset: usize,
    /// What was found there.
    pub kind: Kind,
}

/// Knows the tokens and the issuer to look for.
pub struct Scanner {
    blocks: AhoCorasick,
    kinds: Vec<Kind>,
    issuer: String,
}

impl Scanner {
    /// A scanner for these tokens, and for any token of `issuer`.
    ///
    /// # Errors
    /// When there are more tokens than fit in memory.
    pub fn new<'a>(tokens: impl IntoIterator<Item = &'a str>, issuer: &str) -> Result<Self> {
        let mut patterns: HashMap<Vec<u8>, Kind> = HashMap::new();
        for token in tokens {
            let signature = token.rsplit('.').next().unwrap_or(token).as_bytes();
            patterns.extend(blocks(signature).map(|block| (block, Kind::Signature)));
            patterns.extend(in_base64(signature).iter().flat_map(|text| blocks(text)).map(|b| (b, Kind::Base64)));
            patterns.insert(token.as_bytes().to_vec(), Kind::Token);
        }
        let (patterns, kinds): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        let blocks = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns)?;
        Ok(Self { blocks, kinds, issuer: issuer.to_owned() })
    }

    /// Searches a text; `place` is what the findings call it.
    #[must_use]
    pub fn scan(&self, place: &str, text: &[u8]) -> Vec<Finding> {
        let finding = |offset, kind| Finding { place: place.to_owned(), offset, kind };
        let mut found: Vec<Finding> = Vec::new();
        let mut end = 0;
        for hit in self.blocks.find_iter(text) {
            // Blocks side by side are one finding.
            if found.is_empty() || hit.start() != end {
                found.push(finding(hit.start(), self.kinds[hit.pattern().as_usize()]));
            }
            end = hit.end();
        }
        found.extend(self.jwts(text).map(|offset| finding(offset, Kind::Jwt)));
        found
    }

    /// Searches a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn scan_file(&self, path: &Path) -> Result<Vec<Finding>> {
        let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Ok(self.scan(&path.to_string_lossy(), &text))
    }

    /// Searches all files of a folder and of the folders in it.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn scan_dir(&self, dir: &Path) -> Result<Vec<Finding>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
            let path = entry?.path();
            found.extend(if path.is_dir() { self.scan_dir(&path)? } else { self.scan_file(&path)? });
        }
        Ok(found)
    }

    fn jwts<'a>(&'a self, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
        let starts = text.windows(3).enumerate().filter(|(_, window)| window == b"eyJ");
        starts.map(|(offset, _)| offset).filter(|offset| self.is_ours(&text[*offset..]))
    }

    /// Whether a JWT of our issuer, with enough of its signature to matter, begins here.
    fn is_ours(&self, text: &[u8]) -> bool {
        let mut segments = text.split(|byte| !is_base64url(*byte)).map(<[u8]>::to_vec);
        let mut dots = text.iter().filter(|byte| !is_base64url(**byte));
        let (Some(_), Some(payload), Some(signature)) = (segments.next(), segments.next(), segments.next()) else {
            return false;
        };
        dots.next() == Some(&b'.')
            && dots.next() == Some(&b'.')
            && signature.len() >= MIN_SIGNATURE
            && issuer(&payload).is_some_and(|issuer| issuer == self.issuer)
    }
}

fn blocks(text: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    text.chunks_exact(BLOCK).map(<[u8]>::to_vec)
}

/// The text as it looks inside of base64, for each of the three ways it can lie in groups of three bytes.
fn in_base64(text: &[u8]) -> [Vec<u8>; 3] {
    // A token's characters never make `+`, `/`, `-` or `_`, so the two alphabets agree.
    [0, 1, 2].map(|skip: usize| {
        let inner = text.get(skip..).unwrap_or_default();
        let whole = &inner[..inner.len() / 3 * 3];
        BASE64_STANDARD_NO_PAD.encode(whole).into_bytes()
    })
}

fn is_base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn issuer(payload: &[u8]) -> Option<String> {
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?;
    let claims: Value = serde_json::from_slice(&payload).ok()?;
    claims.get("iss")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://issuer.example";
    const SIGNATURE: &str = "pvm8zNiFQ3kq0fDzvKwbGq2uRrYAqcJzJm-YB0KhL1x_4aTcUeXsOQnWd7P5yCgHtSjVb9EoI2MlFZr6iNhKaw";

    fn token(issuer: &str) -> String {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let payload = part(&format!(r#"{{"iss":"{issuer}","exp":1}}"#));
        format!("{}.{payload}.{SIGNATURE}", part(r#"{"alg":"ES256"}"#))
    }

    fn kinds(text: &str) -> Vec<Kind> {
        let token = token(ISSUER);
        let scanner = Scanner::new([token.as_str()], ISSUER).unwrap();
        scanner.scan("here", text.as_bytes()).iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn finds_a_whole_token_and_where_it_lies() {
        let scanner = Scanner::new([token(ISSUER).as_str()], ISSUER).unwrap();
        let found = scanner.scan("a.log", format!("token={} end", token(ISSUER)).as_bytes());
        let expected = |kind| Finding { place: "a.log".to_owned(), offset: 6, kind };
        assert_eq!(found, [expected(Kind::Token), expected(Kind::Jwt)]);
    }

    #[test]
    fn finds_every_window_of_24_characters_of_the_signature() {
        for start in 0..=SIGNATURE.len() - 24 {
            assert_eq!(kinds(&format!("x={}…", &SIGNATURE[start..start + 24])), [Kind::Signature], "{start}");
        }
        assert_eq!(kinds(&SIGNATURE[1..12]), []);
    }

    #[test]
    fn finds_a_token_truncated_in_its_signature() {
        let token = token(ISSUER);
        assert_eq!(kinds(&token[..token.len() - 50]), [Kind::Signature, Kind::Jwt].map(|kind| kind));
    }

    #[test]
    fn finds_base64_at_every_alignment() {
        for prefix in ["", "a", "ab"] {
            let text = BASE64_STANDARD_NO_PAD.encode(format!("{prefix}{}", token(ISSUER)));
            assert_eq!(kinds(&text), [Kind::Base64], "{prefix:?}");
        }
    }

    #[test]
    fn finds_an_unknown_token_of_our_issuer_only() {
        let scanner = Scanner::new([], ISSUER).unwrap();
        assert_eq!(scanner.scan("x", format!("\"{}\"", token(ISSUER)).as_bytes())[0].kind, Kind::Jwt);
        assert_eq!(scanner.scan("x", token("https://other").as_bytes()), []);
    }

    #[test]
    fn lets_redacted_and_ordinary_text_pass() {
        let redacted = token(ISSUER).replace(SIGNATURE, "[REDACTED]");
        let jti = "jti 6f1c0f4e-0000-4a6b-9c3d-1234567890ab eyJ eyJ.eyJ. eyJ..";
        assert_eq!(kinds(&format!("{redacted} {jti}")), []);
    }

    #[test]
    fn scans_folders() {
        let dir = std::env::temp_dir().join(format!("tokenward-leak-{}", std::process::id()));
        fs::create_dir_all(dir.join("deep")).unwrap();
        fs::write(dir.join("deep/a.log"), token(ISSUER)).unwrap();
        let scanner = Scanner::new([], ISSUER).unwrap();
        assert_eq!(scanner.scan_dir(&dir).unwrap().len(), 1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
