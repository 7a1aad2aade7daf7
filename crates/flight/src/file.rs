//! Making and reading the file.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use wayfare_journey::{BadRecording, FlightRecorder, MonoNs, Recording, WallAnchor};

use crate::mapping;

/// Room for some eight thousand requests of one sequence.
const RECORDS: u32 = 16_384;
/// Longest file that is read.
const MAX_BYTES: u64 = 256 << 20;

/// Why the file cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum FlightFileError {
    /// The file system failed.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process records into it.
    #[error("{} is the flight recorder of a process that is running", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// It would be overwritten, and holds something else.
    #[error("{} is there and is no recording of a flight recorder; remove it or name another file", path.display())]
    WouldOverwrite {
        /// The file.
        path: PathBuf,
    },
    /// It is too large to be a recording.
    #[error("{} has {bytes} bytes, more than any recording", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// Its content cannot be read.
    #[error("{}: {source}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BadRecording,
    },
}

/// A file into which this process records. Locked as long as this lives.
#[derive(Debug)]
pub struct FlightFile {
    words: &'static [AtomicU64],
    /// Holds the lock.
    _file: File,
    /// Where the recording of a process that had not ended in order was set aside.
    pub set_aside: Option<PathBuf>,
}

impl FlightFile {
    /// Makes the file. A recording that is there already is replaced when its process ended in order, and set aside
    /// as `PATH.previous` otherwise, so that a restart does not destroy what tells of the crash.
    ///
    /// # Errors
    /// When the file is another process's, or no recording, or the file system fails.
    pub fn create(path: &Path) -> Result<Self, FlightFileError> {
        let failed = |source| FlightFileError::Io { path: path.to_owned(), source };
        let set_aside = make_way(path)?;
        let mut file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
        lock(&file, path)?;
        // Written and not only made long: what has no room must fail here, not when it is stored to.
        let page = [0; 4096];
        let mut left = FlightRecorder::bytes(RECORDS);
        while left > 0 {
            let length = left.min(page.len());
            file.write_all(&page[..length]).map_err(failed)?;
            left -= length;
        }
        let words = mapping::map(&file).map_err(failed)?;
        Ok(Self { words, _file: file, set_aside })
    }

    /// A recorder that writes into the file.
    #[must_use]
    pub fn recorder(&self, started: MonoNs, anchor: WallAnchor) -> Option<FlightRecorder> {
        FlightRecorder::begin(self.words, std::process::id(), started, anchor).ok()
    }
}

fn lock(file: &File, path: &Path) -> Result<(), FlightFileError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(FlightFileError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(FlightFileError::Io { path: path.to_owned(), source }),
    }
}

fn make_way(path: &Path) -> Result<Option<PathBuf>, FlightFileError> {
    let failed = |source| FlightFileError::Io { path: path.to_owned(), source };
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    lock(&file, path)?;
    let has_nothing_to_tell = match parse(&file, path) {
        Ok(recording) => recording.has_ended_in_order,
        Err(
            FlightFileError::Bad { source: BadRecording::Foreign, .. } | FlightFileError::TooLarge { .. },
        ) => {
            return Err(FlightFileError::WouldOverwrite { path: path.to_owned() });
        }
        Err(FlightFileError::Bad { .. }) => false,
        Err(error) => return Err(error),
    };
    if has_nothing_to_tell {
        fs::remove_file(path).map_err(failed)?;
        return Ok(None);
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(".previous");
    fs::rename(path, &aside).map_err(failed)?;
    Ok(Some(aside.into()))
}

fn parse(file: &File, path: &Path) -> Result<Recording, FlightFileError> {
    let failed = |source| FlightFileError::Io { path: path.to_owned(), source };
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(FlightFileError::TooLarge { path: path.to_owned(), bytes });
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut content).map_err(failed)?;
    Recording::read(&content).map_err(|source| FlightFileError::Bad { path: path.to_owned(), source })
}

/// What a file tells.
#[derive(Debug)]
pub struct FlightLog {
    /// The recording.
    pub recording: Recording,
    /// Whether the process is still running, so that all this may have changed by now.
    pub is_running: bool,
}

/// Reads a file that a process has left or is still writing.
///
/// # Errors
/// When the file cannot be read, or holds no whole recording of this version.
pub fn read(path: &Path) -> Result<FlightLog, FlightFileError> {
    let failed = |source| FlightFileError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let is_running = matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock));
    let recording = parse(&file, path)?;
    Ok(FlightLog { recording, is_running })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use std::sync::Arc;

    use wayfare_journey::{
        FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, JourneyState, LiveTracing, Tracer,
    };
    use wayfare_testkit::VirtualClock;

    use super::*;

    #[derive(Debug)]
    struct Nowhere;

    impl JourneySink for Nowhere {
        fn accept(&self, _: FinishedJourney) {}
    }

    fn recorder(file: &FlightFile) -> FlightRecorder {
        file.recorder(MonoNs(1), WallAnchor::new(MonoNs(1), 1_000)).unwrap()
    }

    #[test]
    fn what_is_recorded_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flight");
        let file = FlightFile::create(&path).unwrap();
        let live = LiveTracing { ends: None, recorder: Some(recorder(&file)) };
        let (clock, none) = (Arc::new(VirtualClock::at(MonoNs(1))), HeadSampler::new(0.0).unwrap());
        let tracer = Tracer::with_live_view(clock, none, Arc::new(Nowhere), live);
        let span = tracer.admit(IncomingHeaders::default(), "/v1/completions", MonoNs(5)).span.unwrap();
        let log = read(&path).unwrap();
        assert!(log.is_running && log.recording.process_id == std::process::id());
        let [request] = &log.recording.requests[..] else { panic!("{log:?}") };
        assert_eq!((request.state, request.trace_id), (JourneyState::Receiving, span.context().trace_id));
        assert!(matches!(FlightFile::create(&path), Err(FlightFileError::InUse { .. })));
        drop(file);
        let log = read(&path).unwrap();
        assert!(!log.is_running && log.recording.requests.len() == 1);
        span.complete(MonoNs(9));
    }

    #[test]
    fn a_recording_of_a_crash_is_set_aside_and_one_of_an_orderly_end_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flight");
        let first = FlightFile::create(&path).unwrap();
        recorder(&first);
        drop(first);
        let second = FlightFile::create(&path).unwrap();
        let aside = second.set_aside.clone().unwrap();
        assert_eq!(aside, folder.path().join("flight.previous"));
        assert!(!read(&aside).unwrap().recording.has_ended_in_order);
        recorder(&second).end(MonoNs(7));
        drop(second);
        assert_eq!(FlightFile::create(&path).unwrap().set_aside, None);
    }

    #[test]
    fn other_files_are_neither_overwritten_nor_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        fs::write(&path, "remember the milk").unwrap();
        assert!(matches!(FlightFile::create(&path), Err(FlightFileError::WouldOverwrite { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "remember the milk");
        assert!(matches!(read(&path), Err(FlightFileError::Bad { source: BadRecording::Foreign, .. })));
        assert!(matches!(read(&folder.path().join("absent")), Err(FlightFileError::Io { .. })));
        assert!(matches!(read(folder.path()), Err(FlightFileError::Io { .. })), "a folder");
        let cut = folder.path().join("cut");
        let file = FlightFile::create(&cut).unwrap();
        recorder(&file);
        drop(file);
        // A copy: the file itself is mapped.
        let bytes = fs::read(&cut).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(matches!(read(&path), Err(FlightFileError::Bad { source: BadRecording::CutOff { .. }, .. })));
    }
}
