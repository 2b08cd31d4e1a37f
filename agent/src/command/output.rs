//! Printing that survives a reader which has seen enough, as in `mtxfleet streams | head`.

use std::io::{ErrorKind, Write as _};

/// Prints to standard output, as it stands.
///
/// # Errors
/// What the output says, except that nobody reads it any more: that ends the program well, at once.
pub fn say(text: impl std::fmt::Display) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        done => Ok(done?),
    }
}
