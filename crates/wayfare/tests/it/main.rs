//! The built server, as a user runs it.
