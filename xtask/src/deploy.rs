//! What `deploy/` says is what Kubernetes, Prometheus and Tempo take: built, held against their schemas and grammars, and
//! started with engines that are played.

use anyhow::Result;

use crate::installed::Installed;
use crate::model;
use crate::process::{cargo, root, run as run_command, target_directory};

/// Runs the checks of `tests/deploy`.
///
/// # Errors
/// When one fails, or what it needs cannot be had.
pub(crate) fn run() -> Result<()> {
    run_command(&mut cargo(&["build", "--package", "wayfare"]))?;
    let sources = root().join("tests").join("deploy");
    let installed = Installed::in_target("deploy-checks")?;
    installed.python(&sources.join("requirements.txt"), |_| Ok(()))?;
    let traceql = installed.node(&sources.join("traceql"))?;
    let mut tests = installed.program("python");
    tests.env("WAYFARE_MODEL", model::ensure()?);
    tests.env("WAYFARE", target_directory()?.join("debug").join("wayfare")).env("TRACEQL", traceql);
    tests.args(["-m", "pytest", "--quiet", "-p", "no:cacheprovider"]);
    run_command(tests.current_dir(sources))
}
