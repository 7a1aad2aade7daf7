//! What identifies the content of a KV block: its tokens and all tokens before them.

use std::hash::Hasher as _;
use std::num::NonZeroU128;

use siphasher::sip128::{Hash128, Hasher128 as _, SipHasher13};
use wayfare_engine::TokenId;

/// Names the content of a full block, from the first token of the sequence on.
///
/// Two contents get the same name with a probability of 2⁻¹²⁸, and nobody who does not know the key can search
/// for such a pair: a request never reads another one's keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockHash(NonZeroU128);

/// Where a chain of blocks begins: requests share blocks only when they have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChainHash(u128);

impl From<BlockHash> for ChainHash {
    fn from(hash: BlockHash) -> Self {
        Self(hash.0.get())
    }
}

/// Hashes blocks with SipHash-1-3 in its 128-bit form, keyed: as vLLM, parent hash first, then the tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PrefixHasher {
    key: [u64; 2],
}

impl PrefixHasher {
    pub(crate) fn new(key: [u64; 2]) -> Self {
        Self { key }
    }

    /// The beginning of a sequence. A salt keeps it apart from those with another salt or none.
    pub(crate) fn root(&self, salt: Option<&str>) -> ChainHash {
        let Some(salt) = salt else { return ChainHash(0) };
        ChainHash(self.finish(|hasher| hasher.write(salt.as_bytes())).get())
    }

    /// The block with these tokens behind `parent`.
    pub(crate) fn block(&self, parent: ChainHash, tokens: &[TokenId]) -> BlockHash {
        BlockHash(self.finish(|hasher| {
            hasher.write(&parent.0.to_le_bytes());
            hasher.write(bytemuck::cast_slice(tokens));
        }))
    }

    fn finish(&self, write: impl FnOnce(&mut SipHasher13)) -> NonZeroU128 {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        write(&mut hasher);
        let Hash128 { h1, h2 } = hasher.finish128();
        NonZeroU128::new(u128::from(h1) << 64 | u128::from(h2)).unwrap_or(NonZeroU128::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_named_by_its_tokens_all_before_them_the_salt_and_the_key() {
        let hasher = PrefixHasher::new([1, 2]);
        let plain = hasher.root(None);
        let block = hasher.block(plain, &[5, 6]);
        assert_eq!(block, hasher.block(plain, &[5, 6]));
        let others = [
            hasher.block(plain, &[6, 5]),
            hasher.block(hasher.block(plain, &[1]).into(), &[5, 6]),
            hasher.block(hasher.root(Some("")), &[5, 6]),
            hasher.block(hasher.root(Some("a")), &[5, 6]),
            hasher.block(hasher.root(Some("b")), &[5, 6]),
            PrefixHasher::new([1, 3]).block(plain, &[5, 6]),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(block, *other, "{index}");
            assert!(!others[index + 1..].contains(other), "{index}");
        }
    }
}
