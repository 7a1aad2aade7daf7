//! The built program: `wayfare explain`, `diff` and `export`, of traffic whose trouble is known because it was made.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use wayfare_testkit::wait_until;

use crate::raw_client::Client;
use crate::rig::{CHAT, PATIENCE};
use crate::server::ServerProcess;

fn wayfare(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.args(arguments).output().unwrap()
}

#[track_caller]
fn printed(arguments: &[&str]) -> String {
    let output = wayfare(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn explained(file: &str) -> Value {
    serde_json::from_str(&printed(&["explain", file, "--json"])).unwrap()
}

const POOL: &str = "--num-gpu-blocks-override";

/// One request of a trace: arrival in seconds, prompt and output tokens.
type Arrival = (f64, u32, u32);

/// Replays arrivals and gives the file of their journeys.
fn journeys_of(folder: &Path, name: &str, arrivals: &[Arrival], options: &[&str]) -> String {
    let mut text = "arrival_time,prompt_tokens,output_tokens\n".to_owned();
    for (time, prompt, output) in arrivals {
        writeln!(text, "{time:.6},{prompt},{output}").unwrap();
    }
    let trace = folder.join(format!("{name}.csv"));
    std::fs::write(&trace, text).unwrap();
    let file = folder.join(format!("{name}.jsonl")).to_str().unwrap().to_owned();
    let mut replay = vec!["simulate", "--trace", trace.to_str().unwrap(), "--journey-file", &file];
    // Enough, and quickly checked: this build looks at the whole pool in every step.
    if !options.contains(&POOL) {
        replay.extend([POOL, "600"]);
    }
    printed(&[&replay[..], options].concat());
    file
}

/// So many requests a second that are all alike, but for a little.
fn steady(count: u32, per_second: f64, prompt: u32, output: u32) -> Vec<Arrival> {
    (0..count)
        .map(|n| {
            (
                f64::from(n) / per_second,
                prompt + n * 37 % (prompt / 4 + 1),
                output + n * 13 % (output / 4 + 1),
            )
        })
        .collect()
}

/// Short requests, and now and then a very long prompt.
fn with_long_prompts() -> Vec<Arrival> {
    let mut arrivals = steady(150, 15.0, 80, 12);
    arrivals.extend((0..6_u32).map(|n| (f64::from(n) * 1.6 + 0.4, 7_500, 4)));
    arrivals.sort_by(|one, other| one.0.total_cmp(&other.0));
    arrivals
}

#[track_caller]
fn assert_cause(explanation: &Value, cause: &str) {
    let causes: Vec<_> = explanation["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["cause"].as_str().unwrap())
        .collect();
    assert_eq!(causes[0], cause, "{causes:?}: {:#}", explanation["findings"]);
    let evidence = explanation["findings"][0]["evidence"].as_array().unwrap();
    assert!(cause == "own_work" || !evidence.is_empty());
}

#[test]
fn long_prompts_that_take_the_steps_are_the_cause_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "long", &with_long_prompts(), &["--max-num-batched-tokens", "512"]);
    let explanation = explained(&file);
    assert_cause(&explanation, "long_prompts");
    let evidence = explanation["findings"][0]["evidence"].to_string();
    assert!(evidence.contains("6 of 156 prompts") && evidence.contains("7 500 tokens"), "{evidence}");
    // A slow short request is told who was to blame.
    let story = printed(&["explain", &file, "--slowest", "1"]);
    assert!(story.contains("ledger") && story.contains("llm_core"), "{story}");
    let wait = &explanation["waits"][0];
    assert_eq!(wait["reason"], "token_budget");
    let blocker = &wait["blockers"][0];
    assert_eq!(blocker["prompt_tokens"], 7_500, "{wait}");
}

#[test]
fn a_pool_that_is_too_small_is_the_cause_even_though_requests_wait_for_tokens_too() {
    let folder = tempfile::tempdir().unwrap();
    let arrivals = steady(70, 12.0, 300, 200);
    let small = [POOL, "120"];
    let explanation = explained(&journeys_of(folder.path(), "pool", &arrivals, &small));
    assert_cause(&explanation, "kv_pool");
    assert!(explanation["preemption"]["preemptions"].as_u64().unwrap() > 10, "{}", explanation["preemption"]);
    assert!(explanation["saturation"]["is_saturated"].as_bool().unwrap(), "{}", explanation["saturation"]);
}

#[test]
fn too_few_sequences_are_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let arrivals = steady(100, 40.0, 100, 40);
    let file = journeys_of(folder.path(), "seqs", &arrivals, &["--max-num-seqs", "4"]);
    let explanation = explained(&file);
    assert_cause(&explanation, "max_num_seqs");
    assert!(explanation["findings"][0]["evidence"].to_string().contains("at most 4 sequences"));
}

#[test]
fn a_full_queue_is_the_cause_when_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let arrivals = steady(100, 40.0, 100, 40);
    let limits = ["--max-num-seqs", "4", "--max-num-queued-reqs", "3"];
    let explanation = explained(&journeys_of(folder.path(), "limit", &arrivals, &limits));
    assert_cause(&explanation, "queue_limit");
    let refused = explanation["requests"]["aborted_by_reason"]["overloaded"].as_u64().unwrap();
    let total = explanation["requests"]["total"].as_f64().unwrap();
    assert_eq!(explanation["findings"][0]["share"], refused as f64 / total);
}

#[test]
fn a_server_with_room_has_nothing_to_blame_but_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let explanation = explained(&journeys_of(folder.path(), "room", &steady(60, 4.0, 100, 30), &[]));
    assert_cause(&explanation, "own_work");
    assert_eq!(explanation["integrity"]["journeys"]["complete"], 60);
    assert!(!explanation["saturation"]["is_saturated"].as_bool().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_are_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("slow.jsonl").to_str().unwrap().to_owned();
    let tracing = ["--enable-journey-tracing", "--journey-file", &file];
    let sizes = ["--sim-profile", "instant", POOL, "900", "--max-model-len", "7000"];
    let server = ServerProcess::simulated(&[&tracing[..], &sizes].concat(), &[]);
    // With log probabilities these are 7 MB, more than the buffers between the two take, which grow to 4.
    const DEAF: usize = 2;
    const TOKENS: u32 = 6_000;
    let body = |tokens: u32| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens});
        for (key, value) in [("stream", json!(true)), ("ignore_eos", json!(true)), ("logprobs", json!(true))]
        {
            body[key] = value;
        }
        body["top_logprobs"] = json!(20);
        body.to_string()
    };
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut client = Client::connect(server.socket_address()).await.unwrap();
        client.send(CHAT, &body(TOKENS)).await.unwrap();
        deaf.push(client);
    }
    for _ in 0..6 {
        let mut client = Client::connect(server.socket_address()).await.unwrap();
        client.send(CHAT, &body(5)).await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    // The engine is through with all of them, and still nobody reads.
    let metrics = format!("{}/metrics", server.address);
    tokio::task::spawn_blocking(move || {
        wait_until(PATIENCE, || {
            let page = ureq::get(&metrics).call().unwrap().body_mut().read_to_string().unwrap();
            let generated = page.lines().find_map(|line| line.strip_prefix("vllm:generation_tokens_total{"));
            let generated = generated.and_then(|line| line.split_once(' ')?.1.parse::<f64>().ok());
            generated.is_some_and(|tokens| tokens >= f64::from(TOKENS) * DEAF as f64)
        });
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for mut client in deaf {
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    assert_cause(&explained(&file), "slow_client");
}

#[test]
fn a_request_is_told_by_id_from_the_standard_input_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "one", &steady(40, 20.0, 100, 20), &["--max-num-seqs", "2"]);
    let slowest: Value =
        serde_json::from_str(&printed(&["explain", &file, "--slowest", "3", "--json"])).unwrap();
    let requests = slowest["requests"].as_array().unwrap();
    assert_eq!(requests.len(), 3);
    let times: Vec<_> = requests.iter().map(|one| one["request"]["e2e_ns"].as_u64().unwrap()).collect();
    assert!(times.is_sorted_by(|one, other| one >= other));
    let id = requests[0]["request"]["request_id"].as_str().unwrap();

    let mut child = Command::new(env!("CARGO_BIN_EXE_wayfare"))
        .args(["explain", "-", "--request", id])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&std::fs::read(&file).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(id) && text.contains("in the queue"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");

    let missing = wayfare(&["explain", &file, "--request", "nobody"]);
    assert_eq!(missing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("has the id nobody"));
}

#[test]
fn two_runs_are_compared_and_a_condition_decides_the_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let arrivals = steady(80, 12.0, 60, 30);
    let wide = journeys_of(folder.path(), "wide", &arrivals, &[]);
    let again = journeys_of(folder.path(), "again", &arrivals, &["--seed", "9"]);
    let narrow = journeys_of(folder.path(), "narrow", &arrivals, &["--max-num-seqs", "2"]);

    let worse =
        wayfare(&["diff", &wide, &narrow, "--json", "--fail-if", "p99.ttft>+10%", "--fail-if", "failed>1%"]);
    assert_eq!(worse.status.code(), Some(1), "{}", String::from_utf8_lossy(&worse.stderr));
    let diff: Value = serde_json::from_slice(&worse.stdout).unwrap();
    assert_eq!((&diff["verdict"], &diff["failed_conditions"]), (&json!("slower"), &json!(["p99.ttft>+10%"])));
    let figure = |name: &str| {
        diff["figures"].as_array().unwrap().iter().find(|one| one["figure"] == name).unwrap().clone()
    };
    assert!(figure("ledger.queue.max_num_seqs")["is_certain"].as_bool().unwrap());
    assert!(figure("p99.ttft")["low"].as_f64().unwrap() > 0.0);

    let same = wayfare(&["diff", &wide, &again, "--fail-if", "p99.ttft>+10%", "--fail-if", "mean.e2e>+10ms"]);
    assert_eq!(same.status.code(), Some(0), "{}", String::from_utf8_lossy(&same.stdout));
    assert!(String::from_utf8_lossy(&same.stdout).contains("alike"));
    let better = wayfare(&["diff", &narrow, &wide, "--fail-if", "p99.ttft>+10%"]);
    assert_eq!(better.status.code(), Some(0));
    for (condition, code, words) in
        [("p99.nothing>+1%", 2, "there is no figure p99.nothing"), ("nonsense", 2, "is no condition")]
    {
        let refused = wayfare(&["diff", &wide, &narrow, "--fail-if", condition]);
        assert_eq!(refused.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words));
    }
}

#[test]
fn a_perfetto_file_has_a_track_per_request_and_arrows_to_those_who_waited() {
    let folder = tempfile::tempdir().unwrap();
    let file =
        journeys_of(folder.path(), "arrows", &with_long_prompts(), &["--max-num-batched-tokens", "512"]);
    let trace: Value =
        serde_json::from_str(&printed(&["export", &file, "--to", "perfetto", "-o", "-"])).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let of = |phase: &str| events.iter().filter(|event| event["ph"] == phase).collect::<Vec<_>>();
    let tracks = of("M").into_iter().filter(|event| event["name"] == "thread_name").count();
    assert_eq!(tracks, 156 + 1);
    let (starts, ends) = (of("s"), of("f"));
    assert!(!starts.is_empty() && starts.len() == ends.len());
    let slices = of("X");
    // By the documentation, a flow binds to the slice that its moment is in.
    let is_within_a_slice = |flow: &Value| {
        slices.iter().any(|slice| {
            let (ts, from) = (flow["ts"].as_f64().unwrap(), slice["ts"].as_f64().unwrap());
            slice["tid"] == flow["tid"]
                && slice["pid"] == flow["pid"]
                && (from..=from + slice["dur"].as_f64().unwrap()).contains(&ts)
        })
    };
    for (start, end) in starts.iter().zip(&ends).step_by(10) {
        assert!(is_within_a_slice(start) && is_within_a_slice(end), "{start} {end}");
        assert!(start["id"] == end["id"] && start["ts"].as_f64() <= end["ts"].as_f64());
    }
    assert!(!of("C").is_empty());
    for event in events {
        assert!(event["pid"].is_u64() && event["tid"].is_u64() && event["name"].is_string(), "{event}");
        assert!(event["ph"] == "M" || event["ts"].as_f64().unwrap() >= 0.0, "{event}");
    }
}

#[test]
fn tables_have_a_row_per_request_with_the_figures_of_the_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "rows", &steady(50, 20.0, 100, 20), &["--max-num-seqs", "4"]);
    let csv = printed(&["export", &file, "--to", "csv", "-o", "-"]);
    let mut lines = csv.lines();
    let head: Vec<_> = lines.next().unwrap().split(',').collect();
    let place = |name: &str| head.iter().position(|column| *column == name).unwrap();
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 50 && rows.iter().all(|row| row.len() == head.len()));
    let accounts = head.iter().enumerate().filter(|(_, name)| name.starts_with("account."));
    let of_account: Vec<_> = accounts.map(|(at, _)| at).collect();
    for row in &rows {
        let sum: u64 = of_account.iter().map(|at| row[*at].parse::<u64>().unwrap()).sum();
        assert_eq!(sum, row[place("e2e_ns")].parse::<u64>().unwrap());
    }
    let longest = rows.iter().map(|row| row[place("e2e_ns")].parse::<u64>().unwrap()).max().unwrap();
    let explanation = explained(&file);
    assert_eq!(explanation["latencies"]["e2e"]["max"], longest as f64 / 1e9);

    let prefix = folder.path().join("blis").to_str().unwrap().to_owned();
    printed(&["export", &file, "--to", "tracev2", "-o", &prefix]);
    let header = std::fs::read_to_string(format!("{prefix}.yaml")).unwrap();
    assert!(header.starts_with("trace_version: 2\ntime_unit: microseconds\nmode: real\n"), "{header}");
    assert!(header.contains("max_num_seqs: 4\n"), "{header}");
    let table = std::fs::read_to_string(format!("{prefix}.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(',').collect()).collect();
    assert!(rows.len() == 51 && rows.iter().all(|row| row.len() == 27), "{table}");
    let arrivals: Vec<u64> = rows[1..].iter().map(|row| row[19].parse().unwrap()).collect();
    assert_eq!((arrivals[0], arrivals[49]), (0, 2_450_000));
    assert!(
        rows[1..].iter().all(|row| row[24] == "ok" && row[21] < row[22] || row[21].len() < row[22].len())
    );
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_is_what_its_magic_says() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "columns", &steady(50, 20.0, 100, 20), &[]);
    let path = folder.path().join("requests.parquet");
    printed(&["export", &file, "--to", "parquet", "-o", path.to_str().unwrap()]);
    let bytes = std::fs::read(&path).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[test]
fn a_report_is_one_file_that_loads_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "report", &steady(60, 20.0, 100, 20), &["--max-num-seqs", "2"]);
    let page = printed(&["export", &file, "--to", "html", "-o", "-"]);
    assert!(page.starts_with("<!doctype html>") && page.contains("default-src 'none'"));
    assert!(!page.contains("{{") && !page.contains("src=\"") && !page.contains("<link"), "nothing is loaded");
    let (_, rest) = page.split_once("id=\"data\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    assert_eq!(data["explanation"]["findings"][0]["cause"], "max_num_seqs");
    assert_eq!(
        (data["journeys"].as_array().unwrap().len(), data["points"].as_array().unwrap().len()),
        (50, 60)
    );
    let slowest = &data["journeys"][0];
    assert_eq!(slowest["sequences"][0]["events"][0]["name"], "journey.QUEUED");
    let ledger = slowest["attributes"].as_object().unwrap().iter();
    let sum: u64 = ledger
        .filter(|(key, _)| key.starts_with("journey.ledger.") && !key.contains("queue."))
        .map(|(_, ns)| ns.as_u64().unwrap())
        .sum();
    assert_eq!(sum, slowest["duration_ns"].as_u64().unwrap());
}

#[test]
fn files_that_are_damaged_or_missing_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let file = journeys_of(folder.path(), "torn", &steady(150, 20.0, 100, 5), &[]);
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() * 3 / 4]).unwrap();
    let text = printed(&["explain", &file]);
    assert!(text.contains("1 lines or messages could not be read"), "{text}");
    let nothing = wayfare(&["explain", folder.path().join("nothing").to_str().unwrap()]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("there is no file"));
    let other = folder.path().join("picture.png");
    std::fs::write(&other, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").unwrap();
    assert!(printed(&["explain", other.to_str().unwrap()]).contains("no trace file"));
}
