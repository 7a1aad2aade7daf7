//! GGUF headers, <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//!
//! Read here and not with candle's reader because a header comes from anywhere: a zero alignment or an array
//! of a billion entries must be an error, and an unknown tensor type must be named.

mod reader;
mod vocabulary;

pub(crate) use reader::{GgufFile, Metadata};
pub use vocabulary::GgufVocabulary;
