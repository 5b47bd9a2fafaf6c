//! Where a token is written: a Secret of the policy's own namespace, whose annotations are the operator's record.

pub mod applied;
pub mod record;
pub mod secret;
#[cfg(test)]
mod tests;
