//! The fleet as one node sees it: what gossip says, turned into who lives, who owns which stream, and
//! who can take over. Pure.

pub mod fleet_view;

pub use fleet_view::{Fleet, Member, Peer};
