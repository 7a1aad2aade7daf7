//! Options about messages: templates, tool calls, reasoning.

use std::fs;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use wayfare_openai::ChatConfig;
use wayfare_text::{ChatTemplate, ReasoningFormat, SpecialTokens, ToolFormat};

/// How messages become prompts, and answers messages.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct ChatOptions {
    /// A file with a chat template, or the template itself. Otherwise the model's own.
    #[arg(long, value_name = "FILE OR TEMPLATE")]
    pub(crate) chat_template: Option<String>,

    /// How the model writes tool calls, by the name of vLLM's parser. Otherwise what its chat template teaches.
    #[arg(long, value_name = "NAME", value_parser = tool_format())]
    pub(crate) tool_call_parser: Option<ToolFormat>,

    /// For scripts made for vLLM: calls that the model makes of its own accord are always read where their form is
    /// known.
    #[arg(long, hide = true)]
    pub(crate) enable_auto_tool_choice: bool,

    /// How the model marks its reasoning, by the name of vLLM's parser. Otherwise reasoning is part of the answer.
    #[arg(long, value_name = "NAME", value_parser = reasoning_format())]
    pub(crate) reasoning_parser: Option<ReasoningFormat>,

    /// Lets requests bring a chat template of their own, in the field `chat_template`.
    #[arg(long)]
    pub(crate) trust_request_chat_template: bool,
}

impl ChatOptions {
    /// What the server is told, with the model's own template where there is no other.
    ///
    /// # Errors
    /// When a template was given that cannot be used.
    pub(crate) fn config(&self, own: Option<ChatTemplate>) -> Result<ChatConfig> {
        Ok(ChatConfig {
            template: self.template(own)?,
            tool_format: self.tool_call_parser,
            reasoning_format: self.reasoning_parser,
            trusts_request_templates: self.trust_request_chat_template,
        })
    }

    fn template(&self, own: Option<ChatTemplate>) -> Result<Option<ChatTemplate>> {
        let Some(given) = &self.chat_template else { return Ok(own) };
        let source = match fs::read_to_string(given) {
            Ok(source) => source,
            // What has these is no name of a file.
            Err(_) if given.contains(['{', '}', '\n']) => given.clone(),
            Err(error) => bail!("--chat-template: {given} cannot be read ({error})"),
        };
        let template = match own {
            Some(own) => own.replaced_by(source),
            None => ChatTemplate::new(source, SpecialTokens::default()),
        };
        template.map(Some).context("--chat-template cannot be used")
    }
}

fn tool_format() -> impl clap::builder::TypedValueParser<Value = ToolFormat> {
    PossibleValuesParser::new(ToolFormat::NAMES)
        .try_map(|name| ToolFormat::by_name(&name).ok_or("not a tool call parser"))
}

fn reasoning_format() -> impl clap::builder::TypedValueParser<Value = ReasoningFormat> {
    PossibleValuesParser::new(ReasoningFormat::NAMES)
        .try_map(|name| ReasoningFormat::by_name(&name).ok_or("not a reasoning parser"))
}
