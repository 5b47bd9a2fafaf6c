//! Credentials: how a token is asked for, the claims that say what it is, and the keys that signed it.

pub mod keys;
pub mod token;
