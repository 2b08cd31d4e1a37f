//! The agent's configuration: one TOML file, all errors at once.
