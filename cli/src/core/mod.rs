//! Decisions: what is shown and what is done, as plain functions of what was read.

pub mod audit;
pub mod complete;
pub mod hygiene;
pub mod migrate;
pub mod order;
pub mod print;
pub mod proxy;
pub mod signature;
pub mod status;
pub mod target;
pub mod text;
pub mod token;
pub mod verify;
