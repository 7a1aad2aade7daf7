//! `/metrics` under a scripted load.

use std::time::Duration;

use axum::body::Body;
use expect_test::expect;
use http::Request;
use serde_json::json;
use wayfare_engine::FinishReason;
use wayfare_journey::MonoNs;
use wayfare_testkit::VirtualClock;

use crate::rig::{
    CHAT, COMPLETIONS, PATIENCE, Rig, Setup, Tracing, chat, completion, post, request_for, tokens,
};

/// Runs the load: four requests that end in each way, the first preempted on its way.
async fn run_load(tracing: Tracing) -> (Rig, String) {
    let clock = VirtualClock::at(MonoNs(1_000_000_000));
    let rig = Setup::by_hand().clock(clock.clone()).with(|setup| setup.tracing = tracing).start();
    let second = |seconds: f64| clock.advance(Duration::from_secs_f64(seconds));

    // 2 prompt tokens; queued 1 s, first token 2 s later, second 0.5 s later, third 2 s later.
    let stopped = rig.spawn(post(COMPLETIONS, &completion(json!({"max_tokens": 100}))));
    let id = rig.submitted(1).id;
    second(1.0);
    rig.engine.schedule(id);
    second(2.0);
    rig.engine.emit(id, &tokens("a"));
    second(0.5);
    rig.engine.emit(id, &tokens("b"));
    rig.engine.preempt(id, None);
    second(2.0);
    rig.engine.emit_last(id, &tokens("c"), FinishReason::Stop, None);
    stopped.await.unwrap();

    let cut = rig.spawn(post(COMPLETIONS, &completion(json!({"max_tokens": 1}))));
    let id = rig.submitted(2).id;
    second(0.25);
    rig.engine.emit_last(id, &tokens("a"), FinishReason::Length, None);
    cut.await.unwrap();

    let failed = rig.spawn(post(COMPLETIONS, &completion(json!({}))));
    rig.engine.end(rig.submitted(3).id, FinishReason::Error);
    failed.await.unwrap();

    let abandoned = rig.spawn(post(CHAT, &chat(json!({}))));
    rig.submitted(4);
    abandoned.abort();
    assert!(abandoned.await.is_err());
    let ended = r#"vllm:request_success_total{model_name="tiny",engine="0",finished_reason="abort"} 1"#;
    let mut is_recorded = false;
    for _ in 0..1_000 {
        is_recorded = rig.get("/metrics").await.text.contains(ended);
        if is_recorded {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(is_recorded, "the abandoned request was not recorded");
    wayfare_testkit::wait_until(PATIENCE, || rig.engine.live().is_empty());
    // Anew: the last request may have been recorded while that text was written.
    let text = rig.get("/metrics").await.text;
    (rig, text)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_moves_to_the_value_of_the_load() {
    let (_rig, text) = run_load(Tracing::Off).await;
    let shown: Vec<_> = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("_bucket{"))
        .map(|line| {
            line.replace(r#"{model_name="tiny",engine="0"}"#, "")
                .replace(r#"model_name="tiny",engine="0","#, "")
        })
        .collect();
    expect![[r#"
        vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="4096",enable_prefix_caching="False"} 1
        vllm:iteration_tokens_total_sum 4.0
        vllm:iteration_tokens_total_count 4
        vllm:inter_token_latency_seconds_sum 2.5
        vllm:inter_token_latency_seconds_count 2
        vllm:request_time_per_output_token_seconds_sum 1.25
        vllm:request_time_per_output_token_seconds_count 1
        vllm:request_inference_time_seconds_sum 4.5
        vllm:request_inference_time_seconds_count 2
        vllm:request_prefill_time_seconds_sum 2.0
        vllm:request_prefill_time_seconds_count 2
        vllm:request_decode_time_seconds_sum 2.5
        vllm:request_decode_time_seconds_count 2
        vllm:request_prompt_tokens_sum 25.0
        vllm:request_prompt_tokens_count 4
        vllm:request_generation_tokens_sum 4.0
        vllm:request_generation_tokens_count 4
        vllm:request_max_num_generation_tokens_sum 4.0
        vllm:request_max_num_generation_tokens_count 4
        vllm:request_params_max_tokens_sum 4194.0
        vllm:request_params_max_tokens_count 4
        vllm:request_prefill_kv_computed_tokens_sum 4.0
        vllm:request_prefill_kv_computed_tokens_count 2
        vllm:request_recomputed_tokens_sum 4.0
        vllm:request_recomputed_tokens_count 4
        vllm:request_preemptions_sum 1.0
        vllm:request_preemptions_count 4
        vllm:request_params_n_sum 4.0
        vllm:request_params_n_count 4
        gen_ai_server_request_duration_seconds_sum 5.75
        gen_ai_server_request_duration_seconds_count 4
        gen_ai_server_time_to_first_token_seconds_sum 3.25
        gen_ai_server_time_to_first_token_seconds_count 2
        gen_ai_server_time_per_output_token_seconds_sum 1.25
        gen_ai_server_time_per_output_token_seconds_count 1
        vllm:time_to_first_token_seconds_sum 3.25
        vllm:time_to_first_token_seconds_count 2
        vllm:e2e_request_latency_seconds_sum 5.75
        vllm:e2e_request_latency_seconds_count 4
        vllm:request_queue_time_seconds_sum 1.25
        vllm:request_queue_time_seconds_count 2
        vllm:queue_wait_seconds_sum{reason="next_step"} 0.0
        vllm:queue_wait_seconds_count{reason="next_step"} 0
        vllm:queue_wait_seconds_sum{reason="token_budget"} 0.0
        vllm:queue_wait_seconds_count{reason="token_budget"} 0
        vllm:queue_wait_seconds_sum{reason="max_num_seqs"} 0.0
        vllm:queue_wait_seconds_count{reason="max_num_seqs"} 0
        vllm:queue_wait_seconds_sum{reason="kv_blocks"} 0.0
        vllm:queue_wait_seconds_count{reason="kv_blocks"} 0
        vllm:queue_wait_seconds_sum{reason="head_of_line"} 0.0
        vllm:queue_wait_seconds_count{reason="head_of_line"} 0
        vllm:queue_wait_seconds_sum{reason="paused"} 0.0
        vllm:queue_wait_seconds_count{reason="paused"} 0
        vllm:queue_wait_seconds_sum{reason="unknown"} 0.0
        vllm:queue_wait_seconds_count{reason="unknown"} 0
        vllm:request_success_total{finished_reason="stop"} 1
        vllm:request_success_total{finished_reason="length"} 1
        vllm:request_success_total{finished_reason="abort"} 1
        vllm:request_success_total{finished_reason="error"} 1
        vllm:num_requests_running 0.0
        vllm:num_requests_waiting 0.0
        vllm:kv_cache_usage_perc 0.0
        vllm:prefix_cache_queries_total 0
        vllm:prefix_cache_hits_total 0
        vllm:num_preemptions_total 1
        vllm:prompt_tokens_total 25
        vllm:generation_tokens_total 4
    "#]]
    .assert_eq(&(shown.join("\n") + "\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_do_not_depend_on_tracing() {
    let (_, off) = run_load(Tracing::Off).await;
    for tracing in [Tracing::Rate(1.0), Tracing::Rate(0.0)] {
        let (_, text) = run_load(tracing).await;
        assert_eq!(text, off, "{tracing:?}");
    }
}

/// What a client is told about its own request: the `metrics` object, streamed and not, and the header.
async fn told(tracing: Tracing) -> Vec<String> {
    let clock = VirtualClock::at(MonoNs(1_000_000_000));
    let rig = Setup::by_hand().clock(clock.clone()).with(|setup| setup.tracing = tracing).start();
    let second = |seconds: f64| clock.advance(Duration::from_secs_f64(seconds));
    let mut told = Vec::new();
    for (index, (path, stream)) in
        [(CHAT, false), (CHAT, true), (COMPLETIONS, false), (COMPLETIONS, true)].into_iter().enumerate()
    {
        let wish = json!({"max_tokens": 9, "include_metrics": true, "stream": stream});
        let answer = rig.spawn(post(path, &request_for(path, wish)));
        let id = rig.submitted(index + 1).id;
        second(1.0);
        rig.engine.schedule(id);
        second(2.0);
        rig.engine.emit(id, &tokens("a"));
        second(0.5);
        rig.engine.preempt(id, None);
        second(4.0);
        rig.engine.emit_last(id, &tokens("b"), FinishReason::Stop, None);
        let answer = answer.await.unwrap();
        let metrics = match stream {
            true => answer.chunks().last().unwrap()["metrics"].clone(),
            false => answer.json()["metrics"].clone(),
        };
        assert_eq!(metrics["e2e_time_ms"], 7_500.0, "{metrics}");
        assert_eq!(answer.header("server-timing").is_some(), !stream);
        told.push(format!("{:?} {metrics}", answer.header("server-timing")));
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_is_told_about_its_request_does_not_depend_on_tracing() {
    let off = told(Tracing::Off).await;
    for tracing in [Tracing::Rate(1.0), Tracing::Rate(0.0)] {
        assert_eq!(told(tracing).await, off, "{tracing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_are_those_that_dashboards_know() {
    let rig = Setup::answering("x").start();
    let text = rig.get("/metrics").await.text;
    let edges = |name: &str| -> String {
        let buckets = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}_bucket{{")));
        let edge = |bucket: &str| bucket.split("le=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        buckets.map(edge).collect::<Vec<_>>().join(" ")
    };
    expect!["1 8 16 32 64 128 256 512 1024 2048 4096 8192 16384 +Inf"]
        .assert_eq(&edges("vllm:iteration_tokens_total"));
    expect!["1 2 5 10 20 50 100 200 500 1000 2000 +Inf"].assert_eq(&edges("vllm:request_prompt_tokens"));
    expect!["1 2 5 10 20 +Inf"].assert_eq(&edges("vllm:request_params_n"));
    expect![
        "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 20 40 80 160 640 2560 +Inf"
    ]
    .assert_eq(&edges("vllm:time_to_first_token_seconds"));
    expect!["0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1 2.5 5 7.5 10 20 40 80 +Inf"]
        .assert_eq(&edges("vllm:inter_token_latency_seconds"));
    expect!["0.3 0.5 0.8 1 1.5 2 2.5 5 10 15 20 30 40 50 60 120 240 480 960 1920 7680 +Inf"]
        .assert_eq(&edges("vllm:e2e_request_latency_seconds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scraper_chooses_the_format() {
    let rig = Setup::answering("x").start();
    let plain = rig.get("/metrics").await;
    assert_eq!(plain.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(plain.text.contains("# TYPE vllm:prompt_tokens_total counter\n"));
    assert!(plain.text.contains("# TYPE vllm:cache_config_info gauge\n"));
    assert!(!plain.text.contains("# EOF"));

    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3";
    let open = rig.ask(Request::get("/metrics").header("accept", accept).body(Body::empty()).unwrap()).await;
    let content_type = open.header("content-type").unwrap();
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open.text.contains("# TYPE vllm:prompt_tokens counter\n"));
    assert!(open.text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn gauges_follow_the_engine() {
    let rig = Setup::by_hand().start();
    let _first = rig.spawn(post(CHAT, &chat(json!({}))));
    rig.engine.emit(rig.submitted(1).id, &tokens("a"));
    let _second = rig.spawn(post(CHAT, &chat(json!({}))));
    rig.submitted(2);
    let text = rig.get("/metrics").await.text;
    for line in [
        r#"vllm:num_requests_running{model_name="tiny",engine="0"} 1.0"#,
        r#"vllm:num_requests_waiting{model_name="tiny",engine="0"} 1.0"#,
        r#"vllm:kv_cache_usage_perc{model_name="tiny",engine="0"} 0.000244140625"#,
        r#"vllm:cache_config_info{engine="0",block_size="16",num_gpu_blocks="4096",enable_prefix_caching="False"} 1"#,
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
    }
}
