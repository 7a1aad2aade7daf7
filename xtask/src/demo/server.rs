//! The server that the demo talks to.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::target_directory;
use crate::server::ServerProcess;

/// Small on purpose, so that a request is preempted: 47 usable blocks of 16 tokens.
const KV_BLOCKS: &str = "48";
const MAX_MODEL_LEN: &str = "512";

/// Starts the release build, and waits until it is ready.
///
/// # Errors
/// When it does not become ready.
pub(crate) fn start(port: u16, journey_file: &Path) -> Result<ServerProcess> {
    // Ctrl-C goes to the server, too; the demo ends when the server has.
    ctrlc::set_handler(|| ()).context("cannot listen for Ctrl-C")?;
    let mut command = Command::new(target_directory()?.join("release").join("wayfare"));
    command
        .args(["serve", "--host", "127.0.0.1", "--port", &port.to_string()])
        .args(["--num-gpu-blocks-override", KV_BLOCKS, "--max-model-len", MAX_MODEL_LEN])
        .args(["--enable-journey-tracing", "--journey-file"])
        .arg(journey_file);
    let shown: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    eprintln!("$ wayfare {}", shown.join(" "));
    ServerProcess::start(&mut command)
}
