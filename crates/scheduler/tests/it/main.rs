//! The scheduler through its public interface: golden schedules and properties of random ones.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod golden;
mod journeys;
mod live;
mod naive;
mod prefix;
mod properties;
mod rig;
mod waits;
