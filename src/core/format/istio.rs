//! Format `IstioRemoteSecret`: a kubeconfig under the cluster's name, which istiod finds by its label.

use super::{
    Data, Format, Material,
    kubeconfig::{self, ContextNames},
};
use crate::{api::format::IstioRemoteSecretOptions, core::address::ClusterAddress};

pub(super) struct IstioRemoteSecret<'a>(pub Option<&'a IstioRemoteSecretOptions>);

impl Format for IstioRemoteSecret<'_> {
    fn keys(&self) -> Vec<&str> {
        self.0.iter().map(|options| options.cluster_name.as_str()).collect()
    }

    /// Named as `istioctl create-remote-secret` names it.
    fn data(&self, material: &Material<'_>, address: &ClusterAddress) -> Data {
        let cluster = self.keys().concat();
        let names = ContextNames { cluster: &cluster, user: &cluster, namespace: None };
        Data::from([(cluster.clone(), kubeconfig::text(names, material.token, address))])
    }

    fn label(&self) -> Option<(&'static str, &'static str)> {
        Some(("istio/multiCluster", "true"))
    }

    fn annotation(&self) -> Option<(String, String)> {
        self.0.map(|options| ("networking.istio.io/cluster".to_owned(), options.cluster_name.clone()))
    }
}
