//! What single sequences ask for beyond a [`SampleSpec`]: penalties, bans, grammars, log-probabilities.
//!
//! HOT PATH: runs per sampled token of a sequence with rules; the others never come here.

mod logprobs;

use std::collections::HashMap;
use std::sync::Arc;

use wayfare_engine::{
    ConstraintError, EngineRequest, OutputDetails, RequestId, TokenConstraint, TokenId, TokenLogprobs,
    TokenRules, TokenSet,
};

use crate::{LogitsError, SampleSpec, Sampler};

/// The rules of the sequences that have any.
#[derive(Debug, Default)]
pub struct RuleBook {
    entries: HashMap<RequestId, SequenceRules>,
    vocab_size: u32,
}

impl RuleBook {
    /// An empty book for tokens below `vocab_size`.
    #[must_use]
    pub fn new(vocab_size: u32) -> Self {
        Self { entries: HashMap::new(), vocab_size }
    }

    /// The rules of a request, if it has any. Its constraint goes over to them.
    #[must_use]
    pub fn read(&self, request: &mut EngineRequest) -> Option<SequenceRules> {
        let sampling = &request.sampling;
        let is_plain = sampling.rules.is_none()
            && sampling.logprobs.is_none()
            && sampling.prompt_logprobs.is_none()
            && request.constraint.is_none();
        (!is_plain).then(|| SequenceRules::new(request, self.vocab_size))
    }

    /// From now on sequence `id` follows `rules`.
    pub fn open(&mut self, id: RequestId, rules: Option<SequenceRules>) {
        if let Some(rules) = rules {
            self.entries.insert(id, rules);
        }
    }

    /// Forgets a sequence.
    pub fn close(&mut self, id: RequestId) {
        self.entries.remove(&id);
    }

    /// Whether no sequence has rules.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Tokens are below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// The rules of a sequence.
    pub fn of(&mut self, id: RequestId) -> Option<&mut SequenceRules> {
        self.entries.get_mut(&id)
    }

    /// The sequences for which no token can be chosen, each once.
    pub(crate) fn take_failures(&mut self) -> impl Iterator<Item = (RequestId, RuleFailure)> {
        self.entries.iter_mut().filter_map(|(id, rules)| Some((*id, rules.failure.take()?)))
    }
}

/// Why no token can be chosen for a sequence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleFailure {
    /// Its rules leave nothing, or the model has computed nothing finite.
    #[error("no token is left to choose from")]
    NothingLeft,
    /// Its grammar cannot be followed.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
}

/// The rules of one sequence, and what they need to know about its tokens.
#[derive(Debug)]
pub struct SequenceRules {
    rules: Arc<TokenRules>,
    constraint: Option<Box<dyn TokenConstraint>>,
    /// What the constraint allows, kept for the next token's answer; empty without one.
    allowed: TokenSet,
    prompt: Arc<[TokenId]>,
    /// The tokens of the prompt, when they are penalised.
    in_prompt: Option<TokenSet>,
    /// How often each token is in the output, when that matters.
    counts: Option<HashMap<TokenId, u32>>,
    /// The last output tokens, as many as a bad word may have before its last one.
    recent: Vec<TokenId>,
    num_recent: usize,
    num_output: u32,
    /// What may not come before `min_tokens`.
    ends: Vec<TokenId>,
    /// What was banned from the row at hand and could have come, with its logit; kept for the next row.
    banned: Vec<(TokenId, f32)>,
    logprobs: Option<u32>,
    prompt_logprobs: Option<u32>,
    /// Prompt tokens whose log-probabilities are known.
    num_prompt_known: u32,
    details: OutputDetails,
    failure: Option<RuleFailure>,
}

impl SequenceRules {
    fn new(request: &mut EngineRequest, vocab_size: u32) -> Self {
        let sampling = &request.sampling;
        let rules = sampling.rules.clone().unwrap_or_default();
        let constraint = request.constraint.take().map(|constraint| constraint.matcher);
        let in_prompt = (rules.repetition_penalty != 1.0).then(|| {
            let mut tokens = TokenSet::empty(vocab_size);
            request.prompt.iter().for_each(|token| tokens.insert(*token));
            tokens
        });
        let counts_matter = rules.repetition_penalty != 1.0
            || rules.frequency_penalty != 0.0
            || rules.presence_penalty != 0.0;
        let longest_bad_word = rules.bad_words.iter().map(Vec::len).max().unwrap_or(0);
        let mut ends = Vec::new();
        if rules.min_tokens > 0 {
            ends.extend_from_slice(&sampling.end_of_text);
            ends.extend_from_slice(&sampling.stop_token_ids);
        }
        let prompt_logprobs = sampling.prompt_logprobs;
        Self {
            allowed: TokenSet::empty(if constraint.is_some() { vocab_size } else { 0 }),
            prompt: Arc::clone(&request.prompt),
            in_prompt,
            counts: counts_matter.then(HashMap::new),
            recent: Vec::new(),
            num_recent: longest_bad_word.saturating_sub(1),
            num_output: 0,
            ends,
            banned: Vec::new(),
            logprobs: sampling.logprobs,
            prompt_logprobs,
            num_prompt_known: 0,
            details: OutputDetails {
                logprobs: Vec::new(),
                prompt_logprobs: prompt_logprobs.map(|_| Vec::new()),
            },
            failure: None,
            rules,
            constraint,
        }
    }

    /// After how many of the `num_tokens` tokens from `first_position` on the logits are wanted for the prompt's
    /// sake. They are the last of them.
    pub(crate) fn num_prompt_rows(&self, first_position: u32, num_tokens: u32) -> u32 {
        let last_wanted = self.prompt.len() as u32 - 1;
        if self.prompt_logprobs.is_none() || self.num_prompt_known >= last_wanted {
            return 0;
        }
        let end = first_position + num_tokens;
        end.saturating_sub(first_position.max(self.num_prompt_known))
    }

    /// Takes the logits after the next prompt token. Rows come in the order of their tokens, each once.
    pub fn take_prompt_row(&mut self, logits: &[f32]) {
        let next = self.prompt.get(self.num_prompt_known as usize + 1);
        if let (Some(token), Some(top), Some(known)) =
            (next, self.prompt_logprobs, &mut self.details.prompt_logprobs)
        {
            known.push(logprobs::of(logits, *token, top));
            self.num_prompt_known += 1;
        }
    }

    /// The prompt token that the next row of [`SequenceRules::take_prompt_row`] comes before.
    #[must_use]
    pub fn next_prompt_token(&self) -> Option<TokenId> {
        self.prompt.get(self.num_prompt_known as usize + 1).copied()
    }

    /// What the sequence's grammar allows now; `None` when it has none.
    ///
    /// # Errors
    /// When the grammar cannot be followed.
    pub fn allowed(&mut self) -> Result<Option<&TokenSet>, ConstraintError> {
        let Some(constraint) = &mut self.constraint else { return Ok(None) };
        self.allowed.clear();
        constraint.allow(&mut self.allowed)?;
        Ok(Some(&self.allowed))
    }

    /// Chooses the next token from `logits`, which are changed on the way. Where that is not possible the sequence
    /// ends with an error after this step, and the token means nothing.
    pub fn choose(&mut self, sampler: &mut Sampler, logits: &mut [f32], spec: &SampleSpec) -> TokenId {
        match self.try_choose(sampler, logits, spec) {
            Ok(token) => token,
            Err(failure) => {
                self.failure = Some(failure);
                0
            }
        }
    }

    fn try_choose(
        &mut self,
        sampler: &mut Sampler,
        logits: &mut [f32],
        spec: &SampleSpec,
    ) -> Result<TokenId, RuleFailure> {
        let raw = self.logprobs.map(|top| (top, logprobs::Raw::of(logits, top)));
        // What the grammar allows comes first, as in vLLM: it knocks tokens out for good.
        if self.allowed()?.is_some() {
            keep_only(logits, |token| self.allowed.contains(token));
        }
        self.apply(logits);
        let token = sampler.choose(logits, spec).map_err(|LogitsError| RuleFailure::NothingLeft)?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token)?;
        }
        if let Some((top, raw)) = raw {
            self.details.logprobs.push(raw.finish(token, top));
        }
        self.remember(token);
        Ok(token)
    }

    /// The changes to the logits, in vLLM's order.
    fn apply(&mut self, logits: &mut [f32]) {
        if let Some(allowed) = &self.rules.allowed {
            keep_only(logits, |token| allowed.binary_search(&token).is_ok());
        }
        self.ban(logits);
        let rules = &*self.rules;
        for (token, bias) in &rules.logit_bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        if let Some(in_prompt) = &self.in_prompt {
            let is_known = |token| {
                in_prompt.contains(token)
                    || self.counts.as_ref().is_some_and(|counts| counts.contains_key(&token))
            };
            for (token, logit) in (0..).zip(&mut *logits) {
                if is_known(token) {
                    *logit = match *logit > 0.0 {
                        true => *logit / rules.repetition_penalty,
                        false => *logit * rules.repetition_penalty,
                    };
                }
            }
        }
        for (token, count) in self.counts.iter().flatten() {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit -= rules.frequency_penalty * *count as f32 + rules.presence_penalty;
            }
        }
    }

    /// Bans bad words, and the end before `min_tokens`. Where a grammar or `allowed` leaves nothing else, they yield: what
    /// the output must be comes before what it had better not be. The end comes first, because an output that is complete
    /// has nothing to go on with; then bad words.
    fn ban(&mut self, logits: &mut [f32]) {
        let Self { rules, recent, banned, .. } = self;
        for word in &rules.bad_words {
            if let Some((last, before)) = word.split_last()
                && recent.ends_with(before)
            {
                ban(logits, *last, banned);
            }
        }
        let num_bad = banned.len();
        if self.num_output < rules.min_tokens {
            self.ends.iter().for_each(|token| ban(logits, *token, banned));
        }
        let num_banned = banned.len();
        if num_banned > 0 && !logits.iter().any(|logit| logit.is_finite()) {
            let yields = if num_banned > num_bad { num_bad..num_banned } else { 0..num_bad };
            for (token, logit) in &banned[yields] {
                logits[*token as usize] = *logit;
            }
        }
        banned.clear();
    }

    fn remember(&mut self, token: TokenId) {
        self.num_output += 1;
        if let Some(counts) = &mut self.counts {
            *counts.entry(token).or_insert(0) += 1;
        }
        if self.num_recent > 0 {
            if self.recent.len() == self.num_recent {
                self.recent.remove(0);
            }
            self.recent.push(token);
        }
    }

    /// What has become known of the sequence's tokens since the last call.
    pub(crate) fn take_details(&mut self, is_first: bool) -> Option<Box<OutputDetails>> {
        let prompt_logprobs = if is_first { self.details.prompt_logprobs.take() } else { None };
        let logprobs: Vec<TokenLogprobs> = std::mem::take(&mut self.details.logprobs);
        let details = OutputDetails { logprobs, prompt_logprobs };
        (details != OutputDetails::default()).then(|| Box::new(details))
    }
}

/// Bans a token, and remembers it if it could have come.
fn ban(logits: &mut [f32], token: TokenId, banned: &mut Vec<(TokenId, f32)>) {
    let Some(logit) = logits.get_mut(token as usize) else { return };
    if logit.is_finite() {
        banned.push((token, *logit));
    }
    *logit = f32::NEG_INFINITY;
}

fn keep_only(logits: &mut [f32], is_kept: impl Fn(TokenId) -> bool) {
    for (token, logit) in (0..).zip(logits) {
        if !is_kept(token) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests;
