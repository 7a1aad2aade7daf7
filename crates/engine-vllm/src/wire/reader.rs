//! Reading MessagePack from a frame, value by value.
//!
//! HOT PATH: nothing is allocated and nothing is copied; text and bytes are borrowed from the frame.

use rmp::Marker;

use super::WireError;

/// A place in a frame. Every method either consumes one value or fails; nothing a frame holds panics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// An extension value: vLLM's arrays carry their elements so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extension<'a> {
    pub(crate) kind: i8,
    pub(crate) data: &'a [u8],
}

/// A number, a text or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'a> {
    Nil,
    Int(i128),
    Text(&'a str),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(frame: &'a [u8]) -> Self {
        Self { rest: frame }
    }

    /// Bytes that have not been read.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::TrailingBytes { count: self.rest.len() }) }
    }

    /// Consumes a nil when there is one.
    #[inline]
    pub(crate) fn take_nil(&mut self) -> bool {
        let is_nil = self.rest.first() == Some(&Marker::Null.to_u8());
        if is_nil {
            self.rest = &self.rest[1..];
        }
        is_nil
    }

    /// Whether an integer comes next.
    pub(crate) fn is_int(&self) -> bool {
        self.peek().is_some_and(|marker| {
            matches!(
                marker,
                Marker::FixPos(_)
                    | Marker::FixNeg(_)
                    | Marker::U8
                    | Marker::U16
                    | Marker::U32
                    | Marker::U64
                    | Marker::I8
                    | Marker::I16
                    | Marker::I32
                    | Marker::I64
            )
        })
    }

    /// Whether an array comes next.
    pub(crate) fn is_array(&self) -> bool {
        let marker = self.peek();
        marker.is_some_and(|marker| matches!(marker, Marker::FixArray(_) | Marker::Array16 | Marker::Array32))
    }

    /// The number of elements of the array that begins here.
    #[inline]
    pub(crate) fn array(&mut self, place: &'static str) -> Result<u32, WireError> {
        match self.marker()? {
            Marker::FixArray(len) => Ok(len.into()),
            Marker::Array16 => Ok(u16::from_be_bytes(self.fixed()?).into()),
            Marker::Array32 => Ok(u32::from_be_bytes(self.fixed()?)),
            other => Err(unexpected(place, "an array", other)),
        }
    }

    /// The number of entries of the map that begins here.
    pub(crate) fn map(&mut self, place: &'static str) -> Result<u32, WireError> {
        match self.marker()? {
            Marker::FixMap(len) => Ok(len.into()),
            Marker::Map16 => Ok(u16::from_be_bytes(self.fixed()?).into()),
            Marker::Map32 => Ok(u32::from_be_bytes(self.fixed()?)),
            other => Err(unexpected(place, "a map", other)),
        }
    }

    /// An integer, whatever its width.
    #[inline]
    pub(crate) fn int(&mut self, place: &'static str) -> Result<i128, WireError> {
        let marker = self.marker()?;
        self.int_of(marker, place)
    }

    /// A token id, a count, an index.
    #[inline]
    pub(crate) fn u32(&mut self, place: &'static str) -> Result<u32, WireError> {
        u32::try_from(self.int(place)?).map_err(|_| WireError::OutOfRange { place })
    }

    pub(crate) fn u64(&mut self, place: &'static str) -> Result<u64, WireError> {
        u64::try_from(self.int(place)?).map_err(|_| WireError::OutOfRange { place })
    }

    /// A number, also one that is written as an integer, which Python does where the fraction is nothing.
    #[inline]
    pub(crate) fn f64(&mut self, place: &'static str) -> Result<f64, WireError> {
        match self.marker()? {
            Marker::F64 => Ok(f64::from_be_bytes(self.fixed()?)),
            Marker::F32 => Ok(f32::from_be_bytes(self.fixed()?).into()),
            other => Ok(self.int_of(other, place)? as f64),
        }
    }

    #[inline]
    pub(crate) fn str(&mut self, place: &'static str) -> Result<&'a str, WireError> {
        let marker = self.marker()?;
        self.str_of(marker, place)
    }

    /// Raw bytes, or an extension that holds some.
    pub(crate) fn extension(&mut self, place: &'static str) -> Result<Extension<'a>, WireError> {
        let marker = self.marker()?;
        let len = match marker {
            Marker::Bin8 => usize::from(u8::from_be_bytes(self.fixed()?)),
            Marker::Bin16 => usize::from(u16::from_be_bytes(self.fixed()?)),
            Marker::Bin32 => u32::from_be_bytes(self.fixed()?) as usize,
            Marker::FixExt1 => 1,
            Marker::FixExt2 => 2,
            Marker::FixExt4 => 4,
            Marker::FixExt8 => 8,
            Marker::FixExt16 => 16,
            Marker::Ext8 => usize::from(u8::from_be_bytes(self.fixed()?)),
            Marker::Ext16 => usize::from(u16::from_be_bytes(self.fixed()?)),
            Marker::Ext32 => u32::from_be_bytes(self.fixed()?) as usize,
            other => return Err(unexpected(place, "bytes", other)),
        };
        let is_plain = matches!(marker, Marker::Bin8 | Marker::Bin16 | Marker::Bin32);
        let kind = if is_plain { super::tensor::RAW_BYTES } else { i8::from_be_bytes(self.fixed()?) };
        Ok(Extension { kind, data: self.bytes(len)? })
    }

    /// A value that may be of several simple kinds.
    pub(crate) fn scalar(&mut self, place: &'static str) -> Result<Scalar<'a>, WireError> {
        match self.marker()? {
            Marker::Null => Ok(Scalar::Nil),
            marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
                Ok(Scalar::Text(self.str_of(marker, place)?))
            }
            marker => Ok(Scalar::Int(self.int_of(marker, place)?)),
        }
    }

    /// Consumes one value of any kind, with everything in it. Uses no stack for nested values, and every one of
    /// them takes at least a byte, so neither depth nor a length that lies costs more than the frame is long.
    pub(crate) fn skip(&mut self) -> Result<(), WireError> {
        self.skip_many(1)
    }

    /// Consumes `count` values of any kind.
    pub(crate) fn skip_many(&mut self, count: u32) -> Result<(), WireError> {
        let mut left = u64::from(count);
        while left > 0 {
            left -= 1;
            let bytes = match self.marker()? {
                Marker::FixPos(_)
                | Marker::FixNeg(_)
                | Marker::Null
                | Marker::True
                | Marker::False
                | Marker::Reserved => 0,
                Marker::U8 | Marker::I8 => 1,
                Marker::U16 | Marker::I16 => 2,
                Marker::U32 | Marker::I32 | Marker::F32 => 4,
                Marker::U64 | Marker::I64 | Marker::F64 => 8,
                Marker::FixStr(len) => usize::from(len),
                Marker::Str8 | Marker::Bin8 => usize::from(u8::from_be_bytes(self.fixed()?)),
                Marker::Str16 | Marker::Bin16 => usize::from(u16::from_be_bytes(self.fixed()?)),
                Marker::Str32 | Marker::Bin32 => u32::from_be_bytes(self.fixed()?) as usize,
                Marker::FixExt1 => 2,
                Marker::FixExt2 => 3,
                Marker::FixExt4 => 5,
                Marker::FixExt8 => 9,
                Marker::FixExt16 => 17,
                Marker::Ext8 => usize::from(u8::from_be_bytes(self.fixed()?)) + 1,
                Marker::Ext16 => usize::from(u16::from_be_bytes(self.fixed()?)) + 1,
                Marker::Ext32 => u32::from_be_bytes(self.fixed()?) as usize + 1,
                Marker::FixArray(len) => {
                    left += u64::from(len);
                    0
                }
                Marker::Array16 => {
                    left += u64::from(u16::from_be_bytes(self.fixed()?));
                    0
                }
                Marker::Array32 => {
                    left += u64::from(u32::from_be_bytes(self.fixed()?));
                    0
                }
                Marker::FixMap(len) => {
                    left += 2 * u64::from(len);
                    0
                }
                Marker::Map16 => {
                    left += 2 * u64::from(u16::from_be_bytes(self.fixed()?));
                    0
                }
                Marker::Map32 => {
                    left += 2 * u64::from(u32::from_be_bytes(self.fixed()?));
                    0
                }
            };
            self.bytes(bytes)?;
        }
        Ok(())
    }

    fn int_of(&mut self, marker: Marker, place: &'static str) -> Result<i128, WireError> {
        Ok(match marker {
            Marker::FixPos(value) => value.into(),
            Marker::FixNeg(value) => value.into(),
            Marker::U8 => u8::from_be_bytes(self.fixed()?).into(),
            Marker::U16 => u16::from_be_bytes(self.fixed()?).into(),
            Marker::U32 => u32::from_be_bytes(self.fixed()?).into(),
            Marker::U64 => u64::from_be_bytes(self.fixed()?).into(),
            Marker::I8 => i8::from_be_bytes(self.fixed()?).into(),
            Marker::I16 => i16::from_be_bytes(self.fixed()?).into(),
            Marker::I32 => i32::from_be_bytes(self.fixed()?).into(),
            Marker::I64 => i64::from_be_bytes(self.fixed()?).into(),
            other => return Err(unexpected(place, "a number", other)),
        })
    }

    fn str_of(&mut self, marker: Marker, place: &'static str) -> Result<&'a str, WireError> {
        let len = match marker {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => usize::from(u8::from_be_bytes(self.fixed()?)),
            Marker::Str16 => usize::from(u16::from_be_bytes(self.fixed()?)),
            Marker::Str32 => u32::from_be_bytes(self.fixed()?) as usize,
            other => return Err(unexpected(place, "text", other)),
        };
        std::str::from_utf8(self.bytes(len)?).map_err(|_| WireError::NotUtf8 { place })
    }

    fn peek(&self) -> Option<Marker> {
        self.rest.first().map(|byte| Marker::from_u8(*byte))
    }

    #[inline]
    fn marker(&mut self) -> Result<Marker, WireError> {
        let (first, rest) = self.rest.split_first().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(Marker::from_u8(*first))
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }
}

fn unexpected(place: &'static str, wanted: &'static str, found: Marker) -> WireError {
    WireError::WrongType { place, wanted, found: kind_of(found) }
}

/// What a marker stands for, in words.
fn kind_of(marker: Marker) -> &'static str {
    match marker {
        Marker::Null => "nil",
        Marker::True | Marker::False => "true or false",
        Marker::F32 | Marker::F64 => "a fraction",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "text",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "bytes",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "an array",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        Marker::Reserved => "a byte that MessagePack does not use",
        Marker::FixExt1
        | Marker::FixExt2
        | Marker::FixExt4
        | Marker::FixExt8
        | Marker::FixExt16
        | Marker::Ext8
        | Marker::Ext16
        | Marker::Ext32 => "an extension",
        _ => "a number",
    }
}
