//! Decisions, without a clock, a client, a runtime or randomness: every function here is a plain function
//! of its arguments and can be tested as one.

pub mod address;
pub mod api_audience;
pub mod bootstrap;
pub mod condition;
pub mod connection;
pub mod credential;
pub mod cron;
pub mod failure;
pub mod format;
pub mod grant;
pub mod id;
pub mod kernel;
pub mod layout;
pub mod lease;
pub mod legacy;
pub mod meta;
pub mod names;
pub mod object;
pub mod place;
pub mod policy;
pub mod pool;
pub mod reason;
pub mod redact;
pub mod request;
pub mod revocation;
pub mod schedule;
pub mod windows;

/// An instant by the API server's clock.
pub type Time = chrono::DateTime<chrono::Utc>;
