//! Format `IstioRemoteSecret`: a kubeconfig under the cluster's name, which istiod finds by its label.

use super::{
    Data, Draft,
    kubeconfig::{self, Names},
};
use crate::{core::facts::Site, crd::format::IstioRemoteSecret};

/// The label that makes a Secret a remote cluster.
pub const LABEL: (&str, &str) = ("istio/multiCluster", "true");
/// The annotation with the cluster's name.
pub const ANNOTATION: &str = "networking.istio.io/cluster";

/// The data of the Secret, named as `istioctl create-remote-secret` names it.
#[must_use]
pub fn data(draft: &Draft<'_>, site: &Site, options: &IstioRemoteSecret) -> Data {
    let cluster = options.cluster_name.as_str();
    let names = Names { cluster, user: cluster, namespace: None };
    Data::from([(cluster.to_owned(), kubeconfig::text(names, draft.token, site))])
}
