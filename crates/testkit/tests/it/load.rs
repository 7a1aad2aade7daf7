//! The load driver against a server that answers as it is told.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use parking_lot::Mutex;
use wayfare_testkit::load::{LoadError, LoadPlan, LoadReport, run};

const WHOLE: &str = "data: {\"choices\":[{\"finish_reason\":null}]}\n\n\
                     data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";

/// The outcome of twenty requests, five at a time, and the bodies that the server got.
fn drive(answer: &'static str, status: u16) -> (Result<LoadReport, LoadError>, BTreeSet<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let bodies = Arc::new(Mutex::new(BTreeSet::new()));
        let seen = Arc::clone(&bodies);
        let respond = post(move |body: String| {
            seen.lock().insert(body);
            let status = axum::http::StatusCode::from_u16(status).unwrap();
            async move { (status, answer) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let app = Router::new().route("/here", respond);
        tokio::spawn(async move { axum::serve(listener, app).await });
        let plan = LoadPlan {
            address,
            server_pid: std::process::id(),
            path: "/here".into(),
            body: "<@@@@@@@@>".into(),
            stream: true,
            concurrency: 5,
            requests: 20,
            spin: true,
            settle_ms: 0,
        };
        let outcome = run(&plan).await;
        let bodies = bodies.lock().clone();
        (outcome, bodies)
    })
}

#[test]
fn every_request_is_sent_once_and_measured() {
    let (report, bodies) = drive(WHOLE, 200);
    let report = report.unwrap();
    assert_eq!((report.requests, report.events), (20, 60));
    assert!(report.frames >= 20, "{report:?}");
    assert!(report.first_ms.p50 > 0.0 && report.first_ms.p50 <= report.whole_ms.max, "{report:?}");
    assert!(report.whole_ms.max / 1e3 <= report.seconds, "{report:?}");
    assert_eq!(bodies, (0..20).map(|number| format!("<{number:08x}>")).collect());
}

#[test]
fn an_answer_that_is_cut_short_or_refused_ends_the_run() {
    let (cut, _) = drive("data: {\"choices\":[{\"finish_reason\":\"length\"}]}\n\n", 200);
    assert!(matches!(cut, Err(LoadError::NotWhole { .. })), "{cut:?}");
    let (refused, _) = drive("too many", 429);
    let error = refused.unwrap_err().to_string();
    assert_eq!(error, "the server answered 429: too many");
}
