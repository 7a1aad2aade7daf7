use crate::{
    error::LoadError,
    tensors::{TensorDirectory, TensorEntry, TensorType, open_file},
};
use std::{
    collections::HashMap,
    io::{BufReader, Read, Seek},
    path::Path,
};

/// What the file format calls `GGUF_DEFAULT_ALIGNMENT`.
const DEFAULT_ALIGNMENT: u64 = 32;
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// No writer nests arrays at all; the bound keeps a hostile file from exhausting the stack.
const MAX_ARRAY_DEPTH: u32 = 2;
const SUPPORTED_TYPES: &str = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K";

/// A metadata value, narrowed to what models need.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i32>),
    Floats(Vec<f32>),
    /// An array of a kind that nothing here asks for; its length.
    Skipped(u64),
}

/// The key-value pairs of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metadata(HashMap<String, Value>);

impl Metadata {
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// A count; an array of equal counts (per layer, as some converters write them) is that count.
    pub(crate) fn count(&self, key: &str) -> Result<Option<usize>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(value)) => usize::try_from(*value)
                .ok()
                .filter(|&value| value <= u32::MAX as usize)
                .map(Some)
                .ok_or_else(|| LoadError::configuration(format!("{key} is {value}"))),
            Some(Value::Integers(values)) => match values.split_first() {
                Some((&first, rest)) if first >= 0 && rest.iter().all(|&other| other == first) => {
                    Ok(Some(first as usize))
                }
                _ => Err(LoadError::UnsupportedFeature(format!("a different {key} in each layer"))),
            },
            Some(other) => {
                Err(LoadError::configuration(format!("{key} is not a count but {}", other.kind())))
            }
        }
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) => Ok(Some(*value)),
            Some(Value::Integer(value)) => Ok(Some(*value as f64)),
            Some(other) => {
                Err(LoadError::configuration(format!("{key} is not a number but {}", other.kind())))
            }
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key) {
            Some(Value::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub(crate) fn token_id(&self, key: &str) -> Option<u32> {
        match self.get(key) {
            Some(Value::Integer(value)) => u32::try_from(*value).ok(),
            _ => None,
        }
    }
}

impl Value {
    fn kind(&self) -> String {
        match self {
            Self::Integer(value) => format!("the integer {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::Bool(value) => format!("the truth value {value}"),
            Self::Text(_) => "a text".to_owned(),
            Self::Texts(values) => format!("an array of {} texts", values.len()),
            Self::Integers(values) => format!("an array of {} integers", values.len()),
            Self::Floats(values) => format!("an array of {} numbers", values.len()),
            Self::Skipped(length) => format!("an array of {length} values"),
        }
    }
}

/// Header of a GGUF file.
#[derive(Debug)]
pub(crate) struct GgufFile {
    pub(crate) metadata: Metadata,
    pub(crate) tensors: TensorDirectory,
}

impl GgufFile {
    /// Reads the header of `path`; time and memory are bounded by the size of the file.
    pub(crate) fn read(path: &Path) -> Result<Self, LoadError> {
        let file = open_file(path)?;
        let read_error = |source| LoadError::Read { path: path.to_owned(), source };
        let file_bytes = file.metadata().map_err(read_error)?.len();
        let mut header =
            Header { reader: BufReader::new(file), file_bytes, position: 0, narrow_lengths: false };
        header.read(path).map_err(|failure| match failure {
            Failure::Broken(what) => LoadError::Malformed { path: path.to_owned(), what },
            Failure::Load(error) => error,
        })
    }
}

enum Failure {
    Broken(String),
    Load(LoadError),
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::Broken(what)
    }
}

struct Header<R> {
    reader: R,
    file_bytes: u64,
    position: u64,
    /// Version 1 wrote lengths in 32 bits.
    narrow_lengths: bool,
}

impl<R: Read + Seek> Header<R> {
    fn read(&mut self, path: &Path) -> Result<GgufFile, Failure> {
        if self.bytes::<4>()? != *b"GGUF" {
            return Err("it does not start with GGUF".to_owned().into());
        }
        let version = self.u32()?;
        if !(1..=3).contains(&version) {
            return Err(format!("GGUF version {version} is not one of 1, 2, 3").into());
        }
        self.narrow_lengths = version == 1;
        let num_tensors = self.length()?;
        let num_pairs = self.length()?;

        let mut metadata = HashMap::new();
        for _ in 0..num_pairs {
            let key = self.text()?;
            let kind = self.u32()?;
            let value = self.value(kind, 0).map_err(|what| format!("metadata {key:?}: {what}"))?;
            metadata.insert(key, value);
        }

        let mut directory = Vec::new();
        for _ in 0..num_tensors {
            directory.push(self.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Integer(value)) if (1..=1 << 20).contains(value) => *value as u64,
            Some(_) => return Err("general.alignment is not a sensible size".to_owned().into()),
        };
        let data_start = self.position.next_multiple_of(alignment);
        let mut tensors = TensorDirectory { files: vec![path.to_owned()], ..TensorDirectory::default() };
        for (name, kind, shape, offset) in directory {
            let offset = data_start.saturating_add(offset);
            let entry = TensorEntry::new(kind, shape, 0, offset, self.file_bytes)
                .map_err(|what| format!("tensor {name:?}: {what}"))?;
            if tensors.entries.insert(name.clone(), entry).is_some() {
                return Err(format!("tensor {name:?} occurs twice").into());
            }
        }
        Ok(GgufFile { metadata: Metadata(metadata), tensors })
    }

    fn tensor(&mut self) -> Result<(String, TensorType, Vec<usize>, u64), Failure> {
        let name = self.text()?;
        let num_dimensions = self.u32()?;
        if num_dimensions > MAX_DIMENSIONS {
            return Err(format!("tensor {name:?} has {num_dimensions} dimensions").into());
        }
        let mut shape = Vec::new();
        for _ in 0..num_dimensions {
            let dimension = if self.narrow_lengths { u64::from(self.u32()?) } else { self.u64()? };
            shape.push(
                usize::try_from(dimension)
                    .map_err(|_| format!("tensor {name:?} has the dimension {dimension}"))?,
            );
        }
        // The file has the innermost dimension first.
        shape.reverse();
        let type_number = self.u32()?;
        let kind = tensor_type(type_number).map_err(|kind| {
            Failure::Load(LoadError::UnsupportedTensorType {
                tensor: name.clone(),
                kind,
                supported: SUPPORTED_TYPES.to_owned(),
            })
        })?;
        let offset = self.u64()?;
        Ok((name, kind, shape, offset))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.bytes()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.bytes()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.bytes()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.bytes()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.bytes()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => self.array(depth)?,
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.bytes()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(format!("unknown value type {kind}")),
        })
    }

    fn array(&mut self, depth: u32) -> Result<Value, String> {
        let kind = self.u32()?;
        let length = self.length()?;
        match kind {
            8 => {
                let mut texts = Vec::new();
                for _ in 0..length {
                    texts.push(self.text()?);
                }
                Ok(Value::Texts(texts))
            }
            4 | 5 => {
                self.check_remaining(length.saturating_mul(4))?;
                let mut integers = Vec::new();
                for _ in 0..length {
                    integers.push(i32::from_le_bytes(self.bytes()?));
                }
                Ok(Value::Integers(integers))
            }
            6 => {
                self.check_remaining(length.saturating_mul(4))?;
                let mut floats = Vec::new();
                for _ in 0..length {
                    floats.push(f32::from_le_bytes(self.bytes()?));
                }
                Ok(Value::Floats(floats))
            }
            9 if depth >= MAX_ARRAY_DEPTH => Err("arrays are nested too deeply".to_owned()),
            _ => {
                for _ in 0..length {
                    self.value(kind, depth + 1)?;
                }
                Ok(Value::Skipped(length))
            }
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let length = self.length()?;
        self.check_remaining(length)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        // Some writers of tokens end them with a zero byte, and some tokens are not whole characters.
        while bytes.last() == Some(&0) && bytes.len() > 1 {
            bytes.pop();
        }
        Ok(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    fn length(&mut self) -> Result<u64, String> {
        let length = if self.narrow_lengths { u64::from(self.u32()?) } else { self.u64()? };
        // Whatever is counted takes at least one byte each.
        self.check_remaining(length)?;
        Ok(length)
    }

    fn check_remaining(&self, wanted: u64) -> Result<(), String> {
        let remaining = self.file_bytes.saturating_sub(self.position);
        if wanted > remaining {
            return Err(format!(
                "a length of {wanted} at byte {}, {remaining} bytes are left",
                self.position
            ));
        }
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), String> {
        self.reader
            .read_exact(bytes)
            .map_err(|error| format!("the header ends at byte {}: {error}", self.position))?;
        self.position += bytes.len() as u64;
        Ok(())
    }
}

/// The numbers of `enum ggml_type` in ggml.h; `Err` has the name of a type that is not supported.
fn tensor_type(number: u32) -> Result<TensorType, String> {
    let name = match number {
        0 => return Ok(TensorType::F32),
        1 => return Ok(TensorType::F16),
        2 => return Ok(TensorType::Q4_0),
        3 => return Ok(TensorType::Q4_1),
        6 => return Ok(TensorType::Q5_0),
        7 => return Ok(TensorType::Q5_1),
        8 => return Ok(TensorType::Q8_0),
        12 => return Ok(TensorType::Q4K),
        13 => return Ok(TensorType::Q5K),
        14 => return Ok(TensorType::Q6K),
        30 => return Ok(TensorType::BF16),
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return Err(format!("number {number}")),
    };
    Err(name.to_owned())
}
