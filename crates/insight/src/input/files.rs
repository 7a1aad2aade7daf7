//! Which files belong together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Why no file could be named.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    /// The file system failed.
    #[error("{} cannot be looked at", path.display())]
    Io {
        /// What could not be looked at.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no such file, and no rotated one either.
    #[error("there is no file {} and none that was rotated from it", path.display())]
    Missing {
        /// What was asked for.
        path: PathBuf,
    },
    /// A directory without a file.
    #[error("the directory {} has no files", path.display())]
    EmptyDirectory {
        /// The directory.
        path: PathBuf,
    },
}

/// The files that a path stands for, from old to new: of a directory all its files; of a file itself and those that
/// were rotated from it. Such are `PATH.1`, `PATH.2` (ours, from new to old) and `NAME-TIME.EXT` (the collector's),
/// each with `.gz` or `.zst` after it or not. The file itself need not be there.
///
/// # Errors
/// When there is none, or the file system fails.
pub fn trace_files(path: &Path) -> Result<Vec<PathBuf>, TraceFileError> {
    if path.is_dir() {
        let mut files = Vec::new();
        for entry in entries(path)? {
            let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if entry.is_file() && !name.starts_with('.') {
                files.push(entry);
            }
        }
        if files.is_empty() {
            return Err(TraceFileError::EmptyDirectory { path: path.to_owned() });
        }
        files.sort_by_cached_key(|file| age_key(&file.file_name().unwrap_or_default().to_string_lossy()));
        return Ok(files);
    }
    if path.exists() && !path.is_file() {
        // A pipe or a device: there is nothing beside it.
        return Ok(vec![path.to_owned()]);
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let base = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut rotated: Vec<(AgeKey, PathBuf)> = Vec::new();
    if directory.is_dir() {
        for entry in entries(directory)? {
            let name = entry.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if entry.is_file() && is_rotated_from(&name, &base) {
                rotated.push((age_key(&name), entry));
            }
        }
    }
    rotated.sort();
    let mut files: Vec<_> = rotated.into_iter().map(|(_, file)| file).collect();
    if path.is_file() {
        files.push(path.to_owned());
    }
    if files.is_empty() {
        return Err(TraceFileError::Missing { path: path.to_owned() });
    }
    Ok(files)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, TraceFileError> {
    let failed = |source| TraceFileError::Io { path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn is_rotated_from(name: &str, base: &str) -> bool {
    if name == base {
        return false;
    }
    let plain = without_compression(name);
    if plain == base {
        return true;
    }
    if plain.strip_prefix(base).and_then(|rest| rest.strip_prefix('.')).is_some_and(is_number) {
        return true;
    }
    // lumberjack's names: traces-2026-11-28T10-15-00.000.jsonl
    let (stem, extension) = base.rsplit_once('.').unwrap_or((base, ""));
    let middle = plain.strip_prefix(stem).and_then(|rest| rest.strip_suffix(extension));
    middle.and_then(|rest| rest.strip_prefix('-')).is_some_and(|time| {
        time.len() >= 19 && time.bytes().all(|byte| byte.is_ascii_digit() || b"-T.:Z".contains(&byte))
    })
}

fn without_compression(name: &str) -> &str {
    [".gz", ".zst", ".zstd"].iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Ascending from old to new: the name without its number, then the number from large to small, then the name.
type AgeKey = (String, std::cmp::Reverse<u64>, String);

fn age_key(name: &str) -> AgeKey {
    let plain = without_compression(name);
    match plain.rsplit_once('.') {
        Some((base, number)) if is_number(number) => {
            (base.to_owned(), std::cmp::Reverse(number.parse().unwrap_or(u64::MAX)), name.to_owned())
        }
        _ => (plain.to_owned(), std::cmp::Reverse(0), name.to_owned()),
    }
}
