//! The same scheduler in its plainest form: lists that are searched, prefixes that are compared token by token,
//! nothing remembered that can be found by looking. Model-based tests compare the two step by step.

use wayfare_engine::{SchedulingPolicy, TokenId};
use wayfare_scheduler::SchedulerConfig;

/// The tokens of a block and all before them, with the salt.
type Content = (Option<&'static str>, Vec<TokenId>);

#[derive(Clone, Debug)]
pub(crate) struct NaiveSequence {
    pub(crate) id: u64,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) prompt_len: usize,
    pub(crate) max_tokens: usize,
    priority: i32,
    arrived: u64,
    salt: Option<&'static str>,
    computed: usize,
    blocks: Vec<usize>,
    resumes: bool,
    pub(crate) cached: Option<usize>,
    pub(crate) preemptions: u32,
}

#[derive(Debug)]
pub(crate) struct Naive {
    config: SchedulerConfig,
    waiting: Vec<NaiveSequence>,
    running: Vec<NaiveSequence>,
    /// By block number; block 0 is never used.
    contents: Vec<Option<Content>>,
    /// When each block got its content.
    registered: Vec<u64>,
    registrations: u64,
    /// In the order in which they are taken.
    free: Vec<usize>,
    /// (id, tokens) of the step.
    plan: Vec<(u64, usize)>,
}

impl Naive {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        let blocks = config.num_kv_blocks as usize;
        Self {
            config,
            waiting: Vec::new(),
            running: Vec::new(),
            contents: vec![None; blocks],
            registered: vec![0; blocks],
            registrations: 0,
            free: (1..blocks).collect(),
            plan: Vec::new(),
        }
    }

    pub(crate) fn add(
        &mut self,
        id: u64,
        prompt: &[TokenId],
        max_tokens: u32,
        (priority, salt): (i32, Option<&'static str>),
        arrived: u64,
    ) {
        self.waiting.push(NaiveSequence {
            id,
            tokens: prompt.to_vec(),
            prompt_len: prompt.len(),
            max_tokens: max_tokens as usize,
            priority,
            arrived,
            salt,
            computed: 0,
            blocks: Vec::new(),
            resumes: false,
            cached: None,
            preemptions: 0,
        });
        self.order_waiting();
    }

    fn order_waiting(&mut self) {
        if self.config.policy == SchedulingPolicy::Priority {
            self.waiting.sort_by_key(|sequence| (sequence.priority, sequence.arrived, sequence.id));
        }
    }

    /// Plans a step; each sequence with the range of its tokens and its blocks.
    pub(crate) fn schedule(&mut self) -> String {
        self.plan.clear();
        let has_preempted = self.schedule_running();
        while !has_preempted && self.admit_first() {}
        let part = |(id, tokens): &(u64, usize)| {
            let sequence = self.running.iter().find(|sequence| sequence.id == *id).unwrap();
            let (start, end) = (sequence.computed, sequence.computed + tokens);
            let mark = if end == sequence.tokens.len() { "*" } else { "" };
            format!(" {id}[{start}..{end}]{mark}{:?}", sequence.blocks)
        };
        self.plan.iter().map(part).collect()
    }

    fn budget(&self) -> usize {
        let planned: usize = self.plan.iter().map(|(_, tokens)| tokens).sum();
        self.config.max_num_batched_tokens as usize - planned
    }

    fn chunk(&self, pending: usize) -> usize {
        match self.config.long_prefill_token_threshold as usize {
            0 => pending,
            threshold => pending.min(threshold),
        }
    }

    fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.config.block_size as usize)
    }

    fn schedule_running(&mut self) -> bool {
        let mut has_preempted = false;
        let order: Vec<u64> = self.running.iter().map(|sequence| sequence.id).collect();
        for id in order {
            let Some(position) = self.running.iter().position(|sequence| sequence.id == id) else { continue };
            if self.budget() == 0 {
                break;
            }
            let sequence = &self.running[position];
            let tokens = self.chunk(sequence.tokens.len() - sequence.computed).min(self.budget());
            let missing = self.blocks_for(sequence.computed + tokens).saturating_sub(sequence.blocks.len());
            while missing > self.free.len() {
                has_preempted = true;
                if self.preempt_one() == id {
                    return true;
                }
            }
            let position = self.running.iter().position(|sequence| sequence.id == id).unwrap();
            self.take_blocks(position, missing);
            self.plan.push((id, tokens));
            self.note_contents(position, tokens);
        }
        has_preempted
    }

    fn preempt_one(&mut self) -> u64 {
        let position = match self.config.policy {
            SchedulingPolicy::Fcfs => self.running.len() - 1,
            SchedulingPolicy::Priority => {
                let rank = |at: &usize| {
                    let sequence = &self.running[*at];
                    (sequence.priority, sequence.arrived, sequence.id)
                };
                (0..self.running.len()).max_by_key(rank).unwrap()
            }
        };
        let mut victim = self.running.remove(position);
        self.plan.retain(|(id, _)| *id != victim.id);
        let computed_blocks = victim.computed / self.config.block_size as usize;
        for (index, block) in victim.blocks.iter().enumerate() {
            if index >= computed_blocks {
                self.contents[*block] = None;
            }
        }
        self.give_back(&mut victim);
        victim.computed = 0;
        victim.resumes = true;
        victim.preemptions += 1;
        let id = victim.id;
        self.waiting.insert(0, victim);
        self.order_waiting();
        id
    }

    fn admit_first(&mut self) -> bool {
        let Some(first) = self.waiting.first() else { return false };
        if self.running.len() >= self.config.max_num_seqs as usize || self.budget() == 0 {
            return false;
        }
        let hits = self.find_prefix(first);
        let cached = hits.len() * self.config.block_size as usize;
        let pending = self.chunk(first.tokens.len() - cached);
        if !self.config.chunked_prefill && pending > self.budget() {
            return false;
        }
        let tokens = pending.min(self.budget());
        let missing = self.blocks_for(cached + tokens) - hits.len();
        let needed = if first.resumes { self.blocks_for(first.tokens.len()) - hits.len() } else { missing };
        let free_hits = hits.iter().filter(|block| self.free.contains(block)).count();
        if needed + free_hits > self.free.len() {
            return false;
        }
        let mut admitted = self.waiting.remove(0);
        self.free.retain(|block| !hits.contains(block));
        admitted.blocks = hits;
        admitted.computed = cached;
        admitted.cached.get_or_insert(cached);
        self.plan.push((admitted.id, tokens));
        self.running.push(admitted);
        let position = self.running.len() - 1;
        self.take_blocks(position, missing);
        self.note_contents(position, tokens);
        true
    }

    fn find_prefix(&self, sequence: &NaiveSequence) -> Vec<usize> {
        if self.config.prefix_caching.is_none() {
            return Vec::new();
        }
        let block_size = self.config.block_size as usize;
        let most = (sequence.tokens.len() - 1) / block_size;
        let find = |count: usize| {
            let wanted = (sequence.salt, sequence.tokens[..count * block_size].to_vec());
            let has_it = |block: &usize| self.contents[*block].as_ref() == Some(&wanted);
            (1..self.contents.len()).filter(has_it).max_by_key(|block| self.registered[*block])
        };
        (1..=most).map_while(find).collect()
    }

    fn take_blocks(&mut self, position: usize, count: usize) {
        for block in self.free.drain(..count) {
            self.contents[block] = None;
            self.running[position].blocks.push(block);
        }
    }

    fn note_contents(&mut self, position: usize, tokens: usize) {
        if self.config.prefix_caching.is_none() {
            return;
        }
        let sequence = &self.running[position];
        let block_size = self.config.block_size as usize;
        for index in 0..(sequence.computed + tokens) / block_size {
            let block = sequence.blocks[index];
            if self.contents[block].is_none() {
                self.registrations += 1;
                self.registered[block] = self.registrations;
                self.contents[block] =
                    Some((sequence.salt, sequence.tokens[..(index + 1) * block_size].to_vec()));
            }
        }
    }

    fn give_back(&mut self, sequence: &mut NaiveSequence) {
        let blocks = std::mem::take(&mut sequence.blocks);
        let is_owned = |block: &usize| self.running.iter().any(|other| other.blocks.contains(block));
        let freed: Vec<usize> = blocks.into_iter().rev().filter(|block| !is_owned(block)).collect();
        self.free.extend(freed);
    }

    /// Every sequence that completes its tokens gets this token; returns those that ended.
    pub(crate) fn commit(&mut self, token: TokenId, end_of_text: TokenId) -> Vec<NaiveSequence> {
        let mut ended = Vec::new();
        for (id, tokens) in std::mem::take(&mut self.plan) {
            let position = self.running.iter().position(|sequence| sequence.id == id).unwrap();
            let sequence = &mut self.running[position];
            sequence.computed += tokens;
            if sequence.computed < sequence.tokens.len() {
                continue;
            }
            sequence.tokens.push(token);
            let generated = sequence.tokens.len() - sequence.prompt_len;
            if token == end_of_text || generated >= sequence.max_tokens {
                ended.extend(self.end(id));
            }
        }
        ended
    }

    /// Ends a sequence, wherever it is.
    pub(crate) fn end(&mut self, id: u64) -> Option<NaiveSequence> {
        if let Some(position) = self.waiting.iter().position(|sequence| sequence.id == id) {
            return Some(self.waiting.remove(position));
        }
        let position = self.running.iter().position(|sequence| sequence.id == id)?;
        let mut sequence = self.running.remove(position);
        self.give_back(&mut sequence);
        Some(sequence)
    }

    pub(crate) fn waiting_ids(&self) -> Vec<u64> {
        self.waiting.iter().map(|sequence| sequence.id).collect()
    }
}
