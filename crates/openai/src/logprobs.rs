//! Log-probabilities in the forms of the two routes, written without an intermediate tree.

use std::fmt::Write as _;

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};
use wayfare_engine::{TokenId, TokenLogprobs};
use wayfare_text::Tokenizer;

/// What vLLM shows for a token that cannot come: JSON has no infinity.
const LEAST: f32 = -9999.0;

/// How tokens are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenWriter<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    /// As `token_id:NUMBER`.
    pub(crate) as_ids: bool,
}

impl TokenWriter<'_> {
    /// A token's text; bytes that are no character become U+FFFD.
    pub(crate) fn text(self, token: TokenId) -> String {
        if self.as_ids {
            return format!("token_id:{token}");
        }
        String::from_utf8_lossy(self.bytes(token)).into_owned()
    }

    fn bytes(&self, token: TokenId) -> &[u8] {
        self.tokenizer.token_bytes(token).unwrap_or_default()
    }
}

fn finite(logprob: f32) -> f32 {
    // A NaN becomes the least, too.
    logprob.max(LEAST)
}

/// `logprobs` of a chat choice: `content`, an object per token.
#[derive(Debug, Serialize)]
pub(crate) struct ChatLogprobs<'a> {
    pub(crate) content: TextLogprobs<'a>,
    pub(crate) refusal: Option<()>,
}

/// A list of objects, one per token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextLogprobs<'a> {
    pub(crate) tokens: &'a [TokenLogprobs],
    pub(crate) writer: TokenWriter<'a>,
}

impl Serialize for TextLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.tokens.iter().map(|known| ChatToken {
            entry: self.entry(known.token, known.logprob),
            top_logprobs: known.top.iter().map(|(token, logprob)| self.entry(*token, *logprob)).collect(),
        }))
    }
}

impl TextLogprobs<'_> {
    fn entry(&self, token: TokenId, logprob: f32) -> ChatEntry<'_> {
        let bytes = self.writer.tokenizer.token_bytes(token);
        ChatEntry { token: self.writer.text(token), logprob: finite(logprob), bytes }
    }
}

#[derive(Serialize)]
struct ChatToken<'a> {
    #[serde(flatten)]
    entry: ChatEntry<'a>,
    top_logprobs: Vec<ChatEntry<'a>>,
}

#[derive(Serialize)]
struct ChatEntry<'a> {
    token: String,
    logprob: f32,
    bytes: Option<&'a [u8]>,
}

/// `logprobs` of a completion's choice: four lists of the same length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CompletionLogprobs<'a> {
    /// The prompt's tokens, when they are echoed. The first has no log-probability.
    pub(crate) prompt: Option<(TokenId, &'a [TokenLogprobs])>,
    pub(crate) tokens: &'a [TokenLogprobs],
    /// Characters of the choice's text before the first of them.
    pub(crate) text_offset: usize,
    pub(crate) writer: TokenWriter<'a>,
}

impl CompletionLogprobs<'_> {
    fn all(&self) -> impl Iterator<Item = (TokenId, Option<&TokenLogprobs>)> {
        let prompt = self.prompt.iter().flat_map(|(first, others)| {
            std::iter::once((*first, None)).chain(others.iter().map(|known| (known.token, Some(known))))
        });
        prompt.chain(self.tokens.iter().map(|known| (known.token, Some(known))))
    }

    /// Characters of the choice's text up to the last of them.
    pub(crate) fn end_offset(&self) -> usize {
        self.all()
            .fold(self.text_offset, |offset, (token, _)| offset + self.writer.text(token).chars().count())
    }
}

impl Serialize for CompletionLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let texts: Vec<String> = self.all().map(|(token, _)| self.writer.text(token)).collect();
        let offsets = texts.iter().scan(self.text_offset, |offset, text| {
            let own = *offset;
            *offset += text.chars().count();
            Some(own)
        });
        let logprobs = self.all().map(|(_, known)| known.map(|known| finite(known.logprob)));
        let tops = self.all().map(|(_, known)| known.map(|known| TopLogprobs { known, writer: self.writer }));
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("text_offset", &offsets.collect::<Vec<_>>())?;
        map.serialize_entry("token_logprobs", &logprobs.collect::<Vec<_>>())?;
        map.serialize_entry("tokens", &texts)?;
        map.serialize_entry("top_logprobs", &tops.collect::<Vec<_>>())?;
        map.end()
    }
}

/// The likely tokens with their log-probabilities, and the token itself, as OpenAI and vLLM have them here. Of tokens
/// with the same text the most likely one is shown.
struct TopLogprobs<'a> {
    known: &'a TokenLogprobs,
    writer: TokenWriter<'a>,
}

impl Serialize for TopLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own = (self.known.token, self.known.logprob);
        let mut map = serializer.serialize_map(None)?;
        let mut written: Vec<String> = Vec::with_capacity(self.known.top.len() + 1);
        for (token, logprob) in self.known.top.iter().chain([&own]) {
            let text = self.writer.text(*token);
            if !written.contains(&text) {
                map.serialize_entry(&text, &finite(*logprob))?;
                written.push(text);
            }
        }
        map.end()
    }
}

/// vLLM's `prompt_logprobs`: nothing for the first token, then an object by token id for each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PromptLogprobs<'a> {
    pub(crate) tokens: &'a [TokenLogprobs],
    pub(crate) writer: TokenWriter<'a>,
}

impl Serialize for PromptLogprobs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sequence = serializer.serialize_seq(Some(self.tokens.len() + 1))?;
        sequence.serialize_element(&None::<()>)?;
        for known in self.tokens {
            sequence.serialize_element(&PromptToken { known, writer: self.writer })?;
        }
        sequence.end()
    }
}

struct PromptToken<'a> {
    known: &'a TokenLogprobs,
    writer: TokenWriter<'a>,
}

#[derive(Serialize)]
struct PromptEntry {
    logprob: f32,
    rank: u32,
    decoded_token: String,
}

impl Serialize for PromptToken<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let TokenLogprobs { token, logprob, rank, top } = self.known;
        let ranked = (1..).zip(top).map(|(rank, (token, logprob))| (*token, *logprob, rank));
        let own = std::iter::once((*token, *logprob, *rank));
        let others = ranked.filter(|(other, ..)| other != token);
        let mut map = serializer.serialize_map(None)?;
        let mut key = String::new();
        for (token, logprob, rank) in own.chain(others) {
            key.clear();
            // Writing to a string cannot fail.
            let _ = write!(key, "{token}");
            let decoded_token = self.writer.text(token);
            map.serialize_entry(&key, &PromptEntry { logprob: finite(logprob), rank, decoded_token })?;
        }
        map.end()
    }
}
