//! Real traces of the reference implementation, and made-up ones that are worse.
#![expect(clippy::unwrap_used, reason = "helpers of tests may panic, like tests")]

mod explaining;
mod forms;
mod reading;
mod rig;
mod showing;
