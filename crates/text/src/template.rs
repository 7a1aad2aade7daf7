//! Chat templates: Jinja, as the `transformers` library renders them.
//!
//! What `transformers` adds to Jinja (`utils/chat_template_utils.py`) is here too: `trim_blocks` and
//! `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, its own `tojson`, and the `generation`
//! block, whose content is rendered as if the tags were not there.

use std::fmt;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::tools::ToolFormat;

mod clock;
mod generation;
mod json;
mod messages;
#[cfg(test)]
mod tests;

/// Bounds the time and memory of one rendering: about so many instructions, or 64 times as many bytes.
const FUEL: u64 = 4_000_000;

/// Enough to free the deepest value that a template can build with its fuel. Freeing recurses, and nothing else
/// bounds the depth of a value that a loop wraps up over and over. The pages are only used if that happens.
const DEEP_STACK_BYTES: usize = 512 << 20;

/// Longest template that a request may bring.
const MAX_REQUEST_TEMPLATE_BYTES: usize = 128 << 10;

/// The name of the template that is used unless there is a reason for another.
const DEFAULT_NAME: &str = "default";
/// The name of the template that is used when there are tools.
const TOOL_USE_NAME: &str = "tool_use";

/// The variables that [`ChatTemplate::render`] sets itself.
const RESERVED: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];

/// Special tokens as text, for templates to print. Those that are `None` are undefined in the template.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Begins every text.
    pub bos_token: Option<String>,
    /// Ends every text.
    pub eos_token: Option<String>,
    /// Stands for what the vocabulary lacks.
    pub unk_token: Option<String>,
    /// Fills up.
    pub pad_token: Option<String>,
}

/// One of the templates of a model that has several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTemplate {
    /// `default` and `tool_use` have a meaning; others are kept but not used.
    pub name: String,
    /// The template.
    pub source: String,
}

/// What one rendering is given besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// Whether the prompt ends with the beginning of the assistant's next message.
    pub add_generation_prompt: bool,
    /// The tools of the request, an array as the client sent it.
    pub tools: Option<Json>,
    /// Documents for the model to answer from, an array as the client sent it.
    pub documents: Option<Json>,
    /// Whether the prompt ends with the text of the last message, for the model to go on with it. Not together with
    /// `add_generation_prompt`.
    pub continue_final_message: bool,
    /// More variables for the template.
    pub kwargs: Map<String, Json>,
}

/// Why a chat template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is not valid Jinja.
    #[error("chat template {name:?} is not valid")]
    Syntax {
        /// Its name.
        name: String,
        /// What is wrong, and in which line.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A request's template is too long.
    #[error(
        "the chat template has {bytes} bytes, more than the {MAX_REQUEST_TEMPLATE_BYTES} that are allowed"
    )]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A list of templates without one to use.
    #[error("no chat template is named \"default\"")]
    NoDefault,
}

/// Why messages could not be rendered.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The template itself refuses these messages (`raise_exception`): the client's to mend.
    #[error("{message}")]
    Rejected {
        /// What the template says.
        message: String,
    },
    /// A message, or an option, is not what it should be.
    #[error("{field}: {problem}")]
    Message {
        /// Where.
        field: String,
        /// What is wrong.
        problem: String,
    },
    /// The client set a variable that is not its to set.
    #[error("chat template variable {name:?} is set by the server and cannot be given")]
    ReservedVariable {
        /// Its name.
        name: String,
    },
    /// The template cannot handle what it was given, most often messages of a shape it does not expect.
    #[error("the chat template failed: {message}")]
    Failed {
        /// What went wrong, and in which line of the template.
        message: String,
    },
    /// The rendering used up its budget.
    #[error("the chat template takes too much time or memory with these messages")]
    TooExpensive,
    /// The system has no thread to render in: the server's fault, not the client's.
    #[error("cannot start a thread for the chat template")]
    NoThread(#[source] io::Error),
}

/// Renders chat messages into a prompt. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special: Arc<SpecialTokens>,
    /// What the default template is like.
    default: Traits,
    /// What the template is like that is used when there are tools, if that is another.
    tool_use: Option<Traits>,
    /// Whether a template has what it takes to build values of any depth: state that a loop carries on.
    may_build_deep_values: bool,
}

/// What a template's text says about it.
#[derive(Clone, Copy, Debug)]
struct Traits {
    loops_over_content: bool,
    tool_format: Option<ToolFormat>,
}

impl Traits {
    fn of(source: &str) -> Self {
        Self {
            loops_over_content: messages::loops_over_content(source),
            tool_format: ToolFormat::guess(source),
        }
    }
}

impl ChatTemplate {
    /// The one template of a model.
    ///
    /// # Errors
    /// When it is not valid Jinja.
    pub fn new(source: String, special: SpecialTokens) -> Result<Self, TemplateError> {
        Self::of_several(vec![NamedTemplate { name: DEFAULT_NAME.to_owned(), source }], special)
    }

    /// The templates of a model that has several: the one named `tool_use` is used when there are tools, the one
    /// named `default` otherwise.
    ///
    /// # Errors
    /// When one of them is not valid Jinja, or none is the default.
    pub fn of_several(templates: Vec<NamedTemplate>, special: SpecialTokens) -> Result<Self, TemplateError> {
        let mut environment = environment();
        let (mut default, mut tool_use) = (None, None);
        let may_build_deep_values = templates.iter().any(|template| template.source.contains("namespace"));
        for NamedTemplate { name, source } in templates {
            match name.as_str() {
                DEFAULT_NAME => default = Some(Traits::of(&source)),
                TOOL_USE_NAME => tool_use = Some(Traits::of(&source)),
                _ => {}
            }
            environment
                .add_template_owned(name.clone(), generation::without_tags(source))
                .map_err(|source| TemplateError::Syntax { name, source: Box::new(source) })?;
        }
        let default = default.ok_or(TemplateError::NoDefault)?;
        add_clock(&mut environment, system_time);
        let (environment, special) = (Arc::new(environment), Arc::new(special));
        Ok(Self { environment, special, default, tool_use, may_build_deep_values })
    }

    /// A template that a request brings itself, with the special tokens and the clock of this one. Whoever writes a
    /// template decides what the model is told and how much work the rendering is, within its budget: to be used only
    /// where the operator allows it.
    ///
    /// # Errors
    /// When it is too long, or not valid Jinja.
    pub fn replaced_by(&self, source: String) -> Result<Self, TemplateError> {
        if source.len() > MAX_REQUEST_TEMPLATE_BYTES {
            return Err(TemplateError::TooLong { bytes: source.len() });
        }
        let mut environment = Environment::clone(&self.environment);
        environment.clear_templates();
        let default = Traits::of(&source);
        let name = DEFAULT_NAME;
        environment
            .add_template_owned(name, generation::without_tags(source))
            .map_err(|source| TemplateError::Syntax { name: name.to_owned(), source: Box::new(source) })?;
        let (environment, special) = (Arc::new(environment), self.special.clone());
        Ok(Self { environment, special, default, tool_use: None, may_build_deep_values: true })
    }

    /// The form of tool calls that the template teaches, if it is one that is known.
    #[must_use]
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.tool_use.unwrap_or(self.default).tool_format
    }

    /// The same template with another clock behind `strftime_now`, for renderings that can be repeated.
    #[must_use]
    pub fn with_clock(mut self, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        add_clock(Arc::make_mut(&mut self.environment), now);
        self
    }

    /// The prompt that stands for `messages`, a JSON array of chat messages as OpenAI's API has them. Content may be
    /// a string or a list of parts that are text; the template gets what it expects. The arguments of tool calls are
    /// parsed.
    ///
    /// # Errors
    /// [`RenderError`] says who is at fault.
    pub fn render(&self, messages: &Json, options: &RenderOptions) -> Result<String, RenderError> {
        if let Some(name) = RESERVED.into_iter().find(|name| options.kwargs.contains_key(*name)) {
            return Err(RenderError::ReservedVariable { name: name.to_owned() });
        }
        if options.continue_final_message && options.add_generation_prompt {
            let problem =
                "cannot be together with add_generation_prompt: the prompt ends either way".to_owned();
            return Err(RenderError::Message { field: "continue_final_message".to_owned(), problem });
        }
        let with_tools = self.tool_use.filter(|_| options.tools.is_some());
        let loops_over_content = with_tools.unwrap_or(self.default).loops_over_content;
        let messages = messages::prepared(messages, loops_over_content)?;
        if !options.continue_final_message {
            return self.render_safely(&messages, options);
        }
        let (messages, last) = messages::marked(messages)?;
        messages::cut_at_mark(self.render_safely(&messages, options)?, &last)
    }

    /// Renders on a stack that is large enough.
    fn render_safely(&self, messages: &Json, options: &RenderOptions) -> Result<String, RenderError> {
        if !self.may_build_deep_values {
            return self.render_here(messages, options);
        }
        let thread = thread::Builder::new().name("chat-template".to_owned()).stack_size(DEEP_STACK_BYTES);
        thread::scope(|scope| {
            let rendering = thread
                .spawn_scoped(scope, || self.render_here(messages, options))
                .map_err(RenderError::NoThread)?;
            rendering.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn render_here(&self, messages: &Json, options: &RenderOptions) -> Result<String, RenderError> {
        let name =
            if options.tools.is_some() && self.tool_use.is_some() { TOOL_USE_NAME } else { DEFAULT_NAME };
        let context = self.context(messages, options);
        let template = self.environment.get_template(name).map_err(|error| render_error(&error))?;
        template.render(context).map_err(|error| render_error(&error))
    }

    fn context(&self, messages: &Json, options: &RenderOptions) -> Value {
        let special = [
            ("bos_token", &self.special.bos_token),
            ("eos_token", &self.special.eos_token),
            ("unk_token", &self.special.unk_token),
            ("pad_token", &self.special.pad_token),
        ];
        let special =
            special.into_iter().filter_map(|(name, text)| Some((name, Value::from(text.as_deref()?))));
        let given = options.kwargs.iter().map(|(name, value)| (name.as_str(), Value::from(Serde(value))));
        let fixed = [
            ("messages", Value::from(Serde(messages))),
            ("tools", Value::from(Serde(&options.tools))),
            // `transformers` defines it even when there are none.
            ("documents", Value::from(Serde(&options.documents))),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
        ];
        Value::from_pairs(special.chain(given).chain(fixed))
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("special", &self.special)
            .field("default", &self.default)
            .field("tool_use", &self.tool_use)
            .finish_non_exhaustive()
    }
}

/// What a template's `raise_exception` says, as the source of the error that unwinds the rendering.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL));
    environment.add_filter("tojson", json::tojson);
    // Their time grows with the square of a value's depth, which no budget covers; templates do not use them.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
    environment.add_function("raise_exception", raise_exception);
    environment
}

#[expect(clippy::needless_pass_by_value, reason = "the signature of template functions")]
fn raise_exception(message: Value) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_string())))
}

fn add_clock(environment: &mut Environment<'static>, now: impl Fn() -> SystemTime + Send + Sync + 'static) {
    environment.add_function("strftime_now", move |format: &str| clock::strftime(now(), format));
}

#[expect(
    clippy::disallowed_methods,
    reason = "the date in a prompt has nothing to do with the time of events"
)]
fn system_time() -> SystemTime {
    SystemTime::now()
}

fn render_error(error: &Error) -> RenderError {
    if error.kind() == ErrorKind::OutOfFuel {
        return RenderError::TooExpensive;
    }
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return RenderError::Rejected { message: message.clone() };
        }
        if cause.downcast_ref::<Error>().is_some_and(|cause| cause.kind() == ErrorKind::OutOfFuel) {
            return RenderError::TooExpensive;
        }
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    RenderError::Failed { message }
}
