//! Reading an answer as it comes, as cheaply as one can and still know that it is whole.

/// Enough for the last event with text, the usage and `[DONE]`.
const TAIL_BYTES: usize = 1024;

/// What has been read of one answer.
#[derive(Debug)]
pub(super) struct Answer {
    is_streamed: bool,
    line_ends: u64,
    pub(super) frames: u64,
    /// The last bytes, at least [`TAIL_BYTES`] of them once so many have come.
    tail: Vec<u8>,
}

impl Answer {
    pub(super) fn new(is_streamed: bool) -> Self {
        Self { is_streamed, line_ends: 0, frames: 0, tail: Vec::with_capacity(4 * TAIL_BYTES) }
    }

    /// Takes the next piece.
    pub(super) fn take(&mut self, piece: &[u8]) {
        self.frames += 1;
        self.line_ends += piece.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
        if self.tail.len() > 3 * TAIL_BYTES {
            self.tail.drain(..self.tail.len() - TAIL_BYTES);
        }
        self.tail.extend_from_slice(&piece[piece.len().saturating_sub(TAIL_BYTES)..]);
    }

    /// Server-sent events so far: each is a line and an empty one, and JSON has no line ends of its own here.
    pub(super) fn events(&self) -> u64 {
        if self.is_streamed { self.line_ends / 2 } else { 0 }
    }

    /// Whether it ended where its length told it to, and nothing is missing at its end.
    pub(super) fn is_whole(&self) -> bool {
        let end: &[u8] = if self.is_streamed { b"data: [DONE]\n\n" } else { b"}" };
        let reason = b"\"finish_reason\":\"length\"";
        self.tail.ends_with(end) && self.tail.windows(reason.len()).any(|part| part == reason)
    }

    /// The end of what has come, for a message.
    pub(super) fn shown(&self) -> String {
        let from = self.tail.len().saturating_sub(TAIL_BYTES / 4);
        String::from_utf8_lossy(&self.tail[from..]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAST: &str = "data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\n";

    fn of(pieces: &[&str], is_streamed: bool) -> Answer {
        let mut answer = Answer::new(is_streamed);
        pieces.iter().for_each(|piece| answer.take(piece.as_bytes()));
        answer
    }

    #[test]
    fn an_answer_is_whole_however_it_is_cut() {
        let text = format!("{}{LAST}data: [DONE]\n\n", "data: {\"x\":1}\n\n".repeat(500));
        for size in [1, 7, 300, 1500, text.len()] {
            let pieces: Vec<&str> =
                text.as_bytes().chunks(size).map(|piece| std::str::from_utf8(piece).unwrap()).collect();
            let answer = of(&pieces, true);
            assert!(answer.is_whole(), "in pieces of {size}");
            assert_eq!((answer.events(), answer.frames), (502, pieces.len() as u64));
        }
        let whole = of(&["{\"choices\":[{\"finish_reason\":\"length\"", "}]}"], false);
        assert!(whole.is_whole());
        assert_eq!(whole.events(), 0);
    }

    #[test]
    fn an_answer_that_lacks_its_end_or_ended_otherwise_is_not_whole() {
        assert!(!of(&[LAST], true).is_whole());
        assert!(!of(&["data: [DONE]\n\n"], true).is_whole());
        assert!(!of(&[LAST.replace("length", "stop").as_str(), "data: [DONE]\n\n"], true).is_whole());
        assert!(!of(&["{\"choices\":[{\"finish_reason\":\"length\""], false).is_whole());
        assert!(!of(&[], true).is_whole());
    }
}
