//! Where consumers reach the API server.

/// The data that every target holds besides the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterAddress {
    /// URL of the API server as consumers reach it.
    pub server: String,
    /// The CA bundle of that server, PEM.
    pub ca: Vec<u8>,
    /// Whether `server` is only reachable from inside the cluster.
    pub internal: bool,
}
