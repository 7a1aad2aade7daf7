//! Options of the live view.

use std::path::PathBuf;

use clap::Args;

/// Seeing requests while they run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Live view")]
pub(crate) struct LiveOptions {
    /// Shows no requests in flight at /journeys/live; those that are not recorded then cost nothing but the decision.
    #[arg(long)]
    pub(crate) disable_live_view: bool,

    /// File that tells, after the server was killed or has crashed, which requests were in flight: `wayfare flight
    /// FILE`. Five megabytes, mapped into memory.
    #[arg(long, value_name = "FILE")]
    pub(crate) flight_recorder: Option<PathBuf>,
}

/// Options of `wayfare top`.
#[cfg(feature = "top")]
#[derive(Clone, Debug, Args)]
pub(crate) struct TopOptions {
    /// Address of the server.
    #[arg(value_name = "URL", default_value = "http://localhost:8000")]
    pub(crate) url: String,

    /// The API key, when the server wants one. Otherwise the one in WAYFARE_API_KEY or VLLM_API_KEY.
    #[arg(long, value_name = "KEY")]
    pub(crate) api_key: Option<String>,

    /// How often the server is asked, in seconds.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = interval)]
    pub(crate) interval: std::time::Duration,
}

/// Options of `wayfare flight`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FlightOptions {
    /// The file that was given as --flight-recorder.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Says it as JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// From a tenth of a second to an hour.
#[cfg(feature = "top")]
fn interval(text: &str) -> Result<std::time::Duration, String> {
    let interval = super::seconds(text)?;
    let is_sensible = (0.1..=3_600.0).contains(&interval.as_secs_f64());
    if is_sensible { Ok(interval) } else { Err("not from 0.1 to 3600 seconds".to_owned()) }
}
