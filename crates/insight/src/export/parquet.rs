//! Apache Parquet: one row per request, without compression. Every column is optional; times are 64-bit nanoseconds.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;

use super::columns::{self, Cell, Column, Kind};
use crate::survey::{Record, Survey};

/// Rows that are written at once.
const ROWS_PER_GROUP: usize = 1 << 16;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the Parquet file cannot be written")]
pub struct ParquetError(#[from] parquet::errors::ParquetError);

/// Writes a row per request.
///
/// # Errors
/// When `out` does.
pub fn write_parquet(survey: &Survey, out: impl Write + Send) -> Result<(), ParquetError> {
    let columns = columns::all();
    let fields = columns.iter().map(|column| field(column).map(Arc::new)).collect::<Result<_, _>>()?;
    let schema = Arc::new(Type::group_type_builder("requests").with_fields(fields).build()?);
    let mut writer = SerializedFileWriter::new(out, schema, Arc::new(WriterProperties::builder().build()))?;
    let mut records = survey.records();
    loop {
        let group: Vec<&Record> = records.by_ref().take(ROWS_PER_GROUP).collect();
        if group.is_empty() {
            break;
        }
        let mut rows = writer.next_row_group()?;
        for column in &columns {
            write_column(column, &group, survey, &mut rows)?;
        }
        rows.close()?;
    }
    writer.close()?;
    Ok(())
}

fn field(column: &Column) -> Result<Type, parquet::errors::ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Text => (PhysicalType::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Count => (PhysicalType::INT64, None),
        Kind::Flag => (PhysicalType::BOOLEAN, None),
    };
    Type::primitive_type_builder(&column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()
}

fn write_column<W: Write + Send>(
    column: &Column,
    group: &[&Record],
    survey: &Survey,
    rows: &mut SerializedRowGroupWriter<'_, W>,
) -> Result<(), parquet::errors::ParquetError> {
    let Some(mut writer) = rows.next_column()? else { return Ok(()) };
    let cells = group.iter().map(|record| column.of(record, survey));
    let mut levels: Vec<i16> = Vec::with_capacity(group.len());
    let mut level = |is_there: bool| levels.push(i16::from(is_there));
    match column.kind {
        Kind::Text => {
            let values: Vec<ByteArray> = cells
                .filter_map(|cell| {
                    let text = match cell {
                        Cell::Text(text) => text.as_bytes().to_vec(),
                        Cell::Owned(text) => text.into_bytes(),
                        Cell::Count(_) | Cell::Flag(_) => Vec::new(),
                    };
                    level(!text.is_empty());
                    (!text.is_empty()).then(|| ByteArray::from(text))
                })
                .collect();
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None)?;
        }
        Kind::Count => {
            let values: Vec<i64> = cells
                .filter_map(|cell| {
                    let count = match cell {
                        Cell::Count(count) => count,
                        _ => None,
                    };
                    level(count.is_some());
                    count.map(|count| i64::try_from(count).unwrap_or(i64::MAX))
                })
                .collect();
            writer.typed::<Int64Type>().write_batch(&values, Some(&levels), None)?;
        }
        Kind::Flag => {
            let values: Vec<bool> = cells
                .filter_map(|cell| {
                    let flag = match cell {
                        Cell::Flag(flag) => flag,
                        _ => None,
                    };
                    level(flag.is_some());
                    flag
                })
                .collect();
            writer.typed::<BoolType>().write_batch(&values, Some(&levels), None)?;
        }
    }
    writer.close()
}
