//! The document as a whole.

use serde_json::{Map, Value, json};

use crate::params::NEUTRAL_FIELDS;

use super::requests::RequestDoc;
use super::schema::{Facts, FieldDoc, neutral, object};
use super::{answers, requests};

/// What can be asked of a path.
struct Operation {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    about: &'static str,
    /// The forms that a request may have; none without a body.
    request: &'static [RequestDoc],
    answer: Answer,
    /// Whether it never needs a key.
    is_open: bool,
}

/// What a success looks like.
enum Answer {
    Empty,
    Json(&'static [FieldDoc]),
    /// The same, or server-sent events.
    JsonOrEvents(&'static [FieldDoc]),
    /// This document.
    Document,
    /// Metrics.
    Metrics,
}

const OPERATIONS: &[Operation] = &[
    Operation {
        method: "post",
        path: "/v1/chat/completions",
        id: "createChatCompletion",
        about: "Answers a conversation.",
        request: &[requests::CHAT],
        answer: Answer::JsonOrEvents(answers::CHAT),
        is_open: false,
    },
    Operation {
        method: "post",
        path: "/v1/completions",
        id: "createCompletion",
        about: "Continues a text.",
        request: &[requests::COMPLETION],
        answer: Answer::JsonOrEvents(answers::COMPLETION),
        is_open: false,
    },
    Operation {
        method: "post",
        path: "/v1/responses",
        id: "createResponse",
        about: "Answers a conversation, in the newer form.",
        request: &[requests::RESPONSES],
        answer: Answer::JsonOrEvents(answers::RESPONSE),
        is_open: false,
    },
    Operation {
        method: "post",
        path: "/tokenize",
        id: "tokenize",
        about: "Says what a prompt is in tokens.",
        request: &[requests::TOKENIZE_TEXT, requests::TOKENIZE_CHAT],
        answer: Answer::Json(answers::TOKENIZED),
        is_open: false,
    },
    Operation {
        method: "post",
        path: "/detokenize",
        id: "detokenize",
        about: "Says what tokens are as a text.",
        request: &[requests::DETOKENIZE],
        answer: Answer::Json(answers::DETOKENIZED),
        is_open: false,
    },
    Operation {
        method: "get",
        path: "/v1/models",
        id: "listModels",
        about: "The served models.",
        request: &[],
        answer: Answer::Json(answers::MODELS),
        is_open: false,
    },
    Operation {
        method: "get",
        path: "/v1/models/{model}",
        id: "retrieveModel",
        about: "One served model. Its name may contain slashes, which need not be encoded.",
        request: &[],
        answer: Answer::Json(answers::MODEL),
        is_open: false,
    },
    Operation {
        method: "get",
        path: "/health",
        id: "health",
        about: "Succeeds when a request would be served now.",
        request: &[],
        answer: Answer::Empty,
        is_open: true,
    },
    Operation {
        method: "get",
        path: "/ping",
        id: "ping",
        about: "The same.",
        request: &[],
        answer: Answer::Empty,
        is_open: true,
    },
    Operation {
        method: "post",
        path: "/ping",
        id: "pingByPost",
        about: "The same.",
        request: &[],
        answer: Answer::Empty,
        is_open: true,
    },
    Operation {
        method: "get",
        path: "/version",
        id: "version",
        about: "The server's version.",
        request: &[],
        answer: Answer::Json(answers::VERSION),
        is_open: true,
    },
    Operation {
        method: "get",
        path: "/metrics",
        id: "metrics",
        about: "Metrics for Prometheus.",
        request: &[],
        answer: Answer::Metrics,
        is_open: true,
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        id: "openapi",
        about: "This document.",
        request: &[],
        answer: Answer::Document,
        is_open: true,
    },
];

/// The document of a server.
pub(crate) fn document(facts: &Facts<'_>) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = operation.describe(facts);
    }
    let mut components = json!({"schemas": {"Error": object(answers::ERROR, facts)}});
    if facts.needs_api_key {
        components["securitySchemes"] = json!({"apiKey": {"type": "http", "scheme": "bearer"}});
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "wayfare",
            "description": "An OpenAI-compatible LLM server.",
            "version": facts.version,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": components,
    })
}

impl Operation {
    fn describe(&self, facts: &Facts<'_>) -> Value {
        let failed = |description: &str| {
            json!({
                "description": description,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
            })
        };
        let mut described = json!({
            "operationId": self.id,
            "summary": self.about,
            "responses": {
                "200": self.answer.describe(facts),
                "4XX": failed("The request is refused."),
                "5XX": failed("The server cannot serve it."),
            },
        });
        if !self.request.is_empty() {
            let mut schemas: Vec<Value> = self.request.iter().map(|request| request.schema(facts)).collect();
            let schema = match schemas.len() {
                1 => schemas.swap_remove(0),
                _ => json!({"anyOf": schemas}),
            };
            described["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": schema}}});
        }
        if self.path.contains("{model}") {
            described["parameters"] =
                json!([{"name": "model", "in": "path", "required": true, "schema": {"type": "string"}}]);
        }
        if facts.needs_api_key && !self.is_open {
            described["security"] = json!([{"apiKey": []}]);
        }
        described
    }
}

impl Answer {
    fn describe(&self, facts: &Facts<'_>) -> Value {
        let json_of = |schema: Value| json!({"application/json": {"schema": schema}});
        let text = || json!({"schema": {"type": "string"}});
        let content = match self {
            Self::Empty => return json!({"description": "Yes."}),
            Self::Json(fields) => json_of(object(fields, facts)),
            Self::JsonOrEvents(fields) => {
                let mut content = json_of(object(fields, facts));
                content["text/event-stream"] = text();
                content
            }
            Self::Document => json_of(json!({"type": "object"})),
            Self::Metrics => json!({"text/plain": text(), "application/openmetrics-text": text()}),
        };
        json!({"description": "The answer.", "content": content})
    }
}

impl RequestDoc {
    fn schema(&self, facts: &Facts<'_>) -> Value {
        let mut schema = object(&[], facts);
        let mut needed = Vec::new();
        let mut properties = Map::new();
        for fields in self.fields {
            needed.extend(fields.iter().filter(|field| field.is_required).map(|field| field.name));
            if let Value::Object(more) = object(fields, facts)["properties"].take() {
                properties.extend(more);
            }
        }
        for (name, values) in NEUTRAL_FIELDS.iter().filter(|(name, _)| self.neutral.has(name)) {
            // Another route may understand it.
            properties.entry(*name).or_insert_with(|| neutral(values));
        }
        schema["properties"] = properties.into();
        schema["required"] = needed.into();
        schema
    }
}
