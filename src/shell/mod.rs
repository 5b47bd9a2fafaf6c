//! Acting: the API server, the clock, processes. Nothing here decides what should happen to a token.

pub mod act;
pub mod admin;
pub mod api;
pub mod bootstrap;
pub mod connection;
pub mod events;
pub mod lease;
pub mod metrics;
pub mod run;
pub mod signers;
pub mod site;
pub mod status;
pub mod time;
pub mod watch;
