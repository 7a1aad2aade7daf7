//! The built server, as a user runs it.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod journeys;
