//! A camera at 25 fps with a keyframe every 25 frames; frame `n` has content `n`, RTP time 3600 n, and was taken 40 n ms
//! after the epoch. A recording's ticks are a little off, as MediaMTX's are.

use super::*;

type Line = Splice<u64>;

fn hash(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1
}

fn wall(n: u64) -> Duration {
    Duration::from_millis(1_000_000 + 40 * n)
}

fn live(n: u64, offset: i64) -> Live<u64> {
    Live { hash: hash(n), time: 3600 * n as i64 + offset, wall: wall(n), frame: n }
}

/// Frame `n` in a take that was asked from frame `start` on.
fn recorded(n: u64, start: u64) -> Recorded<u64> {
    let timed = n >= start;
    let ticks = 3600 * (n.max(start) - start) as i64 + (n % 3) as i64 - 1;
    Recorded { hash: hash(n), ticks, timed, keyframe: n.is_multiple_of(25), wall: wall(n.max(start)), frame: n }
}

/// A whole take from `start` to before `end`, from the keyframe before on.
fn take(splice: &mut Line, start: u64, end: u64, after_hole: bool) -> TakeEnd {
    splice.begin_take(after_hole);
    (start / 25 * 25..end).for_each(|n| splice.recorded(recorded(n, start)));
    splice.end_take()
}

fn gap(after: u64, before: u64, kind: DiscontinuityKind) -> Discontinuity {
    let (after, before) = (Some(3600 * after as i64), 3600 * before as i64);
    Discontinuity { track: 0, after, before, lost_packets: Some(7), kind }
}

/// Frames handed over so far, decode-only ones left out, and gaps as `None`.
fn drained(splice: &mut Line) -> Vec<Option<u64>> {
    let mut found = Vec::new();
    while let Some(out) = splice.poll() {
        match out {
            Out::Live { known: Known { time, .. }, frame }
            | Out::Recorded { known: Known { time, .. }, frame, decode_only: false } => {
                assert!((time - 3600 * frame as i64).abs() <= 4, "frame {frame} has time {time}");
                found.push(Some(frame));
            }
            Out::Recorded { .. } => {}
            Out::Gap(_) => found.push(None),
        }
    }
    found
}

fn frames(range: std::ops::Range<u64>) -> Vec<Option<u64>> {
    range.map(Some).collect()
}

/// A splice that has handed over frames 0 to before `n`.
fn after(n: u64) -> Line {
    let mut splice = Line::new(0, 90_000);
    (0..n).for_each(|n| splice.live(live(n, 0)));
    assert_eq!(drained(&mut splice), frames(0..n));
    splice
}

#[test]
fn a_gap_is_filled_to_the_frame_and_live_goes_on() {
    let mut splice = after(100);
    splice.gap(gap(99, 160, DiscontinuityKind::Lost));
    (160..170).for_each(|n| splice.live(live(n, 0)));
    assert_eq!(drained(&mut splice), []);
    // Nothing of it is lost yet, and none of these is handed over.
    assert_eq!(splice.undecided(), Undecided { frames: 10, packets: 7, switches: 0 });
    assert_eq!(splice.need(), Some(Need { wall: wall(99), exact: false }));
    // The recording's end is written late: the first answer falls short.
    assert_eq!(take(&mut splice, 80, 150, false), TakeEnd { anchored: true, frames: 50, until: Some(wall(149)) });
    assert_eq!(drained(&mut splice), frames(100..150));
    assert_eq!(splice.need(), Some(Need { wall: wall(149), exact: true }));
    take(&mut splice, 140, 168, false);
    (170..180).for_each(|n| splice.live(live(n, 0)));
    assert_eq!(drained(&mut splice), frames(150..180));
    assert!(splice.need().is_none() && !splice.is_filling());
    assert_eq!((splice.replayed, splice.repaired_packets), (61, 7));
    assert_eq!((splice.given_before, splice.undecided()), (1, Undecided::default()));
}

#[test]
fn while_no_leg_delivers_the_recording_is_followed_and_live_joins_wherever_it_is() {
    for (until, from) in [(130, 130), (130, 131), (131, 130), (140, 125), (105, 130)] {
        let mut splice = after(100);
        splice.lost_legs();
        take(&mut splice, 80, until, false);
        splice.gap(gap(99, from, DiscontinuityKind::Lost));
        (from..from + 10).for_each(|n| splice.live(live(n, 0)));
        take(&mut splice, until - 12, from + 9, false);
        (from + 10..from + 30).for_each(|n| splice.live(live(n, 0)));
        assert_eq!(drained(&mut splice), frames(100..from + 30), "recorded until {until}, live from {from}");
    }
}

#[test]
fn legs_that_come_back_without_a_gap_need_no_recording() {
    let mut splice = after(100);
    splice.lost_legs();
    assert!(splice.need().is_some());
    (100..110).for_each(|n| splice.live(live(n, 0)));
    assert_eq!(drained(&mut splice), frames(100..110));
    assert!(splice.need().is_none());
}

#[test]
fn a_switch_without_proof_is_proven_by_the_recording_and_times_go_on_one_line() {
    let mut splice = after(100);
    splice.gap(gap(99, 150, DiscontinuityKind::UnprovenSwitch));
    // The camera was pulled anew: its times have nothing to do with those before.
    (150..170).for_each(|n| splice.live(live(n, 123_456)));
    take(&mut splice, 80, 165, false);
    (170..180).for_each(|n| splice.live(live(n, 123_456)));
    assert_eq!(drained(&mut splice), frames(100..180));
    assert_eq!(splice.repaired_switches, 1);
}

#[test]
fn a_worker_that_starts_again_gets_the_frames_after_its_checkpoint_behind_those_a_decoder_needs() {
    let tail = (90..=99).map(|n| Known { hash: hash(n), time: 3600 * n as i64, wall: wall(n) });
    let mut splice = Line::new(0, 90_000);
    splice.resume(tail);
    // Asked so late that the times of what comes before are not known.
    take(&mut splice, 95, 200, false);
    let mut lead = Vec::new();
    while let Some(Out::Recorded { decode_only: true, frame, .. }) = splice.out.front() {
        lead.push(*frame);
        splice.out.pop_front();
    }
    assert_eq!(lead, (75..=99).collect::<Vec<_>>());
    (195..215).for_each(|n| splice.live(live(n, -77)));
    assert_eq!(drained(&mut splice), frames(100..215));
}

#[test]
fn what_no_recording_holds_is_told_with_its_extent() {
    let mut splice = after(100);
    splice.gap(gap(99, 160, DiscontinuityKind::Lost));
    (160..170).for_each(|n| splice.live(live(n, 0)));
    splice.abandon();
    assert_eq!(splice.out.front(), Some(&Out::Gap(gap(99, 160, DiscontinuityKind::Lost))));
    assert_eq!(drained(&mut splice), [vec![None], frames(160..170)].concat());
    assert_eq!(splice.repaired_packets, 0);
}

#[test]
fn a_recording_with_a_hole_gives_what_it_has_on_both_sides_of_it() {
    let mut splice = after(100);
    splice.gap(gap(99, 200, DiscontinuityKind::Lost));
    (200..210).for_each(|n| splice.live(live(n, 0)));
    take(&mut splice, 80, 120, false);
    take(&mut splice, 150, 208, true);
    let (mut told, mut got) = (Vec::new(), Vec::new());
    while let Some(out) = splice.poll() {
        match out {
            Out::Gap(gap) => told.push((gap.after.map(|after| (after + 5) / 3600), gap.before / 3600)),
            Out::Live { frame, .. } | Out::Recorded { frame, .. } => got.push(frame),
        }
    }
    assert_eq!(told, [(Some(119), 150)]);
    assert_eq!(got, (100..120).chain(150..210).collect::<Vec<_>>());
}

#[test]
fn behind_a_hole_the_first_frame_has_its_own_time_though_it_is_asked_for_a_moment_too_late() {
    // Live frames begin with the very first one of the recording, as where a camera comes back.
    for live_from in [150, 160] {
        let mut splice = after(100);
        splice.gap(gap(99, live_from, DiscontinuityKind::UnprovenSwitch));
        (live_from..live_from + 10).for_each(|n| splice.live(live(n, 123_456)));
        take(&mut splice, 80, 120, false);
        take(&mut splice, 151, live_from + 8, true);
        assert!(!splice.is_filling(), "live frames go on where three in a row are those recorded");
        (live_from + 10..live_from + 20).for_each(|n| splice.live(live(n, 123_456)));
        let all = [frames(100..120), vec![None], frames(150..live_from + 20)].concat();
        assert_eq!(drained(&mut splice), all, "live from {live_from}");
    }
}

#[test]
fn recordings_of_something_else_are_not_taken() {
    let mut splice = after(100);
    splice.gap(gap(99, 160, DiscontinuityKind::Lost));
    (160..170).for_each(|n| splice.live(live(n, 0)));
    splice.begin_take(false);
    (0..50).for_each(|n| splice.recorded(Recorded { hash: hash(n + 5_000), ..recorded(n + 90, 90) }));
    assert_eq!(splice.end_take().frames, 0);
    assert_eq!(drained(&mut splice), []);
    splice.abandon();
    assert_eq!(drained(&mut splice), [vec![None], frames(160..170)].concat());
}

#[test]
fn in_a_still_scene_the_place_is_not_guessed_from_one_equal_picture() {
    // Pictures repeat in a cycle of 5, but for the keyframes.
    let content = |n: u64| if n.is_multiple_of(25) { hash(n) } else { hash(1000 + n % 5) };
    let mut splice = Line::new(0, 90_000);
    (0..90).for_each(|n| splice.live(Live { hash: content(n), ..live(n, 0) }));
    drained(&mut splice);
    splice.gap(gap(89, 130, DiscontinuityKind::Lost));
    (130..140).for_each(|n| splice.live(Live { hash: content(n), ..live(n, 0) }));
    splice.begin_take(false);
    (50..138).for_each(|n| splice.recorded(Recorded { hash: content(n), ..recorded(n, 60) }));
    assert_eq!(drained(&mut splice), frames(90..140));
}

#[test]
fn a_second_gap_while_the_first_is_filled_is_filled_too() {
    let mut splice = after(100);
    splice.gap(gap(99, 120, DiscontinuityKind::Lost));
    (120..125).for_each(|n| splice.live(live(n, 0)));
    splice.gap(gap(124, 140, DiscontinuityKind::Lost));
    (140..150).for_each(|n| splice.live(live(n, 0)));
    take(&mut splice, 80, 148, false);
    assert_eq!(drained(&mut splice), frames(100..125));
    take(&mut splice, 110, 148, false);
    assert_eq!(drained(&mut splice), frames(125..150));
}

#[test]
fn a_worker_that_starts_again_without_a_recording_is_told_what_it_missed() {
    // The camera's RTP clock went on, from another wrap than this worker counts from.
    for (offset, exact) in [(5 << 32, true), (77 << 20, false)] {
        let mut splice = Line::new(0, 90_000);
        splice.resume((90..=99).map(|n| Known { hash: hash(n), time: 3600 * n as i64, wall: wall(n) }));
        splice.abandon();
        splice.live(live(300, offset));
        let Some(Out::Gap(gap)) = splice.poll() else { panic!("no gap is told") };
        assert_eq!(gap.after, Some(99 * 3600));
        let off = gap.before - 300 * 3600;
        assert!(off == 0 || !exact && off.abs() <= 1, "offset {offset} gave {gap:?}");
        splice.live(live(301, offset));
        assert_eq!(drained(&mut splice), frames(300..302));
    }
}
