//! The search against a naive one, however the text is cut.

use proptest::prelude::*;

use super::StopSearch;

/// What is given out and which stop string is found, by looking at the whole text.
fn naive(text: &str, stop: &[String]) -> (String, Option<usize>) {
    for (start, _) in text.char_indices() {
        let found = stop.iter().position(|stop| !stop.is_empty() && text[start..].starts_with(stop));
        if found.is_some() {
            return (text[..start].to_owned(), found);
        }
    }
    (text.to_owned(), None)
}

/// The same by pieces. Checks after each piece that nothing was given out that the whole text does not allow.
fn by_pieces(pieces: &[String], stop: &[String]) -> (String, Option<usize>) {
    let Some(mut search) = StopSearch::new(stop, false) else { return (pieces.concat(), None) };
    let mut out = String::new();
    for piece in pieces {
        search.text().push_str(piece);
        let found = search.advance(true, &mut out);
        if found.is_some() {
            return (out, found);
        }
    }
    let found = search.finish(&mut out);
    (out, found)
}

/// What is held back at the end must be needed: some text could still follow that makes it part of a stop string.
fn held_back(pieces: &[String], stop: &[String]) -> usize {
    let Some(mut search) = StopSearch::new(stop, false) else { return 0 };
    let mut out = String::new();
    for piece in pieces {
        search.text().push_str(piece);
        if search.advance(true, &mut out).is_some() {
            return 0;
        }
    }
    pieces.concat().len() - out.len()
}

fn strings(strings: &[&str]) -> Vec<String> {
    strings.iter().map(|&string| string.to_owned()).collect()
}

fn check(pieces: &[&str], stop: &[&str], expected: (&str, Option<usize>)) {
    let (pieces, stop) = (strings(pieces), strings(stop));
    let expected = (expected.0.to_owned(), expected.1);
    assert_eq!(naive(&pieces.concat(), &stop), expected, "the naive search");
    assert_eq!(by_pieces(&pieces, &stop), expected, "the search by pieces");
}

#[test]
fn a_stop_string_is_found_across_pieces() {
    check(&["one E", "N", "D two"], &["END"], ("one ", Some(0)));
}

#[test]
fn what_was_not_a_stop_string_is_given_out() {
    check(&["one EN", "E two"], &["END"], ("one ENE two", None));
    check(&["one EN"], &["END"], ("one EN", None));
}

#[test]
fn a_stop_string_may_begin_inside_the_failed_beginning_of_itself() {
    check(&["aa", "ab", "aab"], &["aaab"], ("", Some(0)));
    check(&["abab", "ac"], &["abac"], ("ab", Some(0)));
}

#[test]
fn the_stop_string_that_starts_first_counts_even_if_it_ends_last() {
    check(&["x", "abc", "d"], &["bc", "abcd"], ("x", Some(1)));
    check(&["x", "abc", "e"], &["bc", "abcd"], ("xa", Some(0)));
    check(&["xabc"], &["bc", "abcd"], ("xa", Some(0)));
}

#[test]
fn of_stop_strings_at_the_same_place_the_first_of_the_list_counts() {
    check(&["xab", "c"], &["abc", "ab"], ("x", Some(0)));
    check(&["xab", "c"], &["ab", "abc"], ("x", Some(0)));
    check(&["xab", "d"], &["abc", "ab"], ("x", Some(1)));
    check(&["xab"], &["ab", "ab"], ("x", Some(0)));
}

#[test]
fn empty_stop_strings_are_never_found() {
    check(&["text"], &["", "x"], ("te", Some(1)));
    check(&["text"], &["", ""], ("text", None));
    assert!(StopSearch::new(&[], false).is_none());
}

#[test]
fn characters_of_several_bytes_are_not_torn() {
    check(&["caf", "é日", "本"], &["本"], ("café日", Some(0)));
    // 日 and 旦 begin with the same two bytes.
    check(&["旦", "x"], &["日"], ("旦x", None));
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!['a', 'b', 'c', 'é', '日', '旦']), 0..24)
        .prop_map(String::from_iter)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn pieces_give_what_the_whole_gives(
        pieces in prop::collection::vec(text(), 0..8),
        stop in prop::collection::vec(
            prop::collection::vec(prop::sample::select(vec!['a', 'b', 'c', 'é', '日']), 0..5)
                .prop_map(String::from_iter),
            0..8,
        ),
    ) {
        let whole = pieces.concat();
        prop_assert_eq!(by_pieces(&pieces, &stop), naive(&whole, &stop));
        let longest = stop.iter().map(String::len).max().unwrap_or(0);
        // A finished match may wait for an earlier one, so at most two beginnings are held.
        prop_assert!(held_back(&pieces, &stop) <= 2 * longest);
        let begins_stop = |start: usize| stop.iter().any(|stop| stop.starts_with(&whole[start..]));
        if naive(&whole, &stop).1.is_none() {
            let needed = whole.char_indices().map(|(start, _)| start).find(|&start| begins_stop(start));
            let needed = needed.map_or(0, |start| whole.len() - start);
            prop_assert_eq!(held_back(&pieces, &stop), needed);
        }
    }
}
