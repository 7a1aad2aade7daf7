//! Tests through the public API: real weights against an independent implementation, tiny random ones against a
//! naive forward, and files of every kind, damaged ones included.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails, fails")]

mod allocation;
mod driver;
mod formats;
mod hostile;
mod naive;
mod paged;
mod reference;
mod tiny;
