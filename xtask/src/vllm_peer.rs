//! The Python that plays vLLM's engine core in the tests: libzmq and msgspec, which vLLM uses, and no vLLM.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{root, run};

/// What `crates/engine-vllm/tests/peer/peer.py` imports.
const PACKAGES: [&str; 2] = ["pyzmq==27.3.0", "msgspec==0.22.0"];

/// Where the tests look for it.
fn folder() -> PathBuf {
    root().join("target").join("vllm-peer")
}

/// Makes sure that it is there.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn ensure() -> Result<()> {
    let folder = folder();
    let python = folder.join("bin").join("python");
    let mut probe = Command::new(&python);
    probe.args(["-c", "import zmq, msgspec"]);
    if probe.output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    eprintln!("Making a Python environment for the vLLM tests …");
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(Command::new(&python).args(pip).args(PACKAGES))
        .context("python3 with venv, pip and access to PyPI are needed")
}
