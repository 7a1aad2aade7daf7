//! The store and the routes through their public interface.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod admin;
mod of_id;
mod page;
mod recent;
mod rig;
mod store;
