//! The simulated engine as the command line asks for it.

mod profile;
mod settings;

pub(crate) use settings::{Simulated, refuse_for_real_model};
