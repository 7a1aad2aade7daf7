//! A file of OTLP/JSON lines, set aside for a new one when it has grown.

mod line_file;

use std::io;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use super::{Accepted, SendError};
use crate::FileRotation;
use crate::json;
use line_file::LineFile;

/// Appends lines to a file. Writes on a thread of the runtime's pool, because a file system may hang.
#[derive(Debug)]
pub(crate) struct FileTransport {
    /// Away while a write is on its way.
    lines: Option<LineFile>,
}

impl FileTransport {
    pub(super) fn open(path: &Path, rotation: FileRotation) -> io::Result<Self> {
        Ok(Self { lines: Some(LineFile::open(path, rotation)?) })
    }

    pub(super) async fn send(&mut self, message: &ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let mut line = Vec::new();
        json::write_line(message, &mut line).map_err(|error| SendError::failed(error.to_string()))?;
        let Some(mut lines) = self.lines.take() else {
            return Err(SendError::failed("the thread that wrote the file is gone".into()));
        };
        let written = tokio::task::spawn_blocking(move || {
            let result = lines.append(line);
            (lines, result)
        });
        let (lines, result) = written.await.map_err(|error| SendError::failed(error.to_string()))?;
        self.lines = Some(lines);
        match result {
            Ok(()) => Ok(Accepted::default()),
            Err(error) => Err(SendError::failed(error.to_string())),
        }
    }
}
