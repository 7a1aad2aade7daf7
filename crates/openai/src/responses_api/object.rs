//! The response object.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::bodies::AnswerShape;
use crate::generation::TokenUsage;
use crate::params::ResponsesEcho;

use super::items::{IN_PROGRESS, ItemView, OutputItems};

/// How far a response is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseStatus {
    InProgress,
    Completed,
    /// Cut at the limit of its tokens.
    Incomplete,
    Failed,
}

impl ResponseStatus {
    /// The status of an answer that ended for this reason.
    pub(crate) fn of(finish_reason: Option<&str>) -> Self {
        if finish_reason == Some("length") { Self::Incomplete } else { Self::Completed }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::InProgress => IN_PROGRESS,
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

/// What a response is before it has any output.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) temperature: f32,
    pub(crate) top_p: f32,
    pub(crate) echo: ResponsesEcho,
}

/// A response at some moment of its life.
pub(crate) struct ResponseView<'a> {
    pub(crate) head: &'a ResponseHead,
    pub(crate) shape: &'a AnswerShape,
    pub(crate) status: ResponseStatus,
    pub(crate) items: &'a OutputItems,
    pub(crate) usage: Option<TokenUsage>,
    pub(crate) error: Option<Value>,
    /// What the request's time went into, when that is shown.
    pub(crate) metrics: Option<&'a crate::request_metrics::RequestMetrics>,
}

impl Serialize for ResponseView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ResponseHead { id, created, model, temperature, top_p, echo } = self.head;
        let reason =
            (self.status == ResponseStatus::Incomplete).then(|| json!({"reason": "max_output_tokens"}));
        let status = self.status.as_str();
        let last = self.items.items.len().saturating_sub(1);
        let items: Vec<ItemView<'_>> = self
            .items
            .items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                // Only the last item can have been cut.
                let status = if index == last { status } else { "completed" };
                ItemView { item, shape: self.shape, status }
            })
            .collect();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", id)?;
        map.serialize_entry("object", "response")?;
        map.serialize_entry("created_at", created)?;
        map.serialize_entry("status", status)?;
        map.serialize_entry("background", &false)?;
        map.serialize_entry("error", &self.error)?;
        map.serialize_entry("incomplete_details", &reason)?;
        map.serialize_entry("instructions", &echo.instructions)?;
        map.serialize_entry("max_output_tokens", &echo.max_output_tokens)?;
        map.serialize_entry("metadata", &echo.metadata)?;
        map.serialize_entry("model", model)?;
        map.serialize_entry("output", &items)?;
        map.serialize_entry("parallel_tool_calls", &echo.parallel_tool_calls)?;
        map.serialize_entry("previous_response_id", &None::<()>)?;
        map.serialize_entry("reasoning", &echo.reasoning)?;
        map.serialize_entry("service_tier", "default")?;
        map.serialize_entry("store", &false)?;
        map.serialize_entry("temperature", temperature)?;
        map.serialize_entry("text", &echo.text)?;
        map.serialize_entry("tool_choice", &echo.tool_choice)?;
        map.serialize_entry("tools", &echo.tools)?;
        map.serialize_entry("top_p", top_p)?;
        map.serialize_entry("truncation", "disabled")?;
        map.serialize_entry("usage", &self.usage.map(ResponseUsage::from))?;
        map.serialize_entry("user", &echo.user)?;
        if let Some(metrics) = self.metrics {
            map.serialize_entry("metrics", metrics)?;
        }
        map.end()
    }
}

/// Token counts under the names of this route.
#[derive(Debug, Serialize)]
struct ResponseUsage {
    input_tokens: u32,
    input_tokens_details: InputDetails,
    output_tokens: u32,
    output_tokens_details: OutputDetails,
    total_tokens: u64,
}

#[derive(Debug, Serialize)]
struct InputDetails {
    cached_tokens: u32,
}

#[derive(Debug, Serialize)]
struct OutputDetails {
    reasoning_tokens: u32,
}

impl From<TokenUsage> for ResponseUsage {
    fn from(usage: TokenUsage) -> Self {
        Self {
            input_tokens: usage.prompt,
            input_tokens_details: InputDetails { cached_tokens: usage.cached },
            output_tokens: usage.completion,
            output_tokens_details: OutputDetails { reasoning_tokens: usage.reasoning },
            total_tokens: u64::from(usage.prompt) + u64::from(usage.completion),
        }
    }
}
