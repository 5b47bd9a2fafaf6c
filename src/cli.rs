//! Flags and environment, checked, as [`Settings`].

use std::{collections::BTreeSet, env, ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::{
    Arg,
    ArgAction::Set,
    CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    builder::{BoolishValueParser, PossibleValue, Resettable},
    error::ErrorKind,
};

use crate::{
    api::{foreign, server::check_server},
    core::{bootstrap::Cleaner, names},
};

/// Keeps ServiceAccount tokens in Secrets fresh, and revokes them one by one.
#[derive(Debug, Parser)]
#[command(name = "tokenward", version)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the arguments of a process, beginning with its name. An empty environment variable counts as none:
    /// manifests have one where a value is not set.
    ///
    /// # Errors
    /// When they are wrong, or only help was asked for.
    pub fn read(args: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_subcommands(|command| command.mut_args(without_empty_variable));
        let cli = Self::from_arg_matches(&command.try_get_matches_from_mut(args)?)?;
        let labels = match &cli.command {
            Command::Run(settings) => settings.secret_labels.as_slice(),
            Command::Crds { .. } => &[],
        };
        let mut keys = BTreeSet::new();
        match labels.iter().find(|(key, _)| !keys.insert(key)) {
            Some((key, _)) => {
                let message = format!("--secret-labels has the key {key:?} twice; write each key once");
                Err(command.error(ErrorKind::ArgumentConflict, message))
            }
            None => Ok(cli),
        }
    }
}

fn without_empty_variable(arg: Arg) -> Arg {
    let is_empty = arg.get_env().and_then(env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { arg.env(Resettable::Reset) } else { arg }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the operator, on the API server of KUBECONFIG or with the account of its pod.
    Run(Settings),
    /// Prints the CustomResourceDefinitions.
    Crds {
        /// Prints only the one of this plural name.
        #[arg(value_parser = ["tokenpolicies", "bootstraptokenpolicies", "legacytokenpolicies"])]
        plural: Option<String>,
    },
}

/// The settings of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Namespace to govern; repeat it, or separate several by commas. By default all.
    #[arg(long = "namespace", env = "TOKENWARD_NAMESPACE", value_delimiter = ',', value_parser = namespace)]
    pub namespaces: Vec<String>,
    /// Lets one of several processes act, the holder of the Lease `tokenward`; the others stand by.
    #[arg(long, env = "TOKENWARD_LEADER_ELECT", value_parser = BoolishValueParser::new(), action = Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub leader_elect: bool,
    /// Number of accounts to work on at the same time, 1 to 256.
    #[arg(long, env = "TOKENWARD_CONCURRENCY", default_value_t = 32, value_parser = concurrency)]
    pub concurrency: u16,
    /// Address that serves /metrics.
    #[arg(long, env = "TOKENWARD_METRICS_BIND_ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    pub metrics_bind_address: SocketAddr,
    /// Address that serves /livez and /readyz.
    #[arg(long, env = "TOKENWARD_HEALTH_PROBE_BIND_ADDRESS", default_value = ":8081", value_parser = address)]
    pub health_probe_bind_address: SocketAddr,
    /// https URL of the API server to write into Secrets. By default that of kube-public/cluster-info, else the
    /// operator's own.
    #[arg(long, env = "TOKENWARD_CLUSTER_SERVER", value_parser = server)]
    pub cluster_server: Option<String>,
    /// PEM file with the CA of --cluster-server, read again every minute. By default the CA of the operator's own
    /// connection.
    #[arg(long, env = "TOKENWARD_CLUSTER_CA_FILE", requires = "cluster_server")]
    pub cluster_ca_file: Option<PathBuf>,
    /// Labels of every Secret that the operator creates, including anchors: key=value, separated by commas. They win
    /// over secret.labels, and the keys that are refused there are refused here. After a change, targets are written
    /// again with the same token, and existing anchors stay as they are.
    #[arg(long, env = "TOKENWARD_SECRET_LABELS", value_delimiter = ',', value_parser = label)]
    pub secret_labels: Vec<(String, String)>,
    /// Action on bootstrap tokens that the in-tree token cleaner would delete.
    #[arg(long, env = "TOKENWARD_BOOTSTRAP_TOKEN_CLEANER", default_value = "enforce")]
    pub bootstrap_token_cleaner: Cleaner,
    /// Signs kube-public/cluster-info with the bootstrap tokens, as the in-tree bootstrap signer does.
    #[arg(long, env = "TOKENWARD_BOOTSTRAP_SIGNER", value_parser = BoolishValueParser::new(), action = Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub bootstrap_signer: bool,
    /// Format of the log. By default text on a terminal, else json.
    #[arg(long, env = "TOKENWARD_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Objects for collectors.
    Json,
}

impl ValueEnum for Cleaner {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Enforce, Self::Report, Self::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Enforce => PossibleValue::new("enforce").help("delete them"),
            Self::Report => PossibleValue::new("report").help("report each of them once"),
            Self::Off => PossibleValue::new("off").help("leave them alone"),
        })
    }
}

fn concurrency(text: &str) -> Result<u16, String> {
    let number = text.parse().ok().filter(|number| (1..=256).contains(number));
    number.ok_or_else(|| "write a number from 1 to 256".into())
}

/// A DNS label, as namespaces are called (RFC 1123).
fn namespace(text: &str) -> Result<String, String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let legal = !text.is_empty()
        && text.len() <= 63
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if legal {
        Ok(text.into())
    } else {
        Err("a namespace is at most 63 lower-case letters, digits and inner dashes".into())
    }
}

/// A label, within the rules of Kubernetes, on which nobody acts.
fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write key=value, as in team=platform")?;
    foreign::check_key(key)
        .map_err(|why| format!("the key {key:?} is not for every Secret: {why}; choose another key"))?;
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    if !is_qualified(name) || prefix.is_some_and(|prefix| !names::is_object_name(prefix)) {
        return Err(format!(
            "the key {key:?} must be at most 63 {QUALIFIED}, after a DNS name and '/' if it has a prefix"
        ));
    }
    if !value.is_empty() && !is_qualified(value) {
        return Err(format!("the value {value:?} of {key:?} must be nothing, or at most 63 {QUALIFIED}"));
    }
    Ok((key.into(), value.into()))
}

const QUALIFIED: &str = "letters, digits, '-', '_' and '.', with a letter or digit at both ends";

fn is_qualified(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 63 && name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().next_back())
}

/// `host:port`; a missing host means every address.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| "write IP:PORT, or :PORT for every address, as in 127.0.0.1:8080".into())
}

fn server(text: &str) -> Result<String, String> {
    check_server(text).map(|()| text.into()).map_err(|error| format!("it {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Settings, String> {
        let args = ["tokenward", "run"].iter().chain(args);
        match Cli::read(args) {
            Ok(Cli { command: Command::Run(settings) }) => Ok(settings),
            Ok(_) => panic!("not run"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn defaults_are_as_documented() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.metrics_bind_address.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.health_probe_bind_address.to_string(), "0.0.0.0:8081");
        assert_eq!((settings.concurrency, settings.namespaces.len()), (32, 0));
        assert!(!settings.leader_elect);
        assert_eq!((settings.bootstrap_token_cleaner, settings.bootstrap_signer), (Cleaner::Enforce, false));
    }

    #[test]
    fn switches_take_a_value_or_none() {
        for (args, on) in
            [(&["--leader-elect"][..], true), (&["--leader-elect=true"], true), (&["--leader-elect=false"], false)]
        {
            assert_eq!(parse(args).unwrap().leader_elect, on, "{args:?}");
        }
        assert!(!parse(&["--leader-elect", "--bootstrap-signer=false"]).unwrap().bootstrap_signer);
    }

    #[test]
    fn namespaces_may_be_repeated() {
        assert_eq!(parse(&["--namespace=a", "--namespace", "b"]).unwrap().namespaces, ["a", "b"]);
    }

    #[test]
    fn labels_are_separated_by_commas() {
        let labels = parse(&["--secret-labels=team=a,example.com/cost-center=", "--secret-labels=b=C_1"]).unwrap();
        let pairs = [("team", "a"), ("example.com/cost-center", ""), ("b", "C_1")];
        assert_eq!(labels.secret_labels, pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn wrong_values_are_answered_in_the_first_line_with_what_is_right() {
        for (arg, hint) in [
            ("--namespace=A", "lower-case"),
            ("--concurrency=0", "write a number from 1 to 256"),
            ("--concurrency=x", "write a number from 1 to 256"),
            ("--leader-elect=maybe", "value was not a boolean"),
            ("--metrics-bind-address=8080", "IP:PORT"),
            (
                "--cluster-server=http://x",
                "'http://x' for '--cluster-server <CLUSTER_SERVER>': it is no https URL with a host",
            ),
            ("--cluster-server=api", "https URL"),
            ("--cluster-server=https://user:pw@x", "leave out everything up to the @"),
            ("--cluster-server=https://x/?a=b", "end it before the ?"),
            ("--cluster-ca-file=/ca.crt", "required arguments were not provided"),
            ("--bootstrap-token-cleaner=delete", "invalid value 'delete'"),
            ("--secret-labels=team", "write key=value"),
            (
                "--secret-labels=tokenward.dev/role=target",
                "the operator keeps its own record there; choose another key",
            ),
            (
                "--secret-labels=app.kubernetes.io/managed-by=me",
                r#""app.kubernetes.io/managed-by" is not for every Secret: the operator sets it itself"#,
            ),
            ("--secret-labels=argocd.argoproj.io/secret-type=cluster", "Argo CD acts on such keys"),
            ("--secret-labels=istio/multiCluster=true", "Istio acts on such keys"),
            ("--secret-labels=helm.sh/x=y", "a controller deletes Secrets with such keys"),
            ("--secret-labels=kubernetes.io/x=y", "Kubernetes and kubectl act on such keys"),
            ("--secret-labels=-team=a", r#"the key "-team" must be at most 63"#),
            ("--secret-labels=a-=a", "with a letter or digit at both ends, after a DNS name"),
            ("--secret-labels==b", r#"the key "" must be"#),
            ("--secret-labels=a..b/c=d", r#"the key "a..b/c" must be"#),
            ("--secret-labels=A.example/team=a", r#"the key "A.example/team" must be"#),
            ("--secret-labels=a=b,team=a b", r#"the value "a b" of "team" must be nothing, or at most 63"#),
            ("--secret-labels=a=-b", "with a letter or digit at both ends"),
            ("--secret-labels=a=b,c=d,a=b", r#"has the key "a" twice; write each key once"#),
        ] {
            let error = parse(&[arg]).unwrap_err();
            assert!(error.lines().next().is_some_and(|line| line.contains(hint)), "{arg}: {error}");
        }
    }
}
