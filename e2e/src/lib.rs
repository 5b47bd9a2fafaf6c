//! A real control plane, a fault proxy, the operator under test and a leak scanner: what Tokenward's
//! end-to-end scenarios and benchmarks are made of.

pub mod chart;
pub mod cluster;
pub mod control_plane;
pub mod dist;
pub mod helm;
mod http;
pub mod https;
pub mod image;
pub mod kubeconfig;
pub mod leak;
pub mod node;
pub mod oidc;
pub mod operator;
pub mod pages;
mod paths;
pub mod pki;
pub mod plugin;
pub mod poll;
mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod sbom;
pub mod scene;

/// The version of the workspace, which everything in a release has.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use cluster::Cluster;
pub use control_plane::{Component, ControlPlane, NextCa, Profile, Signing, audit::AuditEvent};
pub use operator::{Operator, Options};
pub use paths::{target_dir, workspace_dir, write_overlay};
pub use poll::eventually;
pub use proxy::{Act, Call, Proxy, Rule};
