//! Legs that die, that are of another source, that stall or say nothing, and bytes that mean nothing.

mod model;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use model::worker::TICK;
use model::{Kind, Leg, Loss, Run, Source, SourceConfig, Spaces, cases, check, run};
use mtxfleet_stitch::{
    Codec, DiscontinuityKind, LegKey, Output, RtpPacket, Stitch, StitchConfig, TrackConfig, TrackId,
};
use proptest::prelude::*;

const NEVER: Duration = Duration::from_secs(3_600);

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
        b_frames: true,
        stills_percent: 5,
        aggregate: true,
        max_nal: 2_000,
    })
}

fn leg(opened: u64, delay: u64) -> Leg {
    Leg { opened: ms(opened), delay: ms(delay), spaces: Spaces::Same, dies: None }
}

const VIDEO_AND_AUDIO: &[Kind] = &[Kind::H264Slices, Kind::Audio];

/// Units of the camera, on a track, that are in the run.
fn indices(source: &Source, run: &Run, track: usize) -> Vec<usize> {
    let at = |time: i64| source.tracks[track].units.iter().position(|unit| unit.time as u32 == time as u32);
    run.units(track).filter_map(|(_, unit)| at(unit.rtp_time)).collect()
}

/// What a client without a stitch does: one leg until the next is there, then the next.
fn naive(source: &Source, legs: &[Leg]) -> (usize, usize) {
    let (mut seen, mut twice) = (BTreeSet::new(), 0);
    let mut first = None;
    for (index, leg) in legs.iter().enumerate() {
        let end = legs.get(index + 1).map(|next| next.opened).unwrap_or(NEVER);
        let alone = Leg { dies: Some(end), ..leg.clone() };
        let run = run(source, &[alone], &[], StitchConfig::default(), NEVER);
        for unit in indices(source, &run, 0) {
            first.get_or_insert(unit);
            twice += usize::from(!seen.insert(unit));
        }
    }
    let all = first.unwrap_or(0)..source.tracks[0].units.len();
    (all.filter(|unit| !seen.contains(unit)).count(), twice)
}

#[test]
fn without_a_stitch_the_same_handovers_lose_frames_and_repeat_others() {
    let source = camera(VIDEO_AND_AUDIO, 1);
    let legs = [leg(0, 300), leg(3_000, 0), leg(6_000, 450), leg(9_000, 20)];
    let (lost, twice) = naive(&source, &legs);
    assert!(lost >= 10 && twice >= 8, "{lost} lost, {twice} twice");

    let run = run(&source, &legs, &[], StitchConfig::default(), ms(0));
    check(&source, &run, true);
    assert_eq!(run.counters.handovers, 3);
    assert_eq!(run.discontinuities().count(), 0);
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn after_the_death_of_the_only_leg_the_gap_is_known_to_the_packet(
        seed: u64,
        delays in (0..450_u64, 0..450_u64),
        dies in 2_000..5_000_u64,
        away in 0..1_500_u64,
    ) {
        let source = camera(VIDEO_AND_AUDIO, seed);
        let dying = Leg { dies: Some(ms(dies)), ..leg(0, delays.0) };
        let run = run(&source, &[dying, leg(dies + away, delays.1)], &[], StitchConfig::default(), ms(0));
        check(&source, &run, true);
        prop_assert_eq!(run.counters.handovers, 1);
        prop_assert_eq!(run.counters.unproven_handovers, 0);
        let lossless = run.discontinuities().count() == 0;
        prop_assert_eq!(run.covered[&1].1, lossless);
    }

    #[test]
    fn two_legs_at_all_times_hide_the_losses_and_the_death_of_either(
        seed: u64,
        delays in prop::collection::vec(0..450_u64, 3),
        lost_units in prop::collection::vec((0..3_usize, 5..250_usize, 1..8_usize), 0..20),
        dies in 2_000..9_000_u64,
    ) {
        let source = camera(VIDEO_AND_AUDIO, seed);
        // No two legs lose anything within half a second of each other.
        let losses: Vec<Loss> = lost_units
            .into_iter()
            .filter(|(leg, unit, _)| unit / 15 % 3 == *leg && unit % 15 < 8)
            .map(|(leg, unit, count)| Loss { leg, track: 0, unit, packet: 1, count: count.min(3) })
            .collect();
        let mut legs: Vec<Leg> = delays.iter().map(|delay| leg(0, *delay)).collect();
        legs[(seed % 3) as usize].dies = Some(ms(dies));
        let run = run(&source, &legs, &losses, StitchConfig::default(), NEVER);
        check(&source, &run, true);
    }

    #[test]
    fn anything_at_all_may_come_in(
        actions in prop::collection::vec(any_action(), 1..400),
        codec in prop_oneof![Just(Codec::H264), Just(Codec::H265), Just(Codec::Other)],
    ) {
        let config = StitchConfig {
            history: 8, max_buffered_bytes: 20_000, max_retained_bytes: 20_000, ..StitchConfig::default()
        };
        let mut stitch = Stitch::new(vec![TrackConfig { codec, clock_rate: 0 }; 2], config);
        let (mut now, mut legs) = (Duration::ZERO, Vec::new());
        for action in actions {
            match action {
                Action::Open => legs.push(stitch.open_leg(now)),
                Action::Close(leg) => {
                    if let Some(leg) = legs.get(leg) {
                        stitch.close_leg(now, *leg);
                    }
                }
                Action::Wait(ms) => {
                    now += Duration::from_millis(ms);
                    stitch.tick(now);
                }
                Action::Push { leg, track, packet } => {
                    if let Some(leg) = legs.get(leg) {
                        stitch.push(now, *leg, TrackId(track), packet);
                    }
                }
            }
            while let Some(output) = stitch.poll() {
                if let Output::Unit(unit) = output {
                    unit.annex_b(codec);
                    unit.content_hash(codec);
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Open,
    Close(usize),
    Wait(u64),
    Push { leg: usize, track: usize, packet: RtpPacket },
}

fn any_action() -> impl Strategy<Value = Action> {
    // Bytes that look like NAL units, now and then, and numbers that follow each other, now and then.
    let first = prop_oneof![any::<u8>(), Just(0x65), Just(0x7c), Just(24), Just(98), Just(96), Just(28), Just(2)];
    let payload = (first, prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(first, mut rest)| {
        rest.truncate(rest.len() / 3 * 3);
        rest.insert(0, first);
        if rest.len() == 1 && first & 1 == 0 {
            rest.clear();
        }
        Bytes::from(rest)
    });
    let sequence = prop_oneof![0..12_u16, any::<u16>()];
    let timestamp = prop_oneof![0..4_u32, any::<u32>()];
    prop_oneof![
        1 => Just(Action::Open),
        1 => (0..6_usize).prop_map(Action::Close),
        1 => (0..4_000_u64).prop_map(Action::Wait),
        20 => (0..6_usize, 0..3_usize, sequence, timestamp, any::<bool>(), payload).prop_map(
            |(leg, track, sequence, timestamp, marker, payload)| Action::Push {
                leg, track, packet: RtpPacket { sequence, timestamp, marker, payload },
            }
        ),
    ]
}

#[test]
fn a_leg_that_cannot_be_placed_is_switched_to_at_a_keyframe_and_said_to_be_unproven() {
    // The same camera encoded twice: nothing is equal, numbers least of all.
    let (ours, theirs) = (camera(VIDEO_AND_AUDIO, 1), camera(VIDEO_AND_AUDIO, 2));
    let mut stitch = Stitch::new(ours.track_configs(), StitchConfig::default());
    let old = stitch.open_leg(ms(0));
    let mut new = None;
    let (mut outputs, mut closed) = (Vec::new(), false);
    for unit in 0..250 {
        let now = ours.tracks[0].units[unit].sent;
        if unit == 50 {
            new = Some(stitch.open_leg(now));
        }
        for (leg, source) in [(Some(old).filter(|_| !closed), &ours), (new, &theirs)] {
            let Some(leg) = leg else { continue };
            for (track, index) in [(0, unit), (1, 2 * unit), (1, 2 * unit + 1)] {
                for packet in source.tracks[track].units[index].packets.clone() {
                    let shift = if leg == old { 0 } else { 20_000 };
                    let sequence = packet.sequence.wrapping_add(shift);
                    let timestamp = packet.timestamp.wrapping_add(u32::from(shift) << 12);
                    stitch.push(now, leg, TrackId(track), RtpPacket { sequence, timestamp, ..packet });
                }
            }
        }
        stitch.tick(now);
        while let Some(output) = stitch.poll() {
            if let Output::Covered { leg, lossless } = output {
                assert_eq!((Some(leg), lossless), (new, false));
                stitch.close_leg(now, old);
                closed = true;
            }
            outputs.push((now, output));
        }
    }
    assert!(closed, "the new leg took over");
    assert_eq!(stitch.counters().unproven_handovers, 1);
    let switches: Vec<_> = outputs
        .iter()
        .filter_map(|(at, output)| match output {
            Output::Discontinuity(found) if found.track == TrackId(0) => Some((*at, *found)),
            _ => None,
        })
        .collect();
    let [(at, switch)] = switches[..] else { panic!("one discontinuity on the video track: {switches:?}") };
    assert_eq!((switch.kind, switch.lost_packets), (DiscontinuityKind::UnprovenSwitch, None));
    let (opened, wait) = (ms(2_000), StitchConfig::default().alignment_wait);
    assert!(at >= opened + wait && at <= opened + wait + ms(1_040), "after the wait, at the next keyframe: {at:?}");
    let units: Vec<_> = outputs
        .iter()
        .filter_map(|(_, output)| match output {
            Output::Unit(unit) if unit.track == TrackId(0) => Some(unit),
            _ => None,
        })
        .collect();
    let entry = units.iter().position(|unit| Some(unit.leg) == new).expect("units of the new leg");
    assert!(units[entry].keyframe && units[entry].rtp_time == switch.before);
    assert!(units[entry - 1].rtp_time < switch.before, "output time goes on");
    assert!(units[entry..].iter().all(|unit| Some(unit.leg) == new), "and the old leg is not returned to");
    let indices: Vec<u64> = units.iter().map(|unit| unit.index).collect();
    assert_eq!(indices, (0..units.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_leg_in_another_space_after_a_death_is_joined_by_what_was_emitted_before() {
    let source = camera(VIDEO_AND_AUDIO, 3);
    let dying = Leg { dies: Some(ms(3_000)), ..leg(0, 0) };
    // 400 ms behind: it begins with frames that the dead leg had brought.
    let spaces = Spaces::Other { sequence: 30_000, timestamp: 1 << 30 };
    let late = Leg { spaces, ..leg(3_050, 400) };
    let config = StitchConfig { retained: ms(500), ..StitchConfig::default() };
    let run = run(&source, &[dying, late], &[], config, ms(0));
    check(&source, &run, true);
    assert_eq!(run.discontinuities().count(), 0);
    assert!(run.covered[&1].1, "lossless");
}

#[test]
fn a_silent_track_is_covered_by_time() {
    let mut source = camera(VIDEO_AND_AUDIO, 4);
    source.tracks[1].units.retain(|unit| unit.sent < ms(500));
    let run = run(&source, &[leg(0, 0), leg(4_000, 100)], &[], StitchConfig::default(), ms(0));
    let (at, lossless) = run.covered[&1];
    let silent = StitchConfig::default().silent_track;
    assert!(lossless);
    assert!(at >= ms(4_000) + silent && at <= ms(4_000) + silent + TICK, "covered at {at:?}");
    check(&source, &run, true);
}

#[test]
fn a_track_that_wakes_after_the_handover_goes_on_without_a_gap() {
    let mut source = camera(VIDEO_AND_AUDIO, 5);
    source.tracks[1].units.retain(|unit| unit.sent < ms(500) || unit.sent >= ms(9_000));
    // The numbers of what is left follow each other, as they do for a source that was silent.
    let mut sequence = source.tracks[1].units[0].first_seq;
    for unit in &mut source.tracks[1].units {
        unit.first_seq = sequence;
        for packet in &mut unit.packets {
            packet.sequence = sequence as u16;
            sequence += 1;
        }
    }
    let run = run(&source, &[leg(0, 0), leg(4_000, 100)], &[], StitchConfig::default(), ms(0));
    check(&source, &run, true);
    assert_eq!(run.discontinuities().count(), 0);
    assert_eq!(indices(&source, &run, 1).len(), source.tracks[1].units.len());
}

#[test]
fn a_leg_that_hangs_delays_a_loss_no_longer_than_its_bound() {
    let source = camera(&[Kind::H264], 6);
    let loss = Loss { leg: 0, track: 0, unit: 100, packet: 0, count: 1 };
    let mut stitch = Stitch::new(source.track_configs(), StitchConfig::default());
    let (old, hung) = (stitch.open_leg(ms(0)), stitch.open_leg(ms(0)));
    let mut pause = Duration::ZERO;
    let mut last = None;
    for (index, unit) in source.tracks[0].units.iter().enumerate() {
        for (position, packet) in unit.packets.iter().enumerate() {
            if (index, position) != (loss.unit, loss.packet) {
                stitch.push(unit.sent, old, TrackId(0), packet.clone());
            }
            if index < 60 {
                stitch.push(unit.sent, hung, TrackId(0), packet.clone());
            }
        }
        stitch.tick(unit.sent);
        while let Some(output) = stitch.poll() {
            if let Output::Unit(_) = output {
                pause = pause.max(unit.sent - last.unwrap_or(unit.sent));
                last = Some(unit.sent);
            }
        }
    }
    let bound = StitchConfig::default().straggler_wait;
    assert!(pause >= bound && pause <= bound + ms(120), "paused {pause:?}");
    assert_eq!(stitch.counters().lost_packets, source.tracks[0].units[100].packets.len() as u64);
}

#[test]
fn markers_in_mid_unit_cost_one_unit_in_two_parts_and_no_more() {
    let mut source = camera(&[Kind::H264Slices], 7);
    for unit in &mut source.tracks[0].units {
        unit.packets.iter_mut().for_each(|packet| packet.marker = true);
    }
    let run = run(&source, &[leg(0, 0), leg(3_000, 80)], &[], StitchConfig::default(), ms(0));
    let units: Vec<_> = run.units(0).map(|(_, unit)| unit).collect();
    assert_eq!(units.iter().filter(|unit| unit.continuation).count(), 1);
    assert!(units[1].continuation && units[1].rtp_time == units[0].rtp_time);
    // The last one waits for the next timestamp, for ever.
    assert_eq!(units.len(), source.tracks[0].units.len());
    assert_eq!(run.counters.handovers, 1);
    assert_eq!(run.discontinuities().count(), 0);
}

#[test]
fn a_source_that_restarts_on_its_connection_goes_on_after_a_loss_of_unknown_size() {
    let source = camera(&[Kind::H264], 8);
    let mut stitch = Stitch::new(source.track_configs(), StitchConfig::default());
    let leg = stitch.open_leg(ms(0));
    for (index, unit) in source.tracks[0].units.iter().take(100).enumerate() {
        for packet in &unit.packets {
            let back = if index < 50 { 0 } else { 20_000 };
            let sequence = packet.sequence.wrapping_sub(back);
            let timestamp = packet.timestamp.wrapping_sub(u32::from(back) * 90_000);
            stitch.push(unit.sent, leg, TrackId(0), RtpPacket { sequence, timestamp, ..packet.clone() });
        }
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| stitch.poll()).collect();
    let breaks: Vec<_> = outputs
        .iter()
        .filter_map(|output| match output {
            Output::Discontinuity(found) => Some((found.kind, found.lost_packets)),
            _ => None,
        })
        .collect();
    assert_eq!(breaks, [(DiscontinuityKind::Lost, None)]);
    assert_eq!(stitch.counters().frames, 100);
}

#[test]
fn unknown_legs_and_tracks_are_counted_and_ignored() {
    let mut stitch = Stitch::new(vec![Kind::H264.track()], StitchConfig::default());
    let leg: LegKey = stitch.open_leg(ms(0));
    let packet = RtpPacket { sequence: 1, timestamp: 1, marker: true, payload: Bytes::from_static(&[0x65, 0x80]) };
    stitch.push(ms(0), leg, TrackId(7), packet.clone());
    stitch.close_leg(ms(0), leg);
    stitch.close_leg(ms(0), leg);
    stitch.push(ms(0), leg, TrackId(0), packet);
    assert!(stitch.poll().is_none());
    assert_eq!(stitch.counters().stray_packets, 2);
}
