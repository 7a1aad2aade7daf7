//! What goes wrong inside the exporter costs no more than what it went wrong over.

use std::sync::mpsc::channel;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use parking_lot::Mutex;
use wayfare_journey::{Clock as _, HeadSampler, IncomingHeaders, MonoNs, SystemClock, Tracer};
use wayfare_testkit::{VirtualClock, wait_until};

use super::*;
use crate::batch::ROUTE_THAT_PANICS;
use crate::transport::faulty::FaultyTransport;
use crate::transport::{Accepted, SendError};
use crate::{EngineDescription, FileRotation, Resource};

const PATIENCE: Duration = Duration::from_secs(20);

struct Rig {
    exporter: Exporter,
    tracer: Tracer,
}

impl Rig {
    /// An exporter whose destinations do that with every message.
    fn start<const N: usize>(transports: [FaultyTransport; N]) -> Self {
        let destination = |index| Destination::File {
            path: format!("faulty-{index}").into(),
            rotation: FileRotation::default(),
            option: "--journey-file",
        };
        let resource = Resource::of_this_process("0.0", EngineDescription::default());
        let mut config = ExporterConfig::new((0..N).map(destination).collect(), resource);
        config.schedule_delay = Duration::from_millis(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let transports = transports.map(Transport::Faulty).into();
        let anchor = WallAnchor::new(MonoNs(0), 1_700_000_000_000_000_000);
        let exporter = Exporter::start_with(transports, runtime, config, anchor).unwrap();
        let clock = Arc::new(VirtualClock::at(MonoNs(50)));
        let tracer = Tracer::new(clock, HeadSampler::new(1.0).unwrap(), exporter.sink());
        Self { exporter, tracer }
    }

    /// A finished request with so many sequences.
    fn request(&self, route: &str, sequences: usize) {
        let span = self.tracer.admit(IncomingHeaders::default(), route, MonoNs(10)).span.unwrap();
        drop(span.handle().open_cores(&vec![(1, 1); sequences], MonoNs(11)));
        span.complete(MonoNs(20));
    }

    /// Waits until a destination has taken and lost so many spans.
    #[track_caller]
    fn wait_for(&self, destination: usize, exported: u64, lost: u64) {
        let counters = self.exporter.counters();
        let account = &counters.destinations()[destination];
        wait_until(PATIENCE, || (account.exported(), account.dropped_total()) == (exported, lost));
        wait_until(PATIENCE, || account.pending() == 0);
    }
}

fn routes(message: &ExportTraceServiceRequest) -> Vec<String> {
    let scopes = message.resource_spans.iter().flat_map(|resource| &resource.scope_spans);
    let attributes = scopes.flat_map(|scope| &scope.spans).flat_map(|span| &span.attributes);
    let routes = attributes.filter(|attribute| attribute.key == "http.route");
    routes.map(|attribute| format!("{:?}", attribute.value)).collect()
}

#[expect(clippy::unnecessary_wraps, reason = "the form of a transport")]
fn take(_: &ExportTraceServiceRequest) -> Result<Accepted, SendError> {
    Ok(Accepted::default())
}

#[test]
fn a_panic_while_sending_costs_its_batch_and_nothing_else() {
    let fragile = FaultyTransport::new(|message| {
        assert!(!routes(message).iter().any(|route| route.contains("/panic")), "cannot send that");
        Ok(Accepted::default())
    });
    let rig = Rig::start([fragile, FaultyTransport::new(take)]);
    rig.request("/fine", 0);
    rig.wait_for(0, 1, 0);
    rig.request("/panic", 1);
    rig.wait_for(0, 1, 2);
    rig.request("/fine", 2);
    rig.wait_for(0, 4, 2);
    rig.wait_for(1, 6, 0);
    let counters = rig.exporter.counters();
    let account = &counters.destinations()[0];
    assert_eq!(account.dropped(DropCause::GaveUp), 2);
    assert_eq!(account.failures().into_iter().collect::<Vec<_>>(), [("local".to_owned(), 1)]);
    let report = rig.exporter.shutdown(PATIENCE);
    assert!(report.in_time);
    assert_eq!((report.destinations[0].lost_spans, report.destinations[0].unsent_spans), (2, 0));
}

#[test]
fn a_panic_over_a_journey_costs_that_journey_and_nothing_else() {
    let rig = Rig::start([FaultyTransport::new(take)]);
    for route in ["/fine", ROUTE_THAT_PANICS, "/fine", ROUTE_THAT_PANICS] {
        rig.request(route, 2);
    }
    rig.wait_for(0, 6, 0);
    wait_until(PATIENCE, || rig.exporter.counters().journeys_dropped_panic() == 2);
    rig.request("/fine", 0);
    rig.wait_for(0, 7, 0);
    let report = rig.exporter.shutdown(PATIENCE);
    assert!(report.in_time && !report.is_complete());
    assert_eq!((report.lost_journeys, report.destinations[0].exported_spans), (2, 7));
}

#[test]
fn a_write_that_never_returns_holds_up_nobody_and_costs_the_time_limit_at_the_end() {
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    let (has_begun, begun) = channel();
    let hanging = FaultyTransport::new(move |message| {
        let _ = has_begun.send(());
        let _ = released.lock().recv();
        take(message)
    });
    let rig = Rig::start([hanging, FaultyTransport::new(take)]);
    rig.request("/fine", 0);
    begun.recv_timeout(PATIENCE).unwrap();
    for _ in 0..100 {
        rig.request("/fine", 0);
    }
    rig.wait_for(1, 101, 0);
    assert_eq!(rig.exporter.counters().destinations()[0].pending(), 101);
    let before = SystemClock.now();
    let limit = Duration::from_millis(100);
    let report = rig.exporter.shutdown(limit);
    let took = Duration::from_nanos(SystemClock.now().since(before));
    assert!(took >= limit && took < PATIENCE / 2, "{took:?}");
    assert!(!report.in_time);
    assert_eq!((report.destinations[0].exported_spans, report.destinations[0].unsent_spans), (0, 101));
    assert_eq!((report.destinations[1].exported_spans, report.destinations[1].unsent_spans), (101, 0));
    drop(release);
}
