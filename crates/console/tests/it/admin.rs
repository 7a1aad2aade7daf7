//! `GET` and `PUT /admin/journey`.

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use wayfare_console::admin_routes;
use wayfare_journey::{IncomingHeaders, MonoNs};

use crate::rig::{Made, Rig, ask};

async fn send(routes: &Router, method: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri("/admin/journey").body(body.into()).unwrap();
    ask(routes.clone(), request).await
}

#[tokio::test]
async fn the_policy_is_shown_and_changed() {
    let rig = Rig::new();
    let routes = admin_routes(Some(rig.tracer.clone()));
    let (status, shown) = send(&routes, "GET", Body::empty()).await;
    assert_eq!(status, 200);
    let kept_by_rule =
        json!({"slow": 0, "ttft": 0, "queue": 0, "error": 0, "aborted": 0, "preempted": 0, "rate": 0});
    assert_eq!(
        shown,
        json!({
            "sample_rate": 1.0,
            "keep": "",
            "environment_sampler": "parentbased_always_on",
            "effective_rate": {"new_traces": 1.0, "continued_traces": 1.0},
            "requests": {
                "recorded": 0, "sampled_out": 0, "in_flight": 0, "kept_by_head": 0,
                "kept_by_rule": kept_by_rule, "discarded": 0,
            },
        })
    );

    let (status, changed) = send(&routes, "PUT", r#"{"sample_rate":0,"keep":" slow > 2s,error"}"#).await;
    assert_eq!(status, 200, "{changed}");
    assert_eq!((&changed["sample_rate"], &changed["keep"]), (&json!(0.0), &json!("slow>2s,error")));
    rig.make(Made { duration_ms: 2_001, ..Made::default() });
    rig.make(Made { duration_ms: 1_999, ..Made::default() });
    assert_eq!(rig.store.reader().usage().journeys, 1);
    let (_, shown) = send(&routes, "GET", Body::empty()).await;
    assert_eq!(shown["requests"]["kept_by_rule"]["slow"], 1);
    assert_eq!((&shown["requests"]["recorded"], &shown["requests"]["discarded"]), (&json!(2), &json!(1)));

    // A field that is not there stays as it is.
    let (_, changed) = send(&routes, "PUT", r#"{"keep":""}"#).await;
    assert_eq!((&changed["sample_rate"], &changed["keep"]), (&json!(0.0), &json!("")));
    assert!(rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.is_none());
    let (_, changed) = send(&routes, "PUT", r#"{"sample_rate":0.5}"#).await;
    assert_eq!(changed["effective_rate"], json!({"new_traces": 0.5, "continued_traces": 0.5}));
}

#[tokio::test]
async fn what_is_wrong_is_said_and_changes_nothing() {
    let rig = Rig::new();
    let routes = admin_routes(Some(rig.tracer.clone()));
    let before = rig.tracer.policy();
    for (body, param, part) in [
        ("", None, "the body is not what it should be"),
        ("[0.5]", None, "the body is not what it should be"),
        ("{}", None, "nothing to change"),
        (r#"{"sample_rate":"x"}"#, None, "invalid type"),
        (r#"{"sample_rate":null}"#, None, "invalid type"),
        (r#"{"sample_rate":0.1,"sample_rate":0.2}"#, None, "duplicate field"),
        (r#"{"rate":0.1}"#, None, "unknown field `rate`"),
        (r#"{"sample_rate":1.5}"#, Some("sample_rate"), "1.5 is not between 0 and 1"),
        (
            r#"{"sample_rate":0.5,"keep":"slow>2x"}"#,
            Some("keep"),
            "expected a unit: ns, us, ms, s, m or h\n  slow>2x\n        ^",
        ),
        ("\u{0}\u{1}", None, "the body is not what it should be"),
    ] {
        let (status, answer) = send(&routes, "PUT", body).await;
        assert_eq!((status.as_u16(), answer["error"]["param"].as_str()), (400, param), "{body}: {answer}");
        let message = answer["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{body}: {message}");
    }
    let (_, answer) = send(&routes, "PUT", r#"{"keep":"error,fast"}"#).await;
    assert_eq!(answer["error"]["position"], 6);
    let (status, _) = send(&routes, "PUT", vec![b' '; 20_000]).await;
    assert_eq!(status, 413);
    let (status, _) = send(&routes, "POST", "{}").await;
    assert_eq!(status, 405);
    let other = Request::get("/admin").body(Body::empty()).unwrap();
    assert_eq!(ask(routes, other).await.0, 404);
    assert_eq!(rig.tracer.policy(), before);
}

#[tokio::test]
async fn without_tracing_it_says_so() {
    let routes = admin_routes(None);
    for method in ["GET", "PUT"] {
        let (status, body) = send(&routes, method, "{}").await;
        assert_eq!(status, 404);
        assert!(body["error"]["message"].as_str().unwrap().contains("--enable-journey-tracing"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_changes_at_once_both_count() {
    let rig = Rig::new();
    let routes = admin_routes(Some(rig.tracer.clone()));
    for round in 0..100 {
        let (rate, keep) = (f64::from(round) / 100.0, format!("slow>{round}s"));
        let bodies = [json!({"sample_rate": rate}).to_string(), json!({"keep": keep}).to_string()];
        let tasks = bodies.map(|body| {
            let routes = routes.clone();
            tokio::spawn(async move { send(&routes, "PUT", body).await.0 })
        });
        for task in tasks {
            assert_eq!(task.await.unwrap(), 200);
        }
        let policy = rig.tracer.policy();
        assert_eq!((policy.sample_rate(), policy.keep().to_string()), (rate, keep));
    }
}

proptest! {
    #[test]
    fn no_body_panics(body in prop_oneof![
        "\\PC{0,60}",
        "\\{\"keep\":\"(slow|ttft|rate|>|=|,|[0-9.]{1,4}|s|ms){0,6}\"\\}",
        "\\{\"sample_rate\":[-0-9.eE]{0,12}\\}",
    ]) {
        let rig = Rig::new();
        let routes = admin_routes(Some(rig.tracer.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (status, _) = runtime.block_on(send(&routes, "PUT", body));
        prop_assert!(status == 200 || status == 400);
    }
}
