//! The program: parse, install the TLS provider, run, exit code.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::error::ErrorKind;
use tokenward::{
    api,
    cli::{Cli, Command, LogFormat, Settings},
    redact,
};
use tracing_subscriber::EnvFilter;
use zeroizing_alloc::ZeroAlloc;

/// Freed memory is wiped: HTTP, TLS and JSON put copies of tokens into buffers that are not ours to wipe.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

/// kube's watchers log every failed try; ours is logged when it changes.
const DEFAULT_FILTER: &str = "info,kube_client=error,kube_runtime=error";
/// kube logs answers that it cannot parse at WARN, whole; those of the watch of bootstrap tokens hold secrets. So this
/// holds whatever `RUST_LOG` says. Its errors are those of our calls, which we log with their causes.
const NO_BODIES: &str = "kube_client::client=off";

fn main() -> ExitCode {
    match Cli::read(std::env::args_os()) {
        Ok(Cli { command: Command::Crds { plural } }) => print_crds(plural.as_deref()),
        Ok(Cli { command: Command::Run(settings) }) => run(&settings),
        Err(error) => usage(&error),
    }
}

/// Help goes out whole; an error is one line that says what is right.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
        _ => {
            let text = error.to_string();
            let advice = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
            let line: Vec<&str> = advice.map(str::trim).filter(|line| !line.is_empty()).collect();
            let _ = writeln!(std::io::stderr(), "{}", line.join(" "));
            ExitCode::from(2)
        }
    }
}

fn print_crds(plural: Option<&str>) -> ExitCode {
    match api::yaml(plural) {
        Ok(yaml) => std::io::stdout().write_all(yaml.as_bytes()).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS),
        Err(error) => fail(&error),
    }
}

fn run(settings: &Settings) -> ExitCode {
    if let Err(error) = hide_memory() {
        return fail(&error);
    }
    let fail = if log_to_stderr(settings.log_format) == LogFormat::Json { fail_in_json } else { fail };
    std::panic::set_hook(Box::new(|panic| tracing::error!("{}", redact::panic(panic))));
    // The provider can be installed once, and here nobody has done so before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The loop and its calls wait more than they compute. A second thread would cost a fifth more CPU time: tasks wake each other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map(|runtime| runtime.block_on(tokenward::run(settings))) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => fail(&error),
        Err(error) => fail(&error),
    }
}

/// No core file, no `ptrace` and no `/proc/PID/mem` for anybody but root: memory holds tokens.
#[cfg(target_os = "linux")]
fn hide_memory() -> std::io::Result<()> {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

#[cfg(not(target_os = "linux"))]
fn hide_memory() -> std::io::Result<()> {
    Ok(())
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::FAILURE
}

/// As every line of the log, if lines of that level are not filtered away.
fn fail_in_json(error: &dyn std::error::Error) -> ExitCode {
    if !tracing::enabled!(tracing::Level::ERROR) {
        return fail(error);
    }
    tracing::error!("{error}");
    ExitCode::FAILURE
}

fn log_to_stderr(format: Option<LogFormat>) -> LogFormat {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    #[expect(clippy::expect_used, reason = "a constant")]
    let filter = filter.add_directive(NO_BODIES.parse().expect("a directive"));
    // A reader of the log that goes away must not take the operator along: these errors are printed to stderr, and that panics.
    let builder =
        tracing_subscriber::fmt().log_internal_errors(false).with_env_filter(filter).with_writer(std::io::stderr);
    let terminal = std::io::stderr().is_terminal();
    let format = format.unwrap_or(if terminal { LogFormat::Text } else { LogFormat::Json });
    match format {
        LogFormat::Text => builder.with_ansi(terminal).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    format
}
