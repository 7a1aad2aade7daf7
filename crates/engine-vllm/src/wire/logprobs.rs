//! Log-probabilities of output tokens and of prompt tokens.

use wayfare_engine::TokenLogprobs;

use super::WireError;
use super::reader::Reader;
use super::tensor::Matrix;

/// Reads `[ids, logprobs, ranks, …]`: a row for each token, in the first column the token itself and behind it the most
/// likely ones. Later versions append fields, which describe batches and say nothing here.
pub(crate) fn read<'a, F: AsRef<[u8]>>(
    reader: &mut Reader<'a>,
    frames: &'a [F],
    place: &'static str,
) -> Result<Vec<TokenLogprobs>, WireError> {
    let fields = reader.array(place)?;
    if fields < 3 {
        return Err(WireError::TooShort { place, fields });
    }
    let ids = Matrix::read(reader, frames, place)?;
    let logprobs = Matrix::read(reader, frames, place)?;
    let ranks = Matrix::read(reader, frames, place)?;
    reader.skip_many(fields - 3)?;
    let wrong = |problem| WireError::Tensor { place, problem };
    if (ids.rows, ids.columns) != (logprobs.rows, logprobs.columns) || ranks.rows != ids.rows {
        return Err(wrong("tokens, log-probabilities and ranks differ in number"));
    }
    if ids.rows > 0 && ids.columns == 0 {
        return Err(wrong("it has no column for the token itself"));
    }
    let value = |row, column| Some((ids.u32_at(row, column)?, logprobs.f32_at(row, column)?));
    let token = |row| {
        let (token, logprob) = value(row, 0)?;
        let top = (1..ids.columns).map(|column| value(row, column)).collect::<Option<_>>()?;
        Some(TokenLogprobs { token, logprob, rank: ranks.u32_at(row, 0)?, top })
    };
    // No more rows than the frame is long: the shape was compared with the data, and each row has a column.
    (0..ids.rows).map(token).collect::<Option<_>>().ok_or(wrong("its elements are not of the expected kind"))
}
