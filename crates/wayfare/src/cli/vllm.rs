//! Options about vLLM's engine cores.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use wayfare_engine_vllm::EngineAddress;

/// Where answers are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineKind {
    /// In this process.
    Local,
    /// In vLLM's engine cores.
    Vllm,
}

/// What becomes of a vLLM that was started here and has ended, once it was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RestartOption {
    /// Nothing: the server answers 503.
    Never,
    /// It is started again.
    OnFailure,
}

/// Engine cores of vLLM.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "vLLM")]
pub(crate) struct VllmOptions {
    /// Where answers are computed: local, in this process, or vllm, in engine cores of vLLM.
    #[arg(long, value_enum, default_value_t = EngineKind::Local, value_name = "ENGINE")]
    pub(crate) engine: EngineKind,

    /// Where engines that others start say hello, such as tcp://0.0.0.0:29550, or ipc:///PATH for Unix sockets. Without it,
    /// `vllm serve MODEL --headless` is started on this host, and ended with the server.
    #[arg(long, value_name = "tcp://HOST:PORT", value_parser = EngineAddress::parse)]
    pub(crate) engine_address: Option<EngineAddress>,

    /// The host by which engines reach this one, where --engine-address listens on all addresses or engines see another
    /// one.
    #[arg(long, value_name = "HOST", requires = "engine_address")]
    pub(crate) engine_advertise_host: Option<String>,

    /// How many engines there are: the data-parallel ranks 0 to COUNT - 1.
    #[arg(long, default_value = "1", value_name = "COUNT")]
    pub(crate) engine_count: NonZeroU16,

    /// How long all engines together may take to be ready, in seconds.
    #[arg(long, default_value = "600", value_name = "SECONDS", value_parser = super::seconds)]
    pub(crate) engine_ready_timeout: Duration,

    /// The program that is started as `vllm`.
    #[arg(long, default_value = "vllm", value_name = "PROGRAM")]
    pub(crate) vllm_command: PathBuf,

    /// Whether a vLLM that was started here and has ended is started again: never, or on-failure, after a pause that grows
    /// from one second to a minute.
    #[arg(long, value_enum, default_value_t = RestartOption::Never, value_name = "POLICY")]
    pub(crate) vllm_restart: RestartOption,

    /// Takes versions of vLLM other than 0.23 to 0.33, whose messages are not known here.
    #[arg(long)]
    pub(crate) allow_untested_vllm: bool,

    /// Options for the `vllm serve` that is started, such as --tensor-parallel-size 2.
    #[arg(last = true, value_name = "VLLM OPTIONS")]
    pub(crate) vllm_options: Vec<String>,
}
