//! The stand-in, the lab (a whole fleet on one machine) and the end-to-end tests.

pub mod compare;
pub mod delay_line;
pub mod demo;
pub mod handovers;
pub mod lab;
pub mod notes;
pub mod plain_reader;
pub mod publisher;
pub mod scripted_agent;
pub mod scripted_server;
pub mod server_binary;
pub mod stamped;
pub mod standin;
