//! A collector that is dead for a long time costs a bounded amount of memory.
//!
//! A binary of its own, because it counts the bytes of the whole process through the global allocator.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use wayfare_journey::{HeadSampler, IncomingHeaders, MonoNs, Tracer, WallAnchor};
use wayfare_journey_otlp::{
    Destination, DropCause, EngineDescription, Exporter, ExporterConfig, ExporterOptions, FileRotation,
    Resource, RetryPolicy,
};
use wayfare_testkit::{CountingAllocator, VirtualClock, wait_until};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_dead_collector_costs_a_bounded_backlog_and_nothing_else() {
    const ROUNDS: u64 = 60;
    const JOURNEYS_PER_ROUND: u64 = 500;
    const MAX_PENDING_SPANS: u64 = 1000;

    let nobody = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let options = ExporterOptions {
        traces_endpoint: Some(&nobody),
        journey_file: Some(&directory.path().join("journeys.jsonl")),
        journey_file_rotation: FileRotation {
            max_bytes: (1 << 20).try_into().unwrap(),
            max_files: 3.try_into().unwrap(),
        },
    };
    let resource = Resource::of_this_process("0", EngineDescription::default());
    let mut config = ExporterConfig::resolve(&options, resource, |_| None).unwrap();
    assert!(matches!(config.destinations[..], [Destination::Collector(_), Destination::File { .. }]));
    config.schedule_delay = Duration::from_millis(1);
    config.max_pending_spans = usize::try_from(MAX_PENDING_SPANS).unwrap();
    config.max_batch_spans = 64;
    // Batches are given up now and then, so that both causes of loss are seen.
    config.retry = RetryPolicy {
        first_backoff: Duration::from_millis(1),
        max_backoff: Duration::from_millis(5),
        give_up_after: Duration::from_millis(20),
    };
    let exporter = Exporter::start(config, WallAnchor::capture()).unwrap();
    let everything = HeadSampler::new(1.0).unwrap();
    let tracer = Tracer::new(Arc::new(VirtualClock::at(MonoNs(1))), everything, exporter.sink());
    let counters = exporter.counters();
    let [collector, file] = counters.destinations() else { panic!("two destinations") };

    let mut live_bytes = Vec::new();
    for round in 1..=ROUNDS {
        for _ in 0..JOURNEYS_PER_ROUND {
            let span = tracer.admit(IncomingHeaders::default(), "/v1/completions", MonoNs(1)).span.unwrap();
            drop(span.handle().open_cores(&[(1, 1)], MonoNs(1)));
            span.complete(MonoNs(2));
            // No faster than the file can be written: its backlog is bounded as well.
            if file.pending() > MAX_PENDING_SPANS / 2 {
                wait_until(LONG, || file.pending() < MAX_PENDING_SPANS / 4);
            }
        }
        // The other destination is not affected.
        wait_until(LONG, || file.exported() + file.dropped_total() == 2 * round * JOURNEYS_PER_ROUND);
        assert!(collector.pending() <= MAX_PENDING_SPANS, "{}", collector.pending());
        live_bytes.push(ALLOCATOR.live_bytes());
    }

    // The backlog is full by the third round at the latest. Afterwards it only changes by what the batch on its way
    // and the counting of journeys need.
    let early = live_bytes[3..10].iter().max().unwrap();
    let late = live_bytes[10..].iter().max().unwrap();
    assert!(late.saturating_sub(*early) < 512 << 10, "{live_bytes:?}");
    assert_eq!(file.dropped_total(), 0);
    assert_eq!(counters.journeys_dropped_queue_full(), 0);
    let spans = 2 * ROUNDS * JOURNEYS_PER_ROUND;
    wait_until(LONG, || collector.dropped(DropCause::GaveUp) > 0);
    assert!(collector.dropped(DropCause::QueueFull) > 0);
    assert_eq!(collector.exported(), 0);

    let report = exporter.shutdown(Duration::from_secs(10));
    assert!(report.in_time);
    assert_eq!(collector.dropped_total(), spans, "every span is accounted for");
    assert_eq!(report.destinations[0].lost_spans + report.destinations[0].unsent_spans, spans);
    assert_eq!(report.destinations[1].exported_spans, spans);
    let bytes_on_disk: u64 = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes_on_disk <= 3 << 20, "{bytes_on_disk}");
}
