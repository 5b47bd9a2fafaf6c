use anyhow::{Context, Result};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

// Below the range the kernel takes for outgoing connections, so that none of those can sit on a chosen port.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that nothing listens on, and that this process has not handed out lately.
pub(crate) fn free() -> Result<u16> {
    // Two test processes start at different places.
    let start = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(COUNT))?;
    (0..COUNT)
        .map(|_| FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT)
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .context("no free loopback port")
}

#[cfg(test)]
mod tests {
    #[test]
    fn hands_out_different_ports() {
        let ports: std::collections::BTreeSet<u16> = (0..20).map(|_| super::free().unwrap()).collect();
        assert_eq!(ports.len(), 20);
    }
}
