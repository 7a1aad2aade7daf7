//! Which servers the spans are from.

use wayfare_journey::schema::resource_attribute as key;

use super::names::{Name, Names};
use crate::span::Attributes;

/// Most servers that are told apart.
const MAX_SERVERS: usize = 256;

/// A server, as its resource describes it; what the file does not say is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// Its `service.instance.id`.
    pub instance: Name,
    /// Its `service.name`.
    pub service: Name,
    /// Its version.
    pub version: Name,
    /// The model it serves.
    pub model: Name,
    /// Most sequences at once.
    pub max_num_seqs: Option<u64>,
    /// Most tokens per step.
    pub max_num_batched_tokens: Option<u64>,
    /// Tokens per KV block.
    pub block_size: Option<u64>,
    /// KV blocks.
    pub num_kv_blocks: Option<u64>,
}

/// All servers, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Servers(Vec<Server>);

impl Servers {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Server] {
        &self.0
    }

    /// The one with this instance.
    #[must_use]
    pub fn get(&self, instance: Name) -> Option<&Server> {
        self.0.iter().find(|server| server.instance == instance)
    }

    /// Notes a resource and says which instance it is.
    pub(super) fn note(&mut self, resource: &Attributes, names: &mut Names) -> Name {
        let instance = names.intern(resource.text(key::SERVICE_INSTANCE_ID).unwrap_or_default());
        let is_known = self.0.iter().rev().any(|server| server.instance == instance);
        if !is_known && self.0.len() < MAX_SERVERS {
            let mut name = |attribute| names.intern(resource.text(attribute).unwrap_or_default());
            self.0.push(Server {
                instance,
                service: name(key::SERVICE_NAME),
                version: name(key::SERVICE_VERSION),
                model: name(key::MODEL),
                max_num_seqs: resource.count(key::MAX_NUM_SEQS),
                max_num_batched_tokens: resource.count(key::MAX_NUM_BATCHED_TOKENS),
                block_size: resource.count(key::BLOCK_SIZE),
                num_kv_blocks: resource.count(key::NUM_KV_BLOCKS),
            });
        }
        instance
    }
}
