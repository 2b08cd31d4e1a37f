//! A whole fleet on one machine, from the real parts, on loopback addresses and free ports.

pub mod address;
pub mod camera;
pub mod process;
pub mod programs;
pub mod wait;
