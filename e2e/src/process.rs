//! Child processes that never outlive this one.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{PipeWriter, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A running program with its output in a file; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    pid: Pid,
    log: PathBuf,
    started: Instant,
}

impl Process {
    /// Starts `command` in a process group of its own, so that Ctrl-C reaches only us, and appends its output to `log`.
    ///
    /// # Errors
    /// When the program or the log cannot be opened.
    pub fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .append(true)
            .create(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let pid = Pid::from_child(&child);
        if let Err(error) = watchdog(&format!("+ {}", child.id())) {
            child.kill()?;
            return Err(error);
        }
        let started = Instant::now();
        Ok(Self { name: name.to_owned(), child: Mutex::new(child), pid, log: log.to_owned(), started })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// When it was started.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How it ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // While the lock is held nobody reaps the child, so its id cannot pass to another process.
        let mut child = self.child();
        if let Some(status) = child.try_wait()? {
            bail!("{} has ended: {status}\n{}", self.name, self.log_tail());
        }
        Ok(kill_process(self.pid, signal)?)
    }

    /// Waits for the end, at most for `within`; `None` when it still runs then.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn wait(&self, within: Duration) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        loop {
            let status = self.exited()?;
            if status.is_some() || start.elapsed() >= within {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// SIGTERM, then SIGKILL when it still runs after `grace`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus> {
        if self.exited()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        match self.wait(grace).await? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// SIGKILL, returning when the process is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&self) -> Result<ExitStatus> {
        let mut child = self.child();
        child.kill()?;
        Ok(child.wait()?)
    }

    /// The last 20 lines of the log, for messages.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nobody left to tell about a failure.
        let _ = self.kill();
        let _ = watchdog(&format!("- {}", self.id()));
    }
}

pub(crate) fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(20).collect();
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("--- end of {} ---\n{}", log.display(), lines.join("\n"))
}

const WATCHDOG: &str = r#"
pids=
while read -r verb pid; do
  case $verb in
    +) pids="$pids $pid" ;;
    -) rest=; for p in $pids; do [ "$p" = "$pid" ] || rest="$rest $p"; done; pids=$rest ;;
  esac
done
[ -z "$pids" ] || kill -KILL $pids
"#;

/// Tells the watchdog, a shell that kills what it was told of when its input ends, which it does however we die.
fn watchdog(line: &str) -> Result<()> {
    static INPUT: Mutex<Option<PipeWriter>> = Mutex::new(None);
    let mut input = INPUT.lock().unwrap_or_else(PoisonError::into_inner);
    if input.is_none() {
        *input = Some(start_watchdog()?);
    }
    let Some(pipe) = input.as_mut() else { bail!("no watchdog") };
    writeln!(pipe, "{line}").context("the watchdog is gone")
}

fn start_watchdog() -> Result<PipeWriter> {
    let (reader, writer) = std::io::pipe()?;
    let mut shell = Command::new("sh");
    shell.args(["-c", WATCHDOG]).stdin(reader).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    shell.spawn().context("starting sh, which ends our processes when we are killed")?;
    Ok(writer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Process {
        let log = std::env::temp_dir().join(format!("tokenward-process-{}.log", std::process::id()));
        Process::spawn("sleep", Command::new("sleep").arg("600"), &log).unwrap()
    }

    #[tokio::test]
    async fn terminates_within_the_grace() {
        let process = sleeper();
        let status = process.stop(Duration::from_secs(10)).await.unwrap();
        assert!(!status.success());
        assert!(process.signal(Signal::CONT).is_err());
    }

    #[test]
    fn is_gone_after_drop() {
        let process = sleeper();
        let proc = PathBuf::from(format!("/proc/{}", process.id()));
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
    }
}
