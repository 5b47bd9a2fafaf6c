//! Tokenward keeps bound ServiceAccount tokens in Secrets fresh, and revokes them one by one.
//!
//! `core` decides and is pure; `shell` acts and decides nothing. Data flows one way: watch or answer → controller →
//! decision → request → answer.

pub mod api;
pub mod cli;
mod core;
#[cfg(test)]
mod reference;
mod shell;

/// The operator's record in the metadata of its Secrets, and its reading of who refers to one, for other programs.
pub mod record {
    pub use crate::core::{
        Time,
        bootstrap::Expiration,
        legacy::{
            ACCOUNT, INVALID_SINCE, LAST_USED, SECRET_TYPE, TRACKING,
            references::{AccountReferences, PodReferences, Refers, Way},
        },
        meta::{annotation, text, time},
        names,
        place::record::{Bond, Previous, Record, Token},
        revocation::is_word,
        windows::replaced_at,
    };
}

pub use core::redact;
pub use shell::run::run;
