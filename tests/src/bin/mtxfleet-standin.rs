//! `mtxfleet-standin CONFIG.yml`: a small stand-in for MediaMTX.

fn main() {
    eprintln!("mtxfleet-standin: not built yet");
    std::process::exit(1);
}
