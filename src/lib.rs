//! Tokenward keeps bound ServiceAccount tokens alive in Secrets, and kills them when asked.
//!
//! [`core`] decides and is pure; [`shell`] acts and decides nothing. Data flows one way:
//! watch → [`core::index`] → [`core::plan`] → [`shell::act`] → outcome → index.

pub mod cli;
pub mod core;
pub mod crd;
pub mod shell;
