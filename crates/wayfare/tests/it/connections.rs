//! The built program and connections that want too much: heads without end, no head at all, too many at once.

use std::time::Duration;

use serde_json::json;

use crate::raw_client::Client;
use crate::rig::{COMPLETIONS, PATIENCE};
use crate::server::ServerProcess;

const SHORT: &str = r#"{"prompt":"Hi","max_tokens":1}"#;

async fn connect(server: &ServerProcess) -> Client {
    Client::connect(server.socket_address()).await.unwrap()
}

/// Waits for the server to close the connection.
async fn closed(client: &mut Client) {
    let close = async { while client.read_some().await {} };
    tokio::time::timeout(PATIENCE, close).await.expect("the server closes the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_beyond_the_limits_is_a_431() {
    let server = ServerProcess::simulated(&["--max-header-bytes", "2048", "--max-header-count", "8"], &[]);
    let many: Vec<String> = (0..40).map(|index| format!("x-{index}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "x")).collect();
    let long = "x".repeat(20_000);
    let cases: [(&[(&str, &str)], bool); 4] = [
        (&many[..6], true),
        // Beyond what is read at all, there are no words.
        (&many, false),
        (&[("x-long", &long[..3_000])], true),
        (&[("x-long", &long[..])], true),
    ];
    for (index, (headers, has_words)) in cases.into_iter().enumerate() {
        let mut client = connect(&server).await;
        client.send_with(COMPLETIONS, headers, SHORT).await.unwrap();
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 431, "case {index}");
        if has_words {
            assert_eq!(answer.error_code(), "headers_too_large", "case {index}");
        }
    }
    // A head that goes on and on is cut off, and memory with it.
    let mut client = connect(&server).await;
    let endless = format!("GET /health HTTP/1.1\r\nx: {}", "x".repeat(200_000));
    // The server may stop reading, and answer, before all is sent.
    let _ = client.send_bytes(endless.as_bytes()).await;
    closed(&mut client).await;
    let mut client = connect(&server).await;
    client.send(COMPLETIONS, SHORT).await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_closed_in_time() {
    let server = ServerProcess::simulated(&["--header-timeout", "0.3"], &[]);
    for begun in
        ["", "P", "PRI * HT", "POST /v1/comp", "POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-slow: "]
    {
        let mut client = connect(&server).await;
        client.send_bytes(begun.as_bytes()).await.unwrap();
        closed(&mut client).await;
    }
    // One that is kept open after an answer, too.
    let mut client = connect(&server).await;
    client.send(COMPLETIONS, SHORT).await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
    closed(&mut client).await;
    // But neither a body nor an answer that takes longer.
    let mut client = connect(&server).await;
    let long = json!({"prompt": "Hi", "max_tokens": 60}).to_string();
    client.send_head(COMPLETIONS, &[], long.len()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    client.send_bytes(long.as_bytes()).await.unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, &answer.choice()["finish_reason"]), (200, &json!("length")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_waits_for_another_to_end() {
    let server = ServerProcess::simulated(&["--max-connections", "2"], &[]);
    let mut open = [connect(&server).await, connect(&server).await];
    for client in &mut open {
        client.send(COMPLETIONS, SHORT).await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
    }
    let mut third = connect(&server).await;
    third.send(COMPLETIONS, SHORT).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(300), third.answer()).await;
    assert!(early.is_err(), "it is served beside the others");
    drop(open);
    assert_eq!(third.answer().await.unwrap().status, 200);
    assert!(server.stop().log.contains("--max-connections"));
}
