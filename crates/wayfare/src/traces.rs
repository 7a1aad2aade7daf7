//! Reading files of traces for the commands that look at them.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use wayfare_insight::{ReadError, Survey, TraceInput, TraceSpan, trace_files};

use crate::progress::byte_bar;

/// What stands for the standard input.
const STDIN: &str = "-";

/// Less than this is read before anybody looks at a progress bar.
const BAR_FROM_BYTES: u64 = 32 << 20;

/// Files that can be read several times.
pub(crate) struct Traces {
    sources: Vec<Source>,
    bytes: u64,
}

enum Source {
    File(PathBuf),
    /// The standard input, or a copy of it.
    Stdin(Option<File>),
}

impl Traces {
    /// Finds the files. When they are read `twice`, the standard input is copied.
    pub(crate) fn find(paths: &[PathBuf], twice: bool) -> Result<Self> {
        let mut sources = Vec::new();
        let mut seen = Vec::new();
        let mut bytes = 0;
        for path in paths {
            if path.as_os_str() == STDIN {
                if sources.iter().any(|source| matches!(source, Source::Stdin(_))) {
                    bail!("the standard input can be read once: `-` was given twice");
                }
                sources.push(Source::Stdin(if twice { Some(copy_of_stdin()?) } else { None }));
                continue;
            }
            for file in trace_files(path)? {
                let identity = file.canonicalize().unwrap_or_else(|_| file.clone());
                if seen.contains(&identity) {
                    continue;
                }
                seen.push(identity);
                bytes += file.metadata().map_or(0, |metadata| metadata.len());
                sources.push(Source::File(file));
            }
        }
        Ok(Self { sources, bytes })
    }

    /// The names of the files, in the order in which they are read.
    pub(crate) fn names(&self) -> Vec<String> {
        self.sources.iter().map(Source::name).collect()
    }

    /// Surveys all of them. What cannot be read is noted there.
    pub(crate) fn survey(&mut self, max_journeys: usize) -> Result<Survey> {
        let mut survey = Survey::new(max_journeys);
        self.read("Reading", |name, span| match span {
            Ok(span) => survey.add(&span),
            Err(error) => survey.note_unreadable(name, &error),
        })?;
        Ok(survey)
    }

    /// Reads all of them, span by span.
    pub(crate) fn read(
        &mut self,
        what: &str,
        mut take: impl FnMut(&str, Result<TraceSpan, ReadError>),
    ) -> Result<()> {
        let bar = self.bar(what);
        for source in &mut self.sources {
            let name = source.name();
            let input = bar.wrap_read(source.open()?);
            match TraceInput::new(input) {
                Ok(spans) => spans.for_each(|span| take(&name, span)),
                Err(error) => take(&name, Err(error)),
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn bar(&self, what: &str) -> ProgressBar {
        if self.bytes < BAR_FROM_BYTES || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let bar = byte_bar(what);
        bar.set_length(self.bytes);
        bar
    }
}

impl Source {
    fn name(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Stdin(_) => "standard input".to_owned(),
        }
    }

    fn open(&mut self) -> Result<Box<dyn Read + Send>> {
        match self {
            Source::File(path) => Ok(Box::new(open(path)?)),
            Source::Stdin(None) => Ok(Box::new(io::stdin())),
            Source::Stdin(Some(copy)) => {
                copy.seek(SeekFrom::Start(0)).context("cannot read the copy of the standard input")?;
                Ok(Box::new(copy.try_clone().context("cannot read the copy of the standard input")?))
            }
        }
    }
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn copy_of_stdin() -> Result<File> {
    let mut copy = tempfile::tempfile().context("cannot make a copy of the standard input")?;
    io::copy(&mut io::stdin().lock(), &mut copy).context("cannot copy the standard input")?;
    Ok(copy)
}
