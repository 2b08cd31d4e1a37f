//! The stitch: one stream out of several legs, every frame once, in order, none missing. Pure.

mod assembler;
mod payload;
mod stitch;
mod types;

pub use stitch::Stitch;
pub use types::{
    AccessUnit, Codec, Counters, Discontinuity, DiscontinuityKind, LegKey, Output, RtpPacket, StitchConfig,
    TrackConfig, TrackId,
};
