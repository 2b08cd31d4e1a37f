//! The pure centre: `Node::apply(now, Event) -> Vec<Effect>`.

pub mod effect;
pub mod event;
pub mod sample;
