//! What is asked of the servers.

use clap::ValueEnum;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::Serialize;

/// Tokens that stand for whole words of the default model's vocabulary: no special ones, no lone bytes.
const TOKENS: std::ops::Range<u32> = 1_000..48_000;
/// A warm-up has so many requests at most.
const WARM_UP_REQUESTS: u32 = 4;
const WARM_UP_OUTPUT_TOKENS: u32 = 8;

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LoadName {
    /// One request at a time: 128 tokens in, 64 out.
    Single,
    /// 16 at a time: 128 tokens in, 64 out.
    Sixteen,
    /// 64 at a time: 128 tokens in, 64 out.
    SixtyFour,
    /// 8 at a time: 1024 tokens in, 128 out.
    Long,
    /// 64 questions of 32 tokens behind the same 512 tokens, 16 at a time: 64 out.
    SharedPrefix,
}

/// One kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Load {
    /// Tokens of every prompt, those that are shared included.
    pub(crate) prompt_tokens: u32,
    /// Tokens that every prompt of a round begins with.
    pub(crate) shared_tokens: u32,
    pub(crate) output_tokens: u32,
    /// Requests in flight.
    pub(crate) concurrency: u32,
    /// Requests of a run.
    pub(crate) requests: u32,
}

impl LoadName {
    /// What it means.
    pub(crate) fn load(self) -> Load {
        let short =
            Load { prompt_tokens: 128, shared_tokens: 0, output_tokens: 64, concurrency: 1, requests: 8 };
        match self {
            Self::Single => short,
            Self::Sixteen => Load { concurrency: 16, requests: 48, ..short },
            Self::SixtyFour => Load { concurrency: 64, requests: 128, ..short },
            Self::Long => {
                Load { prompt_tokens: 1_024, output_tokens: 128, concurrency: 8, requests: 16, ..short }
            }
            Self::SharedPrefix => {
                Load { prompt_tokens: 512 + 32, shared_tokens: 512, concurrency: 16, requests: 64, ..short }
            }
        }
    }
}

impl Load {
    /// The same with so many percent of the requests.
    pub(crate) fn scaled(self, percent: u32) -> Self {
        Self { requests: (self.requests * percent).div_ceil(100), ..self }
    }

    /// Short answers to a few such prompts, to start threads and to fault memory in.
    pub(crate) fn warm_up(self) -> Self {
        let requests = self.concurrency.min(WARM_UP_REQUESTS);
        Self { requests, concurrency: requests, output_tokens: WARM_UP_OUTPUT_TOKENS, ..self }
    }

    /// Tokens of one request, prompt and answer together.
    pub(crate) fn request_tokens(self) -> u32 {
        self.prompt_tokens + self.output_tokens
    }

    /// A prompt for each request, drawn from `seed`: alike in their shared tokens and, as good as certainly, nowhere
    /// else.
    pub(crate) fn prompts(self, seed: u64) -> Vec<Vec<u32>> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut draw = |count: u32| -> Vec<u32> { (0..count).map(|_| random.random_range(TOKENS)).collect() };
        let shared = draw(self.shared_tokens);
        let own_tokens = self.prompt_tokens - self.shared_tokens;
        (0..self.requests).map(|_| [shared.clone(), draw(own_tokens)].concat()).collect()
    }

    /// In words.
    pub(crate) fn describe(self) -> String {
        let Self { prompt_tokens, shared_tokens, output_tokens, concurrency, requests } = self;
        let shared = match shared_tokens {
            0 => String::new(),
            tokens => format!(", of which the first {tokens} are the same in all prompts of a round"),
        };
        format!(
            "{prompt_tokens} tokens in{shared}, {output_tokens} out; {concurrency} in flight, {requests} requests a \
             round"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn prompts_have_their_length_and_share_what_they_should() {
        for name in LoadName::value_variants() {
            let load = name.load();
            let prompts = load.prompts(7);
            assert_eq!(prompts.len(), load.requests as usize);
            let shared = load.shared_tokens as usize;
            let mut own = BTreeSet::new();
            for prompt in &prompts {
                assert_eq!(prompt.len(), load.prompt_tokens as usize);
                assert_eq!(prompt[..shared], prompts[0][..shared]);
                assert!(prompt.iter().all(|token| TOKENS.contains(token)));
                // Blocks of a prefix cache begin at the beginning, so one different token is enough.
                own.insert(prompt[shared]);
            }
            assert!(own.len() * 100 >= prompts.len() * 95, "{} of {}", own.len(), prompts.len());
        }
    }

    #[test]
    fn another_seed_gives_other_prompts_and_the_same_seed_the_same() {
        let load = LoadName::SharedPrefix.load();
        assert_eq!(load.prompts(1), load.prompts(1));
        assert_ne!(load.prompts(1)[0][..512], load.prompts(2)[0][..512]);
    }

    #[test]
    fn shorter_runs_have_at_least_one_request() {
        let load = LoadName::SixtyFour.load();
        assert_eq!((load.scaled(25).requests, load.scaled(1).requests), (32, 2));
        assert_eq!(LoadName::Single.load().scaled(1).requests, 1);
        let warm_up = load.warm_up();
        assert_eq!((warm_up.requests, warm_up.concurrency, warm_up.prompt_tokens), (4, 4, 128));
    }
}
