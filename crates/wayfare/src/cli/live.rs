//! Options of the live view.

use clap::Args;

/// Seeing requests while they run.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Live view")]
pub(crate) struct LiveOptions {
    /// Shows no requests in flight at /journeys/live; those that are not recorded then cost nothing but the decision.
    #[arg(long)]
    pub(crate) disable_live_view: bool,
}
