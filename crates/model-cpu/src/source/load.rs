//! Reading and packing the weights.

use super::{LoadOptions, ModelSource, WeightPrecision, names, names::LayerTensor};
use crate::{
    config::{RopeScaling, SlidingWindow},
    error::LoadError,
    kernels::Instructions,
    kv_cache::{KvCache, KvLayout},
    matrix::{FormKind, Matrix, MatrixPacker, PackError, Projection, decode},
    memory::Arena,
    model::{CpuModel, Layer, ModelParts, Weights},
    parallel::Team,
    tensors::{TensorEntry, TensorReader},
};
use std::thread;

/// Far above any useful value; a mistyped option must not exhaust the system's threads.
const MAX_THREADS: usize = 1024;
/// Positions and cache places are counted in 32 bits.
const MAX_POSITIONS: usize = u32::MAX as usize;

pub(super) fn load(
    source: &ModelSource,
    options: &LoadOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<CpuModel, LoadError> {
    let config = &source.config;
    let layout = check_options(source, options)?;
    let mut loader = Loader {
        source,
        precision: options.precision,
        reader: TensorReader::open(&source.tensors)?,
        arena: Arena::default(),
        raw: Vec::new(),
        values: Vec::new(),
        done: 0,
        progress,
    };
    let mut rope = config.rope.clone();
    if let RopeScaling::Divisors(divisors) = &mut rope.scaling {
        *divisors = loader.vector("rope_freqs.weight", config.head_dim / 2)?;
    }
    rope.check()?;

    let no_threads = |error| LoadError::Options(format!("cannot start {} threads: {error}", options.threads));
    let mut cache = KvCache::new(layout, options.kv_cache_type).map_err(|error| {
        LoadError::Options(format!("no memory for {} kv blocks: {error}", options.num_kv_blocks))
    })?;
    let weights = thread::scope(|scope| {
        let provider = thread::Builder::new().name("kv-cache".to_owned());
        provider.spawn_scoped(scope, || cache.provide()).map_err(no_threads)?;
        loader.weights()
    })?;
    let team = Team::new(options.threads).map_err(no_threads)?;
    Ok(CpuModel::new(ModelParts {
        config: config.clone(),
        frequencies: rope.frequencies(config.head_dim),
        weights,
        cache,
        team,
        instructions: options.instructions.unwrap_or_else(Instructions::detect),
        max_model_len: options.max_model_len,
        form: if options.precision == WeightPrecision::Full { FormKind::Full } else { FormKind::EightBit },
    }))
}

fn check_options(source: &ModelSource, options: &LoadOptions) -> Result<KvLayout, LoadError> {
    let refuse = |what: String| Err(LoadError::Options(what));
    let config = &source.config;
    if options.block_size == 0 {
        return refuse("the block size is 0".to_owned());
    }
    if options.num_kv_blocks < 2 {
        return refuse(format!(
            "{} kv blocks; block 0 is reserved, so at least 2 are needed",
            options.num_kv_blocks
        ));
    }
    if options.max_model_len == 0 || options.max_model_len > config.context_length {
        return refuse(format!(
            "a model length of {}; the model was made for 1 to {} positions",
            options.max_model_len, config.context_length
        ));
    }
    if options.threads == 0 || options.threads > MAX_THREADS {
        return refuse(format!("{} threads; 1 to {MAX_THREADS} are possible", options.threads));
    }
    let layout = KvLayout {
        num_blocks: options.num_kv_blocks,
        block_size: options.block_size,
        num_layers: config.num_layers,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
    };
    let num_positions = options.num_kv_blocks.checked_mul(options.block_size);
    let is_countable = num_positions.is_some_and(|positions| positions <= MAX_POSITIONS)
        && layout.components().is_some_and(|components| components <= isize::MAX as usize / 2);
    if !is_countable {
        return refuse(format!("{} kv blocks of {} are too many", options.num_kv_blocks, options.block_size));
    }
    Ok(layout)
}

struct Loader<'a> {
    source: &'a ModelSource,
    precision: WeightPrecision,
    reader: TensorReader<'a>,
    arena: Arena,
    raw: Vec<u8>,
    values: Vec<f32>,
    done: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl Loader<'_> {
    fn weights(&mut self) -> Result<Weights, LoadError> {
        let config = &self.source.config;
        let names = self.source.names();
        let hidden = config.hidden_size;
        let vocabulary_shape = [config.vocab_size, hidden];
        let embedding = Projection::new(vec![(self.matrix(names.embedding(), vocabulary_shape)?, None)]);
        let head = if names::has_tied_embeddings(config, &self.source.tensors) {
            None
        } else {
            Some(Projection::new(vec![(self.matrix(names.head(), vocabulary_shape)?, None)]))
        };
        let layers =
            (0..config.num_layers).map(|layer| self.layer(layer)).collect::<Result<Vec<_>, LoadError>>()?;
        let final_norm = self.vector(names.final_norm(), hidden)?;
        // Tensors that are known and not needed were not read.
        let total = self.source.info.stored_bytes;
        (self.progress)(total, total);
        Ok(Weights { embedding, head, layers, final_norm })
    }

    fn layer(&mut self, layer: usize) -> Result<Layer, LoadError> {
        let config = &self.source.config;
        let names = self.source.names();
        let vector = |loader: &mut Self, tensor: LayerTensor| {
            let length = tensor.shape(config)[0];
            loader.vector(&names.layer(layer, tensor), length)
        };
        let optional = |loader: &mut Self, tensor: LayerTensor| {
            let name = names.layer(layer, tensor);
            match loader.source.tensors.get(&name) {
                Some(_) => vector(loader, tensor).map(Some),
                None => Ok(None),
            }
        };
        let with_bias = |loader: &mut Self, tensor: LayerTensor, bias: Option<LayerTensor>| {
            let shape = tensor.shape(config);
            let name = names.layer(layer, tensor);
            let is_rotated = matches!(tensor, LayerTensor::Query | LayerTensor::Key);
            let order = if is_rotated { loader.rotary_order() } else { RowOrder::AsStored };
            let matrix = loader.ordered_matrix(&name, [shape[0], shape[1]], order)?;
            let mut bias = match bias {
                Some(bias) => optional(loader, bias)?,
                None => None,
            };
            if let Some(values) = &mut bias {
                let stored = values.clone();
                for (row, value) in values.iter_mut().enumerate() {
                    *value = stored[order.stored_row(row)];
                }
            }
            Ok::<_, LoadError>((matrix, bias))
        };

        let attention_norm = vector(self, LayerTensor::AttentionNorm)?;
        let query = with_bias(self, LayerTensor::Query, Some(LayerTensor::QueryBias))?;
        let key = with_bias(self, LayerTensor::Key, Some(LayerTensor::KeyBias))?;
        let value = with_bias(self, LayerTensor::Value, Some(LayerTensor::ValueBias))?;
        let output = with_bias(self, LayerTensor::Output, Some(LayerTensor::OutputBias))?;
        let query_norm = optional(self, LayerTensor::QueryNorm)?;
        let key_norm = optional(self, LayerTensor::KeyNorm)?;
        let feed_forward_norm = vector(self, LayerTensor::FeedForwardNorm)?;
        let gate = with_bias(self, LayerTensor::Gate, None)?;
        let up = with_bias(self, LayerTensor::Up, None)?;
        let down = with_bias(self, LayerTensor::Down, None)?;
        let window = match &config.window {
            SlidingWindow::None => None,
            layers => layers.of_layer(layer),
        };
        Ok(Layer {
            attention_norm,
            query_key_value: Projection::new(vec![query, key, value]),
            query_norm,
            key_norm,
            output: Projection::new(vec![output]),
            feed_forward_norm,
            gate_up: Projection::new(vec![gate, up]),
            down: Projection::new(vec![down]),
            window,
        })
    }

    fn rotary_order(&self) -> RowOrder {
        if self.source.interleaved_rope() {
            RowOrder::HalvesFromNeighbours { head_dim: self.source.config.head_dim }
        } else {
            RowOrder::AsStored
        }
    }

    fn matrix(&mut self, name: &str, shape: [usize; 2]) -> Result<Matrix, LoadError> {
        self.ordered_matrix(name, shape, RowOrder::AsStored)
    }

    fn ordered_matrix(
        &mut self,
        name: &str,
        shape: [usize; 2],
        order: RowOrder,
    ) -> Result<Matrix, LoadError> {
        let entry = self.read(name, &shape)?;
        let packer = MatrixPacker {
            kind: entry.kind,
            raw: &self.raw,
            out_features: shape[0],
            in_features: shape[1],
            stored_row: &|row| order.stored_row(row),
        };
        let form = self.precision.form_of(entry.kind);
        packer.pack(form, &mut self.arena).map_err(|error| refusal(error, name))
    }

    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let entry = self.read(name, &[length])?;
        decode(entry.kind, &self.raw, &mut self.values).map_err(|error| refusal(error, name))?;
        Ok(self.values.clone())
    }

    fn read(&mut self, name: &str, shape: &[usize]) -> Result<TensorEntry, LoadError> {
        let entry = self.source.tensors.expect(name, shape)?.clone();
        self.reader.read(&entry, &mut self.raw)?;
        self.done += entry.bytes as u64;
        (self.progress)(self.done, self.source.info.stored_bytes);
        Ok(entry)
    }
}

fn refusal(error: PackError, name: &str) -> LoadError {
    match error {
        PackError::Values => LoadError::TensorValues(name.to_owned()),
        PackError::Memory(error) => LoadError::Memory { what: format!("tensor {name:?}"), source: error },
    }
}

/// In which order the output channels of queries and keys are stored.
#[derive(Clone, Copy)]
enum RowOrder {
    AsStored,
    /// Stored so that rotary pairs are neighbours, wanted so that they are half a head apart.
    HalvesFromNeighbours {
        head_dim: usize,
    },
}

impl RowOrder {
    fn stored_row(self, row: usize) -> usize {
        match self {
            Self::AsStored => row,
            Self::HalvesFromNeighbours { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
        }
    }
}
