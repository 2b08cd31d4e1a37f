//! The worker library on real media servers: planned moves lose nothing, faults are bridged and told.

mod moves;

mod faults;
mod redis_and_agent;

mod reader;
mod support;
