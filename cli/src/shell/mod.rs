//! Actions: reading the cluster and files, writing, asking, printing.

pub mod audit;
pub mod cluster;
pub mod file;
pub mod hygiene;
pub mod migrate;
pub mod order;
pub mod output;
pub mod print;
pub mod secret;
pub mod status;
pub mod verify;
