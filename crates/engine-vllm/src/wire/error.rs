//! What can be wrong with a frame.

/// Why a frame of an engine core cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The frame ends where a value should go on.
    #[error("the frame ends in the middle of a value")]
    Truncated,
    /// Something follows the message.
    #[error("{count} bytes follow the message")]
    TrailingBytes {
        /// How many bytes.
        count: usize,
    },
    /// A value is of another kind than its place says.
    #[error("{place} is {found} and not {wanted}")]
    WrongType {
        /// The field.
        place: &'static str,
        /// What belongs there.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// A number that its place cannot have.
    #[error("{place} is out of range")]
    OutOfRange {
        /// The field.
        place: &'static str,
    },
    /// Text that is none.
    #[error("{place} is not UTF-8")]
    NotUtf8 {
        /// The field.
        place: &'static str,
    },
    /// An array of numbers whose parts contradict one another.
    #[error("{place}: {problem}")]
    Tensor {
        /// The field.
        place: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The message has fewer fields than every version sends.
    #[error("{place} has {fields} fields, fewer than any vLLM sends")]
    TooShort {
        /// The message.
        place: &'static str,
        /// Its fields.
        fields: u32,
    },
    /// The message has fields that the version that was reported does not send, so their places are not known.
    #[error(
        "an output has {fields} fields, which the engine's version (before 0.26) does not send: the order of its \
         fields is not known"
    )]
    UnknownLayout {
        /// Fields of the output.
        fields: u32,
    },
}
