//! Clients that leave, over real connections.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use wayfare_engine::{AbortCause, FinishReason};

use crate::rig::{CHAT, COMPLETIONS, PATIENCE, Rig, Setup, chat, completion, core_events, ending, tokens};

/// Serves the rig on a port of its own and connects to it.
async fn connect(rig: &Rig) -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = rig.router.clone();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let socket = TcpSocket::new_v4().unwrap();
    // Little room, so that a client that does not read is soon noticed.
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(address).await.unwrap()
}

fn head(path: &str, length: usize) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

async fn send(client: &mut TcpStream, path: &str, body: &Value) {
    let body = body.to_string();
    client.write_all(head(path, body.len()).as_bytes()).await.unwrap();
    client.write_all(body.as_bytes()).await.unwrap();
}

/// Reads until `wanted` has come.
async fn read_until(client: &mut TcpStream, wanted: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains(wanted) {
        let count = client.read(&mut buffer).await.unwrap();
        assert_ne!(count, 0, "the connection was closed after {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    text
}

/// The request was abandoned by its client and the engine told so.
fn check_abandoned(rig: &Rig) {
    let id = rig.submitted(1).id;
    let journey = rig.journey();
    assert_eq!(ending(&journey), "client_disconnect: client_disconnect");
    assert_eq!(core_events(&journey).last().map(String::as_str), Some("Finished"));
    assert_eq!(rig.engine.aborts(), [(id, AbortCause::ClientGone)]);
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_body_is_complete() {
    let rig = Setup::by_hand().start();
    let mut client = connect(&rig).await;
    client.write_all(head(CHAT, 1_000).as_bytes()).await.unwrap();
    client.write_all(b"{\"model\": ").await.unwrap();
    let tracer = rig.tracer.clone().unwrap();
    wayfare_testkit::wait_until(PATIENCE, || tracer.counters().recorded() == 1);
    drop(client);
    let journey = rig.journey();
    assert!(ending(&journey).starts_with("client_disconnect: "), "{}", ending(&journey));
    assert!(journey.cell().body_complete().is_none());
    assert_eq!(journey.cores().count(), 0);
    assert!(rig.engine.submitted().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_token() {
    for stream in [false, true] {
        let rig = Setup::by_hand().start();
        let mut client = connect(&rig).await;
        send(&mut client, CHAT, &chat(json!({"stream": stream}))).await;
        rig.submitted(1);
        drop(client);
        check_abandoned(&rig);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn midway() {
    let rig = Setup::by_hand().start();
    let mut client = connect(&rig).await;
    send(&mut client, CHAT, &chat(json!({"stream": true}))).await;
    rig.engine.emit(rig.submitted(1).id, &tokens("Hello"));
    let text = read_until(&mut client, "Hello").await;
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    drop(client);
    check_abandoned(&rig);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_write_is_blocked() {
    let rig = Setup::by_hand().start();
    let mut client = connect(&rig).await;
    send(&mut client, COMPLETIONS, &completion(json!({"stream": true, "max_tokens": 4_000}))).await;
    let id = rig.submitted(1).id;
    // More than the kernel takes for a client that does not read, in outputs that never end.
    let output = tokens(&"x".repeat(256 << 10));
    for _ in 0..24 {
        rig.engine.emit(id, &output);
        tokio::task::yield_now().await;
    }
    // The stalled stream holds up nobody else.
    let mut other = connect(&rig).await;
    send(&mut other, COMPLETIONS, &completion(json!({}))).await;
    let other_id = rig.submitted(2).id;
    rig.engine.emit_last(other_id, &tokens("quick"), FinishReason::Stop, None);
    read_until(&mut other, "quick").await;
    assert_eq!(ending(&rig.journey()), "departed");

    drop(client);
    let journey = rig.journey();
    assert_eq!(ending(&journey), "client_disconnect: client_disconnect");
    assert_eq!(rig.engine.aborts(), [(id, AbortCause::ClientGone)]);
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn never() {
    let rig = Setup::by_hand().start();
    let mut client = connect(&rig).await;
    for stream in [true, false] {
        send(&mut client, CHAT, &chat(json!({"stream": stream}))).await;
        let id = rig.submitted(if stream { 1 } else { 2 }).id;
        rig.engine.emit_last(id, &tokens("bye"), FinishReason::Stop, None);
        let text = read_until(&mut client, if stream { "0\r\n\r\n" } else { "cached_tokens" }).await;
        assert!(text.contains("bye"), "{text}");
        assert_eq!(ending(&rig.journey()), "departed");
    }
    assert!(rig.engine.aborts().is_empty());
    rig.assert_nothing_left();
}
