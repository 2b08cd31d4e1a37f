//! Everything that crosses a process boundary, versioned: ids, node reports (gossip), notices and
//! events, registry records, and what the HTTP API says.
//!
//! Pure: no sockets, no clock. JSON throughout; unknown fields are ignored on reading, so that a
//! newer node may add some, and [`SCHEMA`] is raised when an old reader would misread a record.

mod cameras;
mod checkpoint;
mod event;
mod health;
mod http;
mod ids;
mod notice;
mod orchestration;
mod playback;
mod registry;
mod rendezvous;
mod report;
mod term;
mod units;

pub use cameras::*;
pub use checkpoint::*;
pub use event::*;
pub use health::*;
pub use http::*;
pub use ids::*;
pub use notice::*;
pub use orchestration::*;
pub use playback::*;
pub use registry::*;
pub use rendezvous::*;
pub use report::*;
pub use term::*;
pub use units::*;

/// Version of the records in gossip, in Redis and in events.
pub const SCHEMA: u16 = 1;
