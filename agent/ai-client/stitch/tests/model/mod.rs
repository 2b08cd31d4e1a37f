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
pub use verdict::{check, expected_content};
pub use worker::{Leg, Loss, Run, Spaces, run};

/// So many cases of a property; `PROPTEST_CASES` overrides. 2,000 run in about a minute each in release.
pub fn cases(usual: u32) -> proptest::prelude::ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual);
    proptest::prelude::ProptestConfig { cases, failure_persistence: None, ..Default::default() }
}
