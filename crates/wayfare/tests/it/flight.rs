//! What can be told of a server that was killed.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use wayfare_testkit::wait_until;

use crate::live::{get, receive, send, start};

const PATIENCE: Duration = Duration::from_secs(60);

fn flight(path: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_wayfare")).arg("flight").arg(path).args(more).output().unwrap()
}

fn json_of(path: &Path) -> Value {
    let output = flight(path, &["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn after_kill_9_the_recorder_lists_exactly_the_requests_that_had_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flight");
    let arguments = ["--flight-recorder", path.to_str().unwrap(), "--journey-tracing-sample-rate", "0.5"];
    let mut server = start(&arguments);
    let address = server.socket_address();
    // Load that comes and goes, all of which is answered.
    let answered: Vec<_> = (0..30).map(|number| send(address, &format!("done-{number}"), 2, None)).collect();
    for stream in answered {
        assert!(receive(stream).starts_with("HTTP/1.1 200"));
    }
    let mut open: Vec<_> =
        (0..40).map(|number| send(address, &format!("long-{number}"), 350, None)).collect();
    open.push(send(address, "unsent", 350, Some(12)));
    wait_until(PATIENCE, || {
        let live = get(&server, "/journeys/live");
        live["in_flight"] == 41 && live["engine"]["running"] == 2 && live["engine"]["waiting"] == 38
    });
    let live = get(&server, "/journeys/live");
    server.signal(Signal::KILL);
    server.wait();

    let told = json_of(&path);
    assert_eq!((&told["ended_in_order"], &told["is_running"]), (&json!(false), &json!(false)));
    assert_eq!((&told["without_room"], &told["damaged_records"]), (&json!(0), &json!(0)));
    let by_id = |list: &Value| -> BTreeMap<String, Value> {
        let requests = list["requests"].as_array().unwrap().iter();
        requests.map(|one| (one["request_id"].as_str().unwrap().to_owned(), one.clone())).collect()
    };
    let (told_of, shown) = (by_id(&told), by_id(&live));
    let mut expected: Vec<_> = (0..40).map(|number| format!("cmpl-long-{number}")).collect();
    expected.push("cmpl-unsent".to_owned());
    expected.sort_unstable();
    assert_eq!(told_of.keys().collect::<Vec<_>>(), expected.iter().collect::<Vec<_>>());
    for (id, request) in &told_of {
        for field in ["key", "trace_id", "span_id", "route", "model", "state", "wait", "arrived_unix_ns"] {
            assert_eq!(request[field], shown[id][field], "{field} of {id}");
        }
        assert!(
            request["age_ns"].as_u64() > Some(0) && request["in_state_ns"].as_u64() > Some(0),
            "{request}"
        );
    }
    assert_eq!(told_of["cmpl-unsent"]["state"], "receiving");
    let waits = told_of.values().filter(|one| one["wait"]["reason"] == "max_num_seqs").count();
    let decodes = told_of.values().filter(|one| one["decode"]["done"].as_u64() > Some(0)).count();
    assert_eq!((waits, decodes), (38, 2));

    let text = String::from_utf8(flight(&path, &[]).stdout).unwrap();
    assert!(text.contains("died") && text.contains("41 requests in flight"), "{text}");
    let line = text.lines().find(|line| line.contains("cmpl-long-7 ")).unwrap();
    assert!(line.contains(told_of["cmpl-long-7"]["trace_id"].as_str().unwrap()), "{line}");

    // The next server sets it aside.
    let server = start(&arguments);
    wait_until(PATIENCE, || server.log().contains("did not end in order"));
    assert_eq!(by_id(&json_of(&folder.path().join("flight.previous"))).len(), 41);
    assert_eq!(json_of(&path)["is_running"], true);
    assert!(server.stop().status.success());
    assert_eq!(json_of(&path)["ended_in_order"], true);
}

#[test]
fn what_is_no_recording_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other");
    std::fs::write(&path, "{}").unwrap();
    let output = flight(&path, &[]);
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && log.contains("no recording of a flight recorder"), "{log}");
    let mut command = crate::server::simulated(
        &[
            "--enable-journey-tracing",
            "--num-kv-blocks",
            "101",
            "--max-model-len",
            "400",
            "--flight-recorder",
        ],
        &[],
    );
    let ended = crate::server::failed_start(command.arg(&path));
    assert!(!ended.status.success() && ended.log.contains("remove it or name another file"), "{}", ended.log);
}
