//! Guards, cells and the tracer through their public interface.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod documentation;
mod endings;
mod flight;
mod handover;
mod live;
mod long;
mod registry;
mod rig;
mod tail;
mod time;
