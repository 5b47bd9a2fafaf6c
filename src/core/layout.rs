//! The layout of a target, as fingerprints of the two things that it follows: the spec of its policy, and the address that it
//! tells. They stand in one annotation, so a restart finds Secrets of an old address without reading them.

use super::{
    address::ClusterAddress,
    format,
    id::{short_hash, stable_hash},
    place::applied::Demanded,
};
use crate::api::{format::FormatOptions, token_policy::Secret as SecretOptions};

/// Between the two fingerprints. The first release wrote one over both, which has none.
const AND: char = '+';

/// The version in front lets a later release tell its own hashes from these.
#[must_use]
pub fn versioned(version: &str, inputs: &[String]) -> Box<str> {
    format!("{version}:{:016x}", stable_hash(inputs.iter().map(String::as_str))).into()
}

/// The layout that a target was written under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Written {
    /// Hash of the fingerprint of the spec, or of both where the first release wrote it.
    spec: u32,
    /// Hash of the fingerprint of the address; 0 where the first release wrote it.
    address: u32,
}

impl Written {
    /// Reads the annotation.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let (spec, address) = text.split_once(AND).unwrap_or((text, ""));
        Self { spec: short_hash([spec]), address: if address.is_empty() { 0 } else { short_hash([address]) } }
    }

    /// Whether the policy asks for this one. A Secret of the first release is taken as it is while neither spec nor address
    /// has changed.
    #[must_use]
    pub fn follows(self, spec: &str, secret: &SecretOptions, demanded: &Demanded, address: &ClusterAddress) -> bool {
        let wanted = if self.address == 0 { &*of_first_release(secret, demanded, address) } else { spec };
        self.spec == short_hash([wanted])
    }

    /// Whether this is the address that it tells.
    #[must_use]
    pub fn tells(self, fingerprint: &str) -> bool {
        self.address == 0 || self.address == short_hash([fingerprint])
    }
}

/// The annotation of a target with these fingerprints.
#[must_use]
pub fn annotation(spec: &str, address: &str) -> String {
    format!("{spec}{AND}{address}")
}

/// Fingerprint of the fields that need only a new rendering when they change. Defaults are left out, so that an upgrade
/// that adds a field changes nothing.
#[must_use]
pub fn of_spec(secret: &SecretOptions, demanded: &Demanded) -> Box<str> {
    versioned("v2", &spec_inputs(secret, demanded))
}

fn spec_inputs(secret: &SecretOptions, demanded: &Demanded) -> Vec<String> {
    let demanded = demanded.iter().map(|(key, value)| format!("demanded={key}={value}"));
    let labels = secret.labels.iter().map(|(key, value)| format!("label={key}={value}"));
    let annotations = secret.annotations.iter().map(|(key, value)| format!("annotation={key}={value}"));
    // As JSON with sorted keys, in which fields that are not set do not appear.
    let format =
        (secret.format != FormatOptions::default()).then(|| format!("format={}", serde_json::json!(secret.format)));
    demanded.chain(labels).chain(annotations).chain(format).collect()
}

fn of_first_release(secret: &SecretOptions, demanded: &Demanded, address: &ClusterAddress) -> Box<str> {
    let told = format::told(&secret.format, address);
    let mut inputs = vec![server(&told.server), ca(&told)];
    inputs.extend(spec_inputs(secret, demanded));
    versioned("v1", &inputs)
}

/// Fingerprints of an address, by how much of it a format tells.
#[derive(Clone, Debug)]
pub struct AddressPrints {
    all: Box<str>,
    ca: Box<str>,
    none: Box<str>,
}

impl AddressPrints {
    /// The fingerprints of this one.
    #[must_use]
    pub fn of(address: &ClusterAddress) -> Self {
        let print = |inputs: &[String]| versioned("a1", inputs);
        Self { all: print(&[server(&address.server), ca(address)]), ca: print(&[ca(address)]), none: print(&[]) }
    }

    /// That of the part that this format tells: with a server of the policy's own only the CA is the cluster's, unless the
    /// policy gives that too.
    #[must_use]
    pub fn told_by(&self, options: &FormatOptions) -> &str {
        match options.server().filter(|chosen| chosen.server.is_some()) {
            _ if !format::of(options).tells_server() => &self.none,
            Some(chosen) if chosen.ca_bundle.is_some() || chosen.system_roots => &self.none,
            Some(_) => &self.ca,
            None => &self.all,
        }
    }
}

fn server(server: &str) -> String {
    format!("server={server}")
}

fn ca(address: &ClusterAddress) -> String {
    format!("ca={:016x}", stable_hash([String::from_utf8_lossy(&address.ca).as_ref()]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn none() -> Demanded {
        Demanded::default()
    }

    fn options(secret: &Value) -> SecretOptions {
        serde_json::from_value(secret.clone()).unwrap()
    }

    fn address(server: &str, ca: &str) -> ClusterAddress {
        ClusterAddress { server: server.into(), ca: ca.into(), internal: false }
    }

    /// Whether a Secret of these options that was written under one address follows another one.
    fn tells(secret: &Value, other: &ClusterAddress) -> bool {
        let secret = options(secret);
        let before = AddressPrints::of(&address("https://a", "ca"));
        let written = Written::read(&annotation(&of_spec(&secret, &none()), before.told_by(&secret.format)));
        assert!(written.follows(&of_spec(&secret, &none()), &secret, &none(), other), "the spec is the same");
        written.tells(AddressPrints::of(other).told_by(&secret.format))
    }

    #[test]
    fn a_secret_is_of_another_address_only_if_its_format_tells_what_changed() {
        let (same, moved, other_ca) =
            (address("https://a", "ca"), address("https://b", "ca"), address("https://a", "new"));
        let chosen = json!({"format": {"type": "Kubeconfig", "kubeconfig": {"server": "https://c"}}});
        let own = json!({"server": "https://c", "caBundle": "LS0="});
        let own = json!({"format": {"type": "Kubeconfig", "kubeconfig": own}});
        let public = json!({"server": "https://c", "systemRoots": true});
        let public = json!({"format": {"type": "Kubeconfig", "kubeconfig": public}});
        let custom = |text: &str| json!({"format": {"type": "Custom", "custom": {"data": {"a": text}}}});
        let registry = json!({"format": {"type": "DockerConfigJson", "dockerConfigJson": {"registries": ["r"]}}});
        for (secret, follows) in [
            (json!({}), [true, false, false]),
            (json!({"format": {"type": "Kubeconfig"}}), [true, false, false]),
            (chosen, [true, true, false]),
            (own, [true, true, true]),
            (public, [true, true, true]),
            (custom("{token}"), [true, true, true]),
            (custom("{token} {server}"), [true, false, false]),
            (registry, [true, true, true]),
        ] {
            assert_eq!([&same, &moved, &other_ca].map(|other| tells(&secret, other)), follows, "{secret}");
        }
    }

    #[test]
    fn what_the_first_release_wrote_follows_while_nothing_changed() {
        let secret = options(&json!({"labels": {"a": "b"}}));
        let written = Written::read(&of_first_release(&secret, &none(), &address("https://a", "ca")));
        let follows = |secret: &SecretOptions, address: &ClusterAddress| {
            written.tells(AddressPrints::of(address).told_by(&secret.format))
                && written.follows(&of_spec(secret, &none()), secret, &none(), address)
        };
        assert!(follows(&secret, &address("https://a", "ca")));
        assert!(!follows(&secret, &address("https://b", "ca")) && !follows(&secret, &address("https://a", "new")));
        assert!(!follows(&options(&json!({})), &address("https://a", "ca")));
    }
}
