//! The lab leaves no process behind, however it ends.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mtxfleet_tests::lab::process::Recipe;

const CHILD_OF_THIS_TEST: &str = "LAB_TEST_STARTS_A_PART";
const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_part_is_stopped_when_it_is_dropped_even_when_it_is_frozen_or_ignores_sigterm() {
    let logs = tempfile::tempdir().expect("a folder");
    for script in ["exec sleep 1000", "trap '' TERM; while :; do sleep 0.2; done"] {
        let mut part = Recipe::new("part", "/bin/sh").args(["-c", script]).start(logs.path()).expect("started");
        let pid = part.pid();
        assert!(is_running(pid));
        part.freeze();
        drop(part);
        assert!(!is_running(pid), "{script:?} is still there");
    }
}

#[test]
fn a_part_that_ended_is_an_error_that_shows_its_log_and_it_can_be_started_again() {
    let logs = tempfile::tempdir().expect("a folder");
    let recipe = Recipe::new("part", "/bin/sh").args(["-c", "echo it said this; exit 7"]);
    let mut part = recipe.start(logs.path()).expect("started");
    let started = Instant::now();
    while part.ended().is_none() {
        assert!(started.elapsed() < BOUND, "it does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = part.check_alive().expect_err("it has ended").to_string();
    assert!(error.contains("exit status: 7") && error.contains("it said this"), "{error}");
    let first = part.pid();
    part.restart().expect("started again");
    assert_ne!(part.pid(), first);
}

/// This test starts itself again with a variable set; that process starts a part from a thread that ends at once, and
/// waits to be killed.
#[test]
fn no_part_outlives_a_lab_that_is_killed() {
    if std::env::var_os(CHILD_OF_THIS_TEST).is_some() {
        start_a_part_and_wait_to_be_killed();
    }
    let mut lab = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "no_part_outlives_a_lab_that_is_killed", "--nocapture"])
        .env(CHILD_OF_THIS_TEST, "1")
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test again");
    let lines = BufReader::new(lab.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let part = lines
        .filter_map(|line| line.split_once("part has pid ").and_then(|(_, pid)| pid.trim().parse().ok()))
        .next()
        .expect("the pid of the part");
    assert!(is_running(part), "the part must outlive the thread that asked for it");
    lab.kill().expect("killed");
    lab.wait().expect("reaped");
    let killed = Instant::now();
    while is_running(part) {
        assert!(killed.elapsed() < BOUND, "the part {part} outlived its lab");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn start_a_part_and_wait_to_be_killed() -> ! {
    let logs = tempfile::tempdir().expect("a folder");
    let folder = logs.path().to_owned();
    let starter = std::thread::spawn(move || Recipe::new("part", "sleep").args(["1000"]).start(&folder));
    let part = starter.join().expect("no panic").expect("started");
    println!("part has pid {}", part.pid());
    std::thread::sleep(BOUND);
    drop(part);
    std::process::exit(1);
}

/// False for what is gone, and for a zombie that waits for whoever inherited it.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
