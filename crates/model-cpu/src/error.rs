use std::{io, path::PathBuf};

/// Why a model could not be opened or loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file system said no.
    #[error("cannot read {}", path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The path names neither of the two forms a model comes in.
    #[error("{} is not a model: expected a .gguf file or a directory with config.json and *.safetensors", .0.display())]
    NotAModel(PathBuf),
    /// The bytes of a file contradict its format.
    #[error("{} is damaged or not what it says: {what}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Which rule of the format it breaks.
        what: String,
    },
    /// The weights are of an architecture that this crate does not compute.
    #[error("architecture {architecture:?} is not supported; supported are {supported}")]
    UnsupportedArchitecture {
        /// As the file names it.
        architecture: String,
        /// The names that would have been accepted.
        supported: String,
    },
    /// A tensor is stored in a type that this crate does not read.
    #[error("tensor {tensor:?} has the unsupported type {kind}; supported are {supported}")]
    UnsupportedTensorType {
        /// The tensor.
        tensor: String,
        /// Its type, as the file names it.
        kind: String,
        /// The types that would have been accepted.
        supported: String,
    },
    /// The architecture is known, but the configuration asks for something that is not computed here.
    #[error("the model needs {0}, which is not supported")]
    UnsupportedFeature(String),
    /// A value of the model's configuration is missing or cannot be.
    #[error("model configuration: {0}")]
    Configuration(String),
    /// A tensor that the architecture needs is not in the files.
    #[error("tensor {0:?} is missing")]
    MissingTensor(String),
    /// A tensor contradicts the configuration.
    #[error("tensor {tensor:?} has shape {found:?}, the configuration says {expected:?}")]
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its shape in the file, outermost dimension first.
        found: Vec<usize>,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
    },
    /// A weight is infinite, not a number, or too large for the packed form.
    #[error("tensor {0:?} contains values that are not finite or too large")]
    TensorValues(String),
    /// The system does not promise the memory that is needed.
    #[error("no memory for {what}")]
    Memory {
        /// What it is for.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What the caller asked for does not go with the model.
    #[error("load options: {0}")]
    Options(String),
}

impl LoadError {
    pub(crate) fn configuration(what: impl Into<String>) -> Self {
        Self::Configuration(what.into())
    }
}
