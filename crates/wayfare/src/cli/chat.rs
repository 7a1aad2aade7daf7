//! Options about messages: templates, tool calls, reasoning.

use clap::Args;
use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser as _;
use wayfare_openai::ChatConfig;
use wayfare_text::{ChatTemplate, ReasoningFormat, ToolFormat};

/// How messages become prompts, and answers messages.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Chat")]
pub(crate) struct ChatOptions {
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
    /// What the server is told, with the model's own template.
    pub(crate) fn config(&self, template: Option<ChatTemplate>) -> ChatConfig {
        ChatConfig {
            template,
            tool_format: self.tool_call_parser,
            reasoning_format: self.reasoning_parser,
            trusts_request_templates: self.trust_request_chat_template,
        }
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
