//! The wheel as a Python program has it: installed into an empty virtual environment, reading through a drain.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mtxfleet_tests::compare::{Arrival, compare, vcl_hashes_annex_b};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::process::Process;
use mtxfleet_tests::lab::python::{Python, WHEEL};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::plain_reader::VideoCodec;
use mtxfleet_wire::{DrainOutcome, LegEnd};
use serde::Deserialize;

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// Python looks for signals every 100 ms, and closing waits 2 s at most for the last reports.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// Bytes of video before the drain, and again after it: some seconds.
const AT_REST: u64 = 100_000;

/// Frames from one keyframe of the lab's cameras to the next.
const GOP: u64 = 50;

/// What `examples/worker.py` prints at its end.
#[derive(Debug, Deserialize)]
struct Seen {
    frames: u64,
    pictures: u64,
    shape: Vec<u32>,
    gaps: Vec<String>,
    counters: Counters,
}

#[derive(Debug, Deserialize)]
struct Counters {
    handovers: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_workers_lose_no_frame_in_a_drain_and_end_on_ctrl_c() {
    let _alone = lab::alone().await;
    let Some(wheel) = std::env::var_os(WHEEL).map(PathBuf::from) else {
        notes::skipped("Python workers", "no wheel was built; `make test` builds it where python3 and PyPI are there");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let wheel = format!("{}[av]", wheel.display());
    let python = Python::install(&[&wheel], folder.path()).await.expect("it installs into an empty environment");
    refuses_what_is_wrong(&python).await;

    let lab = Lab::builder().cameras([CameraKind::H264WithBFrames, CameraKind::H265]).start().await.expect("a fleet");
    let truths = [lab.record_camera("cam1").await.expect("owned"), lab.record_camera("cam2").await.expect("owned")];
    wait_for("the recordings to begin", PATIENCE, async || {
        anyhow::ensure!(truths.iter().all(|truth| truth.receives()), "not yet");
        Ok(())
    })
    .await
    .expect("recorded");

    // One for each way to use it; both decode.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/ai-client/python/examples/worker.py");
    let files = ["cam1.h264", "cam2.hevc"].map(|file| folder.path().join(file));
    let out = files.each_ref().map(|file| file.display().to_string());
    let mut workers = [
        python.worker(&lab, "py-1", &script, &["cam1", "py-1", "--out", &out[0], "--decode"]).expect("it runs"),
        python
            .worker(&lab, "py-2", &script, &["cam2", "py-2", "--out", &out[1], "--decode", "--asyncio"])
            .expect("it runs"),
    ];
    grown(&mut workers, &files, AT_REST).await;
    for stream in ["cam1", "cam2"] {
        let legs = lab.legs_of(stream).await.expect("answered");
        let node = legs.iter().find(|(_, legs)| *legs > 0).expect("it reads somewhere").0.clone();
        let agent = &lab.node(&node).expect("there").agent;
        let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
        assert_eq!(record.outcome, DrainOutcome::Completed);
        assert!(record.legs.iter().any(|leg| matches!(leg.how, LegEnd::Moved(_))), "{record:#?}");
        agent.undrain().await.expect("answered").expect("it comes back");
        lab.wait_in_service(&node, PATIENCE).await.expect("in service");
    }
    let sizes = files.each_ref().map(|file| std::fs::metadata(file).expect("written").len());
    grown(&mut workers, &files, sizes[0].max(sizes[1]) + AT_REST).await;

    let codecs = [VideoCodec::H264, VideoCodec::H265];
    for (((mut worker, file), codec), truth) in workers.into_iter().zip(&files).zip(codecs).zip(truths) {
        // The file knows no times, so all that it holds came by now.
        let ended = Instant::now();
        let seen = interrupt(&mut worker).await;
        let recording = truth.stop().await;
        assert_eq!(recording.ends, Vec::<String>::new(), "the recording was cut off");
        let data = std::fs::read(file).expect("written");
        let hashes = vcl_hashes_annex_b(codec, &data);
        let frames: Vec<Arrival> = hashes.into_iter().map(|hash| Arrival { hash, at: ended }).collect();
        let found = compare(&recording.arrivals, &frames, ended).expect("comparable");
        assert!(found.is_perfect(), "{found:#?}");
        assert!(seen.counters.handovers > 0, "{seen:?}");
        assert_eq!(seen.gaps, Vec::<String>::new());
        // A reader begins anywhere between two keyframes, and a decoder holds some pictures back.
        assert!(seen.pictures + GOP + 32 >= seen.frames && seen.pictures <= seen.frames, "{seen:?}");
        assert_eq!((seen.shape.len(), seen.shape.last()), (3, Some(&3)), "height, width and three colours");
        notes::ran(&format!(
            "Python worker {} over {} handover(s): {} frames, 0 lost, {} decoded",
            worker.name(),
            seen.counters.handovers,
            seen.frames,
            seen.pictures
        ));
    }
}

async fn refuses_what_is_wrong(python: &Python) {
    let told = python
        .script(
            "import mtxfleet\n\
             try:\n mtxfleet.Stream('cam1', worker='a b', url='http://x', cluster='lab', buffer=0)\n\
             except ValueError as error: print(error)\n\
             try:\n next(iter(mtxfleet.Stream('cam1', 'w', url='rtsp://127.0.0.1:1', cluster='lab', open_timeout=0.5)))\n\
             except mtxfleet.NotOpened as error: print(error)\n",
        )
        .await
        .expect("errors are exceptions");
    for part in ["worker id", "url", "buffer", "did not open", "refused"] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

async fn grown(workers: &mut [Process], files: &[PathBuf], length: u64) {
    wait_for("the scripts to write", PATIENCE, async || {
        workers.iter_mut().try_for_each(Process::check_alive)?;
        for file in files {
            let written = std::fs::metadata(file).map_or(0, |file| file.len());
            anyhow::ensure!(written >= length, "{} has {written} bytes", file.display());
        }
        Ok(())
    })
    .await
    .expect("written");
}

/// Ctrl-C, and what the script says then.
async fn interrupt(worker: &mut Process) -> Seen {
    worker.check_alive().expect("it reads");
    worker.signal(libc::SIGINT);
    wait_for("the script to end", STOPS_WITHIN, async || {
        let status = worker.ended();
        anyhow::ensure!(status.is_some_and(|status| status.success()), "{status:?}");
        Ok(())
    })
    .await
    .expect("Ctrl-C ends it");
    let log = std::fs::read_to_string(worker.log_path()).expect("a log");
    let last = log.lines().rev().find(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no result in:\n{log}"));
    serde_json::from_str(last).expect("the result")
}
