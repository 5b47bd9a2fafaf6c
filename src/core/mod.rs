//! Decisions, without a clock, a client, a runtime or randomness: every function here is a plain function
//! of its arguments and can be tested as one.

pub mod bootstrap;
pub mod claims;
pub mod connection;
pub mod facts;
pub mod failure;
pub mod grant;
pub mod index;
pub mod inputs;
pub mod keys;
pub mod lease;
pub mod managed;
#[cfg(test)]
mod model;
pub mod notice;
pub mod plan;
pub mod queue;
pub mod redact;
pub mod render;
pub mod revocation;
pub mod schedule;
pub mod select;
pub mod signers;
pub mod status;
pub mod table;
pub mod windows;

/// An instant by the API server's clock.
pub type Time = chrono::DateTime<chrono::Utc>;
