//! Which server the spans come from.

use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::resource::v1::Resource as ResourceMessage;
use rustix::system::uname;
use wayfare_journey::TraceId;
use wayfare_journey::schema::resource_attribute as key;

use crate::convert::attributes::{Attributes, text_pair};

/// The engine's configuration, so that a file of traces explains itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineDescription {
    /// The model being served.
    pub model: String,
    /// Which engine serves it.
    pub engine: String,
    /// Most sequences running at once.
    pub max_num_seqs: u32,
    /// Most tokens per step.
    pub max_num_batched_tokens: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in the pool.
    pub num_kv_blocks: u32,
}

/// Attributes of everything that one process sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// `service.name`.
    pub service_name: String,
    /// `service.version`.
    pub service_version: String,
    /// `service.instance.id`: unique per process.
    pub service_instance_id: String,
    /// `host.name`.
    pub host_name: String,
    /// `process.pid`.
    pub process_pid: u32,
    /// The engine's configuration.
    pub engine: EngineDescription,
    /// Further attributes, all text. One with the key of another attribute replaces it, the last one wins.
    pub extra: Vec<(String, String)>,
}

impl Resource {
    /// This process, as service `wayfare`, with a random instance id.
    #[must_use]
    pub fn of_this_process(service_version: &str, engine: EngineDescription) -> Self {
        Self {
            service_name: "wayfare".into(),
            service_version: service_version.into(),
            service_instance_id: random_uuid(),
            host_name: uname().nodename().to_string_lossy().into_owned(),
            process_pid: std::process::id(),
            engine,
            extra: Vec::new(),
        }
    }

    pub(crate) fn to_message(&self) -> ResourceMessage {
        let mut attributes = Attributes::with_capacity(key::ALL.len() + self.extra.len());
        attributes
            .text(key::SERVICE_NAME, &self.service_name)
            .text(key::SERVICE_VERSION, &self.service_version)
            .text(key::SERVICE_INSTANCE_ID, &self.service_instance_id)
            .text(key::HOST_NAME, &self.host_name)
            .int(key::PROCESS_PID, self.process_pid)
            .text(key::MODEL, &self.engine.model)
            .text(key::ENGINE, &self.engine.engine)
            .int(key::MAX_NUM_SEQS, self.engine.max_num_seqs)
            .int(key::MAX_NUM_BATCHED_TOKENS, self.engine.max_num_batched_tokens)
            .int(key::BLOCK_SIZE, self.engine.block_size)
            .int(key::NUM_KV_BLOCKS, self.engine.num_kv_blocks);
        let mut attributes: Vec<KeyValue> = attributes.into_list();
        for (extra_key, value) in &self.extra {
            let pair = text_pair(extra_key, value);
            match attributes.iter_mut().find(|known| known.key == *extra_key) {
                Some(known) => *known = pair,
                None => attributes.push(pair),
            }
        }
        ResourceMessage { attributes, ..ResourceMessage::default() }
    }
}

/// A random UUID (version 4, RFC 9562), which OpenTelemetry recommends for `service.instance.id`.
fn random_uuid() -> String {
    let mut bytes = TraceId::random().to_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}
