//! `make bench` in small: it runs to its end and prints each of its tables. What the figures are is not judged.

use anyhow::{Result, ensure};
use std::process::Command;

#[test]
fn runs_to_its_end() -> Result<()> {
    let small = [("N", "3"), ("ROUNDS", "1"), ("TOKENS", "20"), ("GROWTH", "4"), ("SEED", "5")];
    let done = Command::new(env!("CARGO_BIN_EXE_bench")).envs(small).output()?;
    let (text, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "{text}{errors}");
    for table in [
        "release binary",
        "first issues per second, 4 calls",
        "rotations per second, 4 calls",
        "resident memory of the operator",
        "restart with 35 grants",
        "bootstrap tokens that expire in the same second",
        "one policy for all accounts",
        "one policy per account",
        "one policy in each of 100 namespaces",
        "5 seeded grants",
    ] {
        ensure!(text.contains(table), "{table} is not in {text}");
    }
    Ok(())
}
