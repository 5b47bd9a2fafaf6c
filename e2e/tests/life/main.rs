//! The life of tokens on a real control plane, one subject a file. All share one control plane, and most of their time
//! is waiting, so they run side by side.

mod argocd;
mod attacks;
mod bad_input;
mod changed_keys;
mod clamp;
mod clients;
mod connection;
mod crash;
mod docs;
mod fence;
mod floods;
mod format_rules;
mod formats;
mod gitops;
mod hand_over;
mod leak;
mod memory;
mod metrics;
mod recovery;
mod restored;
mod revocation;
mod revocation_edges;
mod revocation_states;
mod shapes;
mod spec_changes;
mod story;
mod windows;
