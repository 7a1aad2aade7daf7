//! Words of memory that one writes and others read: on the heap, or in the file of the flight recorder.
//!
//! HOT PATH: a store is a plain store, wherever the words lie.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A fixed number of words.
#[derive(Clone, Debug)]
pub(crate) enum Words<const N: usize> {
    Heap(Arc<[AtomicU64; N]>),
    /// Lives as long as the process: the mapping is never undone.
    Mapped(&'static [AtomicU64; N]),
}

impl<const N: usize> Words<N> {
    /// Zeros on the heap.
    pub(crate) fn zeros() -> Self {
        Words::Heap(Arc::new([const { AtomicU64::new(0) }; N]))
    }

    /// All words as they are now, one by one.
    pub(crate) fn load(&self) -> [u64; N] {
        std::array::from_fn(|index| self[index].load(Ordering::Relaxed))
    }
}

impl<const N: usize> Deref for Words<N> {
    type Target = [AtomicU64; N];

    #[inline]
    fn deref(&self) -> &[AtomicU64; N] {
        match self {
            Words::Heap(words) => words,
            Words::Mapped(words) => words,
        }
    }
}

/// Two numbers in one word, so that they change together.
pub(crate) fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// The two numbers of [`pair`].
pub(crate) fn unpair(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

/// A number that tells words that belong together from others (FNV-1a over their bytes). Never 0.
pub(crate) fn check(words: impl IntoIterator<Item = u64>) -> u64 {
    let bytes = words.into_iter().flat_map(u64::to_le_bytes);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    hash.max(1)
}

/// The head of a text: its length, whether it was cut, and a check that covers the key of the record, so that
/// what was written for another record does not pass.
fn text_head(key: u64, bytes: &[u8], is_cut: bool) -> u64 {
    let length = bytes.len() as u64 | u64::from(is_cut) << 16;
    let padded = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    length | check([key, length].into_iter().chain(padded)) << 32
}

/// Writes a text into words of which the first is its head; what does not fit is cut off.
pub(crate) fn write_text(words: &[AtomicU64], key: u64, text: &str) {
    let Some((head, body)) = words.split_first() else { return };
    let mut end = text.len().min(body.len() * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let bytes = &text.as_bytes()[..end];
    head.store(0, Ordering::Release);
    for (word, chunk) in body.iter().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
    }
    head.store(text_head(key, bytes, end < text.len()), Ordering::Release);
}

/// A text as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadText {
    pub(crate) text: String,
    pub(crate) is_cut: bool,
}

/// Reads what [`write_text`] wrote; `None` when nothing was, or not as a whole, or for another key.
pub(crate) fn read_text(words: &[u64], key: u64) -> Option<ReadText> {
    let (&head, body) = words.split_first()?;
    let length = (head & 0xffff) as usize;
    let bytes: Vec<u8> = body.iter().flat_map(|word| word.to_le_bytes()).collect();
    let bytes = bytes.get(..length)?;
    let is_cut = head >> 16 & 1 == 1;
    if head == 0 || head != text_head(key, bytes, is_cut) {
        return None;
    }
    Some(ReadText { text: std::str::from_utf8(bytes).ok()?.to_owned(), is_cut })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(key: u64, text: &str) -> Vec<u64> {
        let words: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(7)).collect();
        write_text(&words, key, text);
        words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    proptest! {
        #[test]
        fn a_text_is_read_as_it_was_written_as_far_as_it_fits(text in "\\PC{0,40}", key in 1_u64..) {
            let read = read_text(&written(key, &text), key).unwrap();
            prop_assert!(text.starts_with(&read.text));
            prop_assert_eq!(read.is_cut, read.text.len() < text.len());
            prop_assert!(!read.is_cut || read.text.len() > 28);
        }

        #[test]
        fn a_text_that_was_changed_is_not_read(text in "[a-z]{1,32}", bit in 0_usize..64) {
            let mut words = written(1, &text);
            words[1] ^= 1 << (bit % (8 * text.len().min(8)));
            prop_assert_eq!(read_text(&words, 1), None);
        }

        #[test]
        fn any_words_can_be_read(words in prop::collection::vec(any::<u64>(), 0..20), key: u64) {
            let _ = read_text(&words, key);
        }
    }

    #[test]
    fn a_text_of_another_record_is_not_read() {
        assert_eq!(read_text(&written(1, "chatcmpl-1"), 2), None);
    }
}
