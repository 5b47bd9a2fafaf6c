//! Completion by kubectl, which asks the program `kubectl_complete-tokenward` (`kubectl plugin --help`).

use clap::{Arg, Command};

/// Names of files may be completed, and: only what is listed. <https://pkg.go.dev/github.com/spf13/cobra#ShellCompDirective>
const DIRECTIVES: (&str, &str) = (":0", ":4");

/// What can stand for the last of these words, a line each with its help.
pub fn lines(mut root: Command, words: &[String]) -> String {
    root.build();
    let (last, before) = words.split_last().map_or(("", &[][..]), |(last, before)| (last.as_str(), before));
    let command = before.iter().fold(&root, |command, word| command.find_subcommand(word).unwrap_or(command));
    let flag = before.last().and_then(|word| command.get_arguments().find(|argument| is(argument, word)));
    let mut found = match flag {
        Some(flag) => values(flag),
        None if last.starts_with('-') => command.get_arguments().filter_map(long).collect(),
        None => command.get_positionals().flat_map(values).chain(command.get_subcommands().map(name)).collect(),
    };
    found.retain(|line| line.starts_with(last));
    found.push(if found.is_empty() { DIRECTIVES.0 } else { DIRECTIVES.1 }.to_owned());
    found.join("\n") + "\n"
}

/// Whether a word is this flag, and a value follows it.
fn is(argument: &Arg, word: &str) -> bool {
    let long = argument.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long));
    let short = argument.get_short().is_some_and(|short| word.strip_prefix('-') == Some(short.to_string().as_str()));
    argument.get_action().takes_values() && (long || short)
}

fn values(argument: &Arg) -> Vec<String> {
    argument.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect()
}

fn long(argument: &Arg) -> Option<String> {
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    Some(format!("--{}\t{help}", argument.get_long()?))
}

fn name(command: &Command) -> String {
    let help = command.get_about().map(ToString::to_string).unwrap_or_default();
    format!("{}\t{help}", command.get_name())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The first column.
    fn completed(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let lines = lines(crate::args::Args::command(), &words);
        lines.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect()
    }

    #[test]
    fn completes_commands_flags_and_values() {
        for (line, expected) in [
            ("re", &["revoke", ":4"][..]),
            ("r", &["rotate", "revoke", ":4"]),
            ("-n ci st", &["status", ":4"]),
            ("revoke --to", &["--token-id", ":4"]),
            ("revoke --na", &["--namespace", ":4"]),
            ("status -o ", &["wide", "json", "yaml", ":4"]),
            ("verify --output j", &["json", ":4"]),
            ("completion z", &["zsh", ":4"]),
            ("status --kubeconfig ", &[":0"]),
            ("verify ./to", &[":0"]),
        ] {
            assert_eq!(completed(line), expected, "{line}");
        }
        assert!(completed("").contains(&"audit".to_owned()));
    }
}
