//! The drain: five phases that take a node out of service without losing one video frame.
//!
//! ```text
//!  order
//!    |        1                2                  3                   4                5
//!    +-> pre-notification -> load balancer -> worker migration -> viewer draining -> cleanup -> ended
//!              |                |                  |                   |
//!              +----------------+------- cancel ---+-------------------+---------------------> ended
//! ```
//!
//! | phase | file | does | ends when |
//! |---|---|---|---|
//! | 1 | [`phase_1_pre_notification`] | tells workers and load balancers | every known leg has acknowledged |
//! | 2 | [`phase_2_load_balancer`] | waits for the balancers | each polled again after being told, and nobody new came |
//! | 3 | [`phase_3_worker_migration`] | orders legs to move, in batches | no leg and no other worker is left |
//! |   | [`phase_3_camera_migration`] | in its place on an ingestion node: hands cameras over | no camera is left, no worker bridges |
//! | 4 | [`phase_4_viewer_draining`] | lets viewers leave, then cuts those left, paced | no viewer is left |
//! | 5 | [`phase_5_cleanup`] | verifies that nobody is left, writes the record | nobody is left |
//!
//! [`HandOver`] is phase 3 of an ingestion node by itself: some cameras change hands, and their node stays in service.
//!
//! Each phase has a deadline at which it ends all the same, and says what it was waiting for ([`Blocker`]).
//! Pure: the machine is given an [`Observation`] and time, and answers with [`Action`]s. It is serialised
//! whole, so that an agent that was killed goes on where it was ([`Drain::resume`]).

mod action;
mod blockers;
mod cameras;
mod drain;
mod hand_over;
mod observation;
pub mod phase_1_pre_notification;
pub mod phase_2_load_balancer;
pub mod phase_3_camera_migration;
pub mod phase_3_worker_migration;
pub mod phase_4_viewer_draining;
pub mod phase_5_cleanup;
mod ranking;
mod settings;
mod transition;

pub use action::Action;
pub use blockers::Blocker;
pub use drain::{Drain, LegProgress, Order};
pub use hand_over::HandOver;
pub use observation::{Candidate, IngestionSide, Observation, ObservedCamera, ObservedLeg, Owner, Polls, Pull, Reader};
pub use ranking::rank;
pub use settings::Settings;
pub use transition::Step;

#[cfg(test)]
mod tests;
