//! The worker library on real media servers: planned moves lose nothing, faults are bridged and told.

mod moves;
mod tracks;

mod checkpoints;
mod faults;
mod odd_cameras;
mod recordings;
mod redis_and_agent;
mod tls;

mod reader;
mod support;
