//! llama.cpp's own server, compiled for this processor and kept in the cache: for benches against it.
//!
//! Its sources are those in the source package of its Python binding on PyPI. The binding's own server is no peer: it
//! computes one request at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context as _, Result};

use crate::model;
use crate::process::run;
use crate::vllm_real::once;

const PACKAGE: &str = "llama-cpp-python";
const VERSION: &str = "0.3.36";
/// CMake and what it drives; few machines have both new enough.
const BUILD_TOOLS: [&str; 2] = ["cmake==4.4.5", "ninja==1.13.2"];
/// One program without libraries of its own, for this processor, without web page and TLS.
const BUILD_OPTIONS: [&str; 11] = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    // Otherwise it asks git, which answers for whatever repository the cache may lie in.
    "-DLLAMA_BUILD_NUMBER=0",
    "-DLLAMA_BUILD_COMMIT=unknown",
];
const PROGRAM: &str = "llama-server";

/// The program, if it is in the cache.
///
/// # Errors
/// When the user has no home.
pub(crate) fn installed() -> Result<Option<PathBuf>> {
    let folder = folder()?;
    let is_there = fs::read_to_string(stamp(&folder)).is_ok_and(|made| made == wanted());
    Ok(is_there.then(|| folder.join(PROGRAM)))
}

/// Makes sure that it is in the cache.
///
/// # Errors
/// When it is not there and cannot be compiled.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = folder()?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    once(&stamp(&folder), &wanted(), || build(&folder))?;
    Ok(folder.join(PROGRAM))
}

/// Where its sources come from.
pub(crate) fn source() -> String {
    format!("sources of {PACKAGE} {VERSION}, compiled for this processor")
}

fn folder() -> Result<PathBuf> {
    Ok(model::home()?.join(format!("llama.cpp-of-{PACKAGE}-{VERSION}")))
}

fn stamp(folder: &Path) -> PathBuf {
    folder.join("compiled")
}

fn wanted() -> String {
    format!("{VERSION} {}", BUILD_OPTIONS.join(" "))
}

fn build(folder: &Path) -> Result<()> {
    eprintln!("Compiling llama.cpp's server (several minutes) under {} …", folder.display());
    // On the same file system as the cache, so that the program arrives there whole or not at all.
    let scratch = tempfile::tempdir_in(folder)?;
    let tools = scratch.path().join("tools");
    run(Command::new("python3").args(["-m", "venv"]).arg(&tools))
        .context("python3 with its module venv is needed")?;
    let in_tools = |program: &str| {
        let mut command = Command::new(tools.join("bin").join(program));
        command.current_dir(scratch.path());
        command
    };
    let pip = |arguments: &[&str]| {
        let mut command = in_tools("python");
        command.args(["-m", "pip"]).args(arguments).args(["--quiet", "--disable-pip-version-check"]);
        run(&mut command).context("access to PyPI is needed")
    };
    pip(&[&["install"], &BUILD_TOOLS[..]].concat())?;
    let package = format!("{PACKAGE}=={VERSION}");
    pip(&["download", "--no-deps", "--no-binary", PACKAGE, &package])?;
    let archive = format!("{}-{VERSION}", PACKAGE.replace('-', "_"));
    run(in_tools("python").args(["-m", "tarfile", "--extract", &format!("{archive}.tar.gz")]))?;
    let sources = scratch.path().join(archive).join("vendor").join("llama.cpp");
    let (objects, ninja) = (scratch.path().join("objects"), tools.join("bin").join("ninja"));
    let mut configure = in_tools("cmake");
    configure.arg("-S").arg(&sources).arg("-B").arg(&objects).args(["-G", "Ninja"]).args(BUILD_OPTIONS);
    configure.arg(format!("-DCMAKE_MAKE_PROGRAM={}", ninja.display()));
    run(&mut configure).context("a C++ compiler is needed")?;
    let threads = available_parallelism().map_or(1, std::num::NonZero::get).to_string();
    run(in_tools("cmake").arg("--build").arg(&objects).args(["--target", PROGRAM, "--parallel", &threads]))
        .context("llama.cpp could not be compiled")?;
    Ok(fs::rename(objects.join("bin").join(PROGRAM), folder.join(PROGRAM))?)
}
