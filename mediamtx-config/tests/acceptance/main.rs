//! What the real programs make of the rendered files: `haproxy`, `mediamtx` (or `$MEDIAMTX_BIN`) and `ffmpeg`.
//!
//! A test whose program is absent says so on stderr and passes; see `support::program`.
#![expect(clippy::disallowed_methods, reason = "real processes: their tests wait in real time, with bounds")]

mod balancer;
mod server;
mod support;
