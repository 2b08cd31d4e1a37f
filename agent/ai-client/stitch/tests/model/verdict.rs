//! What must hold of every run: each unit that some leg brought whole comes out once, in order, equal to the camera's;
//! what no leg brought is announced, to the packet.

use std::collections::HashMap;

use bytes::Bytes;
use mtxfleet_stitch::{AccessUnit, Codec, Discontinuity, DiscontinuityKind, Output, TrackId};

use super::source::{Kind, Source, SourceUnit};
use super::worker::Run;

/// Panics with what does not hold. `exact`: all legs have the camera's packets, so losses are counted to the packet.
pub fn check(source: &Source, run: &Run, exact: bool) {
    for track in 0..source.tracks.len() {
        check_track(source, run, track, exact);
    }
}

fn check_track(source: &Source, run: &Run, track: usize, exact: bool) {
    let units = &source.tracks[track].units;
    let codec = source.tracks[track].kind.codec();
    let by_time: HashMap<i64, usize> = units.iter().enumerate().map(|(index, unit)| (unit.time, index)).collect();
    let mut before: Option<usize> = None;
    let mut shift = None;
    let mut announced: Option<Discontinuity> = None;
    let mut emitted = vec![None; units.len()];
    for (at, output) in &run.outputs {
        match output {
            Output::Discontinuity(discontinuity) if discontinuity.track == TrackId(track) => {
                assert_eq!(discontinuity.kind, DiscontinuityKind::Lost, "track {track}: a switch without proof");
                announced = Some(*discontinuity);
            }
            Output::Unit(unit) if unit.track == TrackId(track) => {
                // Where 32 bits began is up to whoever sees the first packet.
                let shift = *shift.get_or_insert_with(|| {
                    let same = |time: &&i64| **time as u32 == unit.rtp_time as u32;
                    by_time.keys().find(same).map_or(0, |time| time - unit.rtp_time)
                });
                let index = *by_time
                    .get(&(unit.rtp_time + shift))
                    .unwrap_or_else(|| panic!("track {track}: no unit of the camera has time {}", unit.rtp_time));
                let whole = content(codec, unit);
                let expected = expected_content(codec, &units[index]);
                let joined_late = before.is_none() && expected.ends_with(&whole[..]);
                assert!(
                    whole == expected || joined_late,
                    "track {track}: unit {index} differs from the camera's: {} bytes in {} packets of {:?}, not {} in {}",
                    whole.len(),
                    unit.packets.len(),
                    unit.leg,
                    expected.len(),
                    units[index].packets.len()
                );
                assert!(emitted[index].is_none(), "track {track}: unit {index} came twice");
                emitted[index] = Some(*at);
                if let Some(before) = before {
                    assert!(index > before, "track {track}: unit {index} after {before}");
                    let expected_loss = (index > before + 1)
                        .then(|| (units[index].first_seq - units[before].first_seq) as u64)
                        .map(|packets| packets - units[before].packets.len() as u64);
                    match (expected_loss, announced.take()) {
                        (None, None) => {}
                        // Legs that number differently cannot always prove that nothing lies between.
                        (None, Some(announced)) if !exact && announced.lost_packets.is_none() => {}
                        (Some(lost), Some(announced)) => {
                            assert_eq!(announced.after, Some(units[before].time - shift));
                            assert_eq!(announced.before, units[index].time - shift);
                            if exact {
                                assert_eq!(announced.lost_packets, Some(lost), "track {track}: before unit {index}");
                            }
                        }
                        (expected, announced) => panic!(
                            "track {track}: between {before} and {index} {expected:?} packets are lost, \
                             announced was {announced:?}"
                        ),
                    }
                }
                before = Some(index);
            }
            _ => {}
        }
    }
    let first = emitted.iter().position(Option::is_some).expect("something came out");
    for index in first..units.len() {
        // A single packet without marker before a gap is no unit yet while such packets are new to the stitch.
        let unlearned = source.tracks[track].kind == Kind::UnmarkedAudio && index < first + 12;
        if emitted[index].is_some() || unlearned {
            continue;
        }
        // A leg that was opened after the output had gone on cannot help any more.
        let went_on = emitted[index..].iter().flatten().min();
        let brought = (0..run.keys.len()).find(|leg| {
            let pushed = run.pushed[*leg][track].get(&index).copied().unwrap_or(0);
            pushed == run.packets[*leg][track][index] && went_on.is_none_or(|at| run.opened[*leg] <= *at)
        });
        assert!(brought.is_none(), "track {track}: unit {index} was lost, leg {brought:?} had it");
    }
}

fn content(codec: Codec, unit: &AccessUnit) -> Bytes {
    unit.annex_b(codec)
}

pub fn expected_content(codec: Codec, unit: &SourceUnit) -> Bytes {
    let start_code: &[u8] = if codec == Codec::Other { &[] } else { &[0, 0, 0, 1] };
    unit.nals.iter().flat_map(|nal| [start_code, nal].concat()).collect()
}
