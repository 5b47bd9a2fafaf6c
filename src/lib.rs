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

pub use core::redact;
pub use shell::run::run;
