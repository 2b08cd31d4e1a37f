//! What an orchestrator writes to the registry: carried out only while its term is the latest.

use mtxfleet_wire::{Role, Token};

/// Writes that Redis does as one step, all or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FencedWrites {
    /// Comes back with the answer.
    pub number: u64,
    pub role: Role,
    pub token: Token,
    pub writes: Vec<Write>,
}

/// `table` is the last part of a key, as in `mtxfleet:{CLUSTER}:decisions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Into a hash.
    Put { table: &'static str, field: String, value: String },
    /// From a hash.
    Remove { table: &'static str, field: String },
    /// To a stream that is capped at about `length` entries.
    Append { table: &'static str, length: u64, field: &'static str, value: String },
}

impl Write {
    #[must_use]
    pub const fn table(&self) -> &'static str {
        match self {
            Self::Put { table, .. } | Self::Remove { table, .. } | Self::Append { table, .. } => table,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FencedAnswer {
    Written,
    /// Nothing was written: the latest term has this number, and is not the writer's. (0: Redis has lost it.)
    Superseded {
        epoch: u64,
    },
    /// No answer in time; whether it was written is not known.
    Unreachable(String),
}
