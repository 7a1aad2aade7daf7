//! Several engine cores as one engine.

use std::collections::BTreeSet;

use serde_json::json;
use wayfare_engine::{Engine as _, EngineCommand, EngineControl as _, FinishReason, PauseMode};

use crate::peer::Peer;
use crate::rig::{PATIENCE, Rig};

#[test]
fn requests_go_where_the_queue_is_short() {
    let rig = Rig::with(2, &[]);
    for id in 0..8 {
        rig.submit(id, &[10]).unwrap();
    }
    for (rank, peer) in rig.peers.iter().enumerate() {
        // Four each; the rank is pinned in the request.
        let pinned: Vec<_> =
            (0..4).map(|_| peer.expect("add")["data_parallel_rank"].as_u64().unwrap()).collect();
        assert_eq!(pinned, [rank as u64; 4]);
    }
}

#[test]
fn prompts_that_begin_alike_go_to_the_same_engine_core() {
    let rig = Rig::with(2, &[]);
    // To which engine core a prompt belongs is as good as random.
    let prompts: Vec<Vec<u32>> = (0..4).map(|index| (100 * index..100 * index + 64).collect()).collect();
    for (id, prompt) in (0..).zip(prompts.iter().cycle().take(12)) {
        rig.submit(id, prompt).unwrap();
    }
    // Behind the requests on the same connections.
    rig.engine.command(EngineCommand::Resume, Box::new(|_| {}));
    let mut seen: Vec<BTreeSet<u64>> = Vec::new();
    for peer in &rig.peers {
        let mut prefixes = BTreeSet::new();
        for added in peer.before("utility") {
            prefixes.insert(added["prompt_token_ids"][0].as_u64().unwrap());
        }
        seen.push(prefixes);
    }
    assert!(seen[0].is_disjoint(&seen[1]), "{seen:?}");
    assert_eq!(seen[0].len() + seen[1].len(), prompts.len());
}

#[test]
fn the_death_of_one_ends_only_its_requests() {
    let mut rig = Rig::with(2, &[]);
    for id in 0..4 {
        rig.submit(id, &[10]).unwrap();
    }
    let names: Vec<Vec<String>> = rig.peers.iter().map(|peer| vec![peer.added(), peer.added()]).collect();
    rig.peers[0].kill();
    let mut lost = BTreeSet::new();
    while lost.len() < 2 {
        for output in rig.next_step().outputs {
            assert_eq!(output.finish.unwrap().reason, FinishReason::Error);
            lost.insert(output.id.0);
        }
    }
    assert!(rig.engine.fault().is_none(), "one is left");
    // The other goes on, and gets all that comes.
    rig.peers[1].step(&json!([{ "request_id": names[1][0], "new_token_ids": [5] }]));
    assert!(!lost.contains(&rig.next_output().id.0));
    for id in 10..13 {
        rig.submit(id, &[10]).unwrap();
        rig.peers[1].added();
    }
    assert_eq!(rig.engine.stats().kv_blocks_total, 64);
    rig.peers[1].kill();
    rig.next_step();
    assert!(rig.engine.fault().is_some());
}

#[test]
fn a_command_is_done_when_all_have_carried_it_out() {
    let mut rig = Rig::with(2, &[]);
    let (tx, done) = std::sync::mpsc::channel();
    let answer = tx.clone();
    rig.engine
        .command(EngineCommand::Pause(PauseMode::Keep), Box::new(move |reply| answer.send(reply).unwrap()));
    for (rank, peer) in rig.peers.iter_mut().enumerate() {
        let call = peer.expect("utility");
        assert_eq!((&call["method"], &call["args"]), (&json!("pause_scheduler"), &json!(["keep", false])));
        assert!(done.try_recv().is_err(), "before engine {rank} has answered");
        peer.tell(&json!({ "do": "answer", "call_id": call["call_id"] }));
    }
    done.recv_timeout(PATIENCE).unwrap();
    assert!(rig.engine.is_paused());
    // One that fails is not done.
    rig.engine.command(EngineCommand::Resume, Box::new(move |reply| tx.send(reply).unwrap()));
    for peer in &mut rig.peers {
        let call = peer.expect("utility");
        assert_eq!(call["method"], "resume_scheduler");
        peer.tell(&json!({ "do": "answer", "call_id": call["call_id"], "failure": "it will not" }));
    }
    done.recv_timeout(PATIENCE).unwrap_err();
    assert!(!rig.engine.is_paused());
}

#[test]
fn the_state_of_each_is_known() {
    let mut rig = Rig::with(2, &[]);
    for id in 0..4 {
        rig.submit(id, &[10]).unwrap();
    }
    let names: Vec<String> = rig.peers.iter().map(Peer::added).collect();
    for (rank, name) in (0_u64..).zip(&names) {
        // The second makes a token more, and has one more waiting.
        let tokens = vec![5; 1 + rank as usize];
        let stats = json!({
            "num_running_reqs": 1, "num_waiting_reqs": 1 + rank, "kv_cache_usage": 0.25 * (1 + rank) as f64,
            "prefix_cache_stats": { "queries": 10, "hits": 4 * rank },
        });
        let outputs = json!([{ "request_id": name, "new_token_ids": tokens }]);
        rig.peers[rank as usize].tell(&json!({ "do": "outputs", "outputs": outputs, "stats": stats }));
        assert_eq!(u64::from(rig.next_step().engine), rank);
    }
    let [(0, first), (1, second)] = &rig.engine.stats_by_engine()[..] else { panic!("two") };
    assert_eq!((first.waiting, second.waiting), (1, 2));
    assert_eq!((first.generation_tokens, second.generation_tokens), (1, 2));
    assert_eq!((first.prefix_cache_hits, second.prefix_cache_hits), (0, 4));
    assert_eq!((first.kv_blocks_used, second.kv_blocks_used), (16, 32));
    let sum = rig.engine.stats();
    assert_eq!((sum.running, sum.waiting, sum.generation_tokens), (2, 3, 3));
    assert_eq!((sum.kv_blocks_used, sum.prefix_cache_queries), (48, 20));
    // What the dead one has counted stays; it holds nothing any more.
    rig.peers[1].kill();
    assert_eq!(rig.next_step().engine, 1);
    let second = rig.engine.stats_by_engine()[1].1;
    assert_eq!((second.running, second.waiting, second.kv_blocks_used), (0, 0, 0));
    assert_eq!((second.generation_tokens, second.steps), (2, 1));
}
