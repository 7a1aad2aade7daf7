//! From finished journeys and spans of steps to OTLP messages.

pub(crate) mod attributes;
mod core;
mod limits;
mod request;
mod steps;
#[cfg(test)]
mod tests;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource as ResourceMessage;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, SpanFlags, span};
use wayfare_journey::schema::{SCOPE_API, SCOPE_SCHEDULER, SCOPE_STEPS};
use wayfare_journey::{JourneyCell, MonoNs, WallAnchor};

use crate::Resource;
use crate::batch::Batch;
use attributes::Attributes;
pub use limits::SpanLimits;

/// W3C trace flags, the low byte of OTLP's span flags.
const FLAG_SAMPLED: u32 = 0x01;
const FLAG_RANDOM: u32 = 0x02;

/// Makes messages of journeys.
#[derive(Clone, Debug)]
pub(crate) struct Converter {
    resource: ResourceMessage,
    anchor: WallAnchor,
    limits: SpanLimits,
}

impl Converter {
    pub(crate) fn new(resource: &Resource, anchor: WallAnchor, limits: SpanLimits) -> Self {
        Self { resource: resource.to_message(), anchor, limits }
    }

    /// The message of a batch: one resource, and one list of spans per scope.
    pub(crate) fn message(&self, batch: &Batch) -> ExportTraceServiceRequest {
        let (mut requests, mut cores) = (Vec::new(), Vec::new());
        for part in &batch.parts {
            if part.has_request {
                requests.push(request::span(&part.journey, self.anchor));
            }
            let cell = part.journey.cell();
            let of_part = part.journey.cores().skip(part.cores.start).take(part.cores.len());
            cores.extend(of_part.map(|(index, record)| core::span(cell, index, record, self.anchor)));
        }
        let mut steps: Vec<Span> = batch.steps.iter().map(|span| steps::span(span, self.anchor)).collect();
        requests.iter_mut().chain(&mut cores).chain(&mut steps).for_each(|span| self.limits.apply(span));
        let scope_spans = [(SCOPE_API, requests), (SCOPE_SCHEDULER, cores), (SCOPE_STEPS, steps)]
            .into_iter()
            .filter(|(_, spans)| !spans.is_empty())
            .map(|(scope, spans)| scope_spans(scope, spans))
            .collect();
        let resource = Some(self.resource.clone());
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { resource, scope_spans, schema_url: String::new() }],
        }
    }
}

fn scope_spans(name: &str, spans: Vec<Span>) -> ScopeSpans {
    let scope = InstrumentationScope { name: name.into(), ..InstrumentationScope::default() };
    ScopeSpans { scope: Some(scope), spans, schema_url: String::new() }
}

/// OTLP's span flags: the W3C trace flags, and whether the parent is in another process.
/// Source: `SpanFlags` in opentelemetry/proto/trace/v1/trace.proto.
fn flags(cell: &JourneyCell, has_remote_parent: bool) -> u32 {
    let random = if cell.context().random { FLAG_RANDOM } else { 0 };
    let remote = if has_remote_parent { SpanFlags::ContextIsRemoteMask as u32 } else { 0 };
    FLAG_SAMPLED | random | SpanFlags::ContextHasIsRemoteMask as u32 | remote
}

fn event(name: &str, at: MonoNs, attributes: Attributes, anchor: WallAnchor) -> span::Event {
    span::Event {
        time_unix_nano: anchor.unix_ns(at),
        name: name.into(),
        attributes: attributes.into_list(),
        dropped_attributes_count: 0,
    }
}
