//! The flags of kube-apiserver, as its static pods show them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::core::verify::Learnt;

/// Labels of kube-apiserver's static pods, as kubeadm and others write them.
pub const LABELS: &str = "component=kube-apiserver";

/// The flags of one kube-apiserver, with all values of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    /// The flags in a command line. A value is behind `=`, or the next word.
    pub fn read<'a>(words: impl IntoIterator<Item = &'a String>) -> Self {
        let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut words = words.into_iter().peekable();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else { continue };
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, value),
                None => (flag, words.next_if(|next| !next.starts_with("--")).map_or("", String::as_str)),
            };
            flags.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        Self(flags)
    }

    /// The value of a flag; the last one counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A flag that is on or off.
    pub fn is_on(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(|values| values.last()).map_or(default, |value| value != "false")
    }
}

/// The flags of each kube-apiserver of these pods.
///
/// # Errors
/// When there is none.
pub fn servers(pods: &[Pod]) -> Learnt<Vec<Flags>> {
    let containers = pods.iter().filter_map(|pod| pod.spec.as_ref()?.containers.first());
    let servers: Vec<Flags> = containers
        .map(|container| Flags::read(container.command.iter().flatten().chain(container.args.iter().flatten())))
        .collect();
    let none = format!(
        "namespace kube-system has no Pod with the label {LABELS}, as on managed clusters; look into the settings of \
         your provider"
    );
    if servers.is_empty() { Err(none) } else { Ok(servers) }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn flags(words: &[&str]) -> Flags {
        Flags::read(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn reads_flags_as_the_server_does() {
        let flags = flags(&["kube-apiserver", "--a=1", "--a=2", "--b", "3", "--on", "--off=false", "--empty="]);
        assert_eq!(
            (flags.get("a"), flags.get("b"), flags.get("empty"), flags.get("c")),
            (Some("2"), Some("3"), None, None)
        );
        assert!(flags.is_on("on", false) && !flags.is_on("off", true) && flags.is_on("unset", true));
    }

    #[test]
    fn a_control_plane_without_pods_is_managed() {
        assert!(servers(&[]).unwrap_err().contains("component=kube-apiserver"));
        let pod = serde_json::json!({"metadata": {}, "spec": {"containers": [{"name": "x", "command": ["kube-apiserver"], "args": ["--a=b"]}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(servers(&[pod]), Ok(vec![flags(&["--a=b"])]));
    }
}
