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

#[cfg(test)]
mod tests {
    use chitchat::ChitchatId;
    use proptest::prelude::*;

    use super::*;

    /// A SYN as a fleet of `nodes` sends it: chitchat's digests cannot be made from outside but by reading one.
    fn syn(nodes: u64) -> ChitchatMessage {
        let mut bytes = 45_139_u16.to_le_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend((nodes as u16).to_le_bytes());
        for node in 0..nodes {
            let address = ([10, 0, (node >> 8) as u8, node as u8], 7946).into();
            ChitchatId::new(format!("distribution-{node}"), 1_700_000_000_000 + node, address).serialize(&mut bytes);
            for figure in [node * 7_919 % 100_003, 0, node] {
                figure.serialize(&mut bytes);
            }
        }
        "fleet".serialize(&mut bytes);
        ChitchatMessage::deserialize(&mut &bytes[..]).unwrap()
    }

    #[test]
    fn what_fits_one_datagram_is_not_compressed_and_what_does_not_is() {
        let mut codec = Codec::new().unwrap();
        for (nodes, compressed) in [(1, false), (10, false), (30, true), (1_000, true)] {
            let message = syn(nodes);
            let (bytes, raw_length) = codec.encode(&message, 1_100);
            let bytes = bytes.to_vec();
            println!("digest of {nodes} nodes: {} bytes, {} sent", message.serialized_len(), bytes.len());
            assert_eq!(raw_length > 0, compressed);
            assert!(bytes.len() <= message.serialized_len());
            assert_eq!(codec.decode(&bytes, raw_length), Ok(message));
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_anything_is_decompressed() {
        let mut codec = Codec::new().unwrap();
        let bomb = zstd::bulk::compress(&vec![0; 100 * MAX_MESSAGE], 1).unwrap();
        assert_eq!(codec.decode(&bomb, u32::MAX), Err(Refusal::Oversize));
        assert_eq!(codec.decode(&bomb, MAX_MESSAGE as u32 + 1), Err(Refusal::Oversize));
        // One that says less than it holds is cut off at what it says.
        assert_eq!(codec.decode(&bomb, 1_000), Err(Refusal::Unreadable));
        assert!(codec.raw.capacity() <= MAX_MESSAGE);
        // One that says more is no message either.
        let short = zstd::bulk::compress(&[0; 10], 1).unwrap();
        assert_eq!(codec.decode(&short, 11), Err(Refusal::Unreadable));
        // And the codec goes on.
        let (bytes, raw_length) = codec.encode(&syn(30), 100);
        let bytes = bytes.to_vec();
        assert_eq!(codec.decode(&bytes, raw_length), Ok(syn(30)));
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_message_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..300),
            raw_length in prop_oneof![Just(0), any::<u32>(), 0..2_000_u32],
            kind in 0..5_u8,
        ) {
            // Half-way plausible ones get further.
            if bytes.len() > 4 {
                bytes[..2].copy_from_slice(&45_139_u16.to_le_bytes());
                bytes[2..4].copy_from_slice(&[0, kind]);
            }
            let _ = Codec::new().unwrap().decode(&bytes, raw_length);
        }
    }
}
