//! The shapes a target can have: one type, and one optional member with the options of each type.

use std::collections::BTreeMap;

use kube::{
    KubeSchema,
    core::{Message, Rule},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    foreign,
    schema::{self, Form},
    server::ServerOptions,
    template,
};

/// The shape a consumer reads, with the options of the chosen type.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = own_options(),
    validation = Rule::new("self.type != 'IstioRemoteSecret' || has(self.istioRemoteSecret)")
        .message("type IstioRemoteSecret needs istioRemoteSecret.clusterName, the name that Istio knows the cluster by"),
    validation = Rule::new("self.type != 'DockerConfigJson' || has(self.dockerConfigJson)")
        .message("type DockerConfigJson needs dockerConfigJson.registries, the hosts that the token is sent to"),
    validation = Rule::new("self.type != 'Custom' || has(self.custom)").message(CUSTOM_NEEDS_DATA)
)]
pub struct FormatOptions {
    /// Token writes the keys token, ca.crt, namespace and server; Kubeconfig a kubeconfig; ArgoCDCluster and
    /// IstioRemoteSecret the Secrets that Argo CD and Istio read; DockerConfigJson credentials for registries; Custom
    /// the keys and texts of custom.data.
    #[serde(default, rename = "type")]
    pub kind: FormatType,
    /// Options of type Kubeconfig.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<Box<KubeconfigOptions>>,
    /// Options of type ArgoCDCluster.
    #[serde(default, rename = "argoCDCluster", skip_serializing_if = "Option::is_none")]
    pub argo_cd_cluster: Option<Box<ArgoCdClusterOptions>>,
    /// Options of type IstioRemoteSecret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub istio_remote_secret: Option<Box<IstioRemoteSecretOptions>>,
    /// Options of type DockerConfigJson.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker_config_json: Option<Box<DockerConfigJsonOptions>>,
    /// Options of type Custom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom: Option<Box<CustomOptions>>,
}

impl FormatOptions {
    /// The options about the API server that the chosen type has, if the policy sets any.
    #[must_use]
    pub fn server(&self) -> Option<&ServerOptions> {
        self.api_server().map(|(_, options)| options)
    }

    fn api_server(&self) -> Option<(&'static str, &ServerOptions)> {
        let options = match self.kind {
            FormatType::Kubeconfig => self.kubeconfig.as_deref().map(|options| &options.api_server),
            FormatType::ArgoCDCluster => self.argo_cd_cluster.as_deref().map(|options| &options.api_server),
            FormatType::IstioRemoteSecret => self.istio_remote_secret.as_deref().map(|options| &options.api_server),
            FormatType::Token | FormatType::DockerConfigJson | FormatType::Custom => None,
        };
        let member = MEMBERS.iter().find(|(_, kind)| *kind == self.kind)?.0;
        options.map(|options| (member, options))
    }

    /// Whether these options, which may have been stored without the rules of the schema, say a Secret that may be
    /// written.
    ///
    /// # Errors
    /// With the field of the spec's `secret`, and the rule that it breaks.
    pub fn check(&self) -> Result<(), String> {
        if let Some((member, options)) = self.api_server() {
            options.check().map_err(|error| format!("format.{member}: {error}"))?;
        }
        match self.kind {
            FormatType::Custom => {
                let custom = self.custom.as_deref().ok_or_else(|| format!("format: {CUSTOM_NEEDS_DATA}"))?;
                custom.check().map_err(|error| format!("format.custom{error}"))
            }
            FormatType::Kubeconfig => self.kubeconfig.as_deref().map_or(Ok(()), KubeconfigOptions::check),
            _ => Ok(()),
        }
    }
}

/// Each member beside the type is only read with the type of its own name.
const MEMBERS: [(&str, FormatType); 5] = [
    ("kubeconfig", FormatType::Kubeconfig),
    ("argoCDCluster", FormatType::ArgoCDCluster),
    ("istioRemoteSecret", FormatType::IstioRemoteSecret),
    ("dockerConfigJson", FormatType::DockerConfigJson),
    ("custom", FormatType::Custom),
];

fn own_options() -> Rule {
    let stray = MEMBERS.map(|(member, kind)| format!("has(self.{member}) && self.type != '{kind:?}'"));
    let names: Vec<String> =
        stray.iter().zip(MEMBERS).map(|(stray, (member, _))| format!("{stray} ? '{member}' : ")).collect();
    let names = names.concat();
    let message =
        format!("({names}'') + ' is not read with type ' + self.type + '; remove it, or choose the type of its name'");
    Rule::new(format!("!({})", stray.join(" || "))).message(Message::Expression(message))
}

/// The type of a Secret stays as long as its name: it is immutable. A rule cannot fill names, so that the same name in other
/// words passes; the operator names both types then.
#[must_use]
pub fn type_kept() -> Rule {
    let (before, after) = (secret_type("oldSelf"), secret_type("self"));
    let name = |spec| {
        format!(
            "(has({spec}.secret) && has({spec}.secret.name) ? {spec}.secret.name : '{{policy}}-{{serviceAccount}}')"
        )
    };
    let message = format!(
        "'the type of a Secret cannot change from ' + {} + ' to ' + {} + '; choose another secret.name with the new format'",
        schema::shown(&before),
        schema::shown(&after)
    );
    Rule::new(format!("{before} == {after} || {} != {}", name("oldSelf"), name("self")))
        .message(Message::Expression(message))
}

/// The type of the Secret that a spec asks for, in CEL. Each format says the same of itself.
fn secret_type(spec: &str) -> String {
    let format = format!("{spec}.secret.format");
    let chosen = |kind, member| {
        format!(
            "{format}.type == '{kind}' && has({format}.{member}) && has({format}.{member}.secretType) ? {format}.{member}.secretType"
        )
    };
    format!(
        "(!has({spec}.secret) || !has({format}) ? 'Opaque' : {format}.type == 'DockerConfigJson' ? 'kubernetes.io/dockerconfigjson' : {} : {} : 'Opaque')",
        chosen("Custom", "custom"),
        chosen("Kubeconfig", "kubeconfig")
    )
}

const CUSTOM_NEEDS_DATA: &str = "type Custom needs custom.data, the keys of the Secret and their texts";

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
    Custom,
}

/// Names inside a kubeconfig.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct KubeconfigOptions {
    /// Name of the cluster and context entries; by default kubernetes. The user entry has the account's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, schema::LINE))]
    pub cluster_name: Option<String>,
    /// Default namespace of the context; by default the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(63)))]
    #[x_kube(validation = schema::matches(63, schema::NAMESPACE))]
    pub namespace: Option<String>,
    /// The API server as the consumer reaches it.
    #[serde(flatten)]
    pub api_server: ServerOptions,
    /// Key of the Secret that holds the kubeconfig; by default config. Flux reads value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, schema::SECRET_KEY))]
    pub key: Option<String>,
    /// Type of the Secret; by default Opaque. It cannot change without another secret.name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, SECRET_TYPE), validation = foreign::type_rule(), validation = Rule::new(format!("self != '{}'", foreign::BASIC_AUTH)).message(NO_KUBECONFIG))]
    pub secret_type: Option<String>,
}

/// How types of Secrets are written.
const SECRET_TYPE: Form = (
    "[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?(/[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?)?",
    "write a type like Opaque or example.com/login: letters, digits, '-', '_' and '.', with a letter or digit at both ends, before and after at most one '/'",
);

const NO_KUBECONFIG: &str = "a Secret of type kubernetes.io/basic-auth holds no kubeconfig; choose another secretType";

impl KubeconfigOptions {
    fn check(&self) -> Result<(), String> {
        let kind = self.secret_type.as_deref().unwrap_or(OPAQUE);
        let kubeconfig =
            if kind == foreign::BASIC_AUTH { Err(NO_KUBECONFIG.to_owned()) } else { foreign::check_type(kind) };
        kubeconfig.map_err(|error| format!("format.kubeconfig.secretType: {error}"))
    }
}

/// The type of a Secret that nobody gives another one.
pub const OPAQUE: &str = "Opaque";

/// A cluster as Argo CD's declarative setup describes it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.clusterResources) || (has(self.namespaces) && size(self.namespaces) > 0)")
        .message("Argo CD reads clusterResources only together with namespaces; set argoCDCluster.namespaces, or remove clusterResources")
)]
pub struct ArgoCdClusterOptions {
    /// Name that Argo CD shows; by default the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, schema::LINE))]
    pub cluster_name: Option<String>,
    /// The API server as the consumer reaches it.
    #[serde(flatten)]
    pub api_server: ServerOptions,
    /// Namespaces that Argo CD manages there; by default all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("items" = schema::text(63, schema::NAMESPACE)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub namespaces: Vec<String>,
    /// The one Argo CD project that may use the cluster; by default all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, PROJECT))]
    pub project: Option<String>,
    /// Whether Argo CD also manages objects without a namespace, where namespaces are set; by default it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_resources: Option<bool>,
    /// The shard of Argo CD's application controller that serves the cluster; by default Argo CD chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647), transform = schema::unformatted)]
    pub shard: Option<i32>,
}

const PROJECT: Form = (
    schema::SUBDOMAIN,
    "write the name of an AppProject: lower-case letters, digits, '-' and '.', with a letter or digit at both ends and beside each '.'",
);

/// A cluster as Istio's multi-cluster setup describes it.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct IstioRemoteSecretOptions {
    /// Name that Istio knows the cluster by; also the key of the Secret.
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, schema::SECRET_KEY))]
    pub cluster_name: String,
    /// The API server as the consumer reaches it.
    #[serde(flatten)]
    pub api_server: ServerOptions,
}

/// Registries that read the token as a password.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
pub struct DockerConfigJsonOptions {
    /// Hosts of registries, with a port where they need one, 1 to 16.
    #[schemars(length(min = 1, max = 16), extend("items" = registry()))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub registries: Vec<String>,
    /// User name; by default serviceaccount. Registries that check the token rarely look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, (r"[^:\s]+", "write a user name without colons and blanks")))]
    pub username: Option<String>,
}

fn registry() -> Value {
    let host = format!("{}(:{})?(/[-._/A-Za-z0-9]*)?", schema::HOST, schema::PORT);
    let write = "write a host without a scheme, with a port or path where it needs one, like registry.example.com:5000";
    schema::text(253, (&host, write))
}

/// Any other shape: keys, and texts with placeholders.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.data.exists(k, self.data[k].replace('{{', ' ').contains('{token}'))").message(NO_TOKEN),
    validation = keys(),
    validation = Rule::new(format!("!has(self.secretType) || self.secretType != '{}' || 'username' in self.data || 'password' in self.data", foreign::BASIC_AUTH)).message(NO_LOGIN)
)]
pub struct CustomOptions {
    /// Type of the Secret; by default Opaque. It cannot change without another secret.name. Types on which controllers
    /// act are refused; kubernetes.io/basic-auth needs the key username or password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = schema::ceiling(253)))]
    #[x_kube(validation = schema::matches(253, SECRET_TYPE), validation = foreign::type_rule())]
    pub secret_type: Option<String>,
    /// Keys of the Secret with their texts, 1 to 16. The placeholders {token}, {server}, {ca} (PEM), {caBase64},
    /// {namespace}, {serviceAccount} and {expiresAt} (RFC 3339) are filled, {{ stands for a brace, and all else is
    /// copied.
    #[schemars(schema_with = "template::data")]
    pub data: BTreeMap<String, String>,
}

const NO_TOKEN: &str = "at least one text of custom.data must hold {token}";
const NO_LOGIN: &str =
    "a Secret of type kubernetes.io/basic-auth needs the key username or password; add one to custom.data";

/// Keys that a Secret can have.
fn keys() -> Rule {
    let (pattern, write) = schema::SECRET_KEY;
    let is_key = format!("size(k) <= 253 && k.matches('^{pattern}$')");
    schema::keys("self.data", "custom.data", &is_key, &format!("{write} (at most 253 characters)"))
}

impl CustomOptions {
    /// Keys that the type of the Secret demands, of those that there are.
    pub fn demanded(&self) -> impl Iterator<Item = &str> {
        let login = self.secret_type.as_deref() == Some(foreign::BASIC_AUTH);
        self.data.keys().map(String::as_str).filter(move |key| login && matches!(*key, "username" | "password"))
    }

    fn check(&self) -> Result<(), String> {
        let kind = self.secret_type.as_deref().unwrap_or(OPAQUE);
        foreign::check_type(kind).map_err(|error| format!(".secretType: {error}"))?;
        if kind == foreign::BASIC_AUTH && self.demanded().next().is_none() {
            return Err(format!(": {NO_LOGIN}"));
        }
        let mut holds_token = false;
        for (key, text) in &self.data {
            holds_token |= template::check(text).map_err(|error| format!(".data[{key:.63}]: {error}"))?;
        }
        if holds_token { Ok(()) } else { Err(format!(": {NO_TOKEN}")) }
    }
}
