//! Clients that others made drive the server: the official `openai` packages for Python and for Node, and schemathesis,
//! which makes requests of the server's own OpenAPI document.
//!
//! What they need is installed under the target directory, at the versions that `tests/clients` names. Node comes as a
//! Python wheel, so a machine needs nothing but Python 3 with `venv`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

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
    let target = target_directory()?;
    let clients = Clients {
        server: target.join("debug").join("wayfare"),
        sources: root().join("tests").join("clients"),
        folder: target.join("clients"),
    };
    clients.install()?;
    clients.python()?;
    clients.node()?;
    clients.document()
}

struct Clients {
    /// The program that is tested.
    server: PathBuf,
    sources: PathBuf,
    /// Where everything is installed.
    folder: PathBuf,
}

impl Clients {
    /// Makes what is not there yet, or is there for other versions.
    fn install(&self) -> Result<()> {
        fs::create_dir_all(&self.folder)?;
        let requirements = self.sources.join("requirements.txt");
        self.once_for(&requirements, "python", || {
            let mut venv = Command::new("python3");
            run_command(venv.args(["-m", "venv", "--clear"]).arg(self.folder.join("venv")))
                .context("python3 with its module venv is needed")?;
            let mut pip = self.program("python");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            run_command(pip.arg(&requirements)).context("access to PyPI is needed")?;
            let mut certificates = self.program("python");
            certificates.args(["-m", "trustme", "--quiet", "--identities", "localhost", "--dir"]);
            fs::create_dir_all(self.folder.join("tls"))?;
            run_command(certificates.arg(self.folder.join("tls")))
        })?;
        let node = self.folder.join("node");
        fs::create_dir_all(&node)?;
        copy_files(&self.sources.join("node"), &node)?;
        self.once_for(&node.join("package-lock.json"), "node", || {
            let mut npm = self.program("npm");
            run_command(npm.args(["ci", "--loglevel=error", "--no-audit", "--no-fund"]).current_dir(&node))
                .context("access to the npm registry is needed")
        })
    }

    /// Installs, unless that has succeeded before for a file of this content.
    fn once_for(&self, file: &Path, name: &str, install: impl FnOnce() -> Result<()>) -> Result<()> {
        let wanted = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let stamp = self.folder.join(name).with_extension("installed");
        if fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
            return Ok(());
        }
        install()?;
        Ok(fs::write(stamp, wanted)?)
    }

    /// A program of the virtual environment, which finds the others and the server.
    fn program(&self, name: &str) -> Command {
        let programs = self.folder.join("venv").join("bin");
        let mut path = programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").as_deref().unwrap_or(OsStr::new("/usr/bin:/bin")));
        let tls = self.folder.join("tls");
        let mut command = Command::new(programs.join(name));
        command.env("PATH", path).env("WAYFARE", &self.server).env("WAYFARE_TLS", &tls);
        command.env("NODE_EXTRA_CA_CERTS", tls.join("client.pem"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn python(&self) -> Result<()> {
        let mut tests = self.program("python");
        tests.args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"]);
        run_command(tests.current_dir(self.sources.join("python")))
    }

    fn node(&self) -> Result<()> {
        let mut tests = self.program("node");
        run_command(tests.args(["--test", "--test-reporter=dot"]).current_dir(self.folder.join("node")))
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
        run_command(tests.current_dir(&self.folder))?;
        server.stop()
    }
}

/// Copies the files of a folder; an `import` looks for packages beside the file that it is in.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
