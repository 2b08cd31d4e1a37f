//! One file per subcommand.

pub mod agent;
pub mod api;
pub mod availability;
pub mod check_config;
pub mod control;
pub mod decisions;
pub mod drain;
pub mod local_cloud;
pub mod output;
pub mod relay;
pub mod render;
pub mod simulate;
pub mod status;
pub mod streams;
pub mod table;
pub mod undrain;
