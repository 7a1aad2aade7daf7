//! The messages by which an engine core and its front find each other.

use rmp::encode::{write_array_len, write_map_len, write_nil, write_str};

use super::WireError;
use super::reader::Reader;

/// What an engine core says at the handshake address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Greeting {
    /// Where it is in its start.
    pub status: Option<GreetingStatus>,
    /// Names the settings that all data-parallel ranks must share; only with several ranks.
    pub config_hash: Option<String>,
}

/// Where an engine core is in its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GreetingStatus {
    /// It is there, and wants to know where to connect to.
    Hello,
    /// The model is loaded.
    Ready,
}

impl Greeting {
    /// Reads a greeting.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(frame: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(frame);
        let mut greeting = Self::default();
        for _ in 0..reader.map("a greeting")? {
            match reader.str("a key of a greeting")? {
                "status" => {
                    greeting.status = match reader.str("status")? {
                        "HELLO" => Some(GreetingStatus::Hello),
                        "READY" => Some(GreetingStatus::Ready),
                        _ => None,
                    }
                }
                "parallel_config_hash" if !reader.take_nil() => {
                    greeting.config_hash = Some(reader.str("parallel_config_hash")?.to_owned());
                }
                "parallel_config_hash" => {}
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        Ok(greeting)
    }
}

/// The answer to HELLO: where requests come from and outputs go to. Leaves all settings of the engine core as they are.
#[must_use]
pub fn encode_init(input_address: &str, output_address: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let mut write = || -> Result<(), rmp::encode::ValueWriteError> {
        write_map_len(&mut frame, 2)?;
        write_str(&mut frame, "addresses")?;
        write_map_len(&mut frame, 5)?;
        for (key, address) in [("inputs", input_address), ("outputs", output_address)] {
            write_str(&mut frame, key)?;
            write_array_len(&mut frame, 1)?;
            write_str(&mut frame, address)?;
        }
        for key in ["coordinator_input", "coordinator_output", "frontend_stats_publish_address"] {
            write_str(&mut frame, key)?;
            write_nil(&mut frame).map_err(rmp::encode::ValueWriteError::InvalidDataWrite)?;
        }
        write_str(&mut frame, "parallel_config")?;
        write_map_len(&mut frame, 0)?;
        Ok(())
    };
    write().expect("a vector takes whatever is written to it");
    frame
}

/// What an engine core says of itself once its model is loaded: the first message on its request socket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReadyMessage {
    /// Since 0.23.
    pub vllm_version: Option<String>,
    /// Most tokens of a sequence.
    pub max_model_len: Option<u32>,
    /// KV blocks in its pool, of which one is reserved.
    pub num_gpu_blocks: Option<u32>,
    /// Tokens per KV block.
    pub block_size: Option<u32>,
    /// Most sequences running at once.
    pub max_num_seqs: Option<u32>,
    /// Most tokens per step.
    pub max_num_batched_tokens: Option<u32>,
    /// How many ranks the deployment has, since 0.24.
    pub data_parallel_size: Option<u32>,
}

impl ReadyMessage {
    /// Reads the message. Every field may be missing, and others may be there.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn read(frame: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(frame);
        let mut ready = Self::default();
        for _ in 0..reader.map("a ready message")? {
            let key = reader.str("a key of a ready message")?;
            if reader.take_nil() {
                continue;
            }
            match key {
                "vllm_version" => ready.vllm_version = Some(reader.str("vllm_version")?.to_owned()),
                "max_model_len" => ready.max_model_len = Some(reader.u32("max_model_len")?),
                "num_gpu_blocks" => ready.num_gpu_blocks = Some(reader.u32("num_gpu_blocks")?),
                "block_size" => ready.block_size = Some(reader.u32("block_size")?),
                "max_num_seqs" => ready.max_num_seqs = Some(reader.u32("max_num_seqs")?),
                "max_num_batched_tokens" => {
                    ready.max_num_batched_tokens = Some(reader.u32("max_num_batched_tokens")?);
                }
                "data_parallel_size" => ready.data_parallel_size = Some(reader.u32("data_parallel_size")?),
                _ => reader.skip()?,
            }
        }
        reader.end()?;
        Ok(ready)
    }
}
