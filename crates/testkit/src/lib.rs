//! Test doubles and rigs: a clock that is set by hand, an OTLP receiver that decodes what arrives, an engine
//! that does what the test says, a place where journeys are kept; and the load driver and the mock engine core of the
//! benches. Shipped nowhere.
//!
//! Everything here may be used from a plain `#[test]`; what needs a runtime brings its own thread.
#![deny(unsafe_code)]

mod allocator;
mod clock;
mod faulty_executor;
mod inputs;
mod journeys;
pub mod load;
pub mod mock_vllm;
mod otlp_sink;
mod scripted_engine;
mod span_view;
mod tls;
mod wait;

pub use allocator::{Allocations, CountingAllocator};
pub use clock::VirtualClock;
pub use faulty_executor::{ExecutorControl, FaultyExecutor, StepBehaviour};
pub use inputs::{default_model_path, greedy};
pub use journeys::JourneyStore;
pub use otlp_sink::{Attempt, OtlpSink, Refusal, Transport};
pub use scripted_engine::{Reply, ScriptedEngine, SubmittedRequest, scripted_limits};
pub use span_view::{AttributeValue, EventView, SpanView, flatten_spans};
pub use tls::{TestAuthority, TlsFront};
pub use wait::wait_until;
