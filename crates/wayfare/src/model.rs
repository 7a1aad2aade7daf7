//! From the MODEL argument to something that can be loaded.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The file of the default model in the cache, as `cargo xtask model` stores it.
const DEFAULT_MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// The name under which clients ask for the default model.
const DEFAULT_MODEL_NAME: &str = "SmolLM2-135M-Instruct";
/// The argument that asks for the simulated engine.
const SIMULATED: &str = "sim";

/// What MODEL stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelArgument {
    /// The simulated engine.
    Simulated,
    /// A file or directory.
    Local(PathBuf),
    /// A repository of the Hugging Face hub, and one file of it if that is named.
    Hub { owner: String, repository: String, file: Option<String> },
}

/// Reads the MODEL argument.
///
/// # Errors
/// When it names nothing that exists and cannot be a name on the hub.
pub(crate) fn parse(argument: Option<&str>) -> Result<ModelArgument> {
    let Some(argument) = argument else { return default_model().map(ModelArgument::Local) };
    if argument == SIMULATED {
        return Ok(ModelArgument::Simulated);
    }
    let path = Path::new(argument);
    if path.exists() {
        return Ok(ModelArgument::Local(path.to_owned()));
    }
    match hub_name(argument) {
        Some(hub) => Ok(hub),
        None => bail!(
            "MODEL {argument:?} is neither a file nor a directory, nor a Hugging Face name (org/repo or \
             org/repo:file.gguf), nor `{SIMULATED}`"
        ),
    }
}

/// The name under which the model is served when no other is given.
pub(crate) fn default_served_name(argument: Option<&str>) -> String {
    argument.unwrap_or(DEFAULT_MODEL_NAME).to_owned()
}

fn default_model() -> Result<PathBuf> {
    let Some(home) = wayfare_home() else {
        bail!(
            "neither WAYFARE_HOME nor HOME is set, so the default model cannot be found; set one or name a MODEL"
        );
    };
    let path = home.join("models").join(DEFAULT_MODEL_FILE);
    if !path.exists() {
        bail!(
            "the default model is not at {}; fetch it with `cargo xtask model`, or name a MODEL",
            path.display()
        );
    }
    Ok(path)
}

fn wayfare_home() -> Option<PathBuf> {
    let own = env::var_os("WAYFARE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    own.or_else(|| env::home_dir().map(|home| home.join(".cache").join("wayfare")))
}

/// `org/repo` or `org/repo:file.gguf`.
fn hub_name(argument: &str) -> Option<ModelArgument> {
    let (name, file) = match argument.split_once(':') {
        Some((name, file)) => (name, Some(file)),
        None => (argument, None),
    };
    let (owner, repository) = name.split_once('/')?;
    let is_word = |word: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word.chars().all(allowed)
    };
    let is_file = |file: &str| !file.is_empty() && file.split('/').all(is_word) && file.ends_with(".gguf");
    let is_name = is_word(owner) && is_word(repository) && !name.ends_with(".gguf");
    (is_name && file.is_none_or(is_file)).then(|| ModelArgument::Hub {
        owner: owner.to_owned(),
        repository: repository.to_owned(),
        file: file.map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(owner: &str, repository: &str, file: Option<&str>) -> Option<ModelArgument> {
        let file = file.map(str::to_owned);
        Some(ModelArgument::Hub { owner: owner.into(), repository: repository.into(), file })
    }

    #[test]
    fn hub_names_are_told_from_paths() {
        assert_eq!(hub_name("Qwen/Qwen3-0.6B"), hub("Qwen", "Qwen3-0.6B", None));
        assert_eq!(hub_name("a/b:q/c.gguf"), hub("a", "b", Some("q/c.gguf")));
        for path in [
            "model.gguf",
            "models/x.gguf",
            "./a/b",
            "/a/b",
            "a/b/c",
            "a/b:",
            "a/b:x.bin",
            "../a",
            "a/b:../c.gguf",
        ] {
            assert_eq!(hub_name(path), None, "{path}");
        }
    }

    #[test]
    fn what_is_nothing_is_refused_by_name() {
        let refusal = parse(Some("no-such-file.gguf")).unwrap_err().to_string();
        assert!(refusal.contains("no-such-file.gguf"), "{refusal}");
        assert_eq!(parse(Some("sim")).unwrap(), ModelArgument::Simulated);
        assert_eq!(parse(Some(".")).unwrap(), ModelArgument::Local(".".into()));
    }
}
