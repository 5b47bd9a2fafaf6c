//! Small owned identities: names, UIDs and whole seconds as numbers. A hundred thousand grants hold several of each.

use std::{fmt, hash::Hasher as _, num::NonZeroU32};

use siphasher::sip::SipHasher13;

use super::Time;

/// A hash that is the same in every process and on every platform, for jitter and for comparing sets.
/// Each part is followed by a byte that no UTF-8 text holds, so `["ab","c"]` and `["a","bc"]` differ.
#[must_use]
pub fn stable_hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = SipHasher13::new();
    for part in parts {
        hasher.write(part.as_bytes());
        hasher.write_u8(0xff);
    }
    hasher.finish()
}

/// Half of the hash, for values that are compared with few others: two differ in it but once in 2³² pairs.
#[must_use]
pub fn short_hash<'a>(parts: impl IntoIterator<Item = &'a str>) -> u32 {
    u32::try_from(stable_hash(parts) >> 32).unwrap_or_default()
}

/// The name of an object. Up to 15 bytes lie in the value itself; longer ones are shared between clones.
pub type Name = ecow::EcoString;

/// Namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// `metadata.namespace`; empty for a cluster-scoped kind.
    pub namespace: Name,
    /// `metadata.name`.
    pub name: Name,
}

impl Key {
    /// A key of these parts.
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Policy and account, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantKey {
    /// Namespace of both.
    pub namespace: Name,
    /// Name of the policy.
    pub policy: Name,
    /// Name of the account.
    pub account: Name,
}

impl GrantKey {
    /// Key of the policy.
    #[must_use]
    pub fn policy_key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.policy.clone() }
    }

    /// Key of the account.
    #[must_use]
    pub fn account_key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.account.clone() }
    }
}

impl fmt::Display for GrantKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} for {}", self.namespace, self.policy, self.account)
    }
}

/// `metadata.uid` or `jti`. Kubernetes writes both as UUIDs of the variant of RFC 9562; a text of up to 15 bytes is kept as
/// it is, and of any other only a digest, which compares but cannot be sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid([u8; 16]);

/// The byte whose two highest bits are the variant of a UUID. Other texts have their length there, or [`DIGEST`].
const VARIANT: usize = 8;
/// The variant of RFC 9562, and the bits that hold it.
const RFC_9562: (u8, u8) = (0b1000_0000, 0b1100_0000);
const DIGEST: u8 = 0b0100_0000;
/// Where a UUID has dashes (RFC 9562).
const DASHES: [usize; 4] = [8, 13, 18, 23];

impl Uid {
    /// Reads a text.
    #[must_use]
    pub fn read(text: &str) -> Self {
        if let Some(bytes) = uuid(text) {
            return Self(bytes);
        }
        let mut bytes = [0; 16];
        if let Ok(length @ 0..=15) = u8::try_from(text.len()) {
            bytes[..text.len()].copy_from_slice(text.as_bytes());
            // The byte that the length displaces goes to the end.
            bytes.swap(VARIANT, 15);
            bytes[VARIANT] = length;
            return Self(bytes);
        }
        bytes[..8].copy_from_slice(&stable_hash([text]).to_be_bytes());
        bytes[VARIANT] = DIGEST;
        Self(bytes)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == [0; 16]
    }

    /// A short form that compares: 0 for none. Two UIDs share it once in 2³² pairs.
    #[must_use]
    pub fn digest(&self) -> u32 {
        if self.is_empty() { 0 } else { short_hash([self.to_string().as_str()]).max(1) }
    }
}

/// Only the form that Kubernetes writes: what is read is written again letter by letter.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let legal = |(at, c): (usize, char)| {
        if DASHES.contains(&at) { c == '-' } else { matches!(c, '0'..='9' | 'a'..='f') }
    };
    let well_formed = text.len() == 36 && text.char_indices().all(legal);
    let number = well_formed.then(|| u128::from_str_radix(&text.replace('-', ""), 16).ok()).flatten()?;
    let bytes = number.to_be_bytes();
    (bytes[VARIANT] & RFC_9562.1 == RFC_9562.0).then_some(bytes)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        let number = u128::from_be_bytes(bytes);
        match bytes[VARIANT] {
            form if form & RFC_9562.1 == RFC_9562.0 => write!(
                f,
                "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
                number >> 96,
                (number >> 80) & 0xffff,
                (number >> 64) & 0xffff,
                (number >> 48) & 0xffff,
                number & 0xffff_ffff_ffff
            ),
            DIGEST => write!(f, "{number:032x}"),
            length => {
                bytes.swap(VARIANT, 15);
                f.write_str(std::str::from_utf8(&bytes[..usize::from(length)]).unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        Self::read(text)
    }
}

/// An instant in whole seconds since 1970, until 2106. Kubernetes writes no finer ones. The number is one more, so that
/// an `Option` takes no room of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Secs(NonZeroU32);

/// The beginning of 1970.
impl Default for Secs {
    fn default() -> Self {
        Self(NonZeroU32::MIN)
    }
}

impl Secs {
    /// The second in which `time` lies.
    #[must_use]
    pub fn of(time: Time) -> Self {
        Self(NonZeroU32::MIN.saturating_add(u32::try_from(time.timestamp().max(0)).unwrap_or(u32::MAX)))
    }

    /// The first whole second that is not before `time`.
    #[must_use]
    pub fn not_before(time: Time) -> Self {
        let second = Self::of(time);
        if second.time() < time { Self(second.0.saturating_add(1)) } else { second }
    }

    /// The beginning of the second.
    #[must_use]
    pub fn time(self) -> Time {
        Time::from_timestamp(i64::from(self.0.get() - 1), 0).unwrap_or_default()
    }
}

/// The number of a row, or none, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ref(u32);

impl Ref {
    /// No row.
    pub const NONE: Self = Self(u32::MAX);

    /// The row of this number.
    #[must_use]
    pub const fn to(id: u32) -> Self {
        Self(id)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> Option<u32> {
        (self != Self::NONE).then_some(self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hash_is_the_same_in_every_release() {
        assert_ne!(stable_hash(["ab", "c"]), stable_hash(["a", "bc"]));
        assert_eq!(format!("{:016x}", stable_hash(["tokenward"])), "2e7b4175078681df");
    }

    #[test]
    fn uids_are_written_as_they_were_read() {
        for text in ["", "policy-1", "uid-9", "123456789", "123e4567-e89b-12d3-a456-426614174000", "0123456789abcde"] {
            assert_eq!(Uid::read(text).to_string(), text);
        }
        assert_eq!(size_of::<Uid>(), 16);
    }

    #[test]
    fn uids_of_another_form_compare() {
        let other_variant = "123e4567-e89b-12d3-0456-426614174000";
        assert_eq!(Uid::read(other_variant), Uid::read(other_variant));
        let long = "123E4567-E89B-12D3-A456-426614174000";
        assert_eq!(Uid::read(long), Uid::read(long));
        assert_ne!(Uid::read(long), Uid::read(&long.to_lowercase()));
        assert!(Uid::read("").is_empty() && Uid::read("").digest() == 0 && Uid::read("x").digest() != 0);
    }

    #[test]
    fn seconds_round_up_where_nothing_may_be_early() {
        let time = Time::from_timestamp_millis(1_800_000_000_001).unwrap();
        assert_eq!(Secs::of(time).time().timestamp(), 1_800_000_000);
        assert_eq!(Secs::not_before(time).time().timestamp(), 1_800_000_001);
        assert_eq!(Secs::not_before(Secs::of(time).time()), Secs::of(time));
    }

    proptest! {
        #[test]
        fn different_texts_are_different_uids(one in "[a-f0-9-]{0,40}", two in "\\PC{0,40}") {
            prop_assert_eq!(Uid::read(&one) == Uid::read(&two), one == two);
        }
    }
}
