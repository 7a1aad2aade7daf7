//! The tests of the page in a browser: `tests/browser`, by Playwright in Debian's Chromium.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{cargo, root, run as run_command, target_directory};

/// Builds the server and runs the tests.
///
/// # Errors
/// When anything of it fails, or there is no Chromium.
pub(crate) fn run() -> Result<()> {
    run_command(&mut cargo(&["build", "--package", "wayfare"]))?;
    run_command(&mut cargo(&["build", "--package", "wayfare-console", "--example", "bundle"]))?;
    let target = target_directory()?;
    let tests = root().join("tests").join("browser");
    let packages = packages(&target, &tests.join("requirements.txt"))?;
    let mut command = Command::new("python3");
    command.args(["-m", "pytest"]).arg(&tests).current_dir(&tests);
    command.env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    let built = target.join("debug");
    command.env("WAYFARE_PROGRAM", built.join("wayfare"));
    command.env("WAYFARE_BUNDLE", built.join("examples").join("bundle"));
    run_command(&mut command)
}

/// The folder with what `requirements` lists, fetched from PyPI unless it is there already. A folder of our own and no
/// virtual environment, because Debian's Python cannot make one.
fn packages(target: &Path, requirements: &Path) -> Result<PathBuf> {
    let wanted = fs::read(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let folder = target.join("browser");
    let fetched = folder.join("fetched.txt");
    if fs::read(&fetched).is_ok_and(|fetched| fetched == wanted) {
        return Ok(folder);
    }
    eprintln!("Fetching what the browser tests need …");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action",
        "ignore",
    ]);
    run_command(pip.arg("--target").arg(&folder).arg("--requirement").arg(requirements))
        .context("python3 with pip and access to PyPI are needed")?;
    fs::write(&fetched, wanted).with_context(|| format!("cannot write {}", fetched.display()))?;
    Ok(folder)
}
