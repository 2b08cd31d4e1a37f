//! A camera, its relays and a worker, in model time: what a stitch is tested against.
//!
//! The [`Source`] holds every access unit of every track as NAL units and as the packets the camera sent. A [`Leg`]
//! brings those packets late, in its own numbers, packetised anew, with some missing. [`run`] is a worker: it opens
//! legs, closes the old ones once they are covered, and records what came out. `check` is in [`verdict`].

// Each test file uses a part of it.
#![allow(dead_code, unused_imports)]

pub mod source;
pub mod verdict;
pub mod worker;

pub use source::{Kind, Source, SourceConfig};
pub use verdict::check;
pub use worker::{Leg, Loss, Run, Spaces, run};
