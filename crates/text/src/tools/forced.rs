//! Tool calls that have to come: the grammar of `tool_choice` `required` or of a named tool.
//!
//! The grammar is the model's own form, spelled as its template does, rather than a form that is the same for all
//! models: the model was trained on it, and the parser that reads calls anyway reads these. Marks that are special
//! tokens are left out.

use std::sync::Arc;

use serde_json::{Map, Value as Json};
use wayfare_engine::OutputGrammar;

use super::ToolFormat;
use crate::grammar::source::{literal, set_options};

/// Most calls of an answer that has to call: a small model would not stop by itself.
const MAX_CALLS: usize = 32;

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// The JSON schema of its arguments; without one it takes none.
    pub parameters: Option<Json>,
}

/// Which call has to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForcedChoice<'a> {
    /// Any, at least one; several if that is allowed.
    Required {
        /// Whether there may be several.
        parallel: bool,
    },
    /// One, of the tool of this name.
    Named(&'a str),
}

/// Why a call cannot be forced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ForcedCallError {
    /// There is nothing to call.
    #[error("a tool call is required, but there are no tools")]
    NoTools,
    /// There is no such tool.
    #[error("tool {name:?} is to be called, but is not among the tools")]
    UnknownTool {
        /// The name.
        name: String,
    },
    /// The schema of its arguments is of a kind that cannot be.
    #[error("the parameters of tool {name:?} are not a JSON object")]
    Parameters {
        /// The tool.
        name: String,
    },
}

/// The grammar of answers that call a tool. They are read by [`ToolParser::forced`](super::ToolParser::forced).
///
/// # Errors
/// When there is no tool to call, or its parameters are no schema. Whether the schema itself can be used, compiling
/// the grammar says.
pub fn forced_grammar(
    format: ToolFormat,
    tools: &[Tool],
    choice: ForcedChoice<'_>,
) -> Result<OutputGrammar, ForcedCallError> {
    let named = |tool: &&Tool| match choice {
        ForcedChoice::Required { .. } => true,
        ForcedChoice::Named(name) => tool.name == name,
    };
    let tools: Vec<&Tool> = tools.iter().filter(named).collect();
    if tools.is_empty() {
        return Err(match choice {
            ForcedChoice::Required { .. } => ForcedCallError::NoTools,
            ForcedChoice::Named(name) => ForcedCallError::UnknownTool { name: name.to_owned() },
        });
    }
    let several = matches!(choice, ForcedChoice::Required { parallel: true });
    let more = |separator: &str| match several {
        true => format!(" ({} call){{0,{}}}", literal(separator), MAX_CALLS - 1),
        false => String::new(),
    };
    let (before, after, key) = match format {
        ToolFormat::Hermes => ("<tool_call>\n", "\n</tool_call>", "arguments"),
        ToolFormat::Llama3Json => ("", "", "parameters"),
        ToolFormat::Mistral => ("", "", "arguments"),
    };
    let start = match format {
        ToolFormat::Hermes => format!("call{}", more("\n")),
        ToolFormat::Llama3Json => format!("call{}", more("; ")),
        ToolFormat::Mistral => format!("\"[\" call{} \"]\"", more(", ")),
    };
    let mut grammar = format!("start: {start}\ncall: ");
    let alternatives: Vec<String> = (0..tools.len()).map(|place| format!("call_{place}")).collect();
    grammar.push_str(&alternatives.join(" | "));
    for (place, tool) in tools.iter().enumerate() {
        let head = format!("{before}{{\"name\": {}, \"{key}\": ", Json::from(tool.name.as_str()));
        let tail = format!("}}{after}");
        let schema = arguments_schema(tool)?;
        grammar.push_str(&format!(
            "\ncall_{place}: {} arguments_{place} {}\narguments_{place}: %json {schema}\n",
            literal(&head),
            literal(&tail)
        ));
    }
    Ok(OutputGrammar::Grammar(Arc::from(grammar)))
}

/// The schema of a tool's arguments, which are an object. Each is a document of its own, so that references in it
/// mean what they say.
fn arguments_schema(tool: &Tool) -> Result<Json, ForcedCallError> {
    let mut schema = match &tool.parameters {
        Some(Json::Object(schema)) => schema.clone(),
        None | Some(Json::Null) => Map::from_iter([("additionalProperties".to_owned(), Json::Bool(false))]),
        Some(_) => return Err(ForcedCallError::Parameters { name: tool.name.clone() }),
    };
    if !schema.contains_key("$ref") {
        schema.entry("type").or_insert_with(|| Json::from("object"));
    }
    set_options(&mut schema);
    Ok(Json::Object(schema))
}
