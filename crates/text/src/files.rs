//! The text side of a model: what its files say about tokens, templates and the end of answers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use wayfare_engine::TokenId;

use crate::gguf::GgufVocabulary;
use crate::template::{ChatTemplate, NamedTemplate, SpecialTokens, TemplateError};
use crate::tokenizer::{Tokenizer, TokenizerError};

/// What is needed to speak with a model.
#[derive(Clone, Debug)]
pub struct TextFiles {
    /// Its tokeniser.
    pub tokenizer: Tokenizer,
    /// Its chat template, if it has one.
    pub chat_template: Option<ChatTemplate>,
    /// The tokens that end an answer, in ascending order.
    pub end_of_text: Vec<TokenId>,
}

/// Why a model's text files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TextFilesError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} is not valid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        #[source]
        source: serde_json::Error,
    },
    /// An end-of-text token is not in the vocabulary.
    #[error("{}: end-of-text token {token:?} is not in the vocabulary", path.display())]
    UnknownEndOfText {
        /// The file that names it.
        path: PathBuf,
        /// The token.
        token: String,
    },
    /// The tokeniser cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template cannot be used.
    #[error(transparent)]
    Template(#[from] TemplateError),
}

impl TextFiles {
    /// Reads a model's directory as Hugging Face lays it out.
    ///
    /// * `tokenizer.json` is needed.
    /// * `chat_template.jinja` and `additional_chat_templates/*.jinja`, or else `chat_template` of
    ///   `tokenizer_config.json`: one template, or a list of named ones.
    /// * `eos_token_id` of `generation_config.json`, or else of `config.json`, and `eos_token` of
    ///   `tokenizer_config.json`: together the end of an answer.
    ///
    /// # Errors
    /// When a file that is needed is missing, or one that is there is malformed.
    pub fn read(directory: &Path) -> Result<Self, TextFilesError> {
        let tokenizer = Tokenizer::from_file(&directory.join("tokenizer.json"))?;
        let config_path = directory.join("tokenizer_config.json");
        let config: TokenizerConfig = read_json(&config_path)?.unwrap_or_default();
        let end_of_text = end_of_text(directory, &config_path, &config, &tokenizer)?;
        let special = config.special_tokens();
        let templates = match read_templates(directory)? {
            templates if templates.is_empty() => config.templates(),
            templates => templates,
        };
        let chat_template =
            if templates.is_empty() { None } else { Some(ChatTemplate::of_several(templates, special)?) };
        Ok(Self { tokenizer, chat_template, end_of_text })
    }

    /// Takes everything from a GGUF file's metadata.
    ///
    /// # Errors
    /// When the vocabulary or the chat template cannot be used.
    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TextFilesError> {
        let tokenizer = Tokenizer::from_gguf(vocabulary)?;
        let template = vocabulary.chat_template.clone();
        let chat_template =
            template.map(|source| ChatTemplate::new(source, vocabulary.special_tokens())).transpose()?;
        Ok(Self { tokenizer, chat_template, end_of_text: vocabulary.end_of_text_ids() })
    }
}

/// `tokenizer_config.json`, as far as it matters here.
#[derive(Default, Deserialize)]
struct TokenizerConfig {
    bos_token: Option<SpecialToken>,
    eos_token: Option<SpecialToken>,
    unk_token: Option<SpecialToken>,
    pad_token: Option<SpecialToken>,
    chat_template: Option<TemplateSetting>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SpecialToken {
    Text(String),
    Object { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TemplateSetting {
    One(String),
    Several(Vec<NamedSetting>),
}

#[derive(Deserialize)]
struct NamedSetting {
    name: String,
    template: String,
}

/// `generation_config.json` or `config.json`, as far as it matters here.
#[derive(Default, Deserialize)]
struct ModelConfig {
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(TokenId),
    Several(Vec<TokenId>),
}

impl SpecialToken {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

impl TokenizerConfig {
    fn special_tokens(&self) -> SpecialTokens {
        let text = |token: &Option<SpecialToken>| token.as_ref().map(|token| token.text().to_owned());
        SpecialTokens {
            bos_token: text(&self.bos_token),
            eos_token: text(&self.eos_token),
            unk_token: text(&self.unk_token),
            pad_token: text(&self.pad_token),
        }
    }

    fn templates(self) -> Vec<NamedTemplate> {
        match self.chat_template {
            None => Vec::new(),
            Some(TemplateSetting::One(source)) => vec![NamedTemplate { name: "default".to_owned(), source }],
            Some(TemplateSetting::Several(templates)) => templates
                .into_iter()
                .map(|NamedSetting { name, template }| NamedTemplate { name, source: template })
                .collect(),
        }
    }
}

impl TokenIds {
    fn into_vec(self) -> Vec<TokenId> {
        match self {
            Self::One(id) => vec![id],
            Self::Several(ids) => ids,
        }
    }
}

fn end_of_text(
    directory: &Path,
    config_path: &Path,
    config: &TokenizerConfig,
    tokenizer: &Tokenizer,
) -> Result<Vec<TokenId>, TextFilesError> {
    let mut ids = Vec::new();
    for file in ["generation_config.json", "config.json"] {
        let config: ModelConfig = read_json(&directory.join(file))?.unwrap_or_default();
        if let Some(found) = config.eos_token_id {
            ids = found.into_vec();
            break;
        }
    }
    if let Some(token) = &config.eos_token {
        ids.push(tokenizer.token_to_id(token.text()).ok_or_else(|| TextFilesError::UnknownEndOfText {
            path: config_path.to_path_buf(),
            token: token.text().to_owned(),
        })?);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// The templates that are files of their own.
fn read_templates(directory: &Path) -> Result<Vec<NamedTemplate>, TextFilesError> {
    let Some(source) = read_optional(&directory.join("chat_template.jinja"))? else { return Ok(Vec::new()) };
    let mut templates = vec![NamedTemplate { name: "default".to_owned(), source }];
    let more = directory.join("additional_chat_templates");
    let entries = match fs::read_dir(&more) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(templates),
        Err(source) => return Err(TextFilesError::Read { path: more, source }),
    };
    for entry in entries {
        let path = entry.map_err(|source| TextFilesError::Read { path: more.clone(), source })?.path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned);
        if path.extension().is_some_and(|extension| extension == "jinja")
            && let Some(name) = name
            && let Some(source) = read_optional(&path)?
        {
            templates.push(NamedTemplate { name, source });
        }
    }
    Ok(templates)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, TextFilesError> {
    let parse = |content: String| serde_json::from_str(&content);
    let parsed = read_optional(path)?.map(parse).transpose();
    parsed.map_err(|source| TextFilesError::Invalid { path: path.to_path_buf(), source })
}

/// The content of a file, or `None` if there is no such file.
fn read_optional(path: &Path) -> Result<Option<String>, TextFilesError> {
    match fs::read_to_string(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextFilesError::Read { path: path.to_path_buf(), source }),
    }
}
