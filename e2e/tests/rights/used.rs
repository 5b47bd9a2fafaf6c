//! The rights that an account has used, as the audit log tells.

use crate::granted::{Right, resource};
use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use tokenward_e2e::AuditEvent;

/// What Kubernetes lets every account do, by `system:discovery` and `system:service-account-issuer-discovery`.
const FOR_EVERYBODY: [&str; 3] = ["/.well-known/openid-configuration", "/openid/v1/jwks", "/version"];

/// What this call was, were it granted by itself alone.
fn right(event: &AuditEvent) -> Right {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Right {
        namespace: given(&event.namespace),
        verb: event.verb.clone(),
        resource: resource(&event.group, &event.resource, &event.subresource),
        name: given(&event.name),
    }
}

impl Right {
    fn covers(&self, used: &Self) -> bool {
        let fits = |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || mine == theirs;
        let same = self.verb == used.verb && self.resource == used.resource;
        same && fits(&self.namespace, &used.namespace) && fits(&self.name, &used.name)
    }
}

/// The granted rights that a call needs: those of its namespace, and only without any those of the cluster.
fn needed(granted: &BTreeSet<Right>, used: &Right) -> Vec<Right> {
    let covering: Vec<&Right> = granted.iter().filter(|right| right.covers(used)).collect();
    let local = covering.iter().any(|right| right.namespace.is_some());
    covering.into_iter().filter(|right| right.namespace.is_some() == local).cloned().collect()
}

/// That these calls of one account needed all of what is granted, and nothing else.
pub fn equal(granted: &BTreeSet<Right>, calls: &[AuditEvent], refused: &[&str]) -> Result<()> {
    let (mut used, mut denied, mut strange) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for call in calls {
        let right = right(call);
        if call.code == 403 {
            denied.insert(right.to_string());
        } else if call.resource.is_empty() {
            let path = call.request_uri.split('?').next().unwrap_or_default();
            strange.extend((!FOR_EVERYBODY.contains(&path)).then(|| format!("{} {path}", call.verb)));
        } else {
            let needed = needed(granted, &right);
            strange.extend(needed.is_empty().then(|| right.to_string()));
            used.extend(needed);
        }
    }
    let unused: Vec<String> = granted.difference(&used).map(Right::to_string).collect();
    ensure!(unused.is_empty(), "granted and not used: {unused:#?}");
    ensure!(strange.is_empty(), "used without being granted by the manifests: {strange:#?}");
    let wanted: BTreeSet<String> = refused.iter().map(ToString::to_string).collect();
    ensure!(denied == wanted, "refused: {denied:#?}, and not {wanted:#?}");
    println!("{} rights granted and used; {} calls", granted.len(), calls.len());
    Ok(())
}

#[test]
fn a_call_needs_the_nearest_right() {
    let right = |namespace: Option<&str>| Right {
        namespace: namespace.map(str::to_owned),
        verb: "list".to_owned(),
        resource: "secrets".to_owned(),
        name: None,
    };
    let granted = BTreeSet::from([right(None), right(Some("kube-system"))]);
    assert_eq!(needed(&granted, &right(Some("kube-system"))), [right(Some("kube-system"))]);
    assert_eq!(needed(&granted, &right(Some("ci"))), [right(None)]);
    assert_eq!(needed(&granted, &right(None)), [right(None)]);
    assert_eq!(needed(&granted, &Right { verb: "get".to_owned(), ..right(None) }), []);
}
