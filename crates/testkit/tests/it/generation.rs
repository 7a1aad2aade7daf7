//! Measured completions from a server that answers as it is told.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header;
use axum::response::IntoResponse as _;
use axum::routing::post;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use wayfare_testkit::load::{GenerationPlan, GenerationReport, LoadError, generate};

const TOKEN: &str = "data: {\"choices\":[{\"finish_reason\":null}]}\n\n";
const LAST: &str = "data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\n";
const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
                     \"prompt_tokens_details\":{\"cached_tokens\":2}}}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const PAUSE: Duration = Duration::from_millis(20);

/// The outcome of six requests, two at a time, each answered with these pieces and a pause before each of them; and
/// the bodies that the server got. It closes every connection behind its answer.
fn drive(pieces: &'static [&'static str]) -> (Result<GenerationReport, LoadError>, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bodies = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&bodies);
        let respond = post(move |body: String| {
            seen.lock().push(body);
            let answer = stream::iter(pieces).then(|piece| async move {
                tokio::time::sleep(PAUSE).await;
                Ok::<_, Infallible>(*piece)
            });
            async move { ([(header::CONNECTION, "close")], Body::from_stream(answer)).into_response() }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = Router::new().route("/here", respond);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let plan = GenerationPlan {
            address,
            path: "/here".into(),
            bodies: (0..6).map(|number| number.to_string()).collect(),
            concurrency: 2,
            prompt_tokens: 7,
            output_tokens: 3,
        };
        let outcome = generate(plan).await;
        let bodies = bodies.lock().clone();
        (outcome, bodies)
    })
}

#[test]
fn tokens_and_their_times_are_measured() {
    let (report, mut bodies) = drive(&[TOKEN, TOKEN, LAST, USAGE, DONE]);
    let report = report.unwrap();
    bodies.sort_unstable();
    assert_eq!(bodies, ["0", "1", "2", "3", "4", "5"]);
    let GenerationReport { requests, prompt_tokens, cached_tokens, output_tokens, events, .. } = report;
    assert_eq!((requests, prompt_tokens, cached_tokens, output_tokens, events), (6, 42, 12, 18, 18));
    let pause_ms = PAUSE.as_secs_f64() * 1e3;
    assert!(report.ttft_ms.p50 >= pause_ms, "{report:?}");
    assert!(report.itl_ms.mean >= pause_ms, "{report:?}");
    // Two pauses between three tokens; what comes behind the last one is no token's time.
    assert!((report.tpot_ms.mean - report.itl_ms.mean).abs() < 1e-6, "{report:?}");
    // Three waves, each with a pause before each piece.
    assert!(report.seconds >= 15.0 * PAUSE.as_secs_f64(), "{report:?}");
}

#[test]
fn tokens_that_left_together_are_counted_by_the_usage() {
    let report = drive(&[TOKEN, LAST, USAGE, DONE]).0.unwrap();
    assert_eq!((report.output_tokens, report.events), (18, 12));
    // One pause for two tokens.
    assert!((report.tpot_ms.mean - report.itl_ms.mean / 2.0).abs() < 1e-6, "{report:?}");
}

#[test]
fn an_answer_that_is_not_what_was_planned_ends_the_run() {
    let other: &[&str] =
        &[LAST, "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":3}}\n\n", DONE];
    let (counted, _) = drive(other);
    assert!(matches!(counted, Err(LoadError::Tokens { wanted: (7, 3), counted: (8, 3) })), "{counted:?}");
    for pieces in [&[TOKEN, USAGE, DONE] as &'static [&str], &[LAST, DONE], &[LAST, USAGE]] {
        let (cut, _) = drive(pieces);
        assert!(matches!(cut, Err(LoadError::NotWhole { .. })), "{cut:?}");
    }
    let (error, _) = drive(&["data: {\"error\":{\"message\":\"no room\"}}\n\n"]);
    assert!(error.unwrap_err().to_string().contains("no room"));
}
