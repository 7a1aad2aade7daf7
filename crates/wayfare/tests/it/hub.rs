//! Models from the Hugging Face hub, which is played by this process.

use std::net::TcpListener;
use std::path::Path;

use axum::Router;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;

use crate::server::{Ended, command, failed_start};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const CONTENT: &str = "GGUF, but not a model";

/// The file, or the part of it that `Range: bytes=FIRST-` or `bytes=FIRST-LAST` asks for.
async fn file(headers: HeaderMap) -> impl IntoResponse {
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()?.strip_prefix("bytes="));
    let (first, last) = range.and_then(|range| range.split_once('-')).unwrap_or(("0", ""));
    let first: usize = first.parse().unwrap();
    let last: usize = last.parse().unwrap_or(CONTENT.len() - 1);
    let part = format!("bytes {first}-{last}/{}", CONTENT.len());
    let headers = [
        ("x-repo-commit", COMMIT.to_owned()),
        (header::ETAG.as_str(), "\"1\"".to_owned()),
        (header::CONTENT_RANGE.as_str(), part),
    ];
    (StatusCode::PARTIAL_CONTENT, headers, &CONTENT[first..=last])
}

/// The same for those who may.
async fn gated_file(headers: HeaderMap) -> axum::response::Response {
    if headers.get(header::AUTHORIZATION).is_none_or(|value| value != "Bearer hf_secret") {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    file(headers).await.into_response()
}

/// A hub that has the one file `small.gguf`, which is no model, as `org/repo` for everybody and as `org/gated` for some; ends with the test process.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new()
        .route("/org/repo/resolve/main/small.gguf", get(file))
        .route("/org/gated/resolve/main/small.gguf", get(gated_file))
        .fallback(|| async { StatusCode::NOT_FOUND });
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, router).await.unwrap();
        });
    });
    format!("http://{address}")
}

fn start(model: &str, endpoint: &str, home: &Path) -> Ended {
    start_with(model, endpoint, home, None)
}

fn start_with(model: &str, endpoint: &str, home: &Path, token: Option<&str>) -> Ended {
    let mut command = command(&[model]);
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home).env_remove("HF_TOKEN");
    if let Some(token) = token {
        command.env("HF_TOKEN", token);
    }
    failed_start(&mut command)
}

#[test]
fn a_named_file_is_downloaded_into_the_hubs_own_cache_and_loaded_from_there() {
    let home = tempfile::tempdir().unwrap();
    let ended = start("org/repo:small.gguf", &hub(), home.path());
    assert_eq!(ended.status.code(), Some(2));
    let downloaded = home.path().join(format!("hub/models--org--repo/snapshots/{COMMIT}/small.gguf"));
    assert_eq!(std::fs::read_to_string(&downloaded).unwrap(), CONTENT);
    assert!(ended.log.contains(&*downloaded.to_string_lossy()), "{}", ended.log);
}

#[test]
fn what_the_hub_does_not_have_is_said_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    for model in ["org/repo:other.gguf", "org/nothing"] {
        let ended = start(model, &hub(), home.path());
        assert_eq!(ended.status.code(), Some(2));
        let name = model.split(':').next().unwrap();
        assert!(ended.log.contains(name) && ended.log.contains(".gguf file"), "{}", ended.log);
    }
}

#[test]
fn a_gated_model_is_downloaded_with_the_token_of_the_environment() {
    let home = tempfile::tempdir().unwrap();
    let downloaded = home.path().join(format!("hub/models--org--gated/snapshots/{COMMIT}/small.gguf"));
    let hub = hub();
    for token in [None, Some(""), Some("hf_wrong")] {
        let ended = start_with("org/gated:small.gguf", &hub, home.path(), token);
        assert_eq!(ended.status.code(), Some(2));
        assert!(!downloaded.exists());
    }
    let ended = start_with("org/gated:small.gguf", &hub, home.path(), Some("hf_secret"));
    assert_eq!(std::fs::read_to_string(&downloaded).unwrap(), CONTENT);
    assert!(!ended.log.contains("hf_secret"), "{}", ended.log);
}
