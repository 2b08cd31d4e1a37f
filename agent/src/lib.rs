//! The sidecar agent beside every MediaMTX server. `ARCHITECTURE.md` is the map.
//!
//! [`node`] decides and never awaits; `event_loop` awaits and decides nothing; `edge` touches the outside.

pub mod command;
pub mod config;
pub mod edge;
pub mod event_loop;
pub mod local_cloud;
pub mod node;
