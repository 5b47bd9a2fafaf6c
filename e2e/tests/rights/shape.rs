//! An installation on a control plane of its own, with operators as its Deployment starts them.

use crate::granted::{Right, granted};
use crate::used::equal;
use anyhow::{Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::Path;
use tokenward_e2e::helm::Helm;
use tokenward_e2e::operator::{ACCOUNT, NAMESPACE, apply_overlay, kinds_are_known};
use tokenward_e2e::scene::Scene;
use tokenward_e2e::scene::overlay::{arguments, render};
use tokenward_e2e::{AuditEvent, ControlPlane, Operator, Options, Profile, Proxy, target_dir};

/// A shape under test.
pub struct Shape {
    pub plane: &'static ControlPlane,
    pub manifests: Vec<Value>,
    /// One in each namespace; the operator of the first leads.
    pub scenes: Vec<Scene>,
}

impl Shape {
    /// Installs an overlay for these namespaces, and starts a replica in each.
    pub async fn start(name: &str, overlay: &Path, namespaces: &[&str]) -> Result<Self> {
        let install = async |plane: &ControlPlane| {
            apply_overlay(plane, "config/crd").await?;
            apply_overlay(plane, overlay).await?;
            render(overlay)
        };
        Self::installed(name, namespaces, install).await
    }

    /// As [`Shape::start`], of the Helm chart with these values.
    pub async fn start_chart(name: &str, values: &[&str], namespaces: &[&str]) -> Result<Self> {
        let install = async |plane: &ControlPlane| Helm::of(plane).await?.install(values).await;
        Self::installed(name, namespaces, install).await
    }

    async fn installed(
        name: &str,
        namespaces: &[&str],
        install: impl AsyncFnOnce(&ControlPlane) -> Result<Vec<Value>>,
    ) -> Result<Self> {
        let dir = target_dir().join("e2e").join(format!("rights-{name}"));
        // Where no list is streamed, the operator needs all of its rights: those to list, and those to watch.
        let plane = ControlPlane::start(Profile::with_pages(), dir).await?;
        // Scenes want one that lives as long as the test binary; `stop` ends its processes.
        let plane: &'static ControlPlane = Box::leak(Box::new(plane));
        for namespace in namespaces {
            plane.create_namespace(namespace).await?;
        }
        let manifests = install(plane).await?;
        kinds_are_known(plane).await?;
        let mut scenes = Vec::new();
        for namespace in namespaces {
            let proxy = Proxy::start(plane)?;
            let operator = replica(plane, &manifests, &proxy, namespace).await?;
            scenes.push(Scene::around(plane, namespace, proxy, operator).await?);
        }
        for scene in &scenes {
            scene.operator.ready().await?;
        }
        Ok(Self { plane, manifests, scenes })
    }

    /// One more replica, which talks through the first proxy.
    pub async fn another(&self, name: &str) -> Result<Operator> {
        replica(self.plane, &self.manifests, &self.scenes[0].proxy, name).await
    }

    /// What the manifests grant to the operator.
    pub fn granted(&self) -> Result<BTreeSet<Right>> {
        granted(&self.manifests, NAMESPACE, ACCOUNT)
    }

    /// All that the operator has asked so far.
    pub fn calls(&self) -> Result<Vec<AuditEvent>> {
        let user = format!("system:serviceaccount:{NAMESPACE}:{ACCOUNT}");
        let mut events = self.plane.audit()?;
        events.retain(|event| event.user == user);
        ensure!(!events.is_empty(), "{user} has asked for nothing");
        Ok(events)
    }

    /// That rights granted and used are equal, and no others than these were refused.
    pub async fn verdict(self, refused: &[&str]) -> Result<()> {
        equal(&self.granted()?, &self.calls()?, refused)?;
        self.stop().await
    }

    /// Ends the operators and the control plane.
    pub async fn stop(self) -> Result<()> {
        drop(self.scenes);
        self.plane.stop().await
    }
}

/// An operator as the Deployment among these manifests starts it.
async fn replica(plane: &ControlPlane, manifests: &[Value], proxy: &Proxy, name: &str) -> Result<Operator> {
    let options = Options {
        name: name.to_owned(),
        dir: plane.dir().join("operators"),
        via: Some(proxy),
        args: arguments(manifests)?,
        env: vec![("HOSTNAME".to_owned(), name.to_owned())],
        ..Options::default()
    };
    Operator::start(plane, options).await
}
