//! Tests through the public API: real weights against an independent implementation, tiny random ones against a
//! naive forward, and files of every kind, damaged ones included.

mod driver;
mod formats;
mod hostile;
mod naive;
mod paged;
mod reference;
mod tiny;
