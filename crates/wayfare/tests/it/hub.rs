//! Models from the Hugging Face hub, which is played by this process.

use std::net::TcpListener;
use std::path::Path;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;

use crate::server::{Ended, command, failed_start};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub that has the one file `org/repo/small.gguf`, which is no model; ends with the test process.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let file = ([("x-repo-commit", COMMIT), (header::ETAG.as_str(), "\"1\"")], "GGUF, but not a model");
    let router = Router::new()
        .route("/org/repo/resolve/main/small.gguf", get(move || async move { file }))
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
    let mut command = command(&[model]);
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home).env_remove("HF_TOKEN");
    failed_start(&mut command)
}

#[test]
fn a_named_file_is_downloaded_into_the_hubs_own_cache_and_loaded_from_there() {
    let home = tempfile::tempdir().unwrap();
    let ended = start("org/repo:small.gguf", &hub(), home.path());
    assert_eq!(ended.status.code(), Some(2));
    let downloaded = home.path().join(format!("hub/models--org--repo/snapshots/{COMMIT}/small.gguf"));
    assert_eq!(std::fs::read_to_string(&downloaded).unwrap(), "GGUF, but not a model");
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
