//! OpenCV, PyAV and GStreamer, which know nothing of the fleet, read from `mtxfleet relay` straight through a drain and a
//! crash.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mtxfleet_tests::compare::{Arrival, compare, vcl_hashes_annex_b};
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::process::{Process, Recipe};
use mtxfleet_tests::lab::python::Python;
use mtxfleet_tests::lab::relay::{FfmpegReader, Relay};
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain, programs};
use mtxfleet_tests::notes;
use mtxfleet_tests::plain_reader::VideoCodec;
use mtxfleet_tests::server_binary::{self, ServerBinary};
use mtxfleet_wire::{DrainOutcome, LegEnd};

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// How much each reader writes before the drain and after it: two seconds and more.
const AT_REST: u64 = 60;

/// A program that reads, and what it writes.
struct Reader {
    process: Process,
    file: PathBuf,
    /// Bytes of [`Reader::file`] for one frame, about.
    per_frame: u64,
}

impl Reader {
    fn start(recipe: Recipe, lab: &Lab, file: PathBuf, per_frame: u64) -> Self {
        Self { process: recipe.start(&lab.logs()).expect("it runs"), file, per_frame }
    }

    fn written(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |file| file.len())
    }

    /// It reads on, and has written so many frames more.
    async fn wait_for_more(&mut self, frames: u64) {
        let wanted = self.written() + frames * self.per_frame;
        let (name, file, process) = (self.process.name().to_owned(), &self.file, &mut self.process);
        wait_for(&format!("{name} to write"), PATIENCE, async || {
            process.check_alive()?;
            let written = std::fs::metadata(file).map_or(0, |file| file.len());
            anyhow::ensure!(written >= wanted, "{written} bytes of {wanted}");
            Ok(())
        })
        .await
        .expect("it reads");
    }

    /// What it wrote until now.
    fn stop(mut self) -> (Vec<u8>, Instant) {
        let ended = Instant::now();
        self.process.check_alive().expect("it was never cut off");
        self.process.stop();
        (std::fs::read(&self.file).expect("written"), ended)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencv_pyav_and_gstreamer_read_through_a_drain_and_a_crash_and_miss_no_frame_on_mediamtx() {
    let found = tokio::task::spawn_blocking(server_binary::find_real).await.expect("it ends");
    match found.expect("MEDIAMTX_BIN works, when it is set") {
        Ok(server) => programs_miss_no_frame(server).await,
        Err(reasons) => notes::skipped("OpenCV, PyAV and GStreamer on MediaMTX itself", &reasons.join("; ")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opencv_pyav_and_gstreamer_read_through_a_drain_and_a_crash_and_miss_no_frame_on_the_stand_in() {
    programs_miss_no_frame(server_binary::find_stand_in().expect("built")).await;
}

async fn programs_miss_no_frame(server: ServerBinary) {
    let _alone = lab::alone().await;
    let kind = server.kind.to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let python = match Python::install(&["av", "numpy", "opencv-python-headless"], folder.path()).await {
        Ok(python) => python,
        Err(error) => return notes::skipped("OpenCV, PyAV and GStreamer at the relay", &format!("{error:#}")),
    };
    let mut lab = Lab::builder().cameras([CameraKind::H264]).server(server).start().await.expect("a fleet");
    let truth = lab.record_camera("cam1").await.expect("owned");
    let owner = lab.url_at_owner("cam1").await.expect("owned");
    let mut kept = FfmpegReader::start("truth", &owner, VideoCodec::H264, lab.folder(), &lab.logs()).expect("it runs");
    wait_for("the recordings to begin", PATIENCE, async || {
        anyhow::ensure!(truth.receives(), "not yet");
        kept.check_written()
    })
    .await
    .expect("recorded");

    let mut relay = Relay::start(&lab, "relay-1").await.expect("it listens");
    let url = relay.url("cam1");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/relay_clients");
    let file = |name: &str| folder.path().join(name);
    let reading = |name: &str, source: &str, out: &Path| {
        python.recipe(name, &scripts.join(name).with_extension("py"), &[source, &out.display().to_string()])
    };
    let (pyav, opencv, gst) = (file("pyav.h264"), file("opencv.txt"), file("gstreamer.h264"));
    let mut readers = vec![
        Reader::start(reading("pyav", &url, &pyav), &lab, pyav, 1_000),
        Reader::start(reading("opencv", &url, &opencv), &lab, opencv, 17),
    ];
    match programs::find("gst-launch-1.0") {
        Ok(program) => {
            let pipeline = format!(
                "rtspsrc location={url} protocols=tcp ! rtph264depay ! video/x-h264,stream-format=byte-stream,alignment=au \
                 ! filesink sync=false location={}",
                gst.display()
            );
            let recipe = Recipe::new("gstreamer", program).args(pipeline.split_whitespace());
            readers.push(Reader::start(recipe, &lab, gst, 1_000));
        }
        Err(error) => notes::skipped("GStreamer at the relay", &format!("{error:#}")),
    }
    for reader in &mut readers {
        reader.wait_for_more(AT_REST).await;
    }

    let legs = lab.legs_of("cam1").await.expect("answered");
    let node = legs[0].0.clone();
    let record =
        drain::run(&lab.node(&node).expect("there").agent, "test", DRAIN_WITHIN, |_| {}).await.expect("it ends");
    assert_eq!(record.outcome, DrainOutcome::Completed);
    assert!(record.legs.iter().any(|leg| matches!(leg.how, LegEnd::Moved(_))), "{record:#?}");
    for reader in &mut readers {
        reader.wait_for_more(AT_REST).await;
    }

    let legs = lab.legs_of("cam1").await.expect("answered");
    let node = lab.node_mut(&legs[0].0).expect("there");
    node.server.process.kill();
    node.agent.process.kill();
    for reader in &mut readers {
        reader.wait_for_more(AT_REST).await;
    }

    relay.process.check_alive().expect("the relay runs");
    let names: Vec<String> = readers.iter().map(|reader| reader.process.name().to_owned()).collect();
    let read: Vec<(Vec<u8>, Instant)> = readers.into_iter().map(Reader::stop).collect();
    let recording = truth.stop().await;
    assert_eq!(recording.ends, Vec::<String>::new(), "the recording was cut off");
    // The same decoder on what the camera sent, to know what each picture looks like.
    let sent = kept.stop_with_file().expect("it ran to the end");
    let pictures_sent = file("sent.txt");
    let mut decoding =
        reading("opencv", &sent.display().to_string(), &pictures_sent).start(&lab.logs()).expect("it runs");
    wait_for("the recording to be decoded", PATIENCE, async || {
        anyhow::ensure!(decoding.ended().is_some_and(|status| status.success()), "not yet");
        Ok(())
    })
    .await
    .expect("decoded");
    let pictures_sent = std::fs::read_to_string(pictures_sent).expect("written");
    for (name, (data, ended)) in names.iter().zip(read) {
        let frames = if name == "opencv" {
            assert_part_of(&pictures_sent, std::str::from_utf8(&data).expect("hashes"))
        } else {
            let hashes = vcl_hashes_annex_b(VideoCodec::H264, &data);
            let frames: Vec<Arrival> = hashes.into_iter().map(|hash| Arrival { hash, at: ended }).collect();
            let found = compare(&recording.arrivals, &frames, ended).expect("comparable");
            assert!(found.is_perfect(), "{name}: {found:#?}");
            found.received as usize
        };
        notes::ran(&format!("{name} from the relay through a drain and a crash, on {kind}: {frames} frames, 0 lost"));
    }
}

/// From the first picture that both have, one follows the other without a picture left out, repeated or changed. A reader
/// that comes in between two keyframes may show something of its own before.
fn assert_part_of(sent: &str, read: &str) -> usize {
    let sent: Vec<&str> = sent.lines().collect();
    let mut read: Vec<&str> = read.lines().collect();
    // Written to while it was stopped.
    read.pop_if(|last| last.len() < 16);
    let first = read.iter().position(|picture| sent.contains(picture)).expect("something in common");
    let read = &read[first..];
    let start = sent.iter().position(|picture| *picture == read[0]).expect("it is one of them");
    let differs = read.iter().zip(&sent[start..]).position(|(read, sent)| read != sent);
    assert_eq!(differs, None, "of {} pictures, after {first} at the start", read.len());
    assert!(read.len() as u64 > AT_REST, "{} pictures only", read.len());
    read.len().min(sent.len() - start)
}
