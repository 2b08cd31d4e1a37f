//! Cameras that change in mid-stream, that send what they should not, and tracks of which the stitch knows no format.

mod model;

use std::time::Duration;

use bytes::Bytes;
use model::source::{CAMERA_MTU, packetise};
use model::worker::TICK;
use model::{Kind, Leg, Source, SourceConfig, Spaces, cases, check, expected_content, run};
use mtxfleet_stitch::{DiscontinuityKind, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackId};
use proptest::prelude::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn camera(tracks: &[Kind], seed: u64) -> Source {
    Source::new(SourceConfig {
        seed,
        tracks: tracks.to_vec(),
        length: Duration::from_secs(12),
        first_sequence: 65_300,
        first_timestamp: 0_u32.wrapping_sub(90_000),
        b_frames: false,
        stills_percent: 0,
        aggregate: true,
        max_nal: 2_000,
    })
}

fn leg(opened: u64, delay: u64) -> Leg {
    Leg { opened: ms(opened), delay: ms(delay), spaces: Spaces::Same, dies: None }
}

/// Everything that comes out of two legs on one video track, the second opened at `opened` and `behind` the first, which
/// is closed when it may be. `sends` makes of each of the camera's packets what a leg brings.
fn two_legs(
    source: &Source,
    times: (Duration, Duration),
    sends: impl FnMut(usize, &RtpPacket) -> Vec<RtpPacket>,
) -> (Vec<Output>, Stitch) {
    two_relays(source, Spaces::Same, times, sends)
}

/// The same where the second leg's relay does this to packets.
fn two_relays(
    source: &Source,
    spaces: Spaces,
    (opened, behind): (Duration, Duration),
    mut sends: impl FnMut(usize, &RtpPacket) -> Vec<RtpPacket>,
) -> (Vec<Output>, Stitch) {
    let mut packets: Vec<(Duration, bool, RtpPacket)> = Vec::new();
    let mut split_seq = source.tracks[0].units[0].first_seq;
    for (index, unit) in source.tracks[0].units.iter().enumerate() {
        let split = packetise(source.tracks[0].kind, &unit.nals, split_seq, unit.time, CAMERA_MTU / 2);
        split_seq += split.len() as i64;
        let relayed = if spaces == Spaces::Split { &split } else { &unit.packets };
        for packet in unit.packets.iter().flat_map(|packet| sends(index, packet)) {
            packets.push((unit.sent, false, packet));
        }
        for mut packet in relayed.iter().flat_map(|packet| sends(index, packet)) {
            if let Spaces::Other { sequence, timestamp } = spaces {
                packet.sequence = packet.sequence.wrapping_add(sequence);
                packet.timestamp = packet.timestamp.wrapping_add(timestamp);
            }
            packets.push((unit.sent + behind, true, packet));
        }
    }
    packets.sort_by_key(|(at, ..)| *at);
    let mut stitch = Stitch::new(source.track_configs(), StitchConfig::default());
    let old = stitch.open_leg(ms(0));
    let (mut new, mut old_is_open): (Option<LegKey>, bool) = (None, true);
    let (mut outputs, mut ticked) = (Vec::new(), Duration::ZERO);
    let end = packets.last().map_or(Duration::ZERO, |(at, ..)| *at) + ms(5_000);
    let mut packets = packets.into_iter().peekable();
    while ticked < end {
        while let Some((at, of_new, packet)) = packets.next_if(|(at, ..)| *at <= ticked) {
            if at >= opened {
                new.get_or_insert_with(|| stitch.open_leg(at));
            }
            match (of_new, new) {
                (false, _) if old_is_open => stitch.push(at, old, TrackId(0), packet),
                (true, Some(new)) => stitch.push(at, new, TrackId(0), packet),
                _ => {}
            }
        }
        stitch.tick(ticked);
        while let Some(output) = stitch.poll() {
            if let Output::Covered { .. } = output {
                stitch.close_leg(ticked, old);
                old_is_open = false;
            }
            outputs.push(output);
        }
        ticked += TICK;
    }
    assert!(!old_is_open, "the new leg took over");
    (outputs, stitch)
}

/// The camera's units by their content: each once and in order, and where some are missing a discontinuity says so. How
/// many are missing.
fn missing_and_told(source: &Source, outputs: &[Output]) -> usize {
    let codec = source.tracks[0].kind.codec();
    let sent: Vec<Bytes> = source.tracks[0].units.iter().map(|unit| expected_content(codec, unit)).collect();
    let (mut before, mut told, mut missing): (Option<usize>, bool, usize) = (None, false, 0);
    for output in outputs {
        match output {
            Output::Discontinuity(_) => told = true,
            Output::Covered { .. } => {}
            Output::Unit(unit) => {
                let got = unit.annex_b(codec);
                let index = sent.iter().position(|sent| *sent == got).expect("a unit of the camera, whole");
                let expected = before.map_or(index, |before| before + 1);
                assert!(index >= expected, "unit {index} after {before:?}");
                assert!(index == expected || told, "units {expected} to {index} are missing, and nothing says so");
                missing += index - expected;
                (before, told) = (Some(index), false);
            }
        }
    }
    missing
}

/// Picture `at` and all after it are later by so much, backwards in most.
fn clock_jumps(at: usize, by: i64) -> impl FnMut(usize, &RtpPacket) -> Vec<RtpPacket> {
    move |index, packet| {
        let jump = if index < at { 0 } else { by };
        vec![RtpPacket { timestamp: packet.timestamp.wrapping_add(jump as u32), ..packet.clone() }]
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn a_clock_that_jumps_loses_nothing_and_repeats_nothing_whenever_it_does(
        seed: u64,
        // Of 300 pictures; the handover is at the 100th.
        at in prop_oneof![90..125_usize, 1..290_usize],
        // By whole pictures, so that timestamps come twice, or anywhere.
        by in prop_oneof![(-20..20_i64).prop_map(|pictures| pictures * 3_600), any::<i32>().prop_map(i64::from)],
        behind in 0..450_u64,
        spaces in prop_oneof![
            2 => Just(Spaces::Same),
            1 => Just(Spaces::Split),
            1 => Just(Spaces::Other { sequence: 9_000, timestamp: 1 << 29 }),
        ],
    ) {
        let source = camera(&[Kind::H264], seed);
        let (outputs, _) = two_relays(&source, spaces, (ms(4_000), ms(behind)), clock_jumps(at, by));
        prop_assert_eq!(missing_and_told(&source, &outputs), 0);
    }

    #[test]
    fn pictures_and_documents_that_say_nothing_of_their_beginnings_are_handed_over_whole(
        seed: u64,
        delays in prop::collection::vec((0..450_u64, any::<bool>()), 2..5),
        close_after in 0..300_u64,
    ) {
        let source = camera(&[Kind::Opaque, Kind::UnmarkedAudio], seed);
        let spaces = |foreign| if foreign { Spaces::Other { sequence: 9_000, timestamp: 1 << 29 } } else { Spaces::Same };
        let leg = |(n, (delay, foreign)): (usize, (u64, bool))| {
            Leg { spaces: spaces(foreign && n > 0), ..leg(n as u64 * 2_503, delay) }
        };
        let legs: Vec<Leg> = delays.into_iter().enumerate().map(leg).collect();
        let run = run(&source, &legs, &[], StitchConfig::default(), ms(close_after));
        check(&source, &run, true);
        prop_assert_eq!(run.counters.handovers, legs.len() as u64 - 1);
        prop_assert_eq!(run.discontinuities().count(), 0);
    }
}

/// Two pictures of one timestamp stand side by side, one on either side of what the old leg brings.
#[test]
fn a_clock_that_goes_back_by_a_picture_beside_a_handover_loses_nothing() {
    for (at, back) in (98..108).flat_map(|at| [(at, -3_600), (at, -7_200)]) {
        for spaces in [Spaces::Same, Spaces::Split, Spaces::Other { sequence: 9_000, timestamp: 1 << 29 }] {
            let source = camera(&[Kind::H264], 0);
            let (outputs, _) = two_relays(&source, spaces, (ms(4_000), ms(41)), clock_jumps(at, back));
            assert_eq!(missing_and_told(&source, &outputs), 0, "at {at}, {back}, {spaces:?}");
            let units = outputs.iter().filter(|output| matches!(output, Output::Unit(_))).count();
            assert_eq!(units, source.tracks[0].units.len(), "markers still end pictures");
        }
    }
}

#[test]
fn a_picture_joined_in_its_middle_after_a_crash_does_not_come_out_torn() {
    for seed in 0..20 {
        let source = camera(&[Kind::Opaque], seed);
        let dying = Leg { dies: Some(ms(3_000)), ..leg(0, 0) };
        // Some milliseconds into a picture of up to five packets.
        let run = run(&source, &[dying, leg(3_083 + seed % 4, 0)], &[], StitchConfig::default(), ms(0));
        let outputs: Vec<Output> = run.outputs.into_iter().map(|(_, output)| output).collect();
        let missing = missing_and_told(&source, &outputs);
        assert!((2..=5).contains(&missing), "seed {seed}: {missing}");
    }
}

/// The legs carry no metadata while they change: the first document of the new one must be known to be whole.
#[test]
fn a_document_of_several_packets_that_comes_long_after_a_handover_is_whole() {
    let mut source = camera(&[Kind::H264, Kind::Opaque], 5);
    source.tracks[1].units.retain(|unit| unit.sent.as_millis().is_multiple_of(3_000));
    let (documents, mut sequence) = (source.tracks[1].units.len(), 65_000);
    for unit in &mut source.tracks[1].units {
        unit.first_seq = sequence;
        for packet in &mut unit.packets {
            packet.sequence = sequence as u16;
            sequence += 1;
        }
    }
    assert!(source.tracks[1].units[2].packets.len() > 1, "it says nothing otherwise");
    let foreign = Spaces::Other { sequence: 77, timestamp: 1 << 20 };
    for spaces in [Spaces::Same, foreign] {
        let legs = [leg(0, 0), Leg { spaces, ..leg(3_500, 100) }];
        let run = run(&source, &legs, &[], StitchConfig::default(), ms(0));
        // The very first one came at once, when nobody could know that nothing lies before it.
        assert_eq!(run.units(1).count(), documents - 1, "{spaces:?}");
        let sent = source.tracks[1].units.iter().skip(1);
        assert!(run.units(1).zip(sent).all(|((_, got), sent)| got.payload_len() == sent.nals[0].len()));
        if matches!(spaces, Spaces::Same) {
            assert_eq!(run.discontinuities().count(), 0);
        }
    }
}

#[test]
fn pictures_without_any_marker_are_told_apart_by_their_timestamps() {
    for kind in [Kind::H264, Kind::H264Slices, Kind::H265] {
        let source = camera(&[kind], 11);
        let unmarked = |_, packet: &RtpPacket| vec![RtpPacket { marker: false, ..packet.clone() }];
        let (outputs, stitch) = two_legs(&source, (ms(4_000), ms(130)), unmarked);
        assert_eq!(missing_and_told(&source, &outputs), 0, "{kind:?}");
        // The last one waits for the next timestamp, for ever.
        assert_eq!(stitch.counters().frames as usize, source.tracks[0].units.len() - 1, "{kind:?}");
        assert_eq!(stitch.counters().unproven_handovers, 0, "{kind:?}");
    }
}

#[test]
fn packets_that_come_twice_come_out_once() {
    let source = camera(&[Kind::H264], 12);
    let twice = |_, packet: &RtpPacket| vec![packet.clone(), packet.clone()];
    let (outputs, stitch) = two_legs(&source, (ms(4_000), ms(130)), twice);
    assert_eq!(missing_and_told(&source, &outputs), 0);
    assert_eq!(stitch.counters().frames as usize, source.tracks[0].units.len());
    assert!(!outputs.iter().any(|output| matches!(output, Output::Discontinuity(_))));
}

/// New parameter sets and a new slice size come with a keyframe; the first NAL units of pictures are others from there.
#[test]
fn a_camera_that_changes_its_resolution_is_handed_over_before_during_and_after() {
    let (before, after) = (camera(&[Kind::H264], 13), camera(&[Kind::H264Slices], 14));
    for changes_at in [50, 100, 105, 150] {
        let mut source = camera(&[Kind::H264], 13);
        let mut seq = source.tracks[0].units[0].first_seq;
        for (index, unit) in source.tracks[0].units.iter_mut().enumerate() {
            let of = if index < changes_at { &before } else { &after };
            let time = unit.time;
            unit.nals.clone_from(&of.tracks[0].units[index].nals);
            unit.packets = of.tracks[0].units[index].packets.clone();
            unit.first_seq = seq;
            for packet in &mut unit.packets {
                (packet.sequence, packet.timestamp) = (seq as u16, time as u32);
                seq += 1;
            }
        }
        let run = run(&source, &[leg(0, 0), leg(4_000, 90)], &[], StitchConfig::default(), ms(0));
        check(&source, &run, true);
        assert_eq!((run.counters.unproven_handovers, run.discontinuities().count()), (0, 0), "at {changes_at}");
    }
}

/// Numbers and timestamps start anew on a connection while another leg runs, which sees the same a little later.
#[test]
fn a_camera_that_starts_to_count_anew_in_mid_handover_loses_nothing_untold() {
    for (restart, behind) in (80..130).step_by(3).flat_map(|at| [(at, 20), (at, 300)]) {
        for shift in [21_111_u16, 0_u16.wrapping_sub(20_000)] {
            let source = camera(&[Kind::H264], 15);
            let anew = |index: usize, packet: &RtpPacket| {
                let shift = if index < restart { 0 } else { shift };
                let sequence = packet.sequence.wrapping_add(shift);
                let timestamp = packet.timestamp.wrapping_add(u32::from(shift) * 90_001);
                vec![RtpPacket { sequence, timestamp, ..packet.clone() }]
            };
            let (outputs, _) = two_legs(&source, (ms(4_000), ms(behind)), anew);
            let missing = missing_and_told(&source, &outputs);
            // With proof of nothing the change is made at a keyframe, of which there is one a second.
            assert!(missing <= 25 * 5, "{missing} at {restart}, {behind} ms behind");
            let unproven = |output: &&Output| matches!(output, Output::Discontinuity(found) if found.kind == DiscontinuityKind::UnprovenSwitch);
            assert!(outputs.iter().filter(unproven).count() <= 1);
        }
    }
}
