//! Traces in the forms of other tools.

mod columns;
mod csv;
mod journey_json;
#[cfg(feature = "parquet")]
mod parquet;
mod perfetto;
mod tracev2;

pub use csv::write_csv;
pub use journey_json::journey_json;
#[cfg(feature = "parquet")]
pub use parquet::{ParquetError, write_parquet};
pub use perfetto::write_perfetto;
pub use tracev2::{TraceV2Counts, write_tracev2_header, write_tracev2_rows};
