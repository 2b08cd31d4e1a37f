//! From a step of the load to the call of the cloud, beyond the window that has to agree first.
//!
//! Four readers more ask for one node more. The window counts from the moment at which all of them read; the cloud is told
//! to keep one instance more, and launches none, so that nothing else happens meanwhile.
//! `MTXFLEET_BENCH_STEPS` sets how many steps (60).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mtxfleet_benches::Figure;
use mtxfleet_tests::lab::Lab;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::cloud::CloudSettings;
use mtxfleet_tests::lab::node::Settings;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{cycles, leadership};
use mtxfleet_wire::Role;
use serde_json::json;

const STEPS: usize = 60;
const PER_NODE: u32 = 4;
const MIN: u32 = 2;
const MAX: u32 = 6;
const WINDOW: Duration = Duration::from_secs(1);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let count: usize = match std::env::var("MTXFLEET_BENCH_STEPS") {
        Ok(text) => text.parse().context("MTXFLEET_BENCH_STEPS is no number")?,
        Err(_) => STEPS,
    };
    ensure!(count > 0, "MTXFLEET_BENCH_STEPS is 0: nothing to measure");
    let cloud = CloudSettings {
        min: MIN,
        max: MAX,
        policy: CloudSettings::policy(PER_NODE, WINDOW, Duration::from_secs(3_600)),
        ..CloudSettings::default()
    };
    let settings = Settings { plain_readers_are_viewers: true, ..Settings::default() };
    let lab = Lab::builder().cameras([CameraKind::H264]).settings(settings).cloud(cloud).start().await?;
    let cloud = lab.cloud()?;
    cloud.faults(&json!({ "launch_nothing": true })).await?;
    let readers = |count: u32| (0..count).map(|_| lab.plain_reader("cam1")).collect::<Vec<_>>();
    let (mut late, mut early) = (Vec::new(), 0);
    while late.len() < count {
        let mut crowd = readers(MIN * PER_NODE);
        for reader in &crowd {
            let receives = async || if reader.receives() { Ok(()) } else { Err("nothing") };
            wait_for("frames at a reader", PATIENCE, receives).await?;
        }
        // A fleet that has just begun has nobody yet who decides.
        leadership::wait_reason(&lab, Role::Distribution, &format!("ask for {MIN} node(s)"), PATIENCE).await?;
        for size in MIN + 1..=MAX {
            // Anywhere between two looks, rounds of gossip and decisions.
            tokio::time::sleep(Duration::from_millis(300 + late.len() as u64 * 137 % 1_000)).await;
            let step = readers(PER_NODE);
            let asked = cycles::asked_after(&lab, &step, size).await?;
            early += usize::from(asked < WINDOW);
            late.push(asked.saturating_sub(WINDOW).as_secs_f64());
            eprintln!("{} of {count}: asked {asked:.2?} after the step", late.len());
            crowd.extend(step);
        }
        drop(crowd);
        // The next round begins at the least again: by hand, since nobody is there to be drained.
        cloud.set_desired(MIN).await?;
        let is_small = async || -> Result<()> {
            let group = cloud.group().await?;
            ensure!(group.desired == MIN, "{} are desired", group.desired);
            Ok(())
        };
        tokio::time::sleep(2 * WINDOW).await;
        cloud.set_desired(MIN).await?;
        wait_for("the least to be desired", PATIENCE, is_small).await?;
    }
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() as f64 * share).ceil() as usize).clamp(1, late.len()) - 1];
    let what = format!(
        "from the end of the window ({WINDOW:?}) to the cloud's call, {} steps, on {}",
        late.len(),
        lab.server.kind
    );
    // KEDA polls every 30 s, HPA looks every 15 s: their documentation. Not run here.
    Figure::new(format!("p50 {what}"), at(0.50), "s", "1").beside("HPA's period, by its documentation", 15.0).print();
    Figure::new(format!("p99 {what}"), at(0.99), "s", "1").print();
    Figure::new(format!("longest {what}"), at(1.0), "s", "1").print();
    eprintln!("{early} were asked for before the window had passed since the last reader's first frame");
    Ok(())
}
