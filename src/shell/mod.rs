//! The outside: the API server, the clock, processes. Nothing here decides the life of a token.

pub mod address;
pub mod admin;
pub mod api;
pub mod bootstrap;
pub mod connection;
pub mod events;
pub mod leadership;
pub mod lease;
pub mod legacy;
pub mod limits;
pub mod metrics;
pub mod optional;
pub mod run;
pub mod signers;
pub mod tasks;
pub mod time;
pub mod turn;
pub mod watch;
