//! The text side of a model whose weights others load.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use wayfare_model_cpu::ModelSource;
use wayfare_text::TextFiles;

use crate::backend::text_vocabulary;
use crate::model::ModelArgument;

/// Tokeniser, template, and how many tokens there are.
pub(crate) struct TextSide {
    pub(crate) text: TextFiles,
    pub(crate) vocab_size: u32,
    /// Whether it is a mixture of experts, as far as that is known.
    pub(crate) has_experts: bool,
}

/// `config.json`, as far as it matters here. Models of several kinds of input keep what is about text in a part of their
/// own.
#[derive(Deserialize)]
struct ModelConfig {
    #[serde(flatten)]
    own: TextConfig,
    text_config: Option<TextConfig>,
}

#[derive(Deserialize)]
struct TextConfig {
    vocab_size: Option<u32>,
    // The names that are in use for the number of experts.
    num_experts: Option<u32>,
    num_local_experts: Option<u32>,
    n_routed_experts: Option<u32>,
    moe_num_experts: Option<u32>,
}

impl TextConfig {
    fn has_experts(&self) -> bool {
        let names = [self.num_experts, self.num_local_experts, self.n_routed_experts, self.moe_num_experts];
        names.into_iter().flatten().any(|count| count > 1)
    }
}

impl TextSide {
    /// Reads what is needed to speak with the model, and none of its weights.
    ///
    /// # Errors
    /// When the files are not there or not what they should be.
    pub(crate) fn read(model: &ModelArgument) -> Result<Self> {
        match model {
            ModelArgument::Simulated => {
                bail!("--engine vllm needs a real model; `sim` is served by the local engine")
            }
            ModelArgument::Local(path) if path.is_dir() => Self::of_directory(path),
            ModelArgument::Local(path) => Self::of_file(path),
            #[cfg(feature = "hub")]
            ModelArgument::Hub { owner, repository, file: None } => {
                Self::of_directory(&crate::hub::fetch_text_side(owner, repository)?)
            }
            #[cfg(feature = "hub")]
            ModelArgument::Hub { owner, repository, file } => {
                Self::of_file(&crate::hub::fetch(owner, repository, file.as_deref())?)
            }
            #[cfg(not(feature = "hub"))]
            ModelArgument::Hub { owner, repository, .. } => {
                bail!(
                    "{owner}/{repository} cannot be fetched: this wayfare was built without the feature `hub`"
                )
            }
        }
    }

    fn of_directory(path: &Path) -> Result<Self> {
        let mut text =
            TextFiles::read(path).with_context(|| format!("the text side of {}", path.display()))?;
        let config_path = path.join("config.json");
        let config =
            std::fs::read(&config_path).with_context(|| format!("cannot read {}", config_path.display()))?;
        let config: ModelConfig = serde_json::from_slice(&config)
            .with_context(|| format!("{} is not valid", config_path.display()))?;
        let ModelConfig { own, text_config } = config;
        let has_experts = own.has_experts() || text_config.as_ref().is_some_and(TextConfig::has_experts);
        let in_config = own.vocab_size.or(text_config.and_then(|text| text.vocab_size));
        let of_tokenizer =
            u32::try_from(text.tokenizer.vocab_size()).context("the vocabulary is too large")?;
        // The output layer may be padded beyond the tokens that have a text.
        let vocab_size = in_config.unwrap_or(of_tokenizer);
        text.tokenizer = text.tokenizer.with_model_vocab_size(vocab_size as usize);
        Ok(Self { text, vocab_size, has_experts })
    }

    /// A GGUF file, whose metadata has everything.
    fn of_file(path: &Path) -> Result<Self> {
        let source = ModelSource::open(path)?;
        let Some(vocabulary) = source.vocabulary() else {
            bail!("{} holds no tokeniser", path.display());
        };
        let mut text = TextFiles::from_gguf(&text_vocabulary(vocabulary))
            .with_context(|| format!("the text side of {}", path.display()))?;
        let vocab_size = source.info().vocab_size;
        text.tokenizer = text.tokenizer.with_model_vocab_size(vocab_size);
        let vocab_size = u32::try_from(vocab_size).context("the vocabulary is too large")?;
        // The kinds of model that are read from such files are dense.
        Ok(Self { text, vocab_size, has_experts: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_of_experts_are_known_by_their_numbers() {
        let has_experts = |config: &str| {
            let config: ModelConfig = serde_json::from_str(config).unwrap();
            config.own.has_experts() || config.text_config.is_some_and(|text| text.has_experts())
        };
        assert!(has_experts(r#"{"vocab_size": 5, "num_local_experts": 8}"#));
        assert!(has_experts(r#"{"text_config": {"n_routed_experts": 256, "vocab_size": 5}}"#));
        assert!(!has_experts(r#"{"vocab_size": 5, "num_experts": null, "num_local_experts": 1}"#));
    }
}
