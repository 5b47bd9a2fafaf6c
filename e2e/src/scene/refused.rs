//! What the API server refuses, by the rules of the CRD alone.

use super::{TURNS, apply_policy, plane, policies};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Asserts that the API server refuses each spec with a message that contains the text beside it.
pub async fn refused(namespace: &str, cases: &[(Value, &str)]) -> Result<()> {
    // No scene may take the rules off meanwhile.
    let _turn = TURNS.read().await;
    let plane = plane().await?;
    plane.create_namespace(namespace).await?;
    super::limits::widen(&plane.client().await?, namespace).await?;
    let policies = policies(&plane.client().await?, namespace);
    for (spec, advice) in cases {
        let answer = apply_policy(&policies, "p", spec).await;
        let message = answer.err().with_context(|| format!("accepted: {spec}"))?.to_string();
        ensure!(message.contains(advice), "{spec} is refused without {advice:?}: {message}");
    }
    ensure!(policies.get_opt("p").await?.is_none(), "something was stored");
    Ok(())
}

/// Asserts that the API server accepts each spec.
pub async fn accepted(namespace: &str, cases: &[Value]) -> Result<()> {
    // No scene may take the rules off meanwhile.
    let _turn = TURNS.read().await;
    let plane = plane().await?;
    plane.create_namespace(namespace).await?;
    super::limits::widen(&plane.client().await?, namespace).await?;
    let policies = policies(&plane.client().await?, namespace);
    for (n, spec) in cases.iter().enumerate() {
        apply_policy(&policies, &format!("p-{n}"), spec).await.with_context(|| format!("refused: {spec}"))?;
    }
    Ok(())
}
