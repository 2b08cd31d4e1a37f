//! Load balancers: HAProxy's agent-check.
