//! The engine core of the benches, which computes nothing: it is one as far as a front can tell.

use std::collections::HashMap;
use std::sync::mpsc::channel;

use wayfare_engine::{
    AbortCause, Engine as _, EngineCommand, EngineControl as _, FinishReason, PauseMode, RequestId,
};
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_testkit::mock_vllm::{MockVllmOptions, Pace, serve};

use crate::peer::free_ports;
use crate::rig::{PATIENCE, Rig, options};

/// An engine over so many mock engine cores, each on a thread of its own.
fn rig(ranks: u16, pace: &Pace) -> Rig {
    let port = free_ports();
    for rank in 0..ranks {
        let options = MockVllmOptions {
            handshake: format!("tcp://127.0.0.1:{port}"),
            rank,
            ranks,
            max_model_len: 256,
            max_num_seqs: 8,
        };
        let pace = pace.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            // Ends with the test's process.
            let _ = runtime.block_on(serve(options, pace));
        });
    }
    Rig::over(options(port, ranks), Vec::new())
}

/// The ends of so many requests, in the order in which they come, each with the number of its tokens.
fn ends(rig: &Rig, count: usize) -> Vec<(RequestId, FinishReason, usize)> {
    let (mut ends, mut tokens) = (Vec::new(), HashMap::new());
    while ends.len() < count {
        for output in rig.next_step().outputs {
            let of_request = tokens.entry(output.id).or_insert(0);
            *of_request += output.tokens.len();
            ends.extend(output.finish.map(|finish| (output.id, finish.reason, *of_request)));
        }
    }
    ends
}

#[test]
fn every_request_gets_its_tokens_and_ends_at_its_length() {
    let rig = rig(2, &Pace::default());
    (1..=8).for_each(|id| rig.submit(id, &[10; 40]).unwrap());
    let mut ends = ends(&rig, 8);
    ends.sort_unstable_by_key(|(id, ..)| id.0);
    let expected = (1..=8).map(|id| (RequestId(id), FinishReason::Length, 8));
    assert_eq!(ends, expected.collect::<Vec<_>>());
}

#[test]
fn its_events_are_of_this_moment() {
    let rig = rig(1, &Pace::default());
    let before = SystemClock.now();
    rig.submit(1, &[10; 40]).unwrap();
    let (_, finish) = rig.finish_of(1);
    let times = finish.times;
    let order =
        [Some(before), Some(times.queued), times.first_scheduled, times.first_token, times.last_token];
    assert!(order.is_sorted() && order.iter().all(Option::is_some), "{order:?}");
    assert_eq!(rig.engine.stats().prompt_tokens, 40);
    assert_eq!(rig.engine.stats().prefix_cache_queries, 40);
}

#[test]
fn an_abort_is_heard_and_a_command_is_answered() {
    let pace = Pace::default();
    let rig = rig(1, &pace);
    // Long enough that the first is aborted before its eight tokens are there.
    pace.set_us(100_000);
    rig.submit(1, &[10; 40]).unwrap();
    rig.next_step();
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    rig.submit(2, &[10; 40]).unwrap();
    pace.set_us(0);
    assert_eq!(ends(&rig, 2).len(), 2);
    assert_eq!(rig.engine.stats().running, 1, "the last step had one request in it");
    let (tx, rx) = channel();
    rig.engine.command(EngineCommand::Pause(PauseMode::Keep), Box::new(move |_| tx.send(()).unwrap()));
    rx.recv_timeout(PATIENCE).expect("an answer");
}
