//! The options of `vllm serve` in those of `wayfare serve`.
//!
//! vLLM passes on what differs from its defaults, as an object of JSON whose keys are the options' names with underscores.
//! Source: `jsonify_non_default_args` and `FrontendArgs` of vLLM 0.32.0.

use std::ffi::OsString;

use anyhow::{Result, bail};
use serde_json::{Map, Value};

/// How long vLLM waits for its front to end, in seconds, when requests need not be waited for. Source: 0.32.0,
/// `vllm/v1/utils.py`, `_shutdown_subprocesses`.
const LEAST_END_TIME: f64 = 5.0;
/// What is left of it for the answers and journeys that are on their way.
const TO_FLUSH: f64 = 2.5;

/// What becomes of vLLM's options.
#[derive(Debug, Default)]
pub(super) struct Translation {
    /// For `wayfare serve`.
    pub(super) words: Vec<OsString>,
    /// Options about requests that have no like here, with what there is to say about it.
    pub(super) not_served: Vec<(String, &'static str)>,
    /// Options that concern the engine cores only, which have them from vLLM.
    pub(super) left_to_engines: Vec<String>,
}

/// What is done with an option.
enum Meaning {
    /// The same here: passed on under this name.
    Option(&'static str),
    /// A flag that is the same here.
    Flag(&'static str),
    /// Decided by what was handed over, or so in any case.
    Settled,
    /// Has no effect, and whoever gave it must know.
    NotServed(&'static str),
    /// Must not be without effect.
    Refused(&'static str),
}

const UNSAFE_PLUGIN: &str = "it is Python, which does not run here";

/// Options about requests and clients. Others are the engine cores'.
fn meaning(key: &str) -> Option<Meaning> {
    use Meaning::{Flag, NotServed, Option, Refused, Settled};
    Some(match key {
        "api_key" => Option("--api-key"),
        "served_model_name" => Option("--served-model-name"),
        "scheduling_policy" => Option("--scheduling-policy"),
        "chat_template" => Option("--chat-template"),
        "tool_call_parser" => Option("--tool-call-parser"),
        "reasoning_parser" => Option("--reasoning-parser"),
        "ssl_certfile" => Option("--ssl-certfile"),
        "ssl_keyfile" => Option("--ssl-keyfile"),
        "ssl_ca_certs" => Option("--ssl-ca-certs"),
        "ssl_cert_reqs" => Option("--ssl-cert-reqs"),
        "allowed_origins" => Option("--allowed-origins"),
        "allowed_methods" => Option("--allowed-methods"),
        "allowed_headers" => Option("--allowed-headers"),
        "h11_max_incomplete_event_size" => Option("--max-header-bytes"),
        "h11_max_header_count" => Option("--max-header-count"),
        "engine_ready_timeout_secs" => Option("--engine-ready-timeout"),
        "allow_credentials" => Flag("--allow-credentials"),
        "enable_auto_tool_choice" => Flag("--enable-auto-tool-choice"),
        "trust_request_chat_template" => Flag("--trust-request-chat-template"),
        "enable_per_request_metrics" => Flag("--enable-per-request-metrics"),

        "model"
        | "model_tag"
        | "host"
        | "port"
        | "uds"
        | "config"
        | "subparser"
        | "headless"
        | "http_timeout_keep_alive"
        | "enable_request_id_headers"
        | "enable_prompt_tokens_details"
        | "otlp_traces_endpoint"
        | "shutdown_timeout"
        | "tokenizer"
        | "tokenizer_mode"
        | "disable_log_stats"
        | "api_server_count" => Settled,

        "middleware" => {
            Refused("it may be what keeps strangers out, and it is Python, which does not run here")
        }
        "ssl_ciphers" => Refused(
            "the cipher suites are those of TLS 1.3 and the safe ones of TLS 1.2, and cannot be chosen",
        ),
        "tool_parser_plugin" | "reasoning_parser_plugin" => Refused(UNSAFE_PLUGIN),
        "skip_tokenizer_init" | "tokens_only" => Refused("the tokeniser is needed here"),
        "tokenizer_revision" | "revision" => Refused(
            "the tokeniser and the chat template would be those of another revision; give the directory of the one you mean",
        ),
        "grpc_port" => Refused("there is no gRPC here"),

        "enable_ssl_refresh" => NotServed(": restart for a new certificate"),
        "lora_modules" => NotServed(": requests for adapters are refused"),
        "tool_server" => NotServed(": no tool is called here"),
        "default_chat_template_kwargs" => NotServed(": templates are given what requests say"),
        "max_logprobs" => NotServed(": at most 20 alternatives are given"),
        "root_path" => NotServed(": let the proxy take the prefix away"),
        "disable_fastapi_docs" => NotServed(": /openapi.json is served"),
        "generation_config" | "override_generation_config" => {
            NotServed(": what requests do not say is OpenAI's default")
        }
        "enable_log_requests" | "enable_log_outputs" | "max_log_len" | "enable_log_deltas" => {
            NotServed(": requests are not logged; journeys tell of them, without their text")
        }
        "uvicorn_log_level"
        | "disable_uvicorn_access_log"
        | "disable_access_log_for_endpoints"
        | "log_error_stack" => NotServed(": there is no access log; RUST_LOG says what is logged"),
        "chat_template_content_format"
        | "trust_request_mm_kwargs"
        | "response_role"
        | "return_tokens_as_token_ids"
        | "exclude_tools_when_tool_choice_none"
        | "tool_strict_level"
        | "enable_server_load_tracking"
        | "enable_force_include_usage"
        | "sse_keep_alive_interval"
        | "enable_tokenizer_info_endpoint"
        | "cohere_is_reasoning_model"
        | "cohere_format"
        | "anthropic_disabled_thinking_effort"
        | "enable_scale_out"
        | "fingerprint_mode"
        | "fingerprint_value"
        | "enable_offline_docs"
        | "enable_flash_late_interaction"
        | "max_num_queued_reqs"
        | "max_num_queued_tokens"
        | "enable_prompt_embeds"
        | "hf_token"
        | "data_parallel_supervisor_port"
        | "dp_supervisor_probe_interval_s"
        | "dp_supervisor_probe_timeout_s"
        | "dp_supervisor_probe_failure_threshold" => NotServed(""),
        _ => return None,
    })
}

/// Brings vLLM's options into the server's own.
///
/// # Errors
/// When one of them must not be without effect, and would be.
pub(super) fn translate(arguments: &Map<String, Value>) -> Result<Translation> {
    let mut translation = Translation::default();
    let words = &mut translation.words;
    let mut word = |text: String| words.push(text.into());
    let Some(model) = text(arguments, "model_tag").or_else(|| text(arguments, "model")) else {
        bail!("--args-json names no model_tag");
    };
    refuse_other_tokenizer(arguments, model)?;
    word("--engine=vllm".to_owned());
    // What vLLM does unless it is told otherwise.
    word("--allowed-origins=[]".to_owned());
    let (drain, whole) = end_times(arguments);
    word(format!("--shutdown-timeout={drain}"));
    tracing::debug!("vLLM gives the front {whole} s to end");
    if let Some(endpoint) = text(arguments, "otlp_traces_endpoint") {
        // With vLLM, naming a collector is what turns tracing on.
        word("--enable-journey-tracing".to_owned());
        word(format!("--otlp-traces-endpoint={endpoint}"));
        if arguments.get("disable_log_stats") == Some(&Value::Bool(true)) {
            translation.not_served.push((
                "--disable-log-stats".to_owned(),
                " but this: engines do not tell when requests were scheduled, so journeys do not either",
            ));
        }
    }
    for (key, value) in arguments {
        let option = format!("--{}", key.replace('_', "-"));
        match meaning(key) {
            None => translation.left_to_engines.push(option),
            Some(Meaning::Settled) => {}
            Some(Meaning::NotServed(why)) => translation.not_served.push((option, why)),
            Some(Meaning::Refused(why)) if is_set(value) => bail!("{option} was given to vLLM, and {why}"),
            Some(Meaning::Refused(_)) => {}
            Some(Meaning::Flag(name)) => {
                if value == &Value::Bool(true) {
                    translation.words.push(name.into());
                }
            }
            // Each with an equals sign: a key may begin with a dash.
            Some(Meaning::Option(name)) => translation.words.extend(values(name, value)),
        }
    }
    // Behind all options, and never taken for one.
    translation.words.push(model.into());
    Ok(translation)
}

fn text<'a>(arguments: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    arguments.get(key)?.as_str()
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => true,
    }
}

/// The words for an option: one for each value of a list, except where the list itself is the value.
fn values(name: &'static str, value: &Value) -> Vec<OsString> {
    let one = |value: &Value| match value {
        Value::String(text) => format!("{name}={text}").into(),
        other => format!("{name}={other}").into(),
    };
    match value {
        Value::Null => Vec::new(),
        Value::Array(items) if !name.starts_with("--allowed-") => items.iter().map(one).collect(),
        other => vec![one(other)],
    }
}

/// How long requests may go on once the server is to end, and how long it may take in all, in seconds. Later, vLLM kills
/// it.
fn end_times(arguments: &Map<String, Value>) -> (f64, f64) {
    let asked = arguments.get("shutdown_timeout").and_then(Value::as_f64).unwrap_or(0.0).max(0.0);
    let whole = asked.max(LEAST_END_TIME);
    (asked.min(whole - TO_FLUSH), whole)
}

fn refuse_other_tokenizer(arguments: &Map<String, Value>, model: &str) -> Result<()> {
    if let Some(tokenizer) = text(arguments, "tokenizer").filter(|tokenizer| *tokenizer != model) {
        bail!(
            "--tokenizer {tokenizer} was given to vLLM, and the tokeniser that is used here is the model's own"
        );
    }
    match text(arguments, "tokenizer_mode") {
        None | Some("auto" | "hf" | "slow" | "fast") => Ok(()),
        Some(mode) => {
            bail!(
                "--tokenizer-mode {mode} was given to vLLM; here tokenisers are read from tokenizer.json only"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn translated(arguments: &Value) -> Result<Translation> {
        translate(arguments.as_object().unwrap())
    }

    fn words(arguments: &Value) -> Vec<String> {
        let words = translated(arguments).unwrap().words;
        words.into_iter().map(|word| word.into_string().unwrap()).collect()
    }

    #[test]
    fn options_that_mean_the_same_are_passed_on() {
        let given = words(&json!({
            "model_tag": "a/b", "served_model_name": ["x", "y"], "api_key": ["--key"], "allowed_origins": ["*"],
            "ssl_cert_reqs": 2, "enable_auto_tool_choice": true, "trust_request_chat_template": false,
            "engine_ready_timeout_secs": 600, "max_model_len": 5,
        }));
        let expected = [
            "--engine=vllm",
            "--allowed-origins=[]",
            "--shutdown-timeout=0",
            "--served-model-name=x",
            "--served-model-name=y",
            "--api-key=--key",
            "--allowed-origins=[\"*\"]",
            "--ssl-cert-reqs=2",
            "--enable-auto-tool-choice",
            "--engine-ready-timeout=600",
            "a/b",
        ];
        assert_eq!(given, expected);
        let options = super::super::parse(given.into_iter().map(Into::into).collect()).unwrap();
        assert_eq!(options.http.api_key, ["--key"]);
        assert_eq!(options.cors.allowed_origins.0, ["*"]);
        assert_eq!(options.model.as_deref(), Some("a/b"));
    }

    #[test]
    fn a_collector_turns_tracing_on() {
        let given = words(&json!({ "model": "m", "otlp_traces_endpoint": "http://c:4317" }));
        assert!(given.contains(&"--enable-journey-tracing".to_owned()), "{given:?}");
        assert!(given.contains(&"--otlp-traces-endpoint=http://c:4317".to_owned()), "{given:?}");
    }

    #[test]
    fn what_must_not_be_ignored_is_refused() {
        for (key, value) in [
            ("middleware", json!(["my.Auth"])),
            ("ssl_ciphers", json!("ALL")),
            ("tool_parser_plugin", json!("plugin.py")),
            ("tokenizer", json!("another")),
            ("tokenizer_mode", json!("mistral")),
            ("revision", json!("v2")),
        ] {
            let problem = translated(&json!({ "model_tag": "m", key: value })).unwrap_err().to_string();
            assert!(problem.contains(&format!("--{}", key.replace('_', "-"))), "{problem}");
        }
        translated(&json!({ "model_tag": "m", "middleware": [], "tool_parser_plugin": "" })).unwrap();
        assert!(translated(&json!({})).unwrap_err().to_string().contains("model_tag"));
    }

    #[test]
    fn what_is_ignored_is_said_and_what_is_the_engine_s_is_left_to_it() {
        let given = json!({ "model_tag": "m", "lora_modules": [], "gpu_memory_utilization": 0.5, "port": 9 });
        let translation = translated(&given).unwrap();
        assert_eq!(
            translation.not_served,
            [("--lora-modules".to_owned(), ": requests for adapters are refused")]
        );
        assert_eq!(translation.left_to_engines, ["--gpu-memory-utilization"]);
    }

    #[test]
    fn the_end_comes_before_vllm_kills() {
        let times = |seconds: u32| end_times(json!({ "shutdown_timeout": seconds }).as_object().unwrap());
        assert_eq!(times(0), (0.0, 5.0));
        assert_eq!(times(4), (2.5, 5.0));
        assert_eq!(times(60), (57.5, 60.0));
    }
}
