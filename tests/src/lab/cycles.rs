//! A cluster that grows with its readers and shrinks again, once and once more, while AI workers read all along.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mtxfleet_wire::NodeId;

use super::Lab;
use super::audience::Audience;
use super::cloud::{CloudNode, CloudSettings};
use super::node::Settings;
use super::reader::ReconnectingReader;
use super::wait::{PATIENCE, wait_for};

pub const UP_WINDOW: Duration = Duration::from_secs(1);
pub const DOWN_WINDOW: Duration = Duration::from_secs(4);

/// Windows, launch, drain, and a machine that has other things to do.
const WITHIN: Duration = Duration::from_secs(120);

/// Frames that every worker gets between two cycles.
const AT_REST: usize = 25;

/// Two nodes are enough for `steady` readers, and a third is wanted for [`crowd`] more.
#[must_use]
pub fn cloud(steady: u32) -> CloudSettings {
    let policy = CloudSettings::policy(per_node(steady), UP_WINDOW, DOWN_WINDOW);
    CloudSettings { max: 3, policy, ..CloudSettings::default() }
}

/// Viewers are given two seconds, so that a cycle takes half a minute.
#[must_use]
pub fn settings() -> Settings {
    Settings {
        drain: "viewer_window = \"2s\"\nviewer_cut = \"1s\"\n".to_owned(),
        plain_readers_are_viewers: true,
        ..Settings::default()
    }
}

/// Readers that come and go in a cycle.
#[must_use]
pub const fn crowd(steady: u32) -> u32 {
    2 * per_node(steady) + 1 - steady
}

const fn per_node(steady: u32) -> u32 {
    steady.div_ceil(2) + 1
}

/// What a cycle came to.
#[derive(Debug, Clone)]
pub struct Cycle {
    /// From the moment at which all readers read to the call of the cloud.
    pub asked_after: Duration,
    /// The node that went, with the most workers of all.
    pub gone: NodeId,
    pub workers_on_it: usize,
    pub took: Duration,
}

/// A crowd comes, a node is launched; the crowd leaves, and the node with the most workers is the one that may go.
///
/// # Errors
/// When the cluster does not follow in time, or another node goes.
pub async fn run(lab: &Lab, audience: &Audience) -> Result<Cycle> {
    let began = Instant::now();
    let cloud = lab.cloud()?;
    let steady = (audience.workers.len() + audience.controls.len()) as u32;
    let crowd: Vec<ReconnectingReader> =
        (0..crowd(steady)).map(|at| lab.plain_reader(&lab.cameras[at as usize % lab.cameras.len()].name)).collect();
    let asked_after = asked_after(lab, &crowd, 3).await?;
    let nodes = lab.wait_cloud_nodes(3, WITHIN).await?;
    let (gone, workers_on_it) = lab.legs().await?.swap_remove(0);
    ensure!(workers_on_it > 0, "the workers are nowhere");
    let kept: Vec<&CloudNode> = nodes.iter().filter(|node| node.id != gone).collect();
    for node in &kept {
        node.api.protect(true).await?;
    }
    drop(crowd);
    cloud.wait_size(2, WITHIN).await?;
    let left = lab.wait_cloud_nodes(2, WITHIN).await?;
    ensure!(left.iter().all(|node| node.id != gone), "another node than {gone} went");
    for node in kept {
        node.api.protect(false).await?;
    }
    audience.wait_for_more(AT_REST, PATIENCE).await?;
    Ok(Cycle { asked_after, gone, workers_on_it, took: began.elapsed() })
}

/// From the moment at which all of `crowd` receive to the one at which the cloud has been told to keep `size` instances.
/// It may have been told before all of them did: then that is no time at all.
///
/// # Errors
/// When that does not happen in time.
pub async fn asked_after(lab: &Lab, crowd: &[ReconnectingReader], size: u32) -> Result<Duration> {
    let cloud = lab.cloud()?;
    let asked = async {
        let deadline = Instant::now() + WITHIN;
        // Every 5 ms: what is measured takes some tenths of a second.
        while cloud.group().await?.desired < size {
            ensure!(Instant::now() < deadline, "{size} instances were not asked for within {WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(Instant::now())
    };
    let all_read = async {
        for reader in crowd {
            let receives = async || if reader.receives() { Ok(()) } else { Err("nothing") };
            wait_for("frames at a reader", PATIENCE, receives).await?;
        }
        Ok(Instant::now())
    };
    let (asked, all_read): (Result<Instant>, Result<Instant>) = tokio::join!(asked, all_read);
    Ok(asked?.saturating_duration_since(all_read?))
}
