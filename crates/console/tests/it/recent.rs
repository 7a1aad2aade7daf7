//! `GET /journeys/recent`.

use serde_json::json;
use wayfare_console::StoreLimits;
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
    assert_eq!(
        body.to_string(),
        r#"{"journeys":[],"store":{"journeys":0,"bytes":0,"lost":0,"newest_serial":0}}"#
    );
}

#[tokio::test]
async fn pages_join_without_gaps_however_many_come_between() {
    let rig = Rig::new();
    let labels: [&'static str; 7] =
        ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3", "chatcmpl-4", "chatcmpl-5", "chatcmpl-6", "chatcmpl-7"];
    let make = |labels: &[&'static str]| {
        labels.iter().for_each(|label| rig.make(Made { label, ..Made::default() }));
    };
    make(&labels[..5]);
    assert_eq!(rig.ids("/journeys/recent?limit=2").await, ["chatcmpl-5", "chatcmpl-4"]);
    // Two more end before the next page is asked for.
    make(&labels[5..]);
    assert_eq!(rig.ids("/journeys/recent?limit=2&before=4").await, ["chatcmpl-3", "chatcmpl-2"]);
    assert_eq!(rig.ids("/journeys/recent?limit=2&before=2").await, ["chatcmpl-1"]);
    assert_eq!(rig.ids("/journeys/recent?before=1").await, [""; 0]);
    assert_eq!(rig.ids("/journeys/recent?after=5").await, ["chatcmpl-7", "chatcmpl-6"]);
    assert_eq!(rig.ids("/journeys/recent?after=2&before=5").await, ["chatcmpl-4", "chatcmpl-3"]);
    assert_eq!(rig.ids("/journeys/recent?after=7").await, [""; 0]);
    assert_eq!(rig.ids("/journeys/recent?after=18446744073709551615").await, [""; 0]);
    assert_eq!(rig.ids("/journeys/recent?after=5&before=3").await, [""; 0]);
    let (_, body) = rig.get("/journeys/recent?limit=1").await;
    assert_eq!((&body["journeys"][0]["serial"], &body["store"]["newest_serial"]), (&7.into(), &7.into()));
}

#[tokio::test]
async fn serials_go_on_when_old_journeys_are_gone() {
    let rig = Rig::with_limits(StoreLimits { max_journeys: 2, ..StoreLimits::default() });
    for label in ["chatcmpl-1", "chatcmpl-2", "chatcmpl-3", "chatcmpl-4"] {
        rig.make(Made { label, ..Made::default() });
    }
    assert_eq!(rig.ids("/journeys/recent?after=1").await, ["chatcmpl-4", "chatcmpl-3"]);
    assert_eq!(rig.ids("/journeys/recent?before=4").await, ["chatcmpl-3"]);
    assert_eq!(rig.ids("/journeys/recent?before=3").await, [""; 0]);
}

#[tokio::test]
async fn a_summary_has_what_lists_need_and_its_ledger_is_whole() {
    let rig = Rig::new();
    let failure = Some(AbortReason::Timeout);
    rig.make(Made { preemptions: 2, failure, ..Made::default() });
    let (_, all) = rig.get("/journeys/recent").await;
    let (_, summaries) = rig.get("/journeys/recent?fields=summary").await;
    let (all, summary) = (&all["journeys"][0], &summaries["journeys"][0]);
    for field in [
        "request_id",
        "trace_id",
        "span_id",
        "route",
        "status",
        "http_status",
        "start_unix_ns",
        "duration_ns",
        "serial",
    ] {
        assert_eq!(summary[field], all[field], "{field}");
    }
    assert_eq!(summary["abort_reason"], "timeout");
    assert_eq!((&summary["model"], &summary["num_preemptions"]), (&"tiny".into(), &2.into()));
    let parts = summary["ledger"].as_object().unwrap().iter().filter(|(name, _)| !name.contains('.'));
    assert_eq!(parts.map(|(_, ns)| ns.as_u64().unwrap()).sum::<u64>(), 50 * MS);
    let steps = json!([
        {"engine_id": 0, "scheduled_step": 3, "first_token_step": 6, "finished_step": 7}
    ]);
    assert_eq!(summary["sequences"], steps);
    assert!(summary.to_string().len() * 4 < all.to_string().len(), "{summary}");
}
