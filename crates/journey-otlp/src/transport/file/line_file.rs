//! A file to which whole lines are appended, and the older ones beside it.
//!
//! `path` is the newest, then come `path.1`, `path.2` and so on. Files change their names by `rename`, which is
//! atomic, the older ones first: whenever the process is interrupted, every line is still in one of the files, and
//! at most one number is missing, which the next rotation fills.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::FileRotation;

#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    rotation: FileRotation,
    file: File,
    /// Whether the file ends in the middle of a line, so that the next one must not be glued to it.
    is_torn: bool,
}

impl LineFile {
    pub(super) fn open(path: &Path, rotation: FileRotation) -> io::Result<Self> {
        // Opening a pipe would wait until somebody reads it.
        if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe, not a file"));
        }
        let (file, is_torn) = open(path)?;
        Ok(Self { path: path.to_path_buf(), rotation, file, is_torn })
    }

    /// Writes the line, which ends with a line feed, and leaves it with the operating system.
    pub(super) fn append(&mut self, mut line: Vec<u8>) -> io::Result<()> {
        self.follow_the_path(line.len())?;
        if self.is_torn {
            line.insert(0, b'\n');
        }
        let result = self.file.write_all(&line);
        // Where a failed write stopped is unknown.
        self.is_torn = result.is_err();
        result
    }

    /// Makes sure that the open file is the one at the path, and has room for so many bytes.
    fn follow_the_path(&mut self, bytes: usize) -> io::Result<()> {
        let mut ours = self.file.metadata()?;
        // Devices do not grow.
        if !ours.is_file() {
            return Ok(());
        }
        // Somebody has removed it or set it aside, for example another server that writes to the same file.
        if !self.path.metadata().is_ok_and(|at_path| is_same(&ours, &at_path)) {
            self.reopen()?;
            ours = self.file.metadata()?;
        }
        let size = ours.len();
        if size > 0 && size.saturating_add(bytes as u64) > self.rotation.max_bytes.get() {
            set_aside(&self.path, self.rotation.max_files.get())
                .map_err(|error| io::Error::new(error.kind(), format!("it cannot be set aside: {error}")))?;
            self.reopen()?;
        }
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.is_torn) = open(&self.path)?;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<(File, bool)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok((file, ends_within_a_line(path)))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Frees the path by moving the files on; with `max_files` of them, the oldest one goes.
fn set_aside(path: &Path, max_files: u32) -> io::Result<()> {
    let Some(oldest) = max_files.checked_sub(1).filter(|oldest| *oldest > 0) else {
        return fs::remove_file(path);
    };
    // A number that is missing is filled before anything is lost.
    let free = (1..oldest).find(|number| !exists(&numbered(path, *number))).unwrap_or(oldest);
    for number in (1..free).rev() {
        rename_if_any(&numbered(path, number), &numbered(path, number + 1))?;
    }
    rename_if_any(path, &numbered(path, 1))
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Another server that shares the file may have been faster.
fn rename_if_any(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Whether the last byte of a regular file is not a line feed. A file that cannot be read is taken as whole.
fn ends_within_a_line(path: &Path) -> bool {
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
    use std::num::{NonZeroU32, NonZeroU64};

    use super::*;

    fn rotation(max_bytes: u64, max_files: u32) -> FileRotation {
        FileRotation {
            max_bytes: NonZeroU64::new(max_bytes).unwrap(),
            max_files: NonZeroU32::new(max_files).unwrap(),
        }
    }

    /// Names and contents, sorted by name.
    fn contents(directory: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        files.sort();
        files
    }

    fn check(directory: &Path, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        assert_eq!(contents(directory), expected);
    }

    fn write(lines: &mut LineFile, texts: &[&str]) {
        texts.iter().for_each(|text| lines.append(format!("{text}\n").into_bytes()).unwrap());
    }

    #[test]
    fn a_torn_line_is_not_continued() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        fs::write(&path, "whole\ntorn").unwrap();
        let mut lines = LineFile::open(&path, FileRotation::default()).unwrap();
        write(&mut lines, &["next", "last"]);
        check(directory.path(), &[("j", "whole\ntorn\nnext\nlast\n")]);
        write(&mut LineFile::open(&path, FileRotation::default()).unwrap(), &["appended"]);
        check(directory.path(), &[("j", "whole\ntorn\nnext\nlast\nappended\n")]);
    }

    #[test]
    fn full_files_are_set_aside_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let mut lines = LineFile::open(&directory.path().join("j"), rotation(6, 3)).unwrap();
        write(&mut lines, &["a1", "a2"]);
        check(directory.path(), &[("j", "a1\na2\n")]);
        write(&mut lines, &["b1", "b2", "c1", "c2"]);
        check(directory.path(), &[("j", "c1\nc2\n"), ("j.1", "b1\nb2\n"), ("j.2", "a1\na2\n")]);
        write(&mut lines, &["longer than a file", "e"]);
        check(directory.path(), &[("j", "e\n"), ("j.1", "longer than a file\n"), ("j.2", "c1\nc2\n")]);
    }

    #[test]
    fn a_single_file_starts_anew() {
        let directory = tempfile::tempdir().unwrap();
        let mut lines = LineFile::open(&directory.path().join("j"), rotation(6, 1)).unwrap();
        write(&mut lines, &["a1", "a2", "b1"]);
        check(directory.path(), &[("j", "b1\n")]);
    }

    #[test]
    fn a_file_of_an_earlier_run_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        fs::write(&path, "a1\na2\n").unwrap();
        write(&mut LineFile::open(&path, rotation(6, 2)).unwrap(), &["b1"]);
        check(directory.path(), &[("j", "b1\n"), ("j.1", "a1\na2\n")]);
    }

    /// Every state in which a process can be interrupted, and what the next one makes of it.
    #[test]
    fn an_interrupted_rotation_loses_nothing() {
        for interrupted in [
            // Before anything, after the first renaming, after the last one.
            [("j", "c1\nc2\n"), ("j.1", "b1\nb2\n"), ("j.2", "a1\na2\n")].as_slice(),
            &[("j", "c1\nc2\n"), ("j.1", "b1\nb2\n"), ("j.3", "a1\na2\n")],
            &[("j", "c1\nc2\n"), ("j.2", "b1\nb2\n"), ("j.3", "a1\na2\n")],
            &[("j.1", "c1\nc2\n"), ("j.2", "b1\nb2\n"), ("j.3", "a1\na2\n")],
        ] {
            let directory = tempfile::tempdir().unwrap();
            for (name, text) in interrupted {
                fs::write(directory.path().join(name), text).unwrap();
            }
            let mut lines = LineFile::open(&directory.path().join("j"), rotation(6, 4)).unwrap();
            write(&mut lines, &["d1", "d2"]);
            check(
                directory.path(),
                &[("j", "d1\nd2\n"), ("j.1", "c1\nc2\n"), ("j.2", "b1\nb2\n"), ("j.3", "a1\na2\n")],
            );
        }
    }

    #[test]
    fn a_file_that_somebody_took_away_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let mut lines = LineFile::open(&path, FileRotation::default()).unwrap();
        write(&mut lines, &["a"]);
        fs::rename(&path, directory.path().join("mine")).unwrap();
        write(&mut lines, &["b"]);
        fs::remove_file(&path).unwrap();
        write(&mut lines, &["c"]);
        check(directory.path(), &[("j", "c\n"), ("mine", "a\n")]);
    }

    #[test]
    fn two_writers_share_a_file_and_its_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let mut one = LineFile::open(&path, rotation(6, 3)).unwrap();
        let mut other = LineFile::open(&path, rotation(6, 3)).unwrap();
        write(&mut one, &["a1"]);
        write(&mut other, &["a2", "b1"]);
        write(&mut one, &["b2"]);
        check(directory.path(), &[("j", "b1\nb2\n"), ("j.1", "a1\na2\n")]);
    }

    #[test]
    fn where_no_file_can_be_set_aside_the_limit_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        // A folder with something in it is not replaced by a file.
        fs::create_dir_all(directory.path().join("j.1/full")).unwrap();
        let mut lines = LineFile::open(&path, rotation(6, 2)).unwrap();
        write(&mut lines, &["a1", "a2"]);
        let error = lines.append(b"b1\n".to_vec()).unwrap_err();
        assert!(error.to_string().starts_with("it cannot be set aside: "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "a1\na2\n");
    }
}
