//! `print`: which value of a Secret is meant.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;

use super::token::tokens;

/// The value of this key, else the only one that holds a token.
///
/// # Errors
/// When there is no such key, or not exactly one that holds a token; with the keys that there are.
pub fn value<'a>(data: &'a BTreeMap<String, ByteString>, key: Option<&str>) -> Result<&'a [u8], String> {
    let holds_token = |value: &ByteString| std::str::from_utf8(&value.0).is_ok_and(|text| !tokens(text).is_empty());
    let fits = |(name, value): &(&String, &ByteString)| key.map_or_else(|| holds_token(value), |key| key == *name);
    let found: Vec<_> = data.iter().filter(fits).collect();
    let [(_, value)] = found[..] else {
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        let wanted = key.map_or_else(|| "not exactly one key with a token".to_owned(), |key| format!("no key {key}"));
        return Err(format!("it has {wanted}; name one with --key: {}", keys.join(", ")));
    };
    Ok(&value.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::token::tests::{payload, token};

    fn data(entries: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), ByteString(value.as_bytes().to_vec()))).collect()
    }

    #[test]
    fn takes_the_key_that_is_named_or_the_only_one_with_a_token() {
        let token = token(&payload());
        let config = format!("token: {token}");
        let plain = data(&[("ca.crt", "PEM"), ("token", &token)]);
        assert_eq!(value(&plain, None), Ok(token.as_bytes()));
        assert_eq!(value(&plain, Some("ca.crt")), Ok(&b"PEM"[..]));
        assert_eq!(value(&data(&[("config", &config), ("name", "x")]), None), Ok(config.as_bytes()));
        for (data, key) in
            [(data(&[("a", &token), ("b", &config)]), None), (data(&[("a", "x")]), None), (plain, Some("x"))]
        {
            let error = value(&data, key).unwrap_err();
            assert!(error.contains("name one with --key: ") && !error.contains("eyJ"), "{error}");
        }
    }
}
