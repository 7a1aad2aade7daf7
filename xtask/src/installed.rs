//! Programs from PyPI and npm that tests run, installed under the target directory. Node comes as a Python wheel, so a
//! machine needs nothing but Python 3 with `venv`.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::{run, target_directory};

/// A folder with a virtual environment in it, and packages for Node.
pub(crate) struct Installed {
    folder: PathBuf,
}

impl Installed {
    /// The folder of this name under the target directory, made when it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn in_target(name: &str) -> Result<Self> {
        let folder = target_directory()?.join(name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Installs what a file of requirements names into a new virtual environment, and does what else it is `then` for,
    /// unless that has succeeded before for a file of this content.
    ///
    /// # Errors
    /// When something cannot be installed.
    pub(crate) fn python(&self, requirements: &Path, then: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        self.once_for(requirements, "python", || {
            let mut venv = Command::new("python3");
            run(venv.args(["-m", "venv", "--clear"]).arg(self.folder.join("venv")))
                .context("python3 with its module venv is needed")?;
            let mut pip = self.program("python");
            pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
            run(pip.arg(requirements)).context("access to PyPI is needed")?;
            then(self)
        })
    }

    /// Copies the files of a folder to a place of that name in here, because an `import` looks for packages beside the
    /// file that it is in, and installs what their `package-lock.json` names. Returns the place.
    ///
    /// # Errors
    /// When something cannot be installed.
    pub(crate) fn node(&self, sources: &Path) -> Result<PathBuf> {
        let place = self.folder.join(sources.file_name().unwrap_or(OsStr::new("node")));
        fs::create_dir_all(&place)?;
        copy_files(sources, &place)?;
        self.once_for(&place.join("package-lock.json"), "node", || {
            let mut npm = self.program("npm");
            run(npm.args(["ci", "--loglevel=error", "--no-audit", "--no-fund"]).current_dir(&place))
                .context("access to the npm registry is needed")
        })?;
        Ok(place)
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

    /// A program of the virtual environment, which finds the others.
    pub(crate) fn program(&self, name: &str) -> Command {
        let programs = self.folder.join("venv").join("bin");
        let mut path = programs.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").as_deref().unwrap_or(OsStr::new("/usr/bin:/bin")));
        let mut command = Command::new(programs.join(name));
        command.env("PATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }
}

/// Copies the files of a folder.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}
