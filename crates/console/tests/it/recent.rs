//! `GET /journeys/recent`.

use wayfare_journey::{AbortReason, MonoNs};

use crate::rig::{MS, Made, Rig, WALL_OFFSET_NS};

#[tokio::test]
async fn filters_choose_and_combine() {
    let rig = Rig::new();
    let plain = Made::default();
    rig.make(Made { label: "chatcmpl-short", arrived_ms: 1_000, ..plain });
    rig.make(Made { label: "chatcmpl-long", arrived_ms: 2_000, duration_ms: 3_000, ..plain });
    let failure = Some(AbortReason::Timeout);
    rig.make(Made { label: "chatcmpl-late", arrived_ms: 6_000, failure, preemptions: 2, ..plain });
    let failure = Some(AbortReason::ClientDisconnect);
    rig.make(Made { label: "chatcmpl-gone", arrived_ms: 7_000, failure, ..plain });
    rig.clock.set(MonoNs(10_000 * MS));

    let unix_seconds = |ms: u64| (WALL_OFFSET_NS + ms * MS) as f64 / 1e9;
    for (query, expected) in [
        ("", &["gone", "late", "long", "short"][..]),
        ("?limit=2", &["gone", "late"]),
        ("?min_duration=3s", &["long"]),
        ("?min_duration=3001ms", &[]),
        ("?status=departed", &["long", "short"]),
        ("?status=aborted", &["gone", "late"]),
        ("?status=timeout", &["late"]),
        ("?preempted=true", &["late"]),
        ("?preempted=false&limit=1", &["gone"]),
        ("?since=4s", &["gone", "late"]),
        (&format!("?since={}", unix_seconds(7_000)), &["gone"]),
        ("?status=aborted&preempted=false&since=4s&limit=10", &["gone"]),
    ] {
        let ids = rig.ids(&format!("/journeys/recent{query}")).await;
        let expected: Vec<_> = expected.iter().map(|name| format!("chatcmpl-{name}")).collect();
        assert_eq!(ids, expected, "{query}");
    }
}

#[tokio::test]
async fn what_is_not_known_is_refused_by_name() {
    let rig = Rig::new();
    for (query, param) in [
        ("min_duration=2", "min_duration"),
        ("status=good", "status"),
        ("limit=0", "limit"),
        ("sinse=1", "sinse"),
        ("limit=1&limit=1", "limit"),
        ("%00=1", "\0"),
    ] {
        let (status, body) = rig.get(&format!("/journeys/recent?{query}")).await;
        assert_eq!((status.as_u16(), body["error"]["param"].as_str()), (400, Some(param)), "{body}");
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_empty_store_says_so() {
    let (status, body) = Rig::new().get("/journeys/recent").await;
    assert_eq!(status, 200);
    assert_eq!(body.to_string(), r#"{"journeys":[],"store":{"journeys":0,"bytes":0,"lost":0}}"#);
}
