//! How long a role has no orchestrator: after SIGKILL, and after it was stopped and gave its lease back.
//!
//! A whole fleet of stand-ins with three distribution nodes; who acts is asked of the agents every 50 ms.
//! `MTXFLEET_BENCH_FAILOVERS` sets how many of each (20).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::leadership::{self, wait_leader};
use mtxfleet_tests::lab::redis::Keeps;
use mtxfleet_tests::lab::wait::PATIENCE;
use mtxfleet_tests::server_binary;
use mtxfleet_wire::Role;

const FAILOVERS: usize = 20;
const ROLE: Role = Role::Distribution;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let count = match std::env::var("MTXFLEET_BENCH_FAILOVERS") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_FAILOVERS is no number")?,
        Err(_) => FAILOVERS,
    };
    ensure!(count > 0, "MTXFLEET_BENCH_FAILOVERS is 0: nothing to measure");
    let builder = Lab::builder().server(server_binary::find_stand_in()?).settings(leadership::settings());
    let mut lab = builder.redis(Some(Keeps::Everything)).start().await?;
    let killed = fail_over(&mut lab, count, libc::SIGKILL).await?;
    let released = fail_over(&mut lab, count, libc::SIGTERM).await?;
    report("killed with SIGKILL", &killed, 7.0, true);
    report("stopped with SIGTERM, lease released", &released, 1.0, false);
    Ok(())
}

/// Seconds until another acts, sorted.
async fn fail_over(lab: &mut Lab, count: usize, signal: libc::c_int) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for number in 1..=count {
        let (leader, _) = wait_leader(lab, ROLE, None, PATIENCE).await?;
        // Anywhere between two renewals.
        tokio::time::sleep(Duration::from_millis(number as u64 * 370 % 1_500)).await;
        let began = Instant::now();
        lab.node_mut(&leader.node)?.agent.process.signal(signal);
        wait_leader(lab, ROLE, Some(&leader), PATIENCE).await?;
        seconds.push(began.elapsed().as_secs_f64());
        eprintln!("signal {signal}: {number} of {count}, {:.2} s", began.elapsed().as_secs_f64());
        let node = lab.node_mut(&leader.node)?;
        node.agent.process.stop();
        node.restart_agent().await?;
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

fn report(how: &str, seconds: &[f64], goal: f64, peer: bool) {
    let times = format!("until another orchestrator acts, {how}, {} times", seconds.len());
    Figure::new(format!("median {times}"), seconds[seconds.len() / 2], "s", format!("at most {goal}")).print();
    let longest = seconds.last().copied().unwrap_or_default();
    let figure = Figure::new(format!("longest {times}"), longest, "s", format!("at most {goal}"));
    match peer {
        // Lease 15 s, retried every 2 s: LeaderElectionConfig in client-go's documentation. Not run here.
        true => figure.beside("client-go's defaults, by its documentation", 17.0).print(),
        false => figure.print(),
    }
}
