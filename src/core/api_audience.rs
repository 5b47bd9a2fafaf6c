//! Whether the administrator's limits let tokens for the API server itself pass. Its own audiences are the one limit whose right
//! value depends on the cluster: where the default does not have them, every token is refused.

use std::collections::BTreeMap;

/// The ConfigMap of the limits, in the operator's namespace.
pub const LIMITS: &str = "tokenward-limits";
/// Its key for the audiences of the API server itself.
const KEY: &str = "apiAudiences";
/// Its key for the audiences that policies may name.
const OTHERS: &str = "audiences";
/// The value of [`KEY`] where it is not set: that of `config/admission/token-limits.yaml`.
const DEFAULT: &str = "https://kubernetes.default.svc https://kubernetes.default.svc.cluster.local k3s rke2 https://container.googleapis.com/v1/projects/*";

/// The audiences that the limits hold back, and the command that adds them; `None` where tokens pass. `namespace` is the
/// operator's own, `limits` the data of the ConfigMap.
#[must_use]
pub fn refusal(own: &[String], namespace: &str, limits: &BTreeMap<String, String>) -> Option<String> {
    let set = limits.get(KEY).map(String::as_str);
    let others = limits.get(OTHERS).map_or("", String::as_str);
    let allowed = || words(others).chain(words(set.unwrap_or(DEFAULT)));
    let refused: Vec<&str> =
        own.iter().map(String::as_str).filter(|own| !allowed().any(|entry| fits(entry, own))).collect();
    if refused.is_empty() {
        return None;
    }
    // Whoever sets the key loses its default, and not all audiences may be known here.
    let wanted: Vec<&str> = words(set.unwrap_or(DEFAULT)).chain(refused.iter().copied()).collect();
    let patch = serde_json::json!({"data": {KEY: wanted.join("\n")}});
    Some(format!(
        "the API server calls itself {}, which the key {KEY} of ConfigMap {namespace}/{LIMITS} does not have, so every token for \
         it is refused; add it: kubectl -n {namespace} patch configmap {LIMITS} --type=merge -p '{patch}'",
        refused.join(", ")
    ))
}

/// The entries of a list as the admission policy splits it.
fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c.is_ascii_whitespace() || c == ',').filter(|word| !word.is_empty())
}

/// An entry that ends in `*` is a prefix.
fn fits(entry: &str, audience: &str) -> bool {
    entry.strip_suffix('*').map_or(entry == audience, |prefix| audience.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BELT: &str = include_str!("../../config/admission/token-limits.yaml");

    fn told(own: &[&str], limits: &[(&str, &str)]) -> Option<String> {
        let own: Vec<String> = own.iter().map(ToString::to_string).collect();
        let limits = limits.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        refusal(&own, "tokenward-system", &limits)
    }

    #[test]
    fn the_default_is_that_of_the_admission_policy() {
        let (_, text) = BELT.split_once("params.?data[?'apiAudiences'].orValue(").unwrap();
        let (text, _) = text.split_once(").findAll").unwrap();
        let default: String = text.split('\'').skip(1).step_by(2).collect();
        assert_eq!(default, DEFAULT);
    }

    #[test]
    fn what_the_limits_have_passes() {
        let google = "https://container.googleapis.com/v1/projects/p/locations/l/clusters/c";
        for own in [
            &["https://kubernetes.default.svc"] as &[&str],
            &["https://kubernetes.default.svc.cluster.local", "k3s"],
            &[google],
        ] {
            assert_eq!(told(own, &[]), None, "{own:?}");
        }
        let own = ["https://10.0.0.1:6443"];
        assert_eq!(told(&own, &[("apiAudiences", "k3s\nhttps://10.0.0.1:6443\n")]), None);
        assert_eq!(told(&own, &[("audiences", "vault,https://10.*")]), None);
        assert_eq!(told(&[], &[]), None, "nothing is known");
    }

    #[test]
    fn what_they_do_not_have_is_told_with_the_command_that_adds_it() {
        let own = ["https://10.0.0.1:6443", "k3s"];
        let advice = told(&own, &[]).unwrap();
        assert!(advice.starts_with("the API server calls itself https://10.0.0.1:6443, which"), "{advice}");
        let (command, entries) = advice.rsplit_once(r#"-p '{"data":{"apiAudiences":""#).unwrap();
        assert!(
            command.ends_with("kubectl -n tokenward-system patch configmap tokenward-limits --type=merge "),
            "{advice}"
        );
        let entries = entries.strip_suffix("\"}}'").unwrap().replace("\\n", " ");
        assert_eq!(entries, format!("{DEFAULT} https://10.0.0.1:6443"));
        assert_eq!(told(&own, &[("apiAudiences", &entries)]), None, "it is enough");
        // What is there stays.
        let advice = told(&own, &[("apiAudiences", "other")]).unwrap();
        assert!(advice.ends_with(r#"'{"data":{"apiAudiences":"other\nhttps://10.0.0.1:6443\nk3s"}}'"#), "{advice}");
    }
}
