//! Losses at the worst moment: found by the random runs, or by changing the code and seeing no test fail.

mod model;

use std::time::Duration;

use model::{Kind, Leg, Loss, Source, SourceConfig, Spaces, check, run};
use mtxfleet_stitch::{LegKey, Output, Stitch, StitchConfig, TrackId};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn camera(seed: u64, tracks: &[Kind], max_nal: usize) -> Source {
    Source::new(SourceConfig {
        seed,
        tracks: tracks.to_vec(),
        length: Duration::from_secs(14),
        first_sequence: 64_000,
        first_timestamp: 0,
        b_frames: false,
        stills_percent: 0,
        aggregate: false,
        max_nal,
    })
}

#[test]
fn a_leg_with_a_hole_after_the_last_unit_covers_nothing() {
    let source = camera(1, &[Kind::H264, Kind::Audio], 3_000);
    let (video, audio) = (&source.tracks[0].units, &source.tracks[1].units);
    let torn = (12..40).find(|unit| video[*unit].packets.len() > 2).expect("a unit of three packets");
    let mut stitch = Stitch::new(source.track_configs(), StitchConfig::default());
    let (old, new) = (stitch.open_leg(ms(0)), stitch.open_leg(ms(0)));
    let mut covered_at = None;
    for index in 0..torn + 5 {
        let now = video[index].sent;
        for leg in [old, new] {
            for (position, packet) in video[index].packets.iter().enumerate() {
                if leg == old || index != torn || position != 1 {
                    stitch.push(now, leg, TrackId(0), packet.clone());
                }
                // The new leg's sound starts when its picture has just been torn.
                if leg == old && position == 0 || index >= torn && position == 2 {
                    for unit in &audio[2 * index..2 * index + 2] {
                        stitch.push(now, leg, TrackId(1), unit.packets[0].clone());
                    }
                }
            }
        }
        while let Some(output) = stitch.poll() {
            if let Output::Covered { leg, lossless } = output {
                assert_eq!((leg, lossless), (new, true));
                covered_at.get_or_insert(index);
            }
        }
    }
    assert!(covered_at > Some(torn), "covered in unit {covered_at:?}, torn in {torn}");
}

/// The relay's packets are counted otherwise: compared with the old leg's, unit 173 seemed to have come.
#[test]
fn numbers_of_a_relay_that_splits_packets_hide_no_loss_on_another_leg() {
    let source = camera(8_501_063_580_097_518_481, &[Kind::H265], 300);
    let leg = |opened, delay, spaces| Leg { opened: ms(opened), delay: ms(delay), spaces, dies: None };
    let legs = [
        leg(0, 0, Spaces::Same),
        leg(2_526, 0, Spaces::Same),
        leg(4_427, 0, Spaces::Same),
        leg(6_448, 40, Spaces::Split),
    ];
    let loss = Loss { leg: 2, track: 0, unit: 171, packet: 1, count: 1 };
    let run = run(&source, &legs, &[loss], StitchConfig::default(), ms(397));
    check(&source, &run, false);
    assert_eq!(run.counters.lost_packets, 0);
}

#[test]
fn a_leg_that_closes_before_it_said_anything_leaves_no_trace() {
    let source = camera(2, &[Kind::H264], 500);
    let mut stitch = Stitch::new(source.track_configs(), StitchConfig::default());
    let old = stitch.open_leg(ms(0));
    for unit in &source.tracks[0].units {
        let fleeting: LegKey = stitch.open_leg(unit.sent);
        unit.packets.iter().for_each(|packet| stitch.push(unit.sent, old, TrackId(0), packet.clone()));
        stitch.close_leg(unit.sent, fleeting);
    }
    let outputs: Vec<Output> = std::iter::from_fn(|| stitch.poll()).collect();
    assert!(outputs.iter().all(|output| matches!(output, Output::Unit(_))));
    assert_eq!(outputs.len(), source.tracks[0].units.len());
}

/// The fourth leg is placed by what waits on the third, past its hole, and begins in the hole.
#[test]
fn a_leg_that_begins_where_another_has_a_hole_fills_it() {
    let source = camera(69_549_821_235_792_994, &[Kind::H264], 300);
    let leg = |opened, delay, spaces| Leg { opened: ms(opened), delay: ms(delay), spaces, dies: None };
    let other = Spaces::Other { sequence: 0, timestamp: 0 };
    let legs = [
        leg(0, 0, Spaces::Same),
        leg(2_463, 0, Spaces::Same),
        leg(4_366, 395, Spaces::Split),
        leg(6_271, 111, other),
        leg(8_176, 176, other),
    ];
    let loss = Loss { leg: 3, track: 0, unit: 200, packet: 1, count: 3 };
    let run = run(&source, &legs, &[loss], StitchConfig::default(), ms(0));
    check(&source, &run, false);
    assert_eq!(run.discontinuities().count(), 0);
}
