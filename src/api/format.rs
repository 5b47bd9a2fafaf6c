//! The shapes a target can have: one type, and one optional member with the options of each type.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape a consumer reads, with the options of the chosen type.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(!has(self.kubeconfig) || self.type == 'Kubeconfig') && (!has(self.argoCDCluster) || self.type == 'ArgoCDCluster') && (!has(self.istioRemoteSecret) || self.type == 'IstioRemoteSecret') && (!has(self.dockerConfigJson) || self.type == 'DockerConfigJson')")
        .message("each option of format is only read with the type of its own name; remove the others or change the type"),
    validation = Rule::new("self.type != 'IstioRemoteSecret' || has(self.istioRemoteSecret)")
        .message("type IstioRemoteSecret needs istioRemoteSecret.clusterName, the name that Istio knows the cluster by"),
    validation = Rule::new("self.type != 'DockerConfigJson' || has(self.dockerConfigJson)")
        .message("type DockerConfigJson needs dockerConfigJson.registries, the hosts that the token is sent to")
)]
pub struct FormatOptions {
    /// Token writes the keys token, ca.crt, namespace and server; Kubeconfig a kubeconfig; ArgoCDCluster and
    /// IstioRemoteSecret the Secrets that Argo CD and Istio read; DockerConfigJson credentials for registries.
    #[serde(default, rename = "type")]
    pub kind: FormatType,
    /// Options of type Kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<KubeconfigOptions>,
    /// Options of type ArgoCDCluster.
    #[serde(default, rename = "argoCDCluster", skip_serializing_if = "Option::is_none")]
    pub argo_cd_cluster: Option<ArgoCdClusterOptions>,
    /// Options of type IstioRemoteSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio_remote_secret: Option<IstioRemoteSecretOptions>,
    /// Options of type DockerConfigJson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config_json: Option<DockerConfigJsonOptions>,
}

impl FormatOptions {
    /// The URL of the API server that the policy chose for its consumer, if it did.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        let kubeconfig = self.kubeconfig.as_ref().and_then(|options| options.server.as_deref());
        let argo_cd = self.argo_cd_cluster.as_ref().and_then(|options| options.server.as_deref());
        let istio = self.istio_remote_secret.as_ref().and_then(|options| options.server.as_deref());
        kubeconfig.or(argo_cd).or(istio)
    }
}

/// A URL that hides nothing: no user, query or fragment, and no character that a log or a shell could stumble over.
const SERVER: &str = r"self.matches('^https://([A-Za-z0-9]([-.A-Za-z0-9]*[A-Za-z0-9])?|\\[[0-9a-fA-F:.]+\\])(:[0-9]{1,5})?(/[-._~A-Za-z0-9/]*)?$')";
const SERVER_MESSAGE: &str =
    "server must be the https URL of the API server as the consumer reaches it, like https://api.example.com:6443";

/// The shapes there are.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[expect(missing_docs, reason = "a description of a variant makes the schema unstructural")]
pub enum FormatType {
    #[default]
    Token,
    Kubeconfig,
    ArgoCDCluster,
    IstioRemoteSecret,
    DockerConfigJson,
}

/// Names inside a kubeconfig.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigOptions {
    /// Name of the cluster, user and context entries; by default kubernetes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_name: Option<String>,
    /// Default namespace of the context; by default the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
    /// URL of the API server as the consumer reaches it; by default what the operator knows. Its certificate must be
    /// of the cluster's CA. The administrator's limit servers must name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(SERVER).message(SERVER_MESSAGE))]
    pub server: Option<String>,
    /// Key of the Secret that holds the kubeconfig; by default config. Flux reads value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$"))]
    pub key: Option<String>,
}

/// A cluster as Argo CD's declarative setup describes it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ArgoCdClusterOptions {
    /// Name that Argo CD shows; by default the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_name: Option<String>,
    /// URL of the API server as Argo CD reaches it; by default what the operator knows. Its certificate must be of the
    /// cluster's CA. The administrator's limit servers must name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(SERVER).message(SERVER_MESSAGE))]
    pub server: Option<String>,
    /// Namespaces that Argo CD manages there; by default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))
    )]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// The one Argo CD project that may use the cluster; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub project: Option<String>,
}

/// A cluster as Istio's multi-cluster setup describes it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IstioRemoteSecretOptions {
    /// Name that Istio knows the cluster by; also the key of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[.]?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$"))]
    pub cluster_name: String,
    /// URL of the API server as istiod reaches it; by default what the operator knows. Its certificate must be of the
    /// cluster's CA. The administrator's limit servers must name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new(SERVER).message(SERVER_MESSAGE))]
    pub server: Option<String>,
}

/// Who reads the token as a password.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct DockerConfigJsonOptions {
    /// Hosts of registries, with a port where they need one, 1 to 16.
    #[schemars(
        length(min = 1, max = 16),
        inner(
            length(min = 1, max = 253),
            regex(pattern = r"^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?(:[0-9]{1,5})?(/[-._/A-Za-z0-9]*)?$")
        )
    )]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub registries: Vec<String>,
    /// User name; by default serviceaccount. Registries that check the token rarely look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[^:\s]+$"))]
    pub username: Option<String>,
}
