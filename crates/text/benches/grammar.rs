//! What structured output costs with the default model's vocabulary: once per server, per grammar, per sequence and
//! per token.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use wayfare_engine::{OutputGrammar, TokenSet};
use wayfare_text::{CompiledGrammar, GrammarCompiler};

#[path = "../tests/it/gguf_file.rs"]
#[allow(clippy::unwrap_used, reason = "written for tests")]
mod gguf_file;

use gguf_file::DEFAULT_MODEL;

const PERSON: &str = r#"{"type": "object", "properties": {
    "name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "tags": {"type": "array", "items": {"type": "string", "maxLength": 20}, "maxItems": 5}
}, "required": ["name", "age", "tags"], "additionalProperties": false}"#;

const ANSWER: &str =
    r#"{"name": "Ada Lovelace, Countess of Lovelace", "age": 36, "tags": ["mathematics", "engines"]}"#;

/// A constraint that has followed a text, and the tokens allowed behind it.
fn step(compiled: &CompiledGrammar, text: &str, allowed: &mut TokenSet) {
    let mut constraint = compiled.constraint().matcher;
    for token in DEFAULT_MODEL.tokenizer.encode(text, false).expect("plain text") {
        constraint.allow(allowed).expect("the grammar allows the text");
        constraint.accept(token).expect("the grammar allows the text");
    }
}

fn grammar(criterion: &mut Criterion) {
    let model = &*DEFAULT_MODEL;
    let new = || {
        GrammarCompiler::new(&model.tokenizer, &model.end_of_text)
            .expect("the default model has all it takes")
    };
    let compiler = new();
    let person = OutputGrammar::JsonSchema(PERSON.into());
    let compiled = compiler.compile(&person).expect("a plain schema");
    let mut allowed =
        TokenSet::empty(u32::try_from(model.tokenizer.vocab_size()).expect("a small vocabulary"));
    let tokens = model.tokenizer.encode(ANSWER, false).expect("plain text").len();

    let mut group = criterion.benchmark_group("grammar");
    group.sample_size(10).bench_function("compiler of a vocabulary", |bencher| bencher.iter(&new));
    group.sample_size(20);
    let mut count = 0_u64;
    group.bench_function("compile a schema", |bencher| {
        bencher.iter(|| {
            count += 1;
            let schema = PERSON.replace("150", &(150 + count).to_string());
            compiler.compile(&OutputGrammar::JsonSchema(schema.into())).expect("a plain schema")
        });
    });
    group.bench_function("start a sequence", |bencher| bencher.iter(|| black_box(compiled.constraint())));
    group.throughput(criterion::Throughput::Elements(tokens as u64));
    group
        .bench_function("follow an answer", |bencher| bencher.iter(|| step(&compiled, ANSWER, &mut allowed)));
    let object = compiler.compile(&OutputGrammar::JsonObject).expect("built in");
    group.bench_function("follow any object", |bencher| bencher.iter(|| step(&object, ANSWER, &mut allowed)));
    group.finish();
}

criterion_group!(benches, grammar);
criterion_main!(benches);
