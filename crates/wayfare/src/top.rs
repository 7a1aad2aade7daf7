//! `wayfare top`: the requests in flight of a running server, in a terminal.

use std::env;

use anyhow::Result;

use crate::cli::{TopOptions, api_key_of};

/// Watches a server until the user has seen enough.
///
/// # Errors
/// When the server does not answer at the start, or the terminal fails.
pub(crate) fn run(options: &TopOptions) -> Result<()> {
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    wayfare_top::run(&wayfare_top::TopOptions {
        url: options.url.clone(),
        api_key: options.api_key.clone().or_else(|| api_key_of(variable)),
        interval: options.interval,
    })?;
    Ok(())
}
