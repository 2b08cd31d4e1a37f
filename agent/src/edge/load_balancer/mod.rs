//! Load balancers: HAProxy's agent-check.

mod haproxy;

pub use haproxy::{AgentCheck, AgentCheckCounters, AgentCheckError, AgentCheckSettings, Poll};
