//! Texts that others wrote, made safe to show: no tokens, no control characters, no more than fits.

use std::panic::PanicHookInfo;

/// Longest message that is shown in a condition or event, in characters: a refusal with its limit and who may change it, and
/// with room left in the 1 kB of an event's note.
pub const MAX_MESSAGE: usize = 512;

/// Cuts a foreign text to [`MAX_MESSAGE`] characters, replaces anything shaped like a JSON Web Token, and
/// turns control characters into blanks, so that a message cannot forge log lines.
#[must_use]
pub fn message(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(4 * MAX_MESSAGE));
    for word in text.split_inclusive(|c: char| !is_token_char(c)) {
        let end = word.trim_end_matches(|c: char| !is_token_char(c)).len();
        let (body, tail) = word.split_at(end);
        out.push_str(if is_secret(body) { "[removed]" } else { body });
        out.extend(tail.chars().map(|c| if c.is_control() { ' ' } else { c }));
        if out.len() > 4 * MAX_MESSAGE {
            break;
        }
    }
    out.chars().take(MAX_MESSAGE).collect()
}

/// The text of a panic for the log: the panic's own may quote its input, which may be a token.
#[must_use]
pub fn panic(panic: &PanicHookInfo<'_>) -> String {
    let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let text = panic.payload_as_str().unwrap_or("no text");
    format!("panic at {place}: {}; please report this bug", message(text))
}

/// Letters of base64 (plain and URL-safe) and the dots between the parts of a token.
fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '/' | '=')
}

/// `eyJ` is how every JSON object starts in base64, `ZXlK` how that does in base64 once more.
fn is_secret(word: &str) -> bool {
    let starts = ["eyJ", "ZXlK"].iter().any(|start| word.find(start).is_some_and(|at| word.len() - at > 40));
    starts || word.split('.').any(is_random)
}

/// A part of a token without its beginning. Names, paths, digests and UIDs have no capitals, kinds no digits; and less than 24
/// characters are no help in guessing the 86 of a signature.
fn is_random(part: &str) -> bool {
    let has = |class: fn(&u8) -> bool| part.as_bytes().iter().any(class);
    part.len() >= 24 && has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) && has(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn removes_tokens_and_keeps_the_rest() {
        let token = format!("eyJhbGciOiJFUzI1NiJ9.{}.sig", "A".repeat(80));
        assert_eq!(message(&format!("denied: \"{token}\" is bad")), "denied: \"[removed]\" is bad");
        assert_eq!(message("exceeded quota: secrets=1"), "exceeded quota: secrets=1");
        assert_eq!(message("two\nlines\u{1b}[31m"), "two lines [31m");
    }

    #[test]
    fn removes_parts_of_tokens_and_keeps_names_digests_and_kinds() {
        let tail = "-PVVMjMlsOg1V7a340LZWe3XfRdMSm";
        assert_eq!(message(&format!("near {tail} and x.{tail}")), "near [removed] and [removed]");
        let kept = "ValidatingAdmissionPolicyBinding registry.example/a@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b \
            5d2b8f3e-1c0a-4d7e-9b1f-0123456789ab /api/v1/namespaces/team-1/secrets/deployers-1";
        assert_eq!(message(kept), kept);
    }

    #[test]
    fn a_panic_quotes_no_token() {
        let (told, hear) = std::sync::mpsc::channel();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| told.send(panic(info)).unwrap()));
        let token = format!("eyJhbGciOiJFUzI1NiJ9.{}.sig", "A".repeat(80));
        // The library itself quotes a text that is cut at a wrong place.
        let cut = std::thread::spawn(move || format!("é{token}")[1..].len()).join();
        std::panic::set_hook(before);
        let text: String = hear.iter().find(|text: &String| text.contains("redact.rs")).unwrap();
        assert!(cut.is_err() && text.contains("[removed]") && !text.contains("AAAA"), "{text}");
    }

    proptest! {
        #[test]
        fn is_short_and_without_control_characters(text in any::<String>()) {
            let safe = message(&text);
            prop_assert!(safe.chars().count() <= MAX_MESSAGE);
            prop_assert!(!safe.chars().any(char::is_control));
        }

        #[test]
        fn never_shows_a_token(before in "[ a-z:\"{]{0,300}", body in "[A-Za-z0-9_-]{60}") {
            let safe = message(&format!("{before}eyJ{body}.{body}"));
            prop_assert!(!safe.contains(&body[..40]));
        }
    }
}
