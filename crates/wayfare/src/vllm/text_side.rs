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
}

/// `config.json`, as far as it matters here. Models of several kinds of input keep the sizes of their text in a part of
/// their own.
#[derive(Deserialize)]
struct ModelConfig {
    vocab_size: Option<u32>,
    text_config: Option<TextConfig>,
}

#[derive(Deserialize)]
struct TextConfig {
    vocab_size: Option<u32>,
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
        let in_config = config.vocab_size.or(config.text_config.and_then(|text| text.vocab_size));
        let of_tokenizer =
            u32::try_from(text.tokenizer.vocab_size()).context("the vocabulary is too large")?;
        // The output layer may be padded beyond the tokens that have a text.
        let vocab_size = in_config.unwrap_or(of_tokenizer);
        text.tokenizer = text.tokenizer.with_model_vocab_size(vocab_size as usize);
        Ok(Self { text, vocab_size })
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
        Ok(Self { text, vocab_size: u32::try_from(vocab_size).context("the vocabulary is too large")? })
    }
}
