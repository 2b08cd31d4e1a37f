//! Typed settings rendered to `mediamtx.yml` and `haproxy.cfg`.
//!
//! Pure: settings in, text out. What the settings say is checked before anything is rendered, so a text that comes
//! out is one that the real program accepts.
//!
//! ```
//! use mediamtx_config::{Credential, DistributionServer, IngestionServer};
//!
//! let fleet = Credential::new("fleet", "2f6c1a90");
//! let ingestion = IngestionServer::new(fleet.clone()).render().unwrap();
//! let resolver = "127.0.0.1:8700".parse().unwrap();
//! let distribution = DistributionServer::new(fleet, "dist-1", resolver).render().unwrap();
//! # assert!(ingestion.contains("all_others:") && distribution.contains("pull=dist-1"));
//! ```
//!
//! Everything a server does not need is off: MediaMTX's own defaults open RTMP, HLS, WebRTC, SRT and MoQ on every
//! interface.

pub mod common;
pub mod distribution;
pub mod ingestion;

pub mod haproxy;

mod setting;
mod yaml;

pub use common::{Action, Auth, Credential, FleetWide, LogLevel, Permission, RtspEncryption, User};
pub use distribution::{DistributionServer, Hls, WebRtc};
pub use haproxy::{DistributionFrontends, Frontend, Haproxy, Server, Servers};
pub use ingestion::{IngestionServer, Recording};
pub use setting::InvalidSetting;
