//! Engine cores that somebody else has started, and told where to connect to.

use std::os::unix::net::UnixListener;

use serde_json::json;
use tempfile::TempDir;
use wayfare_engine::{Engine as _, FinishReason};
use wayfare_engine_vllm::{AttachOptions, EngineListener, GivenListeners, Meeting};

use crate::peer::Peer;
use crate::rig::{Delivered, Rig, options};

/// Two ranks, the second and third of their deployment, whose outputs come by one socket. They leave with the folder.
fn ranks() -> (Rig, TempDir) {
    let folder = TempDir::new().unwrap();
    let listener = |name: &str| EngineListener::Unix(UnixListener::bind(folder.path().join(name)).unwrap());
    let listeners = GivenListeners { requests: listener("inputs"), outputs: listener("outputs") };
    let peers = [1, 2].map(|rank| Peer::told(folder.path(), rank, 3));
    let meeting = Meeting::Given { listeners, first_rank: 1 };
    let rig = Rig::over(AttachOptions { meeting, ..options(0, 2) }, peers.into());
    (rig, folder)
}

#[test]
fn ranks_that_share_a_socket_are_told_apart() {
    let (mut rig, _folder) = ranks();
    rig.submit(1, &[10]).unwrap();
    rig.submit(2, &[20]).unwrap();
    let added: Vec<_> = rig.peers.iter().map(|peer| peer.expect("add")).collect();
    // As vLLM counts them.
    assert_eq!((&added[0]["data_parallel_rank"], &added[1]["data_parallel_rank"]), (&json!(1), &json!(2)));
    for (index, token) in [(0, 5), (1, 6)] {
        let prompt = added[index]["prompt_token_ids"][0].as_u64().unwrap();
        rig.peers[index]
            .step(&json!([{ "request_id": added[index]["request_id"], "new_token_ids": [token] }]));
        let output = rig.next_output();
        assert_eq!((output.id.0 * 10, output.tokens.to_vec()), (prompt, vec![token]));
    }
    // One that ends without a word is noticed by its other connection, and is not the end of the other.
    rig.peers[0].kill();
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Error);
    let ended = json!([{ "request_id": added[1]["request_id"], "new_token_ids": [7], "finish_reason": 1 }]);
    rig.peers[1].step(&ended);
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Length);
    assert!(rig.engine.fault().is_none());
}

#[test]
fn last_words_on_a_shared_socket_are_the_end_of_all() {
    for words in [&b"ENGINE_CORE_DEAD"[..], &[0x98, 0xc0], &[0x98, 0x07]] {
        let (mut rig, _folder) = ranks();
        rig.submit(1, &[10]).unwrap();
        rig.submit(2, &[20]).unwrap();
        rig.peers.iter().for_each(|peer| drop(peer.added()));
        rig.peers[1].raw(words);
        let mut ended = 0;
        let fault = loop {
            match rig.next() {
                Delivered::Step(step) => ended += step.outputs.len(),
                Delivered::Died(fault) => break fault,
            }
        };
        assert_eq!(ended, 2, "{fault}");
        assert!(rig.submit(3, &[30]).is_err());
    }
}
