//! Planned handovers, many of them: frames lost, repeated, out of order, and how long workers waited.
//!
//! Sixteen workers at once go from server to server, over skews of up to 450 ms; see [`mtxfleet_tests::handovers`].
//! 3,000 handovers on the stand-in, and 100 on the real server where it is found; `MTXFLEET_BENCH_HANDOVERS` sets
//! another number for both.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::handovers::{self, Outcome, Plan};
use mtxfleet_tests::server_binary::{self, ServerBinary, ServerKind};
use mtxfleet_tests::stamped::INTERVAL;

const ON_STAND_IN: usize = 3_000;
const ON_REAL: usize = 100;
const STREAMS: usize = 16;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let asked = std::env::var("MTXFLEET_BENCH_HANDOVERS").ok();
    let asked: Option<usize> = asked.map(|text| text.parse()).transpose().context("MTXFLEET_BENCH_HANDOVERS")?;
    let mut servers = vec![server_binary::find_stand_in()?];
    match tokio::task::spawn_blocking(server_binary::find_real).await?? {
        Ok(real) => servers.push(real),
        Err(reasons) => eprintln!("NOT MEASURED with MediaMTX: {}", reasons.join("; ")),
    }
    let mut missed = Vec::new();
    for server in servers {
        let wanted = asked.unwrap_or(if server.kind == ServerKind::StandIn { ON_STAND_IN } else { ON_REAL });
        missed.extend(bench(&server, wanted).await?);
    }
    // Only now: what was measured is printed whether it is good or not.
    ensure!(missed.is_empty(), "{}", missed.join("\n"));
    Ok(())
}

/// Measures and prints it all; what is not as it should be.
async fn bench(server: &ServerBinary, wanted: usize) -> Result<Vec<String>> {
    let plan = Plan { streams: STREAMS, moves: wanted, control_moves: 12 };
    let outcome = handovers::run(server, plan).await?;
    let on = format!("{} planned handovers, {STREAMS} streams at once, {}", outcome.tally.handovers, server.kind);
    eprintln!("{on}: {:.0} s", outcome.took.as_secs_f64());
    Ok(report(&on, &outcome, wanted))
}

fn report(on: &str, outcome: &Outcome, wanted: usize) -> Vec<String> {
    let Outcome { tally, moves, control, .. } = outcome;
    let reconnects = 12 * control.len();
    let peer = format!("without the stitch, {reconnects} moves of plain readers that reconnect at once");
    let sum = |of: fn(&mtxfleet_tests::compare::Comparison) -> u64| control.iter().map(of).sum::<u64>();
    let both = |what: &str, ours: u64, theirs: u64| {
        let figure = Figure::new(format!("{what}, {on}"), ours as f64, "frames", "0");
        figure.beside(&peer, theirs as f64).print();
    };
    both("frames lost", tally.lost, sum(|found| found.lost));
    both("frames that came twice", tally.duplicated, sum(|found| found.duplicated));
    both("frames out of order", tally.out_of_order, sum(|found| found.out_of_order));
    both("damaged frames", tally.damaged, sum(|found| found.foreign));
    Figure::new(format!("frames of all tracks that were checked, {on}"), tally.frames as f64, "frames", "none").print();

    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    let mut extra: Vec<f64> = moves.iter().map(|moved| millis(moved.pause.saturating_sub(moved.skew))).collect();
    extra.sort_by(f64::total_cmp);
    let percentile = |share: f64| extra[((extra.len() as f64 * share) as usize).min(extra.len() - 1)];
    let interval = millis(INTERVAL);
    let most = |what: &str, found: f64, allowed: f64| {
        let goal = format!("at most {allowed:.0}");
        Figure::new(format!("{what} of the extra pause over the skew, {on}"), found, "ms", goal).print();
        (found > allowed).then(|| format!("{what} of the extra pause over the skew: {found:.1} ms, {on}"))
    };
    let median = most("median", percentile(0.5), interval);
    let p99 = most("99th percentile", percentile(0.99), interval);
    let longest = most("longest", percentile(1.0), 2.0 * interval + 50.0);

    let mut missed: Vec<String> = median.into_iter().chain(p99).chain(longest).collect();
    if !tally.is_perfect() || tally.handovers != wanted as u64 {
        missed.push(format!("{on}: {tally:?}, {wanted} handovers wanted"));
    }
    if sum(|found| found.lost) == 0 {
        missed.push(format!("the plain readers lost nothing either, so this proves nothing: {on}"));
    }
    missed
}
