//! The names that requests have in the engine core.

use std::fmt;

/// The name of a request in an engine core: the number of its place in a table and how often that place has been used.
/// The engine core echoes it as text, 16 hexadecimal digits, so an output finds its request without a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WireId {
    /// The place.
    pub slot: u32,
    /// Which of those that had the place.
    pub generation: u32,
}

impl WireId {
    /// Length of the text.
    pub const TEXT_BYTES: usize = 16;

    /// The text that stands for it.
    #[must_use]
    pub fn text(self) -> [u8; Self::TEXT_BYTES] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut number = u64::from(self.generation) << 32 | u64::from(self.slot);
        let mut text = [0; Self::TEXT_BYTES];
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[(number & 15) as usize];
            number >>= 4;
        }
        text
    }

    /// Reads the text; `None` when it is not one of ours.
    #[inline]
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; Self::TEXT_BYTES] = text.as_bytes().try_into().ok()?;
        let mut number: u64 = 0;
        for digit in digits {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => digit - b'a' + 10,
                _ => return None,
            };
            number = number << 4 | u64::from(value);
        }
        // The halves of the number.
        Some(Self { slot: number as u32, generation: (number >> 32) as u32 })
    }
}

impl fmt::Display for WireId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.generation, self.slot)
    }
}
