//! The AI worker library: a stream of frames of one camera that survives planned moves.
//!
//! ```no_run
//! use mtxfleet_ai_client::{Item, Stream, StreamConfig};
//!
//! # async fn worker() -> Result<(), mtxfleet_ai_client::Error> {
//! let mut frames = Stream::open(StreamConfig {
//!     redis: Some("redis://redis.example:6379".into()),
//!     agents: vec!["http://10.0.0.1:8780".into()],
//!     ..StreamConfig::new("cam1", "anpr-1", "rtsp://live.example:8554", "berlin")
//! })
//! .await?;
//! while let Some(item) = frames.next().await {
//!     match item? {
//!         Item::Frame(frame) => println!("track {} at {}: {} bytes", frame.track, frame.rtp_time, frame.data.len()),
//!         Item::Discontinuity(gap) => println!("{:?} packets are missing", gap.lost_packets),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! When a distribution node drains it names the legs (RTSP connections) of workers that read from it, and later asks
//! them to move. The worker then opens a leg at another node, runs both for a moment, joins them in
//! [`mtxfleet_stitch`], and closes the old one: every frame comes once, in order, none is missing. When a node dies
//! instead, the worker comes back through the stable URL, and [`Item::Discontinuity`] tells what is missing.
//!
//! The module tree in reading order: [`config`] and [`frame`] are the outside; `session` is the one task that owns a
//! stream; `handover` (pure) decides where it reads; `resume` (pure) joins recordings to it, which `playback` reads, in
//! `fmp4`, and `replay` drives; `following` reads from owners instead; `leg` is RTSP (through `tls` where it must be), `running` the legs that play; `assembly` the stitch with `wall` and `pace`; `notices` (with
//! `sse`) and `uplink` speak with the fleet.

pub mod checkpoint;
pub mod config;
pub mod frame;
pub mod metrics;

mod assembly;
mod fmp4;
mod following;
mod handover;
mod journal;
mod ledger;
mod leg;
mod notices;
mod pace;
mod packets;
mod playback;
mod redundancy;
mod replay;
mod resume;
mod running;
mod session;
mod sse;
mod stream;
mod tls;
mod uplink;
mod wall;

pub use checkpoint::{CheckpointError, Checkpoints, Start};
pub use config::{Credentials, StreamConfig, Trust, Via};
pub use following::{Follow, Owner};
pub use frame::{Codec, Data, Discontinuity, DiscontinuityKind, Frame, Item, Packet, ParameterSets, Track};
pub use handover::State;
pub use metrics::{Metrics, MetricsListener};
pub use mtxfleet_wire::{LegId, StitchCounters};
pub use stream::{Error, ReplayStatus, Status, Stream};
