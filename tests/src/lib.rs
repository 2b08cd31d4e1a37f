//! The stand-in, the lab (a whole fleet on one machine) and the end-to-end tests.

pub mod compare;
pub mod demo;
pub mod lab;
pub mod notes;
pub mod plain_reader;
pub mod server_binary;
pub mod standin;
