//! Processes that must not outlive the one that has started them, even when that is killed.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use rustix::process::{Pid, Signal, getppid};

/// A program to become, which then ends with the server.
#[derive(Clone, Debug, Args)]
pub(crate) struct TiedOptions {
    /// The process that it must not outlive.
    #[arg(long)]
    parent: i32,

    #[arg(long)]
    program: PathBuf,

    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Has this process be asked to end (SIGTERM) when its parent ends: the thread of the parent, to be exact, that has started
/// it.
///
/// # Errors
/// When the parent has ended already, or the system refuses.
pub(crate) fn end_with(parent: Option<Pid>) -> Result<()> {
    ask_for_signal().context("the end of the parent process could not be noticed")?;
    if getppid() != parent {
        bail!("the parent process has ended");
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn ask_for_signal() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
}

/// Other systems have no such signal.
#[cfg(not(target_os = "linux"))]
fn ask_for_signal() -> io::Result<()> {
    let _ = Signal::TERM;
    Ok(())
}

/// A command that becomes `program` once its end is tied to that of the current thread: the wish has to come from the
/// process itself, and survives its becoming another program.
pub(crate) fn tied(program: &PathBuf) -> Command {
    // Also when the file of this program has been replaced by a newer one.
    let mut command = Command::new("/proc/self/exe");
    command.args(["tied", "--parent", &std::process::id().to_string(), "--program"]).arg(program).arg("--");
    command
}

/// Becomes the program.
///
/// # Errors
/// When it cannot be started.
pub(crate) fn run(options: &TiedOptions) -> Result<()> {
    end_with(Pid::from_raw(options.parent))?;
    let error = Command::new(&options.program).args(&options.arguments).exec();
    bail!("{} cannot be started: {error}", options.program.display())
}
