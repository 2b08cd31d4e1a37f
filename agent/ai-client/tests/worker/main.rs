//! The worker library on real media servers: planned moves lose nothing, faults are bridged and told.

mod moves;

mod checkpoints;
mod faults;
mod recordings;
mod redis_and_agent;

mod reader;
mod support;
