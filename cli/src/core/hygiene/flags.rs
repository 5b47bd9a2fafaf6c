//! The flags of kube-apiserver, as its static pods show them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;

use crate::core::verify::Learnt;

/// Labels of kube-apiserver's static pods, as kubeadm and others write them.
pub const LABELS: &str = "component=kube-apiserver";

/// The texts that Go takes for false.
const OFF: [&str; 6] = ["0", "f", "F", "false", "False", "FALSE"];

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
            // kube-apiserver takes both spellings.
            flags.entry(name.replace('_', "-")).or_default().push(value.to_owned());
        }
        Self(flags)
    }

    /// The value of a flag; the last one counts.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A flag that is on or off.
    pub fn is_on(&self, name: &str, default: bool) -> bool {
        self.0.get(name).and_then(|values| values.last()).map_or(default, |value| !OFF.contains(&value.as_str()))
    }
}

/// The flags of each kube-apiserver of these pods, and why those of others cannot be seen.
///
/// # Errors
/// When there is none whose flags can be seen.
pub fn servers(pods: &[Pod]) -> (Learnt<Vec<Flags>>, Vec<String>) {
    let none = format!(
        "namespace kube-system has no Pod with the label {LABELS}, as on managed clusters; look into the settings of \
         your provider"
    );
    let mut unseen = Vec::new();
    let seen: Vec<Flags> = pods.iter().filter_map(|pod| server(pod).map_err(|why| unseen.push(why)).ok()).collect();
    match (seen.is_empty(), unseen.is_empty()) {
        (false, _) => (Ok(seen), unseen),
        (true, false) => (Err(unseen.join("; ")), Vec::new()),
        (true, true) => (Err(none), unseen),
    }
}

fn server(pod: &Pod) -> Learnt<Flags> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut lines = containers.map(|one| one.command.iter().flatten().chain(one.args.iter().flatten()));
    let is_server = |word: &String| word.rsplit('/').next() == Some("kube-apiserver");
    let line = lines.find(|line| line.clone().next().is_some_and(is_server));
    line.map(Flags::read).ok_or_else(|| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        format!("no container of Pod kube-system/{name} starts kube-apiserver itself; look at its flags on its machine")
    })
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
    fn spellings_of_go_are_known() {
        assert_eq!(flags(&["--token_auth_file=/x_y"]).get("token-auth-file"), Some("/x_y"));
        for off in OFF {
            assert!(!flags(&[&format!("--on={off}")]).is_on("on", true), "{off}");
        }
    }

    fn pod(containers: &serde_json::Value) -> Pod {
        let pod = serde_json::json!({"metadata": {"name": "one"}, "spec": {"containers": containers}});
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn a_control_plane_without_pods_is_managed() {
        assert!(servers(&[]).0.unwrap_err().contains("component=kube-apiserver"));
        let server = serde_json::json!([
            {"name": "first", "command": ["pause"]},
            {"name": "x", "command": ["/usr/bin/kube-apiserver"], "args": ["--a=b"]},
        ]);
        assert_eq!(servers(&[pod(&server)]), (Ok(vec![flags(&["--a=b"])]), vec![]));
    }

    #[test]
    fn a_pod_that_cannot_be_read_is_told_and_hides_no_other() {
        let server = serde_json::json!([{"name": "x", "command": ["kube-apiserver", "--a=b"]}]);
        for command in [vec!["pause"], vec!["/bin/sh", "-c", "exec kube-apiserver --token-auth-file=/x"], vec![]] {
            let other = pod(&serde_json::json!([{"name": "x", "command": command}]));
            let (seen, unseen) = servers(&[pod(&server), other.clone()]);
            assert_eq!(seen, Ok(vec![flags(&["--a=b"])]));
            assert!(unseen[0].contains("Pod kube-system/one"), "{unseen:?}");
            assert!(servers(&[other]).0.unwrap_err().contains("Pod kube-system/one"));
        }
    }
}
