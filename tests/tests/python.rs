//! The wheel as a Python program has it: installed into an empty virtual environment, and a whole worker that reads
//! through drains, its own death and the crash of a node.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mtxfleet_tests::compare::{Arrival, compare, vcl_hashes_annex_b};
use mtxfleet_tests::lab::agent::client;
use mtxfleet_tests::lab::camera::CameraKind;
use mtxfleet_tests::lab::process::Process;
use mtxfleet_tests::lab::python::{Python, WHEEL};
use mtxfleet_tests::lab::reader::ReconnectingReader;
use mtxfleet_tests::lab::wait::{PATIENCE, wait_for};
use mtxfleet_tests::lab::{self, Lab, drain};
use mtxfleet_tests::notes;
use mtxfleet_tests::plain_reader::VideoCodec;
use mtxfleet_tests::server_binary::ServerKind;
use mtxfleet_wire::{DrainOutcome, LegEnd};
use serde::Deserialize;

const DRAIN_WITHIN: Duration = Duration::from_secs(60);

/// Python looks for signals every 100 ms, and closing waits 2 s at most for the last reports.
const STOPS_WITHIN: Duration = Duration::from_secs(8);

/// Frames that every worker gets between two events: more than a GOP.
const AT_REST: u64 = 60;

/// A program that decodes may be so far behind its camera, on a busy machine. Whatever came before its last frame counts.
const BEHIND: Duration = Duration::from_secs(10);

/// Frames that a decoder may hold back at the end.
const HELD_BACK: u64 = 32;

/// Frames after the start of each life when the worker is killed, and the milliseconds until it is started again.
const LIVES: [(u64, u64); 3] = [(45, 1500), (30, 0), (60, 700)];

/// What `examples/worker.py` prints at its end.
#[derive(Debug, Deserialize)]
struct Seen {
    gaps: Vec<String>,
    shape: Vec<u32>,
    counters: Counters,
}

#[derive(Debug, Deserialize)]
struct Counters {
    handovers: u64,
}

/// A worker in Python, and what its camera sent.
struct Reading {
    process: Process,
    stream: &'static str,
    codec: VideoCodec,
    database: PathBuf,
    decodes: bool,
    truth: ReconnectingReader,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_workers_have_every_frame_through_drains_their_own_death_and_a_crash_and_end_on_ctrl_c() {
    let _alone = lab::alone().await;
    let Some(wheel) = std::env::var_os(WHEEL).map(PathBuf::from) else {
        notes::skipped("Python workers", "no wheel was built; `make test` builds it where python3 and PyPI are there");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let wheel = format!("{}[av]", wheel.display());
    let python =
        Python::install(&[&wheel, "mypy"], folder.path()).await.expect("it installs into an empty environment");
    refuses_what_is_wrong(&python).await;
    lets_other_threads_run_and_hears_ctrl_c(&python).await;
    is_typed(&python, folder.path()).await;
    reads_on(&python, folder.path()).await.expect("it reads");
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/ai-client/python/examples/worker.py")
}

async fn refuses_what_is_wrong(python: &Python) {
    let told = python
        .script(
            "import mtxfleet\n\
             def said(kind, **options):\n \
             try:\n  \
             given = dict(stream='cam1', worker='w', url='rtsp://127.0.0.1:1', cluster='lab', open_timeout=0.5) | options\n  \
             next(iter(mtxfleet.Stream(**given)))\n \
             except kind as error: print(error)\n\
             said(ValueError, worker='a b', url='http://x', buffer=0, redundancy=2, checkpoints=True)\n\
             said(ValueError, leg_timeout=-1)\n\
             said(mtxfleet.NotOpened)\n\
             print('mtxfleet_worker_up' in mtxfleet.metrics_text(), mtxfleet.serve_metrics() > 0)\n",
        )
        .await
        .expect("errors are exceptions");
    let parts = [
        "worker id",
        "url",
        "buffer",
        "needs agents",
        "journal",
        "leg_timeout",
        "did not open",
        "refused",
        "True True",
    ];
    for part in parts {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
}

/// At a server that takes connections and says nothing: the wait lasts, and is Python's to interrupt.
async fn lets_other_threads_run_and_hears_ctrl_c(python: &Python) {
    let told = python
        .script(
            "import mtxfleet, os, signal, socket, threading, time\n\
             silent = socket.create_server(('127.0.0.1', 0))\n\
             url = f'rtsp://127.0.0.1:{silent.getsockname()[1]}'\n\
             turns, sent = [], []\n\
             # A shell starts what is to run in the background deaf to it.\n\
             signal.signal(signal.SIGINT, signal.default_int_handler)\n\
             def other():\n \
             while time.monotonic() < begun + 1: turns.append(time.sleep(0.005))\n \
             sent.append(time.monotonic())\n \
             os.kill(os.getpid(), signal.SIGINT)\n\
             begun = time.monotonic()\n\
             threading.Thread(target=other).start()\n\
             try:\n \
             for frame in mtxfleet.Stream('cam1', 'w', url=url, cluster='lab', open_timeout=30): pass\n\
             except KeyboardInterrupt: print(len(turns), time.monotonic() - sent[0])\n",
        )
        .await
        .expect("it is interrupted");
    let (turns, after) = told.trim().split_once(' ').expect("two numbers");
    let (turns, after): (u32, f64) = (turns.parse().expect("a count"), after.parse().expect("seconds"));
    assert!(turns > 50, "another thread had {turns} turns of 5 ms in a second: the GIL is held");
    assert!(after < 0.2, "Ctrl-C was heard after {after} s");
    notes::ran(&format!("Python: Ctrl-C heard after {:.0} ms while nothing comes", after * 1e3));
}

async fn is_typed(python: &Python, folder: &Path) {
    let example = example().display().to_string();
    // Elsewhere than here, where a folder of the same name would be taken for the package.
    for (program, args) in
        [("mypy", &["--strict", &example][..]), ("mypy", &["--strict", "-p", "mtxfleet"]), ("stubtest", &["mtxfleet"])]
    {
        python.run(program, args, folder).await.expect("types and stubs are right");
    }
}

async fn reads_on(python: &Python, folder: &Path) -> Result<()> {
    let lab = Lab::builder().cameras([CameraKind::H264WithBFrames, CameraKind::H265]).start();
    let mut lab = lab.await.context("a fleet")?;
    let has_recordings = matches!(lab.server.kind, ServerKind::Real { .. });
    let (mut workers, mut to_drain) = (Vec::new(), BTreeSet::new());
    for (name, stream, codec, options) in [
        ("py-sync", "cam1", VideoCodec::H264, &["--decode"][..]),
        ("py-asyncio", "cam2", VideoCodec::H265, &["--decode", "--asyncio"]),
        ("py-two-legs", "cam1", VideoCodec::H264, &["--redundancy", "2"]),
    ] {
        let truth = lab.record_camera(stream).await?;
        wait_for("the recording to begin", PATIENCE, async || if truth.receives() { Ok(()) } else { Err("not yet") })
            .await?;
        let database = folder.join(format!("{name}.db"));
        let path = database.display().to_string();
        let fixed = [stream, name, "--database", &path, "--keep-video", "--metrics", "0"];
        let process = python.worker(&lab, name, &example(), &[&fixed[..], options].concat())?;
        workers.push(Reading { process, stream, codec, database, decodes: options.contains(&"--decode"), truth });
        all_read_on(&mut workers).await?;
        // Of who has one leg: the one with two need not share a node with it.
        if let [(node, _)] = &lab.legs_of(stream).await?[..] {
            to_drain.insert(node.clone());
        }
    }

    for node in to_drain {
        let agent = &lab.node(&node)?.agent;
        let record = drain::run(agent, "test", DRAIN_WITHIN, |_| {}).await?;
        ensure!(record.outcome == DrainOutcome::Completed, "{record:#?}");
        ensure!(record.legs.iter().any(|leg| matches!(leg.how, LegEnd::Moved(_))), "{record:#?}");
        agent.undrain().await?.map_err(|refused| anyhow::anyhow!("{refused:?}"))?;
        lab.wait_in_service(&node, PATIENCE).await?;
    }
    all_read_on(&mut workers).await?;

    if has_recordings {
        for (frames, pause) in LIVES {
            reads(&mut workers[0], frames).await?;
            workers[0].process.kill();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            workers[0].process.restart()?;
        }
        all_read_on(&mut workers).await?;
        let (node, legs) = lab.legs().await?.swap_remove(0);
        ensure!(legs > 0, "no worker reads anywhere");
        let node = lab.node_mut(&node)?;
        node.server.process.kill();
        node.agent.process.kill();
        all_read_on(&mut workers).await?;
    } else {
        notes::skipped("Python workers killed, and through a crash", "the stand-in has no recordings");
    }
    for worker in workers {
        check(python, worker, has_recordings).await?;
    }
    Ok(())
}

/// Everything that this worker stored, beside what its camera sent.
async fn check(python: &Python, mut worker: Reading, has_recordings: bool) -> Result<()> {
    let (name, database) = (worker.process.name().to_owned(), worker.database.display().to_string());
    // The database knows no times, so all that it holds came by now.
    let ended = Instant::now();
    let seen = interrupt(&mut worker.process).await?;
    let recording = worker.truth.stop().await;
    ensure!(recording.ends.is_empty(), "the recording was cut off: {:?}", recording.ends);
    let video = worker.database.with_extension("video");
    let counted = python
        .script(&format!(
            "import sqlite3\n\
             rows = sqlite3.connect('{database}')\n\
             with open('{}', 'wb') as out:\n \
             for (data,) in rows.execute('select data from frames order by id'): out.write(data)\n\
             (first,) = rows.execute('select min(id) from frames where brightness is not null').fetchone()\n\
             print(*rows.execute('select count(*), count(brightness), sum(recorded) from frames').fetchone(),\
             *rows.execute('select count(*) from gaps').fetchone(),\
             *rows.execute('select count(*) from frames where brightness is null and id between ? and \
             (select max(id) - {HELD_BACK} from frames)', [first]).fetchone())\n",
            video.display()
        ))
        .await?;
    let numbers: Vec<u64> = counted.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [frames, shown, recorded, gaps, not_shown] = numbers[..] else { anyhow::bail!("{counted}") };

    let hashes = vcl_hashes_annex_b(worker.codec, &std::fs::read(&video)?);
    let arrivals: Vec<Arrival> = hashes.into_iter().map(|hash| Arrival { hash, at: ended }).collect();
    let found = compare(&recording.arrivals, &arrivals, ended - BEHIND)?;
    ensure!(found.is_perfect() && gaps == 0, "{name}: {found:#?}, and was told of {gaps} gaps: {:?}", seen.gaps);
    ensure!(!has_recordings || name != "py-sync" || recorded > 0, "it was killed, and read no recording");
    ensure!(has_recordings || seen.counters.handovers > 0, "{name} was not moved: {seen:?}");
    if worker.decodes {
        // From the first keyframe on each picture was shown, in one life or another.
        ensure!(shown > frames / 2 && not_shown == 0, "{name}: {shown} of {frames}, {not_shown} left out");
        ensure!(seen.shape.len() == 3 && seen.shape[2] == 3, "height, width and three colours: {:?}", seen.shape);
    } else {
        ensure!(shown == 0, "{name} decodes nothing");
    }
    notes::ran(&format!(
        "Python worker {name} on {}: {frames} frames, each once, {recorded} from recordings, {shown} decoded",
        worker.stream
    ));
    Ok(())
}

async fn all_read_on(workers: &mut [Reading]) -> Result<()> {
    for worker in workers {
        reads(worker, AT_REST).await?;
    }
    Ok(())
}

/// Waits for so many frames more, as Prometheus is told of them.
async fn reads(worker: &mut Reading, more: u64) -> Result<()> {
    let mut wanted = None;
    wait_for(format!("{} to read", worker.process.name()), PATIENCE, async || -> Result<()> {
        worker.process.check_alive()?;
        let log = std::fs::read_to_string(worker.process.log_path())?;
        let port =
            log.lines().rev().find_map(|line| line.strip_prefix("metrics at port ")).context("no metrics yet")?;
        let page = client().get(format!("http://127.0.0.1:{port}/metrics")).send().await?.text().await?;
        let line =
            page.lines().find_map(|line| line.strip_prefix("mtxfleet_worker_frames_total{")).context("not open")?;
        let frames: u64 = line.rsplit_once(' ').context("a value")?.1.parse()?;
        let wanted = *wanted.get_or_insert(frames + more);
        ensure!(frames >= wanted, "{frames} of {wanted}");
        Ok(())
    })
    .await
    .with_context(|| format!("its log ends:\n{}", worker.process.log_tail()))
}

/// Ctrl-C, and what the script says then.
async fn interrupt(worker: &mut Process) -> Result<Seen> {
    worker.check_alive()?;
    worker.signal(libc::SIGINT);
    wait_for("the script to end", STOPS_WITHIN, async || {
        let status = worker.ended();
        ensure!(status.is_some_and(|status| status.success()), "{status:?}");
        Ok(())
    })
    .await
    .with_context(|| format!("Ctrl-C ends it; its log ends:\n{}", worker.log_tail()))?;
    let log = std::fs::read_to_string(worker.log_path())?;
    let last = log.lines().rev().find(|line| line.starts_with('{')).with_context(|| format!("no result in:\n{log}"))?;
    Ok(serde_json::from_str(last)?)
}
