//! The machine against a small world of workers, viewers and load balancers.

mod cameras;
mod hand_over;
mod properties;
mod scenarios;
mod world;
