//! `mtxfleet-find-server`: prints the path of the real MediaMTX, downloaded first where it is neither named nor
//! installed. Ends with 1, and says why, where it cannot be had.
//!
//! `make test` asks once and tells all tests by `$MEDIAMTX_BIN`.

use std::process::ExitCode;

use mtxfleet_tests::server_binary;

fn main() -> ExitCode {
    match server_binary::find_real() {
        Ok(Ok(found)) => {
            println!("{}", found.path.display());
            ExitCode::SUCCESS
        }
        Ok(Err(reasons)) => {
            eprintln!("no MediaMTX: {}", reasons.join("; "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(2)
        }
    }
}
