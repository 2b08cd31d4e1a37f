//! What the command line takes and refuses.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    simulate: Simulate,
}

fn line(words: &[&str]) -> Simulate {
    Line::try_parse_from(std::iter::once(&"simulate").chain(words)).expect("parsed").simulate
}

fn quiet() -> Trace {
    Trace::of(vec![10.0; 100])
}

#[test]
fn a_policy_file_comes_before_the_flags_and_all_that_is_wrong_is_said_at_once() {
    let file = tempfile::NamedTempFile::new().expect("made");
    std::fs::write(file.path(), "headroom = 0.5\ndown_window = \"5m\"\nspare = 2\n").expect("written");
    let name = file.path().to_str().expect("text");
    let policy = line(&["--policy", name, "--set", "headroom=0.1"]).policy(&quiet()).expect("good");
    assert_eq!((policy.headroom, policy.spare, policy.down_window.as_secs()), (0.1, 2.0, 300));

    let wrong =
        "headrom = 0.5\nmin = 9\nmax = 3\n[[schedules]]\nname = \"x\"\ncron = \"* *\"\nlasts = \"1h\"\nmin = 3\n";
    std::fs::write(file.path(), wrong).expect("written");
    let words = ["--policy", name, "--set", "gain", "--target", "9", "--price=-1"];
    let error = line(&words).policy(&quiet()).expect_err("wrong").to_string();
    for part in ["headrom", "--set gain", "9 is above max, 3", "--target 9", "--price -1", "2 fields"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn schedules_of_a_policy_file_are_simulated() {
    let file = tempfile::NamedTempFile::new().expect("made");
    let text = "spare = 0\n[[schedules]]\nname = \"noon\"\ncron = \"0 12 * * *\"\ntime_zone = \"UTC\"\nlasts = \"1h\"\nmin = 5\n";
    std::fs::write(file.path(), text).expect("written");
    let simulate = line(&["--policy", file.path().to_str().expect("text")]);
    let trace = Trace::of(vec![10.0; 86_400 / 5]);
    let policy = simulate.policy(&trace).expect("good");
    let outcome = run(&trace, &simulate.world(&policy), &mut own(policy));
    let at = |hour: usize| outcome.serving[hour * 720 + 360];
    assert_eq!((at(11), at(12), at(14)), (2, 5, 2));
}

#[test]
fn each_role_has_its_policy_and_only_what_the_trace_says_is_asked_for() {
    let ingestion = line(&["--role", "ingestion"]);
    let policy = ingestion.policy(&quiet()).expect("good");
    assert_eq!((policy.min, policy.metrics.len(), policy.metrics[0].metric), (1, 1, Metric::Cameras));
    assert_eq!(policy.cpu_limit, None);
    assert!((250.0..=300.0).contains(&ingestion.trace(1).expect("made").0.peak()));
    let all = Trace::from_csv("0,10,1e6,0.2\n60,20,1e6,0.2\n").expect("good");
    let policy = line(&["--set", "cpu_limit=0.5", "--set", "dry_run=true"]).policy(&all).expect("good");
    assert_eq!((policy.metrics.len(), policy.cpu_limit, policy.dry_run), (2, Some(0.5), true));
}

#[test]
fn weeks_seeds_and_csv_that_make_no_sense_are_refused() {
    for wrong in ["0-3", "4-3", "x", "1-60"] {
        assert!(line(&["--weeks", wrong]).trace(1).is_err(), "{wrong}");
    }
    assert!(line(&["--csv", "/nowhere/at/all.csv"]).trace(1).is_err());
    assert!(line(&["--peak", "NaN"]).trace(1).is_err());
    for wrong in [["--seed", "0"], ["--seed", "3-1"]] {
        assert!(line(&wrong).run().is_err(), "{wrong:?}");
    }
    assert!(line(&["--seed", "1-2", "--json"]).run().is_err());
    assert_eq!(line(&["--weeks", "2"]).trace(1).expect("one week").0.readers.values.len(), 120_960);
}

#[test]
fn json_has_what_the_tables_have() {
    let simulate = line(&[]);
    let (trace, policy) = (quiet(), simulate.policy(&quiet()).expect("good"));
    let world = simulate.world(&policy);
    let rows = vec![
        ("mtxfleet".to_owned(), run(&trace, &world, &mut own(policy.clone()))),
        ("fixed".to_owned(), run_from(4, &trace, &world, &mut Fixed)),
        ("clairvoyant".to_owned(), clairvoyant::run(&trace, &world)),
    ];
    let frontiers = frontiers(&policy, &trace, &world);
    let report = Report {
        what: "a test",
        unit: "readers",
        peak: 10.0,
        world: &world,
        price: 0.5,
        rows: &rows,
        frontiers: &frontiers,
    };
    let json: serde_json::Value = serde_json::from_str(&report.json().expect("made")).expect("JSON");
    assert_eq!(json["rules"][1]["rule"], "fixed");
    let hours = 4.0 * 500.0 / 3_600.0;
    assert!((json["rules"][1]["cost"].as_f64().expect("a number") - hours * 0.5).abs() < 1e-9, "{json}");
    assert_eq!(json["frontiers"][0]["points"].as_array().expect("points").len(), RESERVES.len());
    assert!(report.text().contains("fixed"));
}
