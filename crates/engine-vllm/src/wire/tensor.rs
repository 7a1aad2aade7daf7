//! Arrays of numbers as vLLM sends them: `[type, shape, data]`, the data in the message or in a frame of its own.

use super::WireError;
use super::reader::{Extension, Reader};

/// The extension that holds the bytes of an array.
pub(crate) const RAW_BYTES: i8 = 3;
/// Log-probabilities have at most two dimensions.
const MAX_DIMENSIONS: u32 = 2;

/// The type of the elements, little endian. Names are NumPy's (`<i8`) and those of torch (`int64`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    I32,
    I64,
    F32,
    F64,
}

impl Element {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "<i4" | "int32" => Some(Element::I32),
            "<i8" | "int64" => Some(Element::I64),
            "<f4" | "float32" => Some(Element::F32),
            "<f8" | "float64" => Some(Element::F64),
            _ => None,
        }
    }

    fn size(self) -> usize {
        match self {
            Element::I32 | Element::F32 => 4,
            Element::I64 | Element::F64 => 8,
        }
    }
}

/// A matrix, or a vector as a matrix of one column. Borrowed from its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    element: Element,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    data: &'a [u8],
}

impl<'a> Matrix<'a> {
    /// Reads an array. `frames` are those of the message, this one included, by whose numbers it may refer to its
    /// data.
    pub(crate) fn read<F: AsRef<[u8]>>(
        reader: &mut Reader<'a>,
        frames: &'a [F],
        place: &'static str,
    ) -> Result<Self, WireError> {
        let wrong = |problem| WireError::Tensor { place, problem };
        let parts = reader.array(place)?;
        if parts != 3 {
            return Err(wrong("an array of numbers has the parts type, shape and data"));
        }
        let element = Element::parse(reader.str(place)?).ok_or(wrong("its element type is not known"))?;
        let dimensions = reader.array(place)?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(wrong("it does not have one or two dimensions"));
        }
        let rows = reader.u32(place)? as usize;
        let columns = if dimensions == 2 { reader.u32(place)? as usize } else { 1 };
        let data = if reader.is_int() {
            let index = usize::try_from(reader.int(place)?).map_err(|_| WireError::OutOfRange { place })?;
            // Frame 0 is the message itself.
            let frame = frames.get(index).filter(|_| index > 0);
            frame.ok_or(wrong("its data should be in a frame that did not come"))?.as_ref()
        } else {
            let Extension { kind, data } = reader.extension(place)?;
            if kind != RAW_BYTES {
                return Err(wrong("its data is of a kind that is not taken, such as pickled objects"));
            }
            data
        };
        let wanted = rows.checked_mul(columns).and_then(|count| count.checked_mul(element.size()));
        if wanted != Some(data.len()) {
            return Err(wrong("its data is not as long as its shape says"));
        }
        Ok(Self { element, rows, columns, data })
    }

    fn bytes<const N: usize>(&self, row: usize, column: usize) -> Option<[u8; N]> {
        let index = row * self.columns + column;
        self.data.get(index * N..)?.first_chunk().copied()
    }

    /// An element of a matrix of whole numbers; `None` outside of the matrix or of 32 bits without sign.
    pub(crate) fn u32_at(&self, row: usize, column: usize) -> Option<u32> {
        let value = match self.element {
            Element::I32 => i64::from(i32::from_le_bytes(self.bytes(row, column)?)),
            Element::I64 => i64::from_le_bytes(self.bytes(row, column)?),
            Element::F32 | Element::F64 => return None,
        };
        u32::try_from(value).ok()
    }

    /// An element of a matrix of fractions.
    pub(crate) fn f32_at(&self, row: usize, column: usize) -> Option<f32> {
        match self.element {
            Element::F32 => Some(f32::from_le_bytes(self.bytes(row, column)?)),
            // They are probabilities; the lost digits mean nothing.
            Element::F64 => Some(f64::from_le_bytes(self.bytes(row, column)?) as f32),
            Element::I32 | Element::I64 => None,
        }
    }
}
