//! What a run of the tests says at its end: which server it ran on, and what was skipped.

use std::fs::OpenOptions;
use std::io::Write as _;

/// File that `make test` collects notes in.
pub const NOTES_FILE: &str = "MTXFLEET_TEST_NOTES";

/// Says that tests ran on this, such as `drain tests on mediamtx v1.20.1`. Shown at the end of `make test`, once
/// however often it is said.
pub fn ran(what: &str) {
    note(&format!("ran:     {what}"));
}

/// Says that something was not tested, and why.
pub fn skipped(what: &str, why: &str) {
    note(&format!("skipped: {what}: {why}"));
}

fn note(line: &str) {
    eprintln!("{line}");
    let Some(path) = std::env::var_os(NOTES_FILE) else { return };
    // One write of one line: test processes may append at the same time.
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut f| f.write_all(format!("{line}\n").as_bytes()));
    if let Err(error) = written {
        eprintln!("cannot note this in {}: {error}", path.display());
    }
}
