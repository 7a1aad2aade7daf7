//! Journeys through the running exporter to real receivers.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, like tests")]

mod delivery;
mod failures;
mod file;
mod rig;
mod shutdown;
mod tls;
