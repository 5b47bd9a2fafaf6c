//! The command line. Flags that kubectl has as well are called as there.

use std::path::PathBuf;

use crate::core::{hygiene::Severity, token::is_namespace};
use clap::{ArgGroup, Args as Arguments, Parser, Subcommand, ValueEnum, builder::NonEmptyStringValueParser};
use clap_complete::Shell;
use tokenward::{
    api::duration::Duration,
    record::{is_word, names::is_object_name},
};

/// Shows, rotates, revokes, prints, verifies and audits the tokens that Tokenward keeps in Secrets.
#[derive(Debug, Parser)]
#[command(name = "kubectl-tokenward", bin_name = "kubectl tokenward", version)]
pub struct Args {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, and as whom.
#[derive(Clone, Debug, Arguments)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Namespace. By default that of the context.
    #[arg(short, long, global = true, value_parser = namespace)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_parser = NonEmptyStringValueParser::new())]
    pub context: Option<String>,
    /// Kubeconfig. By default KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// User to impersonate.
    #[arg(long = "as", global = true, value_name = "USER", value_parser = NonEmptyStringValueParser::new())]
    pub user: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Shows policies with their accounts, Secrets and tokens, and why one is not ready.
    Status(Status),
    /// Replaces tokens; the old ones stay valid for the overlap of their policy.
    Rotate(Order),
    /// Ends tokens before their time.
    Revoke(Order),
    /// Prints the token or kubeconfig in a Secret.
    Print(Print),
    /// Checks any ServiceAccount token, and shows the evidence. Exit code 3: it is not good, or this could not be checked.
    Verify(Verify),
    /// Prints the policy that takes the place of a legacy token, and the steps without a gap. Changes nothing.
    Migrate(Migrate),
    /// Reads audit logs of the API server, and shows who uses which token.
    Audit(Audit),
    /// Reports every way to log in to the cluster: what is found, what is wrong, and the cure. Changes nothing.
    Hygiene(Hygiene),
    /// Prints a script that completes this command in a shell.
    Completion { shell: Shell },
    /// Writes the manual pages into a folder, and creates the folder.
    Man { folder: PathBuf },
}

#[derive(Debug, Arguments)]
pub struct Status {
    /// Name of a policy. By default all.
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub policy: Option<String>,
    /// Every namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Labels of the policies, as in kubectl get -l.
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = labels)]
    pub selector: Option<String>,
    /// Format of the output. By default text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Output>,
}

/// Whom a rotation or revocation concerns, and how it is done.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, Arguments)]
#[command(group = ArgGroup::new("choice").required(true))]
pub struct Order {
    /// Names of policies.
    #[arg(group = "choice", value_name = "POLICY", value_parser = NonEmptyStringValueParser::new())]
    pub policies: Vec<String>,
    /// Policies with these labels, as in kubectl get -l.
    #[arg(short = 'l', long, group = "choice", value_name = "LABELS", value_parser = labels)]
    pub selector: Option<String>,
    /// The tokens of one Secret.
    #[arg(long, group = "choice", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub secret: Option<String>,
    /// The tokens of one ServiceAccount.
    #[arg(long, group = "choice", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub account: Option<String>,
    /// One token, by its jti.
    #[arg(long, group = "choice", value_name = "ID", value_parser = NonEmptyStringValueParser::new())]
    pub token_id: Option<String>,
    /// Every policy.
    #[arg(long, group = "choice")]
    pub all: bool,
    /// Looks in every namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Why, in one word: it is in events, log and metrics.
    #[arg(long, value_name = "WORD", value_parser = reason)]
    pub reason: Option<String>,
    /// Does not ask.
    #[arg(short, long)]
    pub yes: bool,
    /// Waits until revoked tokens are refused and new ones work, as the API server itself says.
    #[arg(long)]
    pub wait: bool,
    /// How long to wait.
    #[arg(long, default_value = "1m", requires = "wait", value_name = "DURATION")]
    pub timeout: Duration,
}

/// Anything else would change the path of a request.
fn namespace(text: &str) -> Result<String, String> {
    let hint = "a namespace has at most 63 lower-case letters, digits and '-'";
    if is_namespace(text) { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

/// The API server takes an empty selector, as that of an empty variable, for all objects.
fn labels(text: &str) -> Result<String, String> {
    let hint = "no labels would mean every policy; write some, as team=a";
    if text.trim().is_empty() { Err(hint.to_owned()) } else { Ok(text.to_owned()) }
}

fn policy(text: &str) -> Result<String, String> {
    let hint =
        "a policy's name has at most 253 lower-case letters, digits, '-' and '.', with a letter or digit at both ends";
    if is_object_name(text) { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

fn reason(text: &str) -> Result<String, String> {
    let hint = "write one word of at most 63 letters, digits, '-', '_' and '.'";
    if is_word(text) { Ok(text.to_owned()) } else { Err(hint.to_owned()) }
}

#[derive(Debug, Arguments)]
pub struct Print {
    /// Name of the Secret.
    pub secret: String,
    /// Key of the Secret. By default the one that holds a token.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub key: Option<String>,
    /// Prints on a terminal, too.
    #[arg(short, long)]
    pub yes: bool,
}

#[derive(Debug, Arguments)]
pub struct Verify {
    /// Name of a Secret, a file (with a slash in its name, as ./token), or - for standard input. A kubeconfig, a manifest
    /// or any other text around the token may be there as well.
    #[arg(default_value = "-", value_name = "SECRET|FILE|-")]
    pub source: String,
    /// Audience that the token must be for.
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    pub audience: Option<String>,
    /// Format of the output. By default text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

#[derive(Debug, Arguments)]
pub struct Migrate {
    /// Name of a Secret with a legacy token.
    pub secret: String,
    /// Name of the policy, and, with -bound behind it, of its Secret. By default that of the old Secret.
    #[arg(long, value_parser = policy)]
    pub name: Option<String>,
}

#[derive(Debug, Arguments)]
pub struct Audit {
    /// Audit logs as JSON lines, also compressed with gzip; - for standard input.
    #[arg(default_value = "-", value_name = "FILE|-", value_parser = NonEmptyStringValueParser::new())]
    pub files: Vec<String>,
    /// Format of the output. By default text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

#[derive(Debug, Arguments)]
pub struct Hygiene {
    /// Ends with exit code 3 if a finding is at least this severe.
    #[arg(long, value_enum, value_name = "SEVERITY")]
    pub fail_on: Option<Severity>,
    /// A copy of the file that kube-apiserver's --authentication-config names.
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// A copy of the file that kube-apiserver's --authentication-token-webhook-config-file names.
    #[arg(long, value_name = "FILE")]
    pub webhook_config: Option<PathBuf>,
    /// Format of the output. By default text for people.
    #[arg(short, long, value_enum)]
    pub output: Option<Format>,
}

/// Format of the output. By default text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Text with more columns.
    Wide,
    Json,
    Yaml,
}

impl Output {
    /// The format for machines, if it is one.
    pub fn format(self) -> Option<Format> {
        match self {
            Self::Wide => None,
            Self::Json => Some(Format::Json),
            Self::Yaml => Some(Format::Yaml),
        }
    }
}

/// Formats for machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Json,
    Yaml,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_do_not_contradict_each_other() {
        Args::command().debug_assert();
    }

    #[test]
    fn flags_of_the_cluster_are_taken_on_both_sides_of_the_command() {
        for line in ["kubectl-tokenward -n ci --as me status -A", "kubectl-tokenward status -A -n ci --as me"] {
            let args = Args::try_parse_from(line.split(' ')).unwrap();
            assert_eq!((args.cluster.namespace.as_deref(), args.cluster.user.as_deref()), (Some("ci"), Some("me")));
        }
    }

    #[test]
    fn an_empty_variable_never_means_all() {
        for line in [
            "revoke -l @ --yes",
            "rotate -A --selector @",
            "status -l @",
            "status @",
            "revoke @",
            "revoke --secret @",
            "revoke --account @",
            "revoke --token-id @",
            "revoke a --as @",
            "revoke a --context @",
            "print a --key @",
            "verify a --audience @",
        ] {
            let parsed = |value: &str| {
                let words = line.split(' ').map(|word| if word == "@" { value } else { word });
                Args::try_parse_from(["kubectl-tokenward"].into_iter().chain(words))
            };
            assert!(parsed("x").is_ok() && parsed("").is_err(), "{line}");
        }
        assert!(Args::try_parse_from(["kubectl-tokenward", "revoke", "-l", " \t"]).is_err());
    }

    #[test]
    fn a_wrong_line_is_refused() {
        for (line, taken) in [
            ("revoke a b", true),
            ("revoke --all --wait --timeout 5m", true),
            ("rotate -l team=a -A", true),
            ("revoke", false),
            ("revoke a --all", false),
            ("revoke --secret a --token-id b", false),
            ("revoke a --reason two,words", false),
            ("revoke a -n a/b", false),
            ("revoke a --namespace=", false),
            ("migrate a --name b.c-1", true),
            ("migrate a --name Bad_Name", false),
            ("migrate a --name=", false),
            ("audit a.log", true),
            ("audit ", false),
            ("revoke a --wait --timeout soon", false),
        ] {
            let args = Args::try_parse_from(["kubectl-tokenward"].into_iter().chain(line.split(' ')));
            assert_eq!(args.is_ok(), taken, "{line}");
        }
    }
}
