//! The file of the flight recorder: made, mapped into memory, and read after the end of the process.
//!
//! What is written where is the business of [`FlightRecorder`](wayfare_journey::FlightRecorder); this crate gives it
//! memory that outlives the process, because it is a file's.
#![deny(unsafe_code)]

mod file;
mod mapping;

pub use file::{FlightFile, FlightFileError, FlightLog, read};
