//! Clients that others made drive the server: the official `openai` packages for Python and for Node, and schemathesis,
//! which makes requests of the server's own OpenAPI document.
//!
//! What they need is installed under the target directory, at the versions that `tests/clients` names.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::installed::Installed;
use crate::model;
use crate::process::{cargo, root, run as run_command, target_directory};
use crate::server::ServerProcess;

/// Runs all of them.
///
/// # Errors
/// When one fails, or what it needs cannot be had.
pub(crate) fn run() -> Result<()> {
    model::ensure()?;
    run_command(&mut cargo(&["build", "--package", "wayfare"]))?;
    let sources = root().join("tests").join("clients");
    let installed = Installed::in_target("clients")?;
    installed.python(&sources.join("requirements.txt"), make_certificates)?;
    let node = installed.node(&sources.join("node"))?;
    let server = target_directory()?.join("debug").join("wayfare");
    let clients = Clients { server, sources, installed, node };
    clients.python()?;
    clients.node()?;
    clients.document()
}

fn make_certificates(installed: &Installed) -> Result<()> {
    let folder = installed.folder().join("tls");
    fs::create_dir_all(&folder)?;
    let mut certificates = installed.program("python");
    certificates.args(["-m", "trustme", "--quiet", "--identities", "localhost", "--dir"]);
    run_command(certificates.arg(folder))
}

struct Clients {
    /// The program that is tested.
    server: PathBuf,
    sources: PathBuf,
    installed: Installed,
    /// Where the clients of Node are.
    node: PathBuf,
}

impl Clients {
    /// A program of the virtual environment, which finds the server.
    fn program(&self, name: &str) -> Command {
        let tls = self.installed.folder().join("tls");
        let mut command = self.installed.program(name);
        command.env("WAYFARE", &self.server).env("WAYFARE_TLS", &tls);
        command.env("NODE_EXTRA_CA_CERTS", tls.join("client.pem"));
        command
    }

    fn python(&self) -> Result<()> {
        let mut tests = self.program("python");
        tests.args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"]);
        run_command(tests.current_dir(self.sources.join("python")))
    }

    fn node(&self) -> Result<()> {
        let mut tests = self.program("node");
        run_command(tests.args(["--test", "--test-reporter=dot"]).current_dir(&self.node))
    }

    /// Asks a simulated server for what its OpenAPI document says, and for what it does not say.
    fn document(&self) -> Result<()> {
        let mut serve = Command::new(&self.server);
        serve.args(["serve", "sim", "--sim-profile", "instant", "--host", "127.0.0.1", "--port", "0"]);
        // A debug build checks all blocks after every step.
        serve.args(["--max-model-len", "256", "--num-kv-blocks", "100"]);
        // Each refusal would be a line of the log.
        let mut server = ServerProcess::start(serve.env("RUST_LOG", "off"))?;
        let mut tests = self.program("schemathesis");
        tests.arg("--config-file").arg(self.sources.join("schemathesis.toml"));
        tests.args(["run", &format!("{}/openapi.json", server.address())]);
        run_command(tests.current_dir(self.installed.folder()))?;
        server.stop()
    }
}
