//! Tokenward keeps bound ServiceAccount tokens alive in Secrets, and kills them when asked.
//!
//! `core` decides and is pure; `shell` acts and decides nothing. Data flows one way: watch or answer → controller →
//! decision → request → answer.

pub mod api;
pub mod cli;
mod core;
mod shell;

pub use core::redact;
pub use shell::run::run;
