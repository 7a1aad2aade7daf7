//! What pages of other origins may do, as their browsers ask for it.

use crate::raw_client::{Answer, Client};
use crate::rig::COMPLETIONS;
use crate::server::{ServerProcess, failed_start, simulated};

const PAGE: &str = "https://page.test";

async fn ask(server: &ServerProcess, method: &str, headers: &[(&str, &str)]) -> Answer {
    let mut client = Client::connect(server.socket_address()).await.unwrap();
    let mut head =
        format!("{method} {COMPLETIONS} HTTP/1.1\r\nhost: x\r\norigin: {PAGE}\r\ncontent-length: 0\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    client.send_bytes(format!("{head}\r\n").as_bytes()).await.unwrap();
    client.answer().await.unwrap()
}

/// What a browser asks before it sends a request with a key and a JSON body.
async fn preflight(server: &ServerProcess) -> Answer {
    let asks = [
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    ask(server, "OPTIONS", &asks).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_all_origins_may_use_the_server_with_its_key() {
    let server = ServerProcess::simulated(&["--api-key", "one", "--api-key", "two"], &[]);
    let answer = preflight(&server).await;
    assert_eq!(answer.status, 200, "what is asked beforehand needs no key");
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    // By name, because to browsers a wildcard does not cover the key's header.
    assert_eq!(answer.header("access-control-allow-headers"), Some("authorization,content-type"));
    let refused = ask(&server, "POST", &[]).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some("*")));
    let exposed = refused.header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("x-request-id") && refused.header("x-request-id").is_some());
    for (key, status) in [("one", 400), ("two", 400), ("three", 401)] {
        let answer = ask(&server, "POST", &[("authorization", &format!("Bearer {key}"))]).await;
        assert_eq!(answer.status, status, "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_methods_and_headers_can_be_named() {
    let named = |origins: &str| {
        ServerProcess::simulated(
            &[
                "--allowed-origins",
                origins,
                "--allowed-methods",
                r#"["POST"]"#,
                "--allowed-headers",
                "content-type",
                "--allow-credentials",
            ],
            &[],
        )
    };
    let answer = preflight(&named(r#"["https://other.test", "https://page.test"]"#)).await;
    assert_eq!(answer.header("access-control-allow-origin"), Some(PAGE));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-allow-headers"), Some("content-type"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    let answer = preflight(&named("https://other.test")).await;
    assert_eq!(answer.header("access-control-allow-origin"), None);
    // With credentials no wildcard counts: the page is named.
    assert_eq!(preflight(&named("*")).await.header("access-control-allow-origin"), Some(PAGE));
    let closed = ServerProcess::simulated(&["--allowed-origins", "[]"], &[]);
    let answer = preflight(&closed).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (405, None));
}

#[test]
fn what_is_no_origin_method_or_header_stops_the_start() {
    for (option, value) in [
        ("--allowed-origins", "[1]"),
        ("--allowed-origins", "\u{7f}"),
        ("--allowed-methods", "NO WAY"),
        ("--allowed-headers", "not a header"),
    ] {
        let ended = failed_start(&mut simulated(&[option, value], &[]));
        assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
        assert!(ended.log.contains(option), "{}", ended.log);
    }
}
