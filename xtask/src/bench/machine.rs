//! Where and with what a figure was measured; without that it says nothing.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::process::root;

/// The circumstances.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// Day of the run, UTC.
    pub(crate) date: String,
    /// The commit; with `+changes` when the tree differed from it.
    pub(crate) commit: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
}

impl Machine {
    /// This one, now.
    ///
    /// # Errors
    /// When git or rustc do not answer.
    pub(crate) fn inspect() -> Result<Self> {
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"])?;
        // Results of other benches are not a change of what is measured.
        let changes = output("git", &["status", "--porcelain", "--", ".", ":!bench/results"])?;
        let uname = rustix::system::uname();
        let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Ok(Self {
            date: output("date", &["-u", "+%Y-%m-%d"])?,
            commit: commit + if changes.is_empty() { "" } else { "+changes" },
            processor: processor_name(&processor).unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: format!("{} {}", text(uname.sysname()), text(uname.release())),
            rustc: output("rustc", &["--version"])?,
        })
    }

    /// As a list in Markdown.
    pub(crate) fn markdown(&self) -> String {
        let Self { date, commit, processor, cores, kernel, rustc } = self;
        format!(
            "* date: {date}\n* commit: {commit}\n* processor: {processor}, {cores} cores\n* kernel: {kernel}\n\
             * compiler: {rustc}\n"
        )
    }
}

fn processor_name(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let run = Command::new(program).args(arguments).current_dir(root()).output();
    let output = run.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{program} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_a_name() {
        let cpuinfo = "processor\t: 0\nmodel\t\t: 2\nmodel name\t: Some CPU @ 3 GHz\ncpu MHz\t: 1\n";
        assert_eq!(processor_name(cpuinfo), Some("Some CPU @ 3 GHz"));
        assert_eq!(processor_name(""), None);
    }
}
