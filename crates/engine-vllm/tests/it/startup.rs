//! From nothing to engine cores that are ready, and the ways in which that fails.

use std::net::TcpListener;
use std::time::Duration;

use wayfare_engine_vllm::{
    AttachError, AttachOptions, AttachedEngines, EngineAddress, Meeting, ModelFacts, Phase,
};
use wayfare_journey::{SystemClock, WallAnchor};

use crate::peer::{Peer, free_ports};
use crate::rig::{PATIENCE, attach, attach_with, options};

/// What is said when an engine core that is started so wants to connect.
fn refusal(arguments: &[&str]) -> String {
    let port = free_ports();
    let _peer = Peer::start(port, arguments);
    attach(port, 1, PATIENCE).unwrap_err().to_string()
}

#[test]
fn every_known_version_is_taken() {
    for version in ["0.23.0", "0.25.1", "0.26.0", "0.32.0+cpu", "0.33.0"] {
        let port = free_ports();
        let _peer = Peer::start(port, &["--version", version]);
        let engines = attach(port, 1, PATIENCE).unwrap();
        assert_eq!(engines.version(), Some(version));
    }
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let problem = refusal(&["--version", "0.34.0"]);
    assert!(problem.contains("vLLM 0.34.0, and 0.23 to 0.33 are known"), "{problem}");
    let problem = refusal(&["--ready", r#"{"vllm_version": "absent"}"#]);
    assert!(problem.contains("vLLM before 0.23"), "{problem}");
}

#[test]
fn a_ready_message_without_sizes_is_refused() {
    let problem = refusal(&["--ready", r#"{"block_size": "absent"}"#]);
    assert_eq!(problem, "engine 0 does not say its block_size");
    let problem = refusal(&["--ready", r#"{"max_model_len": "long"}"#]);
    assert!(problem.contains("what engine 0 says at its start cannot be read"), "{problem}");
}

#[test]
fn who_does_not_come_in_time_is_named() {
    let port = free_ports();
    let _peer = Peer::start(port, &["--ranks", "2"]);
    let problem = attach(port, 2, Duration::from_secs(4)).unwrap_err().to_string();
    assert!(
        problem.contains("after 4 s not all engines are ready: engine 1 has not said hello"),
        "{problem}"
    );
    assert!(problem.contains("--data-parallel-rpc-port"), "{problem}");
}

#[test]
fn an_engine_core_that_never_gets_ready_is_waited_for_and_named() {
    let port = free_ports();
    let _peer = Peer::start(port, &["--never-ready"]);
    let problem = attach(port, 1, Duration::from_secs(4)).unwrap_err().to_string();
    assert!(problem.contains("engine 0 has not said that it is ready"), "{problem}");
}

#[test]
fn ranks_with_other_settings_are_refused() {
    let port = free_ports();
    let _one = Peer::start(port, &["--ranks", "2"]);
    let _other = Peer::start(port, &["--ranks", "2", "--rank", "1", "--config-hash", "another"]);
    let problem = attach(port, 2, PATIENCE).unwrap_err();
    assert!(matches!(problem, AttachError::Different { first: 0, other: 1 }), "{problem}");
}

#[test]
fn a_rank_too_many_is_left_alone() {
    let port = free_ports();
    let _extra = Peer::start(port, &["--rank", "5"]);
    let _peer = Peer::start(port, &[]);
    attach(port, 1, PATIENCE).unwrap();
}

#[test]
fn a_port_in_use_is_named_with_what_it_is_for() {
    let port = free_ports();
    let _taken = TcpListener::bind(("127.0.0.1", port + 1)).unwrap();
    let problem = attach(port, 1, PATIENCE).unwrap_err().to_string();
    let expected = format!("port {} of 127.0.0.1 is in use", port + 1);
    assert!(problem.starts_with(&expected) && problem.ends_with("requests"), "{problem}");
}

#[test]
fn all_addresses_are_none_that_engines_could_be_told() {
    let meeting = Meeting::Handshake {
        address: EngineAddress { host: "0.0.0.0".into(), port: 0 },
        advertise_host: None,
    };
    let attached = attach_with(AttachOptions { meeting, ..options(0, 1) });
    let problem = attached.unwrap_err().to_string();
    assert!(problem.contains("--engine-advertise-host"), "{problem}");
}

#[test]
fn an_engine_core_that_restarts_while_it_starts_takes_its_place_again() {
    let port = free_ports();
    let mut first = Peer::start(port, &["--never-ready"]);
    let waiting = std::thread::spawn(move || attach(port, 1, PATIENCE));
    first.expect("ready");
    first.kill();
    let _second = Peer::start(port, &[]);
    waiting.join().unwrap().unwrap();
}

#[test]
fn what_was_to_start_the_engines_is_heard() {
    let facts = ModelFacts { vocab_size: 10, policy: Default::default(), sends_own_seeds: false };
    let clock = std::sync::Arc::new(SystemClock);
    let mut asked = 0;
    let launch = Box::new(move |port: u16| {
        assert_ne!(port, 0);
        let watch: wayfare_engine_vllm::Watch = Box::new(move |phase| {
            assert_eq!(phase, Phase::Starting);
            asked += 1;
            (asked > 1).then(|| "it has ended".to_owned())
        });
        Ok(watch)
    });
    let problem = AttachedEngines::attach(options(0, 1), facts, clock, WallAnchor::capture(), Some(launch))
        .unwrap_err();
    assert_eq!(problem.to_string(), "it has ended");
}
