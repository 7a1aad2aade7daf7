//! A file of OTLP/JSON lines.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

use super::{Accepted, SendError};
use crate::json;

/// Appends lines to a file. Writes on a thread of the runtime's pool, because a file system may hang.
#[derive(Debug)]
pub(crate) struct FileTransport {
    /// Away while a write is on its way.
    lines: Option<LineFile>,
}

impl FileTransport {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { lines: Some(LineFile::open(path)?) })
    }

    pub(super) async fn send(&mut self, message: &ExportTraceServiceRequest) -> Result<Accepted, SendError> {
        let mut line = Vec::new();
        json::write_line(message, &mut line)
            .map_err(|error| SendError::Failed { reason: error.to_string() })?;
        let Some(mut lines) = self.lines.take() else {
            return Err(SendError::Failed { reason: "the thread that wrote the file is gone".into() });
        };
        let written = tokio::task::spawn_blocking(move || {
            let result = lines.append(line);
            (lines, result)
        });
        let (lines, result) =
            written.await.map_err(|error| SendError::Failed { reason: error.to_string() })?;
        self.lines = Some(lines);
        match result {
            Ok(()) => Ok(Accepted::default()),
            Err(error) => Err(SendError::Failed { reason: error.to_string() }),
        }
    }
}

/// A file to which whole lines are appended.
#[derive(Debug)]
struct LineFile {
    file: File,
    /// Whether the file ends in the middle of a line, so that the next one must not be glued to it.
    is_torn: bool,
}

impl LineFile {
    fn open(path: &Path) -> io::Result<Self> {
        // Opening a pipe would wait until somebody reads it.
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe, not a file"));
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file, is_torn: ends_in_a_line(path) })
    }

    /// Writes the line, which ends with a line feed, and leaves it with the operating system.
    fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        if self.is_torn {
            line.insert(0, b'\n');
        }
        let result = self.file.write_all(&line);
        // Where a failed write stopped is unknown.
        self.is_torn = result.is_err();
        result
    }
}

/// Whether the last byte of a regular file is not a line feed. A file that cannot be read is taken as whole.
fn ends_in_a_line(path: &Path) -> bool {
    let last_byte = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        let mut byte = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    let is_regular = path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
    is_regular && last_byte().is_ok_and(|byte| byte != b'\n')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_line_is_not_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journeys.jsonl");
        std::fs::write(&path, "whole\ntorn").unwrap();
        let mut lines = LineFile::open(&path).unwrap();
        lines.append(b"next\n".to_vec()).unwrap();
        lines.append(b"last\n".to_vec()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\ntorn\nnext\nlast\n");

        let mut lines = LineFile::open(&path).unwrap();
        lines.append(b"appended\n".to_vec()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole\ntorn\nnext\nlast\nappended\n");
    }
}
