//! The place of vLLM's own front: `vllm serve` has bound the sockets, started the engine cores, and starts this program.

mod arguments;

use std::ffi::OsString;

use anyhow::{Context as _, Result, bail};
use clap::parser::ValueSource;
use clap::{Args as _, FromArgMatches as _};
use rustix::process::{Signal, getppid, set_parent_process_death_signal};
use serde_json::{Map, Value};
use socket2::{Domain, Socket};
use tracing::{info, warn};
use wayfare_engine_vllm::{EngineListener, GivenListeners};

use self::arguments::{Translation, translate};
use crate::cli::{FrontendOptions, ServeOptions};
use crate::http::Address;
use crate::inherited;
use crate::serve;

/// Options of this server, which vLLM does not have, as on a command line.
const OPTIONS_VARIABLE: &str = "WAYFARE_OPTIONS";

/// What was handed over, where to serve and from whom.
pub(crate) struct Seat {
    pub(crate) clients: Address,
    pub(crate) engines: SeatEngines,
}

/// The engine cores that come.
pub(crate) struct SeatEngines {
    pub(crate) listeners: GivenListeners,
    pub(crate) first_rank: u16,
    pub(crate) count: u16,
    /// If it is a mixture of experts, its ranks have to compute in step.
    pub(crate) needs_coordinator: bool,
}

/// Serves until vLLM or a signal ends it.
///
/// # Errors
/// When what vLLM says cannot be served.
pub(crate) fn run(options: &FrontendOptions) -> Result<()> {
    // First of all, while everything that is open was handed over.
    let [clients, requests, outputs] = inherited::take([
        ("--listen-fd", options.listen_fd),
        ("--input-listener-fd", options.input_listener_fd),
        ("--output-listener-fd", options.output_listener_fd),
    ])?;
    end_with_parent()?;
    if options.grpc_listen_fd.is_some() {
        bail!("there is no gRPC here; start vLLM without --grpc-port");
    }
    let serve_options = serve_options(options)?;
    let seat = Seat {
        clients: Address::given(clients)?,
        engines: SeatEngines {
            listeners: GivenListeners {
                requests: engine_listener(requests, "--input-listener-fd")?,
                outputs: engine_listener(outputs, "--output-listener-fd")?,
            },
            first_rank: options.engine_start_index,
            count: options.engine_count.get(),
            needs_coordinator: options.data_parallel_size.get() > 1,
        },
    };
    serve::run(&serve_options, Some(seat))
}

/// Without vLLM's own process nobody looks after the engine cores, and nobody would end this one.
fn end_with_parent() -> Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::TERM)).context("the end of vLLM could not be noticed")?;
    if getppid() != parent {
        bail!("vLLM has ended");
    }
    Ok(())
}

fn engine_listener(socket: Socket, option: &str) -> Result<EngineListener> {
    let address = socket.local_addr().with_context(|| format!("{option} has no address"))?;
    match address.domain() {
        Domain::UNIX => Ok(EngineListener::Unix(socket.into())),
        Domain::IPV4 | Domain::IPV6 => Ok(EngineListener::Tcp(socket.into())),
        domain => bail!("{option} is a socket of an unknown kind, {domain:?}"),
    }
}

/// The options of `wayfare serve` that mean what vLLM was started with, and what the variable adds.
fn serve_options(options: &FrontendOptions) -> Result<ServeOptions> {
    let arguments: Map<String, Value> =
        serde_json::from_str(&options.args_json).context("--args-json is not an object of JSON")?;
    let Translation { mut words, not_served, left_to_engines } = translate(&arguments)?;
    for (option, why) in not_served {
        warn!("{option} was given to vLLM and has no effect here{why}");
    }
    if !left_to_engines.is_empty() {
        info!("left to the engines: {}", left_to_engines.join(", "));
    }
    if options.data_parallel_size.get() > 1 && options.coordinator_address.is_some() {
        info!("queues are balanced by what is sent from here; vLLM's coordinator is not asked");
    }
    words.extend(own_words()?);
    parse(words)
}

/// The words of the variable, if it is set.
fn own_words() -> Result<Vec<OsString>> {
    let Some(text) = std::env::var_os(OPTIONS_VARIABLE) else { return Ok(Vec::new()) };
    let words = text.to_str().and_then(shlex::split);
    let words =
        words.with_context(|| format!("{OPTIONS_VARIABLE} is not a command line: a quote is open"))?;
    refuse_what_vllm_decides(&words)?;
    Ok(words.into_iter().map(Into::into).collect())
}

/// Where the server listens, what it serves and from whom is what vLLM was told.
fn refuse_what_vllm_decides(words: &[String]) -> Result<()> {
    let command = command();
    let matches = command.clone().try_get_matches_from(words).map_err(|error| {
        anyhow::anyhow!("{OPTIONS_VARIABLE} is not what `wayfare serve` takes: {}", error.render())
    })?;
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let is_vllms = match argument.get_help_heading() {
            None | Some("TLS") => true,
            Some("Engine") => id != "seed",
            Some("vLLM") => id != "allow_untested_vllm",
            Some("HTTP") => matches!(id, "host" | "port" | "uds" | "served_model_name" | "api_key"),
            Some(_) => false,
        };
        if is_vllms && matches.value_source(id) == Some(ValueSource::CommandLine) {
            let name = argument.get_long().map_or_else(|| "MODEL".to_owned(), |long| format!("--{long}"));
            bail!("{OPTIONS_VARIABLE} has {name}, which is for `vllm serve` to say");
        }
    }
    Ok(())
}

fn parse(words: Vec<OsString>) -> Result<ServeOptions> {
    let matches = command().try_get_matches_from(words);
    let options = matches.and_then(|matches| ServeOptions::from_arg_matches(&matches));
    options.map_err(|error| anyhow::anyhow!("vLLM's options cannot be served: {}", error.render()))
}

/// The options of `wayfare serve`, without its name; what comes later counts.
fn command() -> clap::Command {
    let command = clap::Command::new("wayfare serve").no_binary_name(true).args_override_self(true);
    ServeOptions::augment_args(command).disable_help_flag(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_decides_how_requests_are_traced_and_not_what_is_served() {
        let split = |text: &str| refuse_what_vllm_decides(&shlex::split(text).unwrap());
        split("--enable-journey-tracing --journey-file '/a b' --admin-port 0 --request-timeout 5").unwrap();
        for (text, option) in [
            ("--port 80", "--port"),
            ("--max-num-seqs 5", "--max-num-seqs"),
            ("other/model", "MODEL"),
            ("--ssl-keyfile x", "--ssl-keyfile"),
            ("--api-key k", "--api-key"),
        ] {
            let problem = split(text).unwrap_err().to_string();
            assert!(problem.contains(&format!("has {option}, which is for `vllm serve`")), "{problem}");
        }
        let problem = split("--no-such-option").unwrap_err().to_string();
        assert!(problem.contains("--no-such-option"), "{problem}");
    }
}
