//! Everything outside, one module per thing. An edge turns what it sees into an `Event` and carries
//! out `Effect`s; it makes no decision about the fleet.

pub mod availability_file;
pub mod checks;
pub mod clock;
pub mod cloud;
pub mod collectors;
pub mod forwarder;
pub mod gossip;
pub mod http;
pub mod inventory;
pub mod load_balancer;
pub mod mediamtx;
pub mod registry;
pub mod resolver;
pub mod state_file;
pub mod system;
pub mod tls;
pub mod webhook;
