//! Stop strings in text that comes in pieces, against a search in the whole text. The first line has the stop strings,
//! separated by tabs; the first byte of it says how the text is cut and whether the stop string is included.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use wayfare_text::{TextFiles, TextOptions, TextStream, Tokenizer};

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| TextFiles::of_bytes().unwrap().tokenizer);

/// The stop string that starts first, and of those the one that is first in the list.
fn expected(text: &str, stop: &[String], is_included: bool) -> (String, Option<usize>) {
    let found = stop.iter().enumerate().filter(|(_, stop)| !stop.is_empty());
    let found = found.filter_map(|(index, stop)| Some((text.find(stop.as_str())?, index))).min();
    match found {
        None => (text.to_owned(), None),
        Some((start, index)) => {
            let end = if is_included { start + stop[index].len() } else { start };
            (text[..end].to_owned(), Some(index))
        }
    }
}

fuzz_target!(|input: &str| {
    let Some((stop, text)) = input.split_once('\n') else { return };
    let Some((&control, _)) = stop.as_bytes().split_first() else { return };
    let stop: Vec<String> = stop.split('\t').map(str::to_owned).collect();
    let include_stop = control & 1 == 1;
    let Ok(tokens) = TOKENIZER.encode(text, false) else { return };
    // Marks in the text become tokens that have none.
    let Ok(text) = TOKENIZER.decode(&tokens, true) else { return };
    let options = TextOptions { stop: Arc::from(stop.clone()), include_stop, ..TextOptions::default() };
    let mut stream = TextStream::new(TOKENIZER.clone(), &options);
    let (mut streamed, mut found) = (String::new(), None);
    for piece in tokens.chunks(usize::from(control >> 1) % 9 + 1) {
        let delta = stream.push(piece).unwrap();
        assert!(found.is_none() || delta.text.is_empty(), "text behind a stop string");
        streamed.push_str(&delta.text);
        found = found.or(delta.stop);
    }
    let delta = stream.finish().unwrap();
    streamed.push_str(&delta.text);
    found = found.or(delta.stop);
    assert_eq!((streamed, found), expected(&text, &stop, include_stop));
});
