//! Where tensors lie in files, and reading them. The two formats fill a [`TensorDirectory`] each their own way.

use crate::error::LoadError;
use candle_core::quantized::GgmlDType;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// How the values of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

impl TensorType {
    /// Number of values that are stored together.
    pub(crate) fn block_values(self) -> usize {
        self.ggml().block_size()
    }

    /// Size in bytes of one such group.
    pub(crate) fn block_bytes(self) -> usize {
        self.ggml().type_size()
    }

    pub(crate) fn ggml(self) -> GgmlDType {
        match self {
            Self::F32 => GgmlDType::F32,
            Self::F16 => GgmlDType::F16,
            Self::BF16 => GgmlDType::BF16,
            Self::Q4_0 => GgmlDType::Q4_0,
            Self::Q4_1 => GgmlDType::Q4_1,
            Self::Q5_0 => GgmlDType::Q5_0,
            Self::Q5_1 => GgmlDType::Q5_1,
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q4K => GgmlDType::Q4K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q6K => GgmlDType::Q6K,
        }
    }
}

/// One tensor in one file.
#[derive(Clone, Debug)]
pub(crate) struct TensorEntry {
    pub(crate) kind: TensorType,
    /// Outermost dimension first.
    pub(crate) shape: Vec<usize>,
    pub(crate) file: usize,
    /// From the start of the file, in bytes.
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

impl TensorEntry {
    /// The place of a tensor of `shape`, or which rule it breaks. `file_bytes` bounds every later allocation.
    pub(crate) fn new(
        kind: TensorType,
        shape: Vec<usize>,
        file: usize,
        offset: u64,
        file_bytes: u64,
    ) -> Result<Self, String> {
        let values = shape
            .iter()
            .try_fold(1usize, |product, &dimension| product.checked_mul(dimension))
            .ok_or_else(|| format!("its shape {shape:?} overflows"))?;
        let row = shape.last().copied().unwrap_or(1);
        if values == 0 {
            return Err(format!("its shape {shape:?} has an empty dimension"));
        }
        if !row.is_multiple_of(kind.block_values()) {
            return Err(format!("rows of {row} values do not divide into blocks of {}", kind.block_values()));
        }
        let bytes = (values / kind.block_values())
            .checked_mul(kind.block_bytes())
            .ok_or_else(|| format!("its shape {shape:?} overflows"))?;
        match offset.checked_add(bytes as u64) {
            Some(end) if end <= file_bytes => Ok(Self { kind, shape, file, offset, bytes }),
            _ => Err(format!("{bytes} bytes at offset {offset} reach beyond the file's {file_bytes}")),
        }
    }
}

/// The tensors of a model by name.
#[derive(Debug, Default)]
pub(crate) struct TensorDirectory {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) entries: BTreeMap<String, TensorEntry>,
}

impl TensorDirectory {
    pub(crate) fn get(&self, name: &str) -> Option<&TensorEntry> {
        self.entries.get(name)
    }

    /// The entry called `name`, which must have `shape`.
    pub(crate) fn expect(&self, name: &str, shape: &[usize]) -> Result<&TensorEntry, LoadError> {
        let entry = self.get(name).ok_or_else(|| LoadError::MissingTensor(name.to_owned()))?;
        if entry.shape != shape {
            return Err(LoadError::TensorShape {
                tensor: name.to_owned(),
                found: entry.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        Ok(entry)
    }

    /// Size in bytes of all tensors as stored.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.bytes as u64).sum()
    }
}

/// Open files of a [`TensorDirectory`] and a reusable buffer.
pub(crate) struct TensorReader<'a> {
    directory: &'a TensorDirectory,
    files: Vec<File>,
}

impl<'a> TensorReader<'a> {
    pub(crate) fn open(directory: &'a TensorDirectory) -> Result<Self, LoadError> {
        let files = directory.files.iter().map(|path| open_file(path)).collect::<Result<_, _>>()?;
        Ok(Self { directory, files })
    }

    /// Replaces `raw` by the stored bytes of `entry`.
    pub(crate) fn read(&mut self, entry: &TensorEntry, raw: &mut Vec<u8>) -> Result<(), LoadError> {
        raw.resize(entry.bytes, 0);
        let file = &mut self.files[entry.file];
        file.seek(SeekFrom::Start(entry.offset))
            .and_then(|_| file.read_exact(raw))
            .map_err(|source| LoadError::Read { path: self.directory.files[entry.file].clone(), source })
    }
}

pub(crate) fn open_file(path: &Path) -> Result<File, LoadError> {
    File::open(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })
}
