//! Memory for what every step reads: weights, keys and values; and buffers that keep the size they had to have.
//!
//! The former comes from the system in mappings that ask for large pages, as far as the system has them. In small pages
//! the processor looks up the address of each 4 KiB that it reads, and that takes longer than reading them.
#![allow(unsafe_code, reason = "arrays are disjoint parts of a shared mapping")]

use bytemuck::Zeroable;
use memmap2::{MmapMut, MmapRaw};
use std::{
    io,
    ops::{Deref, DerefMut},
    sync::Arc,
};

/// Bytes of a mapping: enough that its last large page, which may stay unused in part, does not count.
const MAPPING: usize = 64 << 20;
/// Arrays start with a line of the cache.
const ALIGNMENT: usize = 64;

/// Hands out arrays one beside the other, so that small ones share large pages. What is not written takes no memory.
#[derive(Default)]
pub(crate) struct Arena {
    mapping: Option<Arc<MmapRaw>>,
    used: usize,
}

/// Values of an arena, at first all zero.
pub(crate) struct Array<T> {
    start: *mut T,
    length: usize,
    /// Keeps the memory mapped.
    _mapping: Arc<MmapRaw>,
}

// SAFETY: an array is the only owner of its values, as a `Vec` is.
unsafe impl<T: Send> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Array<T> {}

/// Makes a buffer at least `length` long; what it holds stays.
pub(crate) fn grow<T: Clone + Default>(buffer: &mut Vec<T>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
}

impl Arena {
    /// An array of `length` zeros.
    ///
    /// # Errors
    /// When the system does not promise the memory.
    pub(crate) fn array<T: Zeroable + Copy>(&mut self, length: usize) -> io::Result<Array<T>> {
        const { assert!(align_of::<T>() <= ALIGNMENT) };
        let bytes = length
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT))
            .ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = match self.mapping.take() {
            Some(mapping) if bytes <= mapping.len() - self.used => mapping,
            _ => {
                self.used = 0;
                Arc::new(map(bytes.max(MAPPING))?)
            }
        };
        // SAFETY: within the mapping, as just seen to.
        let start = unsafe { mapping.as_mut_ptr().add(self.used) }.cast();
        self.used += bytes;
        self.mapping = Some(Arc::clone(&mapping));
        Ok(Array { start, length, _mapping: mapping })
    }
}

impl Array<u8> {
    /// Has the system provide the memory of the first `length` bytes, which must not have been written yet, now and not
    /// when they are first written.
    pub(crate) fn provide(&mut self, length: usize) {
        /// Of the smallest pages that there are.
        const PAGE: usize = 4 << 10;
        for page in self.iter_mut().take(length).step_by(PAGE) {
            *page = 0;
        }
    }
}

fn map(bytes: usize) -> io::Result<MmapRaw> {
    let mapping = MmapMut::map_anon(bytes)?;
    // Without large pages it is slower, and that is all.
    #[cfg(target_os = "linux")]
    let _ = mapping.advise(memmap2::Advice::HugePage);
    Ok(mapping.into())
}

impl<T> Deref for Array<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the arena made `start` aligned (mappings start with a page) and `length` values long, of a type
        // that may be all zero; no other array has any part of it, and the mapping lives as long as this one.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

impl<T> DerefMut for Array<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGNMENT, Arena, Array, MAPPING};

    #[test]
    fn arrays_are_zero_aligned_and_apart_and_outlive_the_arena() {
        let mut arena = Arena::default();
        let lengths = [3, 0, 70, MAPPING / 4, MAPPING / 2, 2 * MAPPING / 4, 5];
        let mut arrays: Vec<Array<u32>> =
            lengths.iter().map(|&length| arena.array(length).expect("memory")).collect();
        drop(arena);
        for (array, length) in arrays.iter().zip(lengths) {
            assert_eq!(array.len(), length);
            assert!(array.as_ptr().addr().is_multiple_of(ALIGNMENT));
        }
        for (number, array) in (1..).zip(&mut arrays) {
            for index in [0, array.len() / 2, array.len().saturating_sub(1)] {
                if let Some(value) = array.get_mut(index) {
                    assert!([0, number].contains(value), "{value} at {index}");
                    *value = number;
                }
            }
        }
        for (number, array) in (1..).zip(&arrays) {
            assert!(array.first().is_none_or(|&first| first == number));
            assert!(array.last().is_none_or(|&last| last == number));
        }
    }

    #[test]
    fn memory_can_be_provided_ahead() {
        let mut array: Array<u8> = Arena::default().array(10_000).expect("memory");
        for length in [0, 1, 5_000, 10_000, usize::MAX] {
            array.provide(length);
            assert!(array.iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn more_memory_than_there_can_be_is_refused() {
        assert!(Arena::default().array::<u64>(usize::MAX / 8).is_err());
        assert!(Arena::default().array::<u64>(usize::MAX / 2).is_err());
    }
}
