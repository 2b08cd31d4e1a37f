//! The machine's figures, by sysinfo.
