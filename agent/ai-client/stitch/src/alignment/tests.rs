use super::*;

/// Marks 3,600 ticks and 40 ms apart, with these contents; `first` is the number of the first.
fn marks(first: i64, contents: &[u64]) -> Vec<Mark> {
    (first..)
        .zip(contents)
        .map(|(number, content)| Mark {
            time: number * 3_600,
            first_seq: number * 10,
            last_seq: number * 10 + 9,
            len: 500,
            hash: Some(*content),
            joined: true,
            received: Duration::from_millis(40 * number.unsigned_abs()),
        })
        .collect()
}

/// The same in another space, received as it was.
fn elsewhere(mut marks: Vec<Mark>) -> Vec<Mark> {
    for mark in &mut marks {
        mark.time -= 1_000_000;
        mark.first_seq -= 777;
        mark.last_seq -= 777;
    }
    marks
}

const THERE: Offsets = Offsets { time: 1_000_000, seq: 777, seq_steady: true };

fn find(output: &[Mark], leg: &[Mark]) -> Search {
    search(output, leg, Duration::from_secs(10), 3)
}

#[test]
fn one_unit_with_equal_numbers_time_and_content_is_proof() {
    let output = marks(100, &[1, 2, 3, 4]);
    assert_eq!(find(&output, &output[3..]), Search::Proven(Offsets::SAME));
    let mut without_content = output.clone();
    without_content.iter_mut().for_each(|mark| mark.hash = None);
    assert_eq!(find(&without_content, &output[3..]), Search::Proven(Offsets::SAME));
    let mut other = output[3..].to_vec();
    other[0].hash = Some(99);
    assert_eq!(find(&output, &other), Search::Nothing);
}

#[test]
fn a_run_of_content_in_another_space_is_proof_when_long_enough() {
    let output = marks(100, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(find(&output, &elsewhere(marks(102, &[3, 4, 5]))), Search::Proven(THERE));
    assert_eq!(find(&output, &elsewhere(marks(104, &[5, 6, 7]))), Search::Likely(THERE));
    assert_eq!(find(&output, &elsewhere(marks(105, &[6, 7, 8]))), Search::Open);
    assert_eq!(find(&output, &elsewhere(marks(106, &[7, 8, 9]))), Search::Nothing);
}

#[test]
fn a_contradiction_anywhere_in_the_run_refutes_it() {
    let output = marks(100, &[1, 2, 3, 4, 5, 6]);
    assert_eq!(find(&output, &elsewhere(marks(101, &[2, 3, 4, 9]))), Search::Nothing);
    assert_eq!(find(&output, &elsewhere(marks(101, &[9, 3, 4, 5]))), Search::Nothing);
    let mut uneven = elsewhere(marks(101, &[2, 3, 4]));
    uneven[2].time += 1;
    assert_eq!(find(&output, &uneven), Search::Nothing);
}

#[test]
fn a_still_scene_proves_nothing_until_something_moves() {
    let output = marks(100, &[1, 7, 7, 7, 7, 7]);
    assert_eq!(find(&output, &elsewhere(marks(103, &[7, 7, 7]))), Search::Open);
    let output = marks(100, &[1, 7, 7, 7, 7, 7, 2, 3, 4]);
    assert_eq!(find(&output, &elsewhere(marks(103, &[7, 7, 7, 2, 3, 4]))), Search::Proven(THERE));
    // Relays keep timestamps: there, the offset that fits is the one.
    let split = |mut marks: Vec<Mark>| {
        marks.iter_mut().for_each(|mark| mark.last_seq += mark.first_seq);
        marks
    };
    let output = marks(100, &[1, 7, 7, 7, 7, 7]);
    let Search::Proven(same) = find(&output, &split(marks(103, &[7, 7, 7]))) else { panic!("timestamps are equal") };
    assert_eq!((same.time, same.seq_steady), (0, false));
}

#[test]
fn repeats_before_a_hole_do_not_outweigh_what_moves_after_it() {
    let mut output = marks(100, &[1, 7, 7, 7, 7, 2, 3, 4]);
    let mut leg = elsewhere(marks(102, &[7, 7, 7, 2, 3, 4]));
    // The hole lies before 2, on both: no shift among the sevens is contradicted.
    output[5].joined = false;
    leg[3].joined = false;
    assert_eq!(find(&output, &leg), Search::Proven(THERE));
}

#[test]
fn a_cycle_of_pictures_does_not_place_a_leg_that_is_ahead() {
    // The leg is at 8; the cycle makes it look as if it were at 4.
    let output = marks(100, &[1, 2, 3, 4, 1, 2, 3, 4]);
    assert_eq!(find(&output, &elsewhere(marks(108, &[1, 2, 3, 4]))), Search::Open);
}

#[test]
fn a_gap_on_either_side_is_no_contradiction() {
    let mut output = marks(100, &[1, 2, 3, 4, 5, 6]);
    let mut leg = elsewhere(marks(100, &[1, 2, 3, 4, 5, 6]));
    output.remove(1);
    output[1].joined = false;
    leg.remove(3);
    leg[3].joined = false;
    assert_eq!(find(&output, &leg), Search::Proven(THERE));
}

#[test]
fn units_too_far_apart_in_time_are_never_the_same() {
    let output = marks(100, &[1, 2, 3, 4]);
    let mut leg = elsewhere(output.clone());
    leg.iter_mut().for_each(|mark| mark.received += Duration::from_secs(11));
    assert_eq!(find(&output, &leg), Search::Nothing);
}
