use proptest::prelude::*;
use wayfare_engine::{OutputConstraint, OutputGrammar, SamplingParams};
use wayfare_journey::{MonoNs, RequestLabel};

use super::*;

const VOCAB_SIZE: u32 = 8;
const ID: RequestId = RequestId(1);

fn request(prompt: &[TokenId], change: impl FnOnce(&mut SamplingParams, &mut TokenRules)) -> EngineRequest {
    let mut sampling = SamplingParams {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        seed: 0,
        seed_is_chosen: true,
        max_tokens: 100,
        end_of_text: [7].into(),
        stop_token_ids: [6].into(),
        rules: None,
        logprobs: None,
        prompt_logprobs: None,
    };
    let mut rules = TokenRules::default();
    change(&mut sampling, &mut rules);
    if rules != TokenRules::default() {
        sampling.rules = Some(Arc::new(rules));
    }
    EngineRequest {
        id: ID,
        label: RequestLabel::new("r"),
        prompt: prompt.into(),
        sampling,
        constraint: None,
        priority: 0,
        cache_salt: None,
        arrived: MonoNs(0),
        core_span: None,
    }
}

fn spec(sampling: &SamplingParams, output_index: u32) -> SampleSpec {
    let SamplingParams { temperature, top_p, top_k, min_p, seed, .. } = *sampling;
    SampleSpec { temperature, top_p, top_k, min_p, seed, output_index }
}

/// The greedy tokens of `count` rows that all have the same logits.
fn greedy(mut request: EngineRequest, logits: &[f32], count: u32) -> Vec<TokenId> {
    let mut book = RuleBook::new(VOCAB_SIZE);
    let rules = book.read(&mut request);
    book.open(ID, rules);
    let mut sampler = Sampler::default();
    (0..count)
        .map(|index| {
            let rules = book.of(ID).unwrap();
            rules.choose(&mut sampler, &mut logits.to_vec(), &spec(&request.sampling, index))
        })
        .collect()
}

const LOGITS: [f32; 8] = [4.0, 3.5, 3.0, 2.0, 1.0, 0.5, 6.0, 5.0];

#[test]
fn a_request_without_wishes_has_no_rules() {
    let book = RuleBook::new(VOCAB_SIZE);
    assert!(book.read(&mut request(&[1], |_, _| {})).is_none());
    assert!(book.read(&mut request(&[1], |sampling, _| sampling.logprobs = Some(0))).is_some());
}

#[test]
fn neither_end_of_text_nor_stop_tokens_come_before_the_least_number_of_tokens() {
    let tokens = greedy(request(&[1], |_, rules| rules.min_tokens = 2), &LOGITS, 4);
    assert_eq!(tokens, [0, 0, 6, 6]);
}

#[test]
fn bias_bans_and_allowed_tokens_decide_what_is_chosen() {
    let biased = request(&[1], |_, rules| rules.logit_bias = vec![(3, 50.0), (100, 5.0)]);
    assert_eq!(greedy(biased, &LOGITS, 1), [3]);
    let allowed = request(&[1], |_, rules| rules.allowed = Some(vec![2, 4]));
    assert_eq!(greedy(allowed, &LOGITS, 1), [2]);
    // "6" may never come, "7 7" not, "7 0" may.
    let bad = request(&[1], |_, rules| rules.bad_words = vec![vec![6], vec![7, 7]]);
    assert_eq!(greedy(bad, &LOGITS, 4), [7, 0, 7, 0]);
}

#[test]
fn penalties_count_what_has_been_said() {
    // 6 leads by 1 over 7 and by 2 over 0.
    let frequency = request(&[1], |_, rules| rules.frequency_penalty = 0.6);
    assert_eq!(greedy(frequency, &LOGITS, 5), [6, 6, 7, 6, 7]);
    let presence = request(&[1], |_, rules| rules.presence_penalty = 1.5);
    assert_eq!(greedy(presence, &LOGITS, 4), [6, 7, 6, 6]);
    // 6 and 7 are in the prompt: 6.0 / 2 and 5.0 / 2 are less than 4.0; once said, 4.0 / 2 is less than 3.5.
    let repetition = request(&[6, 7], |_, rules| rules.repetition_penalty = 2.0);
    assert_eq!(greedy(repetition, &LOGITS, 4), [0, 1, 2, 6]);
    // A negative logit becomes smaller, not larger.
    let negative = request(&[0], |_, rules| rules.repetition_penalty = 2.0);
    assert_eq!(greedy(negative, &[-1.0, -1.5, -9.0, -9.0, -9.0, -9.0, -9.0, -9.0], 1), [1]);
}

#[test]
fn log_probabilities_are_those_before_all_changes() {
    let mut asked = request(&[1], |sampling, rules| {
        sampling.logprobs = Some(2);
        rules.allowed = Some(vec![1]);
    });
    let mut book = RuleBook::new(VOCAB_SIZE);
    let rules = book.read(&mut asked);
    book.open(ID, rules);
    let rules = book.of(ID).unwrap();
    let shares = [0.1_f32, 0.2, 0.3, 0.05, 0.05, 0.1, 0.1, 0.1];
    let mut logits = shares.map(f32::ln).to_vec();
    assert_eq!(rules.choose(&mut Sampler::default(), &mut logits, &spec(&asked.sampling, 0)), 1);
    let details = rules.take_details(true).unwrap();
    let [known] = &details.logprobs[..] else { panic!("{details:?}") };
    assert_eq!((known.token, known.rank), (1, 2));
    assert!((known.logprob.exp() - 0.2).abs() < 1e-6);
    let top: Vec<_> = known.top.iter().map(|(token, _)| *token).collect();
    assert_eq!(top, [2, 1]);
    assert!((known.top[0].1.exp() - 0.3).abs() < 1e-6);
    assert!(details.prompt_logprobs.is_none());
    assert!(rules.take_details(false).is_none());
}

#[test]
fn each_prompt_token_but_the_first_has_its_log_probability_once_whatever_the_chunks() {
    let asked = |top| request(&[5, 1, 2, 3, 4], |sampling, _| sampling.prompt_logprobs = Some(top));
    let mut book = RuleBook::new(VOCAB_SIZE);
    let rules = book.read(&mut asked(0));
    book.open(ID, rules);
    let rules = book.of(ID).unwrap();
    // Two tokens, then a preemption, then all of them.
    assert_eq!(rules.num_prompt_rows(0, 2), 2);
    rules.take_prompt_row(&LOGITS);
    rules.take_prompt_row(&LOGITS);
    assert_eq!(rules.num_prompt_rows(0, 1), 0);
    assert_eq!(rules.num_prompt_rows(0, 5), 3);
    rules.take_prompt_row(&LOGITS);
    assert_eq!(rules.next_prompt_token(), Some(4));
    rules.take_prompt_row(&LOGITS);
    rules.take_prompt_row(&LOGITS);
    assert_eq!(rules.num_prompt_rows(0, 9), 0);
    let details = rules.take_details(true).unwrap();
    let known: Vec<_> = details.prompt_logprobs.iter().flatten().map(|known| known.token).collect();
    assert_eq!(known, [1, 2, 3, 4]);
}

/// Allows the tokens of a list, one after the other, and then nothing.
#[derive(Debug)]
struct Script(Vec<TokenId>);

impl TokenConstraint for Script {
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        self.0.first().into_iter().for_each(|token| allowed.insert(*token));
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        assert_eq!(self.0.remove(0), token);
        Ok(())
    }
}

#[test]
fn a_constraint_decides_and_when_it_leaves_nothing_the_sequence_fails_alone() {
    let mut asked = request(&[1], |_, _| {});
    let matcher = Box::new(Script(vec![3, 0]));
    asked.constraint = Some(OutputConstraint { grammar: OutputGrammar::JsonObject, matcher });
    let mut book = RuleBook::new(VOCAB_SIZE);
    let rules = book.read(&mut asked);
    assert!(asked.constraint.is_none());
    book.open(ID, rules);
    let choose = |book: &mut RuleBook, index| {
        let mut logits = LOGITS.to_vec();
        book.of(ID).unwrap().choose(&mut Sampler::default(), &mut logits, &spec(&asked.sampling, index))
    };
    assert_eq!(choose(&mut book, 0), 3);
    assert_eq!(choose(&mut book, 1), 0);
    assert_eq!(book.take_failures().count(), 0);
    choose(&mut book, 2);
    assert_eq!(book.take_failures().collect::<Vec<_>>(), [(ID, RuleFailure::NothingLeft)]);
    assert_eq!(book.take_failures().count(), 0);
    book.close(ID);
    assert!(book.is_empty());
}

/// Always allows the same tokens.
#[derive(Debug)]
struct Either(&'static [TokenId]);

impl TokenConstraint for Either {
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        self.0.iter().for_each(|token| allowed.insert(*token));
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        assert!(self.0.contains(&token));
        Ok(())
    }
}

#[test]
fn bad_words_and_the_least_number_of_tokens_yield_to_a_grammar_that_leaves_nothing_else() {
    let under = |allowed: &'static [TokenId], change: fn(&mut TokenRules)| {
        let mut asked = request(&[1], |_, rules| change(rules));
        let matcher = Box::new(Either(allowed));
        asked.constraint = Some(OutputConstraint { grammar: OutputGrammar::JsonObject, matcher });
        greedy(asked, &LOGITS, 4)
    };
    // 7 is the end of text, 6 a stop token; the logits prefer 6, 7, 0, 1, 2 in this order.
    let bad_zero: fn(&mut TokenRules) = |rules| rules.bad_words = vec![vec![0]];
    assert_eq!(under(&[0, 2], bad_zero), [2; 4], "there is something else");
    assert_eq!(under(&[0], bad_zero), [0; 4], "there is not");
    let bad_after_zero: fn(&mut TokenRules) = |rules| rules.bad_words = vec![vec![0, 0]];
    assert_eq!(under(&[0, 2], bad_after_zero), [0, 2, 0, 2]);
    assert_eq!(under(&[0], bad_after_zero), [0; 4]);
    let long: fn(&mut TokenRules) = |rules| rules.min_tokens = 2;
    assert_eq!(under(&[7, 0], long), [0, 0, 7, 7]);
    assert_eq!(under(&[7], long), [7; 4], "what is complete ends");
    let both: fn(&mut TokenRules) = |rules| (rules.min_tokens, rules.bad_words) = (2, vec![vec![0], vec![6]]);
    assert_eq!(under(&[7, 0], both), [7; 4], "an early end is better than a bad word");
    assert_eq!(under(&[0, 1], both), [1; 4]);
    assert_eq!(under(&[0, 6], both), [6; 4], "of bad words the likeliest");
    // What a client allows is a rule like a grammar.
    let only_bad =
        request(&[1], |_, rules| (rules.allowed, rules.bad_words) = (Some(vec![3]), vec![vec![3]]));
    assert_eq!(greedy(only_bad, &LOGITS, 2), [3, 3]);
}

proptest! {
    #[test]
    fn any_rules_and_logits_give_a_token_or_a_failure(
        logits in prop::collection::vec(prop_oneof![any::<f32>(), -20.0_f32..20.0], 8),
        bias in prop::collection::vec((0_u32..20, -100.0_f32..100.0), 0..5),
        bad_words in prop::collection::vec(prop::collection::vec(0_u32..20, 1..4), 0..5),
        min_tokens in 0_u32..5,
        penalties in (0.01_f32..5.0, -2.0_f32..2.0, -2.0_f32..2.0),
        allowed in prop::option::of(prop::collection::btree_set(0_u32..20, 1..5)),
        logprobs in prop::option::of(0_u32..20),
    ) {
        let allowed_tokens = allowed.clone();
        let mut asked = request(&[1, 2], |sampling, rules| {
            sampling.logprobs = logprobs;
            *rules = TokenRules {
                allowed: allowed.map(|allowed| allowed.into_iter().collect()),
                bad_words,
                min_tokens,
                logit_bias: bias,
                repetition_penalty: penalties.0,
                frequency_penalty: penalties.1,
                presence_penalty: penalties.2,
            };
        });
        let mut book = RuleBook::new(VOCAB_SIZE);
        let rules = book.read(&mut asked);
        book.open(ID, rules);
        for index in 0..6 {
            let Some(rules) = book.of(ID) else { break };
            let token = rules.choose(&mut Sampler::default(), &mut logits.clone(), &spec(&asked.sampling, index));
            prop_assert!(token < VOCAB_SIZE);
            if book.take_failures().next().is_some() {
                let is_allowed = |token: &u32| allowed_tokens.as_ref().is_none_or(|all| all.contains(token));
                let could_come = (0..VOCAB_SIZE).filter(is_allowed).any(|token| logits[token as usize].abs() < 1e30);
                prop_assert!(!could_come, "rules that a client may set leave something");
                break;
            }
        }
    }
}
