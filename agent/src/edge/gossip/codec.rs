//! chitchat's messages as bytes, compressed where that saves a datagram.

use std::io;

use chitchat::{ChitchatMessage, Deserializable, Serializable};
use zstd::bulk::{Compressor, Decompressor};

use super::counters::Refusal;

/// Longest message, compressed or not. A delta is at most 65,507 bytes; a digest has about 60 bytes for each node.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Fastest of zstd's ordinary levels. Deltas are compressed by chitchat already; what is left to gain is in digests.
const LEVEL: i32 = 1;

pub struct Codec {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    raw: Vec<u8>,
    compressed: Vec<u8>,
}

impl Codec {
    /// # Errors
    /// zstd has no memory for its tables.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            compressor: Compressor::new(LEVEL)?,
            decompressor: Decompressor::new()?,
            raw: Vec::new(),
            compressed: Vec::new(),
        })
    }

    /// The bytes of `message`, and their length when decompressed (0: they are not compressed). What fits into `room`
    /// bytes, one datagram, is not compressed.
    pub fn encode(&mut self, message: &ChitchatMessage, room: usize) -> (&[u8], u32) {
        self.raw.clear();
        message.serialize(&mut self.raw);
        let raw_length = self.raw.len();
        if raw_length <= room {
            return (&self.raw, 0);
        }
        self.compressed.clear();
        // No more room than the message has now: what does not become smaller stays as it is.
        self.compressed.reserve(raw_length);
        match (self.compressor.compress_to_buffer(&self.raw, &mut self.compressed), u32::try_from(raw_length)) {
            (Ok(length), Ok(raw_length)) if length < self.raw.len() => (&self.compressed, raw_length),
            _ => (&self.raw, 0),
        }
    }

    /// # Errors
    /// [`Refusal::Oversize`] for more than [`MAX_MESSAGE`] bytes, before any is decompressed; [`Refusal::Unreadable`].
    pub fn decode(&mut self, bytes: &[u8], raw_length: u32) -> Result<ChitchatMessage, Refusal> {
        let mut raw = bytes;
        if raw_length > 0 {
            let raw_length = raw_length as usize;
            if raw_length > MAX_MESSAGE {
                return Err(Refusal::Oversize);
            }
            if self.raw.len() < raw_length {
                self.raw.resize(raw_length, 0);
            }
            let buffer = &mut self.raw[..raw_length];
            match self.decompressor.decompress_to_buffer(bytes, buffer) {
                Ok(length) if length == raw_length => raw = &self.raw[..raw_length],
                _ => return Err(Refusal::Unreadable),
            }
        }
        ChitchatMessage::deserialize(&mut raw).map_err(|_| Refusal::Unreadable)
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}
