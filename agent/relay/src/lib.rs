//! A local RTSP server whose URL never breaks, for programs that know nothing of the fleet.
//!
//! ```text
//!   fleet ==RTSP, stitched==> one upstream a stream --> Channel --> reader's queue --> ffmpeg, OpenCV, GStreamer
//!         (mtxfleet-ai-client)                          numbers,    bounded            over RTSP, TCP interleaved
//!                                                       last GOP
//! ```
//!
//! The first reader of a stream opens the upstream, and some seconds after the last one has left it is closed. What comes
//! from the stitch goes out unchanged but for the RTP header: one SSRC for each track, sequence numbers without a gap,
//! the one continuous time line of the stitch. Sender reports tell the camera's wall time where that is known.
//!
//! A reader begins at a keyframe: the last one and what followed it are kept, within bounds. A reader that is behind by
//! more than its queue holds loses frames, counted, and goes on at the next keyframe; the others do not notice.
//!
//! Without authentication and encryption: it is meant for loopback.
//!
//! The same for a distribution node's own media server is [`Source`]: there the upstream's legs go straight to the owner of
//! the stream, and the connections come from the agent's resolver.
//!
//! The module tree in reading order: `relay` and `source` are the outside; `streams` opens and closes upstreams; `channel` hands frames
//! to readers, numbered by `packet`; `session` is one connection, with `message`, `sdp` and `writer`.

mod relay;

mod source;

mod streams;

mod channel;

mod packet;

mod session;

pub mod message;

mod sdp;

mod writer;

pub use relay::{Error, Relay, RelayConfig};
pub use source::{Find, Place, Source, SourceConfig};
pub use streams::{StreamStatus, Totals};
