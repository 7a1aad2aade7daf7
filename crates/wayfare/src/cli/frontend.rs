//! The command line that vLLM starts its front with. Names and forms are vLLM's own.

use std::num::NonZeroU16;

use clap::Args;

/// Options of `wayfare frontend`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FrontendOptions {
    /// File descriptor of the socket that clients connect to.
    #[arg(long, value_name = "FD")]
    pub(crate) listen_fd: i32,

    /// File descriptor of the listener that engines take requests from.
    #[arg(long, value_name = "FD")]
    pub(crate) input_listener_fd: i32,

    /// File descriptor of the listener that engines bring outputs to.
    #[arg(long, value_name = "FD")]
    pub(crate) output_listener_fd: i32,

    /// The first rank that is served from.
    #[arg(long, default_value_t = 0, value_name = "RANK")]
    pub(crate) engine_start_index: u16,

    /// How many ranks that are.
    #[arg(long, default_value = "1", value_name = "COUNT")]
    pub(crate) engine_count: NonZeroU16,

    /// How many ranks there are in all.
    #[arg(long, default_value = "1", value_name = "COUNT")]
    pub(crate) data_parallel_size: NonZeroU16,

    /// Refused: there is no gRPC.
    #[arg(long, value_name = "FD")]
    pub(crate) grpc_listen_fd: Option<i32>,

    /// Where vLLM's coordinator of ranks tells how long their queues are.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) coordinator_address: Option<String>,

    /// The options of `vllm serve` that were given, as JSON.
    #[arg(long, value_name = "JSON")]
    pub(crate) args_json: String,
}
