//! Safetensors headers, <https://huggingface.co/docs/safetensors>: an 8-byte length, that much JSON, the data.

use crate::{
    error::LoadError,
    tensors::{TensorDirectory, TensorEntry, TensorType, open_file},
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::{Path, PathBuf},
};

/// The format's own limit of its header.
const MAX_HEADER_BYTES: u64 = 100_000_000;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

/// The tensors of all safetensors files of a model directory.
pub(crate) fn read_directory(directory: &Path) -> Result<TensorDirectory, LoadError> {
    let mut tensors = TensorDirectory::default();
    for path in weight_files(directory)? {
        let file = tensors.files.len();
        read_header(&path, file, &mut tensors)?;
        tensors.files.push(path);
    }
    Ok(tensors)
}

/// The files that the index names; without an index, the one file or all there are.
fn weight_files(directory: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let index_path = directory.join("model.safetensors.index.json");
    let read_error = |path: &Path, source| LoadError::Read { path: path.to_owned(), source };
    if index_path.exists() {
        let text = std::fs::read_to_string(&index_path).map_err(|error| read_error(&index_path, error))?;
        let malformed = |what| LoadError::Malformed { path: index_path.clone(), what };
        let index: Index = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
        let names: BTreeSet<String> = index.weight_map.into_values().collect();
        return names
            .into_iter()
            .map(|name| {
                let is_plain_name = Path::new(&name).file_name().is_some_and(|plain| plain == name.as_str());
                if is_plain_name {
                    Ok(directory.join(name))
                } else {
                    Err(malformed(format!("it names {name:?}")))
                }
            })
            .collect();
    }
    let single = directory.join("model.safetensors");
    if single.exists() {
        return Ok(vec![single]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(|error| read_error(directory, error))? {
        let path = entry.map_err(|error| read_error(directory, error))?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(LoadError::NotAModel(directory.to_owned()));
    }
    Ok(files)
}

fn read_header(path: &Path, file: usize, tensors: &mut TensorDirectory) -> Result<(), LoadError> {
    let read_error = |source| LoadError::Read { path: path.to_owned(), source };
    let malformed = |what: String| LoadError::Malformed { path: path.to_owned(), what };
    let mut reader = open_file(path)?;
    let file_bytes = reader.metadata().map_err(read_error)?.len();
    let mut length = [0; 8];
    reader.read_exact(&mut length).map_err(|error| malformed(format!("no header: {error}")))?;
    let header_bytes = u64::from_le_bytes(length);
    let data_start = header_bytes.saturating_add(8);
    if header_bytes > MAX_HEADER_BYTES || data_start > file_bytes {
        return Err(malformed(format!("a header of {header_bytes} bytes in a file of {file_bytes}")));
    }
    let mut text = vec![0; header_bytes as usize];
    reader.read_exact(&mut text).map_err(read_error)?;
    let header: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(&text).map_err(|error| malformed(format!("header: {error}")))?;
    for (name, value) in header {
        if name == "__metadata__" {
            continue;
        }
        let entry: Entry =
            serde_json::from_value(value).map_err(|error| malformed(format!("tensor {name:?}: {error}")))?;
        let kind = match entry.dtype.as_str() {
            "F32" => TensorType::F32,
            "F16" => TensorType::F16,
            "BF16" => TensorType::BF16,
            _ => {
                return Err(LoadError::UnsupportedTensorType {
                    tensor: name,
                    kind: entry.dtype,
                    supported: "F32, F16, BF16".to_owned(),
                });
            }
        };
        let [start, end] = entry.data_offsets;
        let offset = data_start.saturating_add(start);
        let place = TensorEntry::new(kind, entry.shape, file, offset, file_bytes)
            .map_err(|what| malformed(format!("tensor {name:?}: {what}")))?;
        if end.checked_sub(start) != Some(place.bytes as u64) {
            return Err(malformed(format!(
                "tensor {name:?}: offsets {start}..{end} for {} bytes",
                place.bytes
            )));
        }
        if tensors.entries.insert(name.clone(), place).is_some() {
            return Err(malformed(format!("tensor {name:?} is also in another file")));
        }
    }
    Ok(())
}
