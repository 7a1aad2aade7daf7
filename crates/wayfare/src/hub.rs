//! Models from the Hugging Face hub, through its cache (`HF_HOME`).

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use hf_hub::{Cache, Repo};
use tracing::warn;

/// How often a download that broke off is taken up again.
const RETRIES: usize = 3;
/// The variable with the user's token, before the one that lies in the cache.
const TOKEN: &str = "HF_TOKEN";
/// The file that makes a directory a model's.
const CONFIG: &str = "config.json";

/// Whether a file of a repository is of a model's text side.
fn is_of_text_side(file: &str) -> bool {
    const NAMED: [&str; 5] =
        [CONFIG, "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let is_template = || file.starts_with("additional_chat_templates/") && file.ends_with(".jinja");
    NAMED.contains(&file) || is_template()
}

/// Whether a file of a repository belongs to a model directory as we read it.
fn is_needed(file: &str) -> bool {
    let is_weights = || {
        !file.contains('/') && (file.ends_with(".safetensors") || file.ends_with(".safetensors.index.json"))
    };
    is_of_text_side(file) || is_weights()
}

/// Downloads a model, or finds it in the cache, and returns the path of its directory or file. Shows progress
/// bars on a terminal.
///
/// # Errors
/// When the hub cannot be reached, does not have the model, or has it in a form that is not supported.
pub(crate) fn fetch(owner: &str, repository: &str, file: Option<&str>) -> Result<PathBuf> {
    fetch_files(owner, repository, file, is_needed)
}

/// Downloads what is needed to speak with a model whose weights others load, or finds it in the cache, and returns the
/// path of its directory.
///
/// # Errors
/// As [`fetch`].
pub(crate) fn fetch_text_side(owner: &str, repository: &str) -> Result<PathBuf> {
    fetch_files(owner, repository, None, is_of_text_side)
}

fn fetch_files(
    owner: &str,
    repository: &str,
    file: Option<&str>,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<PathBuf> {
    let name = format!("{owner}/{repository}");
    let unreachable = || {
        format!(
            "{name} could not be fetched from the Hugging Face hub; without network, give the path of a \
             .gguf file or of a model directory instead"
        )
    };
    let token = env::var(TOKEN).ok().filter(|token| !token.is_empty());
    let mut builder = ApiBuilder::from_env().with_retries(RETRIES);
    if token.is_some() {
        builder = builder.with_token(token);
    }
    let api = builder.build().with_context(unreachable)?;
    let model = api.model(name.clone());
    if let Some(file) = file {
        return model.get(file).with_context(unreachable);
    }
    match fetch_directory(&model, &name, is_wanted) {
        Ok(directory) => Ok(directory),
        Err(error) => {
            let cached = Cache::from_env().repo(Repo::model(name.clone())).get(CONFIG);
            let Some(directory) = cached.and_then(|config| Some(config.parent()?.to_owned())) else {
                return Err(error.context(unreachable()));
            };
            warn!("the Hugging Face hub was not asked ({error:#}); {name} comes from the cache");
            Ok(directory)
        }
    }
}

fn fetch_directory(model: &ApiRepo, name: &str, is_wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let files: Vec<String> = model.info()?.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
    if !files.iter().any(|file| file == CONFIG) {
        let named = files.iter().find(|file| file.ends_with(".gguf")).map_or("FILE.gguf", String::as_str);
        bail!("{name} has no {CONFIG}; of a repository of GGUF files, name one: {name}:{named}");
    }
    for file in files.iter().filter(|file| is_wanted(file)) {
        model.get(file).with_context(|| format!("{file} could not be fetched"))?;
    }
    let config = model.get(CONFIG)?;
    let directory = config.parent().context("the cache has no directory")?;
    Ok(directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_model_needs_is_downloaded() {
        for file in [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "additional_chat_templates/tool.jinja",
        ] {
            assert!(is_needed(file), "{file}");
            assert_eq!(is_of_text_side(file), !file.contains("safetensors"), "{file}");
        }
        for file in ["pytorch_model.bin", "onnx/model.safetensors", "README.md", "model.gguf"] {
            assert!(!is_needed(file), "{file}");
        }
    }
}
