//! The language of `custom.data`: text with placeholders. `{{` stands for a brace, a lone `}` for itself; there is no
//! logic, and there are no functions.

use kube::core::{Message, Rule};
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::json;
use strum::{EnumIter, EnumString, IntoEnumIterator as _, IntoStaticStr};

use super::schema::shown;

/// What can be put into a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter, EnumString, IntoStaticStr)]
#[strum(serialize_all = "camelCase")]
pub enum Placeholder {
    /// The token.
    Token,
    /// URL of the API server.
    Server,
    /// CA bundle of the API server, PEM.
    Ca,
    /// The same in base64, as kubeconfigs want it.
    CaBase64,
    /// Namespace of policy, account and Secret.
    Namespace,
    /// Name of the account.
    ServiceAccount,
    /// End of the token, RFC 3339 in UTC.
    ExpiresAt,
}

/// A part of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text that is copied.
    Text(&'a str),
    /// A value that is put in.
    Value(Placeholder),
}

/// Longest template: a kubeconfig needs 1,000 characters, and twice as much would cost the API server too much to
/// check.
const MAX_LENGTH: usize = 4096;
/// Most placeholders of one template: they bound the memory that a rendering takes.
const MAX_PLACEHOLDERS: usize = 16;

const BESIDE: &str = "must not have {token} right beside a letter, a digit, '.', '_', '-' or another placeholder, or the token could not be found again to mend the Secret; put a space, a quote or a new line between";
const TOO_MANY: &str = "must have at most 16 placeholders";

fn names() -> String {
    Placeholder::iter().map(<&str>::from).collect::<Vec<_>>().join("|")
}

fn in_braces() -> Vec<String> {
    Placeholder::iter().map(|one| format!("{{{}}}", <&str>::from(one))).collect()
}

fn cure() -> String {
    format!("write one of {}, or {{{{ for a brace", in_braces().join(", "))
}

/// The rules of one template, for `self`. A `{{` is taken out of the way first.
fn rules() -> [Rule; 3] {
    let (plain, names) = ("self.replace('{{', ' ')", names());
    let unknown = format!("{plain}.findAll('[{{][^}}]*[}}]?').filter(p, !(p in ['{}']))[0]", in_braces().join("', '"));
    let beside = format!("([A-Za-z0-9._-]|[{{]({names})[}}])[{{]token[}}]|[{{]token[}}]([A-Za-z0-9._-]|[{{][a-zA-Z])");
    [
        Rule::new(format!("self.matches('^([^{{]|[{{][{{]|[{{]({names})[}}])*$')"))
            .message(Message::Expression(format!("{} + ' is no placeholder; {}'", shown(&unknown), cure()))),
        Rule::new(format!("!{plain}.matches('{beside}')")).message(BESIDE),
        Rule::new(format!("size({plain}.findAll('[{{]')) <= {MAX_PLACEHOLDERS}")).message(TOO_MANY),
    ]
}

/// The schema of a map of templates.
#[must_use]
pub fn data(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 16,
        "additionalProperties": {
            "type": "string",
            "maxLength": MAX_LENGTH,
            "x-kubernetes-validations": json!(rules()),
        },
    })
}

/// The pieces of a template, or its first placeholder that there is not.
pub fn pieces(text: &str) -> impl Iterator<Item = Result<Piece<'_>, String>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, after) = next(rest)?;
        rest = after;
        Some(piece)
    })
}

type Next<'a> = (Result<Piece<'a>, String>, &'a str);

fn next(text: &str) -> Option<Next<'_>> {
    if text.is_empty() {
        return None;
    }
    Some(match text.strip_prefix('{') {
        None => {
            let (piece, after) = text.split_at(text.find('{').unwrap_or(text.len()));
            (Ok(Piece::Text(piece)), after)
        }
        Some(after) if after.starts_with('{') => (Ok(Piece::Text("{")), &after[1..]),
        Some(after) => {
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            let known = name.parse().map(Piece::Value);
            (known.map_err(|_| format!("\"{{{name:.40}}}\" is no placeholder; {}", cure())), after)
        }
    })
}

/// The same rules for a template that was stored without them. Tells whether it holds the token.
///
/// # Errors
/// With the rule that it breaks.
pub fn check(text: &str) -> Result<bool, String> {
    let pieces = pieces(text).collect::<Result<Vec<_>, _>>()?;
    let token = Piece::Value(Placeholder::Token);
    let touches = |pair: &[Piece<'_>]| {
        pair[0] == token && touches(pair[1], |text| text.chars().next())
            || pair[1] == token && touches(pair[0], |text| text.chars().next_back())
    };
    if pieces.windows(2).any(touches) {
        return Err(BESIDE.into());
    }
    if pieces.iter().filter(|piece| matches!(piece, Piece::Value(_))).count() > MAX_PLACEHOLDERS {
        return Err(TOO_MANY.into());
    }
    Ok(pieces.contains(&token))
}

/// Whether a piece would run into a token beside it, where `end` is the near end of its text.
fn touches(piece: Piece<'_>, end: impl Fn(&str) -> Option<char>) -> bool {
    match piece {
        Piece::Text(text) => end(text).is_some_and(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')),
        Piece::Value(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(template: &str) -> Result<String, String> {
        let shown = |piece| match piece {
            Piece::Text(text) => text.to_owned(),
            Piece::Value(placeholder) => format!("<{}>", <&str>::from(placeholder)),
        };
        pieces(template).map(|piece| piece.map(shown)).collect()
    }

    #[test]
    fn everything_but_placeholders_is_copied() {
        for (template, wanted) in [
            ("", ""),
            ("a } b }} c", "a } b }} c"),
            ("{{\"t\": \"{token}\"}", "{\"t\": \"<token>\"}"),
            ("{{{token}}", "{<token>}"),
            ("{{{{token}}", "{{token}}"),
            ("{ca}{caBase64}", "<ca><caBase64>"),
            ("\u{0}\n\t$%&\\ü", "\u{0}\n\t$%&\\ü"),
        ] {
            assert_eq!(text(template).as_deref(), Ok(wanted), "{template}");
        }
    }

    #[test]
    fn anything_else_in_braces_is_named() {
        for (template, named) in [
            ("{Token}", "{Token} is no placeholder"),
            ("a {token b", "{token b} is no placeholder"),
            ("{}", "{} is no placeholder"),
            ("x{", "{} is no placeholder"),
            ("{token | b64enc}", "{token | b64enc} is no"),
            ("{ token }", "{ token } is no"),
        ] {
            let error = check(template).unwrap_err();
            let error = error.replace('"', "");
            assert!(error.contains(named) && error.contains("write one of {token}, {server}, {ca},"), "{error}");
        }
    }

    #[test]
    fn a_token_that_could_not_be_found_again_is_refused() {
        for template in
            ["a{token}", "{token}b", "{token}.", "{server}{token}", "{token}{ca}", "{token}{token}", "-{token}"]
        {
            assert_eq!(check(template), Err(BESIDE.into()), "{template}");
        }
        for template in ["Bearer {token}", "\"{token}\"", "}{token}{{", "{token}\n", "{token}}", "a{{token}b {token}"] {
            assert_eq!(check(template), Ok(true), "{template}");
        }
        assert_eq!((check("{{token}"), check("{server}x")), (Ok(false), Ok(false)));
        assert_eq!(check(&"{ca} ".repeat(17)), Err(TOO_MANY.into()));
    }
}
