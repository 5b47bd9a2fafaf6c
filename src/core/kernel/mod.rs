//! The mechanisms that every controller stands on. Nothing here knows what a token is.

pub mod controller;
pub mod outbox;
pub mod policies;
pub mod queue;
pub mod slab;
pub mod store;
pub mod tended;
