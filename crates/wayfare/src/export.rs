//! `wayfare export`: traces in the forms of other tools.

mod report;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};
use wayfare_insight::{
    JourneyPicker, Record, Survey, write_csv, write_perfetto, write_tracev2_header, write_tracev2_rows,
};

use crate::cli::{ExportForm, ExportOptions};
use crate::traces::Traces;

const STDOUT: &str = "-";

/// Reads the traces and writes the file, or the files.
pub(crate) fn run(options: &ExportOptions) -> Result<()> {
    let mut traces =
        Traces::find(&options.files, matches!(options.to, ExportForm::Perfetto | ExportForm::Html))?;
    let survey = traces.survey(options.traces.max_journeys)?;
    report(&survey);
    if survey.records().next().is_none() {
        bail!("there are no journeys in {}", traces.names().join(", "));
    }
    match options.to {
        ExportForm::Csv => write(&options.output, |out| write_csv(&survey, out)),
        #[cfg(feature = "parquet")]
        ExportForm::Parquet => write(&options.output, |out| {
            wayfare_insight::write_parquet(&survey, out).map_err(io::Error::other)
        }),
        ExportForm::Tracev2 => tracev2(&survey, &options.output),
        ExportForm::Perfetto => perfetto(&survey, &mut traces, options),
        ExportForm::Html => {
            let page = report::report(&survey, &mut traces)?;
            write(&options.output, |out| out.write_all(page.as_bytes()))
        }
    }
}

/// Says on the log what the files lack: the exported file cannot.
fn report(survey: &Survey) {
    let integrity = survey.integrity();
    let journeys = &integrity.journeys;
    info!("{} journeys, {} of them complete", journeys.found, journeys.complete);
    if !integrity.is_whole() {
        warn!("something is missing or contradicts itself; `wayfare explain` says what");
    }
}

fn tracev2(survey: &Survey, prefix: &Path) -> Result<()> {
    if prefix.as_os_str() == STDOUT {
        bail!("tracev2 is two files, PATH.yaml and PATH.csv: give a PATH");
    }
    write(&with_suffix(prefix, ".yaml"), |out| write_tracev2_header(survey, out))?;
    let mut left_out = 0;
    write(&with_suffix(prefix, ".csv"), |out| {
        left_out = write_tracev2_rows(survey, out)?.left_out;
        Ok(())
    })?;
    if left_out > 0 {
        warn!(
            "{left_out} requests are left out: when they arrived or how long their prompt was is not known"
        );
    }
    Ok(())
}

fn perfetto(survey: &Survey, traces: &mut Traces, options: &ExportOptions) -> Result<()> {
    let mut records: Vec<&Record> = survey.records().collect();
    records.sort_by_key(|record| (record.start_ns, record.span_id));
    if records.len() > options.max_requests {
        warn!(
            "of {} requests the first {} are drawn; --max-requests for more",
            records.len(),
            options.max_requests
        );
        records.truncate(options.max_requests);
    }
    let mut picker = JourneyPicker::new(&records);
    traces.read("Reading again", |_, span| {
        if let Ok(span) = span {
            picker.add(span);
        }
    })?;
    let journeys = picker.finish();
    write(&options.output, |out| write_perfetto(survey, &records, &journeys, out))
}

fn with_suffix(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

type Out = BufWriter<Box<dyn Write + Send>>;

fn write(path: &Path, fill: impl FnOnce(&mut Out) -> io::Result<()>) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let target: Box<dyn Write + Send> = if path.as_os_str() == STDOUT {
        Box::new(io::stdout())
    } else {
        Box::new(File::create(path).with_context(failed)?)
    };
    let mut out = BufWriter::new(target);
    fill(&mut out).and_then(|()| out.flush()).with_context(failed)
}
