//! The fleet as one node sees it, and the two orchestrators' policies over it. Pure.
//!
//! [`fleet_view`] turns gossip into who lives and who owns which stream, [`election`] says who decides for a role.
//! [`ingestion_orchestrator`] and [`distribution_orchestrator`] are thin policies over one [`engine`]; what they want is a
//! [`plan`], which [`plan_checker`] judges apart. [`simulation`] runs the same engine over weeks of virtual time.

pub mod fleet_view;

pub mod election;

pub mod distribution_orchestrator;
pub mod ingestion_orchestrator;

pub mod engine;
mod node_view;
mod orchestrator;
pub mod placement;
pub mod plan;
pub mod plan_checker;
pub mod takers;

pub mod cloud;
pub mod ending;
pub mod growing;
pub mod health;

pub mod simulation;

pub use fleet_view::{Fleet, Member, Peer};
pub use node_view::Seen;
pub use orchestrator::Orchestrator;
