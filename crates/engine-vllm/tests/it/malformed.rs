//! Frames that no engine core would send.

use proptest::prelude::*;
use wayfare_engine_vllm::wire::{EngineMessage, Greeting, Layout, ReadyMessage, WireError, WireId};

use crate::golden::{RELEASES, messages};

const LAYOUTS: [Layout; 3] = [Layout::BeforeEcTransfer, Layout::WithEcTransfer, Layout::ByLength];

fn read_all_ways(frames: &[Vec<u8>]) {
    let mut message = EngineMessage::default();
    for layout in LAYOUTS {
        let _ = message.read(frames, layout);
    }
    if let Some(first) = frames.first() {
        let _ = Greeting::read(first);
        let _ = ReadyMessage::read(first);
    }
}

/// All golden messages.
fn golden() -> Vec<Vec<Vec<u8>>> {
    RELEASES.iter().flat_map(|release| messages(release).into_values()).collect()
}

#[test]
fn every_beginning_of_a_message_is_an_error() {
    for frames in golden().into_iter().filter(|frames| frames[0].starts_with(&[0x98])) {
        for length in 0..frames[0].len() {
            let mut cut = frames.clone();
            cut[0].truncate(length);
            let result = EngineMessage::default().read(&cut, Layout::ByLength);
            assert!(result.is_err(), "{length} of {} bytes", frames[0].len());
        }
    }
}

#[test]
fn what_follows_a_message_is_an_error() {
    let mut frames = messages("0.33")["state only"].clone();
    frames[0].push(0xc0);
    let error = EngineMessage::default().read(&frames, Layout::WithEcTransfer).unwrap_err();
    assert_eq!(error, WireError::TrailingBytes { count: 1 });
}

#[test]
fn an_array_whose_frame_did_not_come_is_an_error() {
    let mut frames = messages("0.33")["prompt logprobs in frames of their own"].clone();
    frames.truncate(2);
    let error = EngineMessage::default().read(&frames, Layout::WithEcTransfer).unwrap_err();
    assert!(error.to_string().contains("a frame that did not come"), "{error}");
}

#[test]
fn lengths_that_lie_cost_nothing() {
    // Nested arrays and maps, each of which claims 2^32 - 1 elements.
    for lie in [&[0xdd, 0xff, 0xff, 0xff, 0xff][..], &[0xdf, 0xff, 0xff, 0xff, 0xff]] {
        read_all_ways(&[lie.repeat(100_000)]);
        // In the place of the outputs, and in that of a field that is skipped.
        read_all_ways(&[[&[0x98, 0x00], lie].concat()]);
        read_all_ways(&[
            [&[0x98, 0x00, 0x90, 0xc0, 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0xc0], &*lie.repeat(9)].concat()
        ]);
    }
    read_all_ways(&[vec![0x91; 1_000_000]]);
    read_all_ways(&[]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..4)) {
        read_all_ways(&frames);
    }

    #[test]
    fn changed_messages_do_not_panic(
        message in prop::sample::select(golden()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut frames = message;
        for (place, byte) in changes {
            let index = place.index(frames[0].len());
            frames[0][index] = byte;
        }
        read_all_ways(&frames);
    }

    #[test]
    fn names_of_requests_are_read_back(slot in any::<u32>(), generation in any::<u32>()) {
        let id = WireId { slot, generation };
        let text = String::from_utf8(id.text().to_vec()).unwrap();
        prop_assert_eq!(WireId::parse(&text), Some(id));
        prop_assert_eq!(text, id.to_string());
    }

    #[test]
    fn other_names_are_not_ours(text in "\\PC{0,20}") {
        let is_ours = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        prop_assert_eq!(WireId::parse(&text).is_some(), is_ours);
    }
}
