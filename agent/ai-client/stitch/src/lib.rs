//! The stitch: one stream out of several legs, every frame once, in order, none missing. Pure.

mod stitch;

mod track;

mod leg;

mod alignment;

mod history;

mod assembler;

mod payload;

mod types;

pub use stitch::Stitch;
pub use types::{
    AccessUnit, Codec, Counters, Discontinuity, DiscontinuityKind, LegKey, Output, RtpPacket, StitchConfig,
    TrackConfig, TrackId,
};
