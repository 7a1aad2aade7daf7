//! The columns of tables: one row per request.

use wayfare_journey::WaitReason;

use crate::bucket::Bucket;
use crate::survey::{Ending, Record, Survey};

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Text(&'a str),
    Owned(String),
    Count(Option<u64>),
    Flag(Option<bool>),
}

/// What kind of values a column has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Count,
    Flag,
}

type Look = Box<dyn for<'a> Fn(&Record, &'a Survey) -> Cell<'a>>;

pub(super) struct Column {
    pub(super) name: String,
    #[cfg_attr(not(feature = "parquet"), expect(dead_code, reason = "CSV has no types"))]
    pub(super) kind: Kind,
    of: Look,
}

impl Column {
    pub(super) fn of<'a>(&self, record: &Record, survey: &'a Survey) -> Cell<'a> {
        (self.of)(record, survey)
    }
}

fn column(name: &str, kind: Kind, of: impl for<'a> Fn(&Record, &'a Survey) -> Cell<'a> + 'static) -> Column {
    Column { name: name.to_owned(), kind, of: Box::new(of) }
}

fn count(name: &str, of: impl Fn(&Record) -> Option<u64> + 'static) -> Column {
    column(name, Kind::Count, move |record, _| Cell::Count(of(record)))
}

fn name(title: &str, of: impl Fn(&Record) -> crate::Name + 'static) -> Column {
    column(title, Kind::Text, move |record, survey| Cell::Text(survey.names().text(of(record))))
}

/// All columns, in their order. Times are nanoseconds; what is not known is empty.
pub(super) fn all() -> Vec<Column> {
    let mut columns = vec![
        name("request_id", |record| record.request_id),
        column("trace_id", Kind::Text, |record, _| Cell::Owned(record.trace_id.to_string())),
        column("writer", Kind::Text, |record, _| Cell::Text(record.writer.name())),
        name("instance", |record| record.instance),
        count("engine", |record| Some(record.last.engine.into())),
        name("model", |record| record.model),
        column("is_complete", Kind::Flag, |record, _| Cell::Flag(Some(record.is_complete()))),
        column("is_streamed", Kind::Flag, |record, _| Cell::Flag(record.is_streamed)),
        column("ending", Kind::Text, |record, _| Cell::Text(ending(record.ending))),
        name("abort_reason", |record| record.abort_reason),
        count("status_code", |record| (record.status_code > 0).then_some(record.status_code.into())),
        count("start_unix_ns", |record| Some(record.start_ns)),
        count("end_unix_ns", |record| Some(record.end_ns)),
        count("queued_unix_ns", |record| record.last.queued.get()),
        count("scheduled_unix_ns", |record| record.last.scheduled.get()),
        count("first_token_unix_ns", |record| record.first_token.get()),
        count("finished_unix_ns", |record| record.last.finished.get()),
        count("e2e_ns", Record::e2e_ns),
        count("ttft_ns", Record::ttft_ns),
        count("tpot_ns", Record::tpot_ns),
        count("queue_ns", Record::queue_ns),
        count("prefill_ns", Record::prefill_ns),
        count("decode_ns", Record::decode_ns),
        count("blocked_ns", |record| Some(record.blocked_ns)),
        count("sequences", |record| Some(record.sequences.into())),
        count("prompt_tokens", |record| Some(record.prompt_tokens.into())),
        count("output_tokens", |record| Some(record.output_tokens.into())),
        count("cached_tokens", |record| Some(record.cached_tokens.into())),
        count("recomputed_tokens", |record| Some(record.recomputed_tokens.into())),
        count("wasted_tokens", |record| Some(record.wasted_tokens.into())),
        count("preemptions", |record| Some(record.preemptions.into())),
        column("wait_reason", Kind::Text, |record, _| {
            Cell::Text(record.last.wait_reason.map_or("", WaitReason::as_str))
        }),
        name("wait_blocker", |record| record.last.wait_blocker),
        name("preempted_by", |record| record.last.preempted_by),
        column("has_ledger", Kind::Flag, |record, _| Cell::Flag(Some(record.has_ledger))),
    ];
    columns.extend(Bucket::ALL.map(|bucket| {
        count(&format!("{}_ns", bucket.name()), move |record| {
            record.account().map(|account| account.get(bucket))
        })
    }));
    // The account has buckets of the names of latencies: these are the former's.
    for column in columns.iter_mut().rev().take(Bucket::COUNT) {
        column.name = format!("account.{}", column.name);
    }
    columns
}

fn ending(ending: Ending) -> &'static str {
    match ending {
        Ending::Departed => "departed",
        Ending::Aborted => "aborted",
        Ending::Unknown => "unknown",
    }
}
