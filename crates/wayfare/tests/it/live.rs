//! Requests seen while they run.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use wayfare_journey::{Clock as _, MonoNs, SystemClock};
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::{StepBehaviour, VirtualClock, wait_until};

use crate::rig::{COMPLETIONS, Setup};
use crate::server::ServerProcess;

const PATIENCE: Duration = Duration::from_secs(60);
/// Two sequences at a time, which take long.
const SLOW: [&str; 9] = [
    "--enable-journey-tracing",
    "--num-kv-blocks",
    "101",
    "--max-model-len",
    "400",
    "--max-num-seqs",
    "2",
    "--inter-token-latency",
    "50",
];

pub(crate) fn start(more: &[&str]) -> ServerProcess {
    ServerProcess::simulated(&[&SLOW[..], more].concat(), &[])
}

/// Sends a request without waiting for its answer. The body may be cut short.
pub(crate) fn send(
    address: SocketAddr,
    request_id: &str,
    max_tokens: u32,
    bytes: Option<usize>,
) -> TcpStream {
    send_parts(address, request_id, max_tokens, "", bytes)
}

/// The same with an API key, and whole.
pub(crate) fn send_with_key(address: SocketAddr, request_id: &str, max_tokens: u32, key: &str) -> TcpStream {
    send_parts(address, request_id, max_tokens, &format!("authorization: Bearer {key}\r\n"), None)
}

fn send_parts(
    address: SocketAddr,
    request_id: &str,
    max_tokens: u32,
    more: &str,
    bytes: Option<usize>,
) -> TcpStream {
    let body =
        json!({"model": "sim", "prompt": "x y z", "max_tokens": max_tokens, "ignore_eos": true}).to_string();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: {request_id}\r\n\
         connection: close\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body.as_bytes()[..bytes.unwrap_or(body.len())]).unwrap();
    stream
}

/// Reads the whole answer.
pub(crate) fn receive(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

pub(crate) fn get(server: &ServerProcess, path: &str) -> Value {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    let agent: ureq::Agent = config.build().into();
    let text = agent.get(format!("{}{path}", server.address)).call().unwrap().body_mut().read_to_string();
    serde_json::from_str(&text.unwrap()).unwrap()
}

fn states(live: &Value) -> Vec<(&str, &str)> {
    let requests = live["requests"].as_array().unwrap();
    let mut states: Vec<_> = requests
        .iter()
        .map(|one| (one["client_request_id"].as_str().unwrap(), one["state"].as_str().unwrap()))
        .collect();
    states.sort_unstable();
    states
}

#[test]
fn every_request_in_flight_is_listed_with_what_it_does_or_waits_for() {
    // Nothing is recorded, and everything is shown.
    let server = start(&["--journey-tracing-sample-rate", "0"]);
    let address = server.socket_address();
    let mut open = Vec::new();
    for (id, bytes) in [("a", None), ("b", None), ("c", None), ("d", None), ("e", Some(10))] {
        open.push(send(address, id, 300, bytes));
        wait_until(PATIENCE, || get(&server, "/journeys/live")["in_flight"] == open.len());
    }
    let mut live = Value::Null;
    let expected = [("a", "decode"), ("b", "decode"), ("c", "queued"), ("d", "queued"), ("e", "receiving")];
    wait_until(PATIENCE, || {
        live = get(&server, "/journeys/live?sort=age");
        // What has been handed over may not be counted yet.
        states(&live) == expected && live["engine"]["waiting"] == 2
    });
    let requests = live["requests"].as_array().unwrap();
    let [first, _, third, ..] = &requests[..] else { panic!("{live}") };
    assert_eq!((&first["request_id"], &first["model"]), (&json!("cmpl-a"), &json!("sim")));
    assert_eq!((&first["route"], &first["head_sampled"]), (&json!(COMPLETIONS), &json!(false)));
    assert_eq!(third["wait"], json!({"reason": "max_num_seqs", "blocker": null}));
    assert_eq!(third["decode"], json!({"done": 0, "max": 300}));
    assert_eq!((&live["engine"]["running"], &live["engine"]["waiting"]), (&json!(2), &json!(2)));
    assert_eq!(requests[4]["sequences"], json!([]));

    let progress = |live: &Value| live["requests"][0]["decode"]["done"].as_u64().unwrap();
    wait_until(PATIENCE, || progress(&get(&server, "/journeys/live?sort=age")) > progress(&live));
    let queued = get(&server, "/journeys/live?state=queued,preempted&limit=1");
    assert_eq!((states(&queued).len(), &queued["in_flight"]), (1, &json!(5)));
    assert_eq!(get(&server, "/journeys/live?state=waiting")["error"]["param"], "state");

    drop(open);
    wait_until(PATIENCE, || get(&server, "/journeys/live")["in_flight"] == 0);
    wait_until(PATIENCE, || {
        let gauges = get(&server, "/journeys/gauges");
        let samples = gauges["samples"].as_array().unwrap();
        samples.iter().any(|one| one["output_tokens_per_second"].as_f64().unwrap() > 0.0)
    });
    assert_eq!(get(&server, "/journeys/recent")["journeys"], json!([]), "nothing was recorded");
}

#[test]
fn the_live_view_needs_the_key_and_can_be_off() {
    let server = start(&["--api-key", "secret"]);
    for path in ["/journeys/live", "/journeys/gauges", "/journeys/events"] {
        assert_eq!(get(&server, path)["error"]["code"], "invalid_api_key", "{path}");
    }
    let server = start(&["--disable-live-view"]);
    for path in ["/journeys/live", "/journeys/gauges", "/journeys/events"] {
        assert_eq!(get(&server, path)["error"]["code"], "not_found", "{path}");
    }
}

/// A reader of the events.
struct Events(BufReader<TcpStream>);

/// One event.
#[derive(Debug)]
struct Event {
    name: String,
    id: Option<String>,
    data: Value,
    received: MonoNs,
}

impl Events {
    fn open(address: SocketAddr, last_event_id: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let resume = last_event_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        write!(stream, "GET /journeys/events HTTP/1.1\r\nhost: x\r\n{resume}\r\n").unwrap();
        let mut events = Self(BufReader::new(stream));
        while !events.line().is_empty() {}
        events
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// The next event but samples of the gauges. The lines of chunks, which are numbers, are passed over.
    fn next(&mut self) -> Event {
        let (mut name, mut id) = (String::new(), None);
        loop {
            let line = self.line();
            match line.split_once(": ") {
                Some(("event", value)) => value.clone_into(&mut name),
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("data", value)) if name != "gauges" => {
                    let data = serde_json::from_str(value).unwrap();
                    return Event { name, id, data, received: SystemClock.now() };
                }
                _ => {}
            }
        }
    }

    /// The events up to the end of a request.
    fn until_end_of(&mut self, request_id: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.next();
            let is_last = event.name == "end" && event.data["request_id"] == request_id;
            events.push(event);
            if is_last {
                return events;
            }
        }
    }
}

#[test]
fn changes_are_told_at_once_and_can_be_taken_up_where_they_were_left() {
    let server = start(&[]);
    let address = server.socket_address();
    let mut events = Events::open(address, None);
    let hello = events.next();
    assert_eq!((hello.name.as_str(), &hello.id), ("hello", &None));
    let instance = hello.data["instance"].as_str().unwrap().to_owned();
    let wall = wayfare_journey::WallAnchor::capture();

    let mut lags = Vec::new();
    for number in 0..4 {
        let request_id = format!("cmpl-first-{number}");
        let request = send(address, &format!("first-{number}"), 12, None);
        let answer = std::thread::spawn(|| receive(request));
        // While the request runs.
        let told = events.until_end_of(&request_id);
        assert!(answer.join().unwrap().starts_with("HTTP/1.1 200"));
        let (end, changes) = told.split_last().unwrap();
        assert_eq!((&end.data["status"], &end.data["http_status"]), (&json!("departed"), &json!(200)));
        let states: Vec<_> = changes.iter().map(|event| event.data["state"].as_str().unwrap()).collect();
        assert!(states.contains(&"decode"), "{states:?}");
        for change in changes {
            assert_eq!((change.name.as_str(), &change.data["key"]), ("change", &end.data["key"]));
            let changed: u64 = change.data["changed_unix_ns"].as_str().unwrap().parse().unwrap();
            lags.push(wall.unix_ns(change.received).saturating_sub(changed));
        }
    }
    // The machine may stand still for a while, but not each time.
    assert!(lags.iter().min().unwrap() < &100_000_000, "{lags:?}");

    let last = events.until_last_id();
    drop(events);
    assert!(receive(send(address, "second", 12, None)).starts_with("HTTP/1.1 200"));
    let mut again = Events::open(address, Some(&last));
    assert_eq!(again.next().name, "hello");
    let told = again.until_end_of("cmpl-second");
    let number = |id: &str| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    let first_id = told[0].id.as_deref().unwrap();
    assert_eq!(number(first_id), number(&last) + 1, "{told:?}");
    assert!(first_id.starts_with(&instance));

    let mut foreign = Events::open(address, Some("0123456789abcdef-7"));
    assert_eq!(foreign.next().data["instance"], instance);
    let missed = foreign.next();
    assert_eq!((missed.name.as_str(), &missed.data), ("missed", &json!({"missed": null})));
}

impl Events {
    /// Asks for one more request and gives the id of its end.
    fn until_last_id(&mut self) -> String {
        let address = self.0.get_ref().peer_addr().unwrap();
        receive(send(address, "marker", 1, None));
        self.until_end_of("cmpl-marker").pop().unwrap().id.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stuck_engine_holds_stays_listed_with_its_reason() {
    let clock = VirtualClock::at(MonoNs(1_000_000_000));
    let rig = Setup::with(|setup| {
        setup.scheduler = SchedulerConfig::with_sizes(1, 256, 4096, 16, 1024);
        setup.clock = Arc::new(clock.clone());
        setup.is_live = true;
    })
    .start();
    rig.control.every_step(StepBehaviour::Slow(Duration::from_millis(5)));
    let ask = || json!({"model": "test", "prompt": "x", "max_tokens": 3_000});
    let first = rig.spawn(COMPLETIONS, ask());
    rig.wait_for_engine(1, 0);
    let waiting = rig.spawn(COMPLETIONS, ask());
    rig.wait_for_engine(1, 1);
    rig.control.hold();
    wait_until(PATIENCE, || rig.control.is_standing_still());
    let in_the_inbox = rig.spawn(COMPLETIONS, ask());
    rig.wait_for_arrivals(3);

    let look = async || {
        let mut client = rig.connect().await;
        client.send_bytes(b"GET /journeys/live?sort=age HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let live: Value = serde_json::from_str(&client.answer().await.unwrap().text).unwrap();
        let requests = live["requests"].as_array().unwrap().clone();
        let waits = |one: &Value| (one["state"].clone(), one["wait"].clone());
        let in_state: Vec<u64> = requests.iter().map(|one| one["in_state_ns"].as_u64().unwrap()).collect();
        (requests.iter().map(waits).collect::<Vec<_>>(), in_state)
    };
    let expected = vec![
        (json!("decode"), Value::Null),
        (json!("queued"), json!({"reason": "max_num_seqs", "blocker": look_up_first(&rig)})),
        (json!("queued"), json!({"reason": "next_step", "blocker": null})),
    ];
    while look().await.0 != expected {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for minute in 1..=5_u64 {
        clock.advance(Duration::from_secs(60));
        let (waits, in_state) = look().await;
        assert_eq!(waits, expected, "after {minute} minutes");
        assert!(in_state.iter().all(|ns| *ns >= minute * 60_000_000_000), "{in_state:?}");
    }
    rig.control.every_step(StepBehaviour::Compute);
    rig.control.release();
    for answer in [first, waiting, in_the_inbox] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    wait_until(PATIENCE, || rig.tracer.in_flight().count() == 0);
}

/// The id of the request that runs: the oldest.
fn look_up_first(rig: &crate::rig::Rig) -> String {
    let oldest = rig.tracer.in_flight().min_by_key(|cell| cell.key()).unwrap();
    oldest.label().unwrap().to_string()
}
