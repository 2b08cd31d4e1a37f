//! Handovers in model time: every frame once, in order, none missing.

mod model;

use std::time::Duration;

use model::{Kind, Leg, Loss, Source, SourceConfig, Spaces, cases, check, run};
use mtxfleet_stitch::StitchConfig;
use proptest::prelude::*;

const MAX_SKEW_MS: u64 = 450;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn kinds() -> impl Strategy<Value = Vec<Kind>> {
    let video = prop_oneof![Just(Kind::H264), Just(Kind::H264Slices), Just(Kind::H265)];
    let audio = prop_oneof![Just(Kind::Audio), Just(Kind::UnmarkedAudio)];
    (video, prop::collection::vec(audio, 0..=2)).prop_map(|(video, audio)| [vec![video], audio].concat())
}

prop_compose! {
    fn source_config(length: Duration)(
        seed: u64,
        tracks in kinds(),
        // Most runs see the numbers wrap, somewhere.
        first_sequence in prop_oneof![64_000_u16..=65_535, any::<u16>()],
        wraps_after_ms in 0..6_000_u32,
        wraps: bool,
        some_timestamp: u32,
        b_frames: bool,
        stills_percent in prop_oneof![Just(0_u64), 0..20_u64],
        aggregate: bool,
        max_nal in prop_oneof![Just(300_usize), 100..3_000_usize],
    ) -> SourceConfig {
        let first_timestamp = if wraps { 0_u32.wrapping_sub(wraps_after_ms * 90) } else { some_timestamp };
        SourceConfig {
            seed, tracks, length, first_sequence, first_timestamp, b_frames, stills_percent, aggregate, max_nal,
        }
    }
}

/// Legs that follow each other, one every 1.5 to 3 s, each anywhere between the camera and 450 ms behind it.
fn legs(count: std::ops::RangeInclusive<usize>, spaces: BoxedStrategy<Spaces>) -> impl Strategy<Value = Vec<Leg>> {
    prop::collection::vec((0..=MAX_SKEW_MS, 1_500..3_000_u64, spaces), count).prop_map(|legs| {
        let mut opened = 0;
        let leg = |(delay, after, spaces): (u64, u64, Spaces)| {
            let leg = Leg { opened: ms(opened), delay: ms(delay), spaces, dies: None };
            opened += after;
            leg
        };
        let mut legs: Vec<Leg> = legs.into_iter().map(leg).collect();
        // The first leg's space is output space: here, the camera's.
        if let Spaces::Other { .. } = legs[0].spaces {
            legs[0].spaces = Spaces::Same;
        }
        legs
    })
}

fn other_spaces() -> BoxedStrategy<Spaces> {
    prop_oneof![
        Just(Spaces::Same),
        Just(Spaces::Split),
        any::<(u16, u32)>().prop_map(|(sequence, timestamp)| Spaces::Other { sequence, timestamp }),
    ]
    .boxed()
}

fn losses(legs: usize) -> impl Strategy<Value = Vec<Loss>> {
    let loss = (0..legs, 0..3_usize, 0..400_usize, 0..4_usize, 1..6_usize, any::<bool>());
    prop::collection::vec(loss, 0..12).prop_map(move |losses| {
        let each = |(leg, track, unit, packet, count, everywhere): (usize, usize, usize, usize, usize, bool)| {
            let legs = if everywhere { 0..legs } else { leg..leg + 1 };
            legs.map(move |leg| Loss { leg, track, unit, packet, count })
        };
        losses.into_iter().flat_map(each).collect()
    })
}

/// The losses that the source has tracks and units for.
fn within(source: &Source, losses: Vec<Loss>) -> Vec<Loss> {
    let fits = |loss: &Loss| source.tracks.get(loss.track).is_some_and(|track| loss.unit < track.units.len());
    losses.into_iter().filter(fits).collect()
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn handovers_between_relays_of_one_source_lose_nothing_and_pause_no_longer_than_the_skew(
        config in source_config(Duration::from_secs(14)),
        legs in legs(2..=6, Just(Spaces::Same).boxed()),
        close_after in 0..300_u64,
    ) {
        let source = Source::new(config);
        let run = run(&source, &legs, &[], StitchConfig::default(), ms(close_after));
        check(&source, &run, true);
        prop_assert_eq!(run.counters.handovers, legs.len() as u64 - 1);
        prop_assert_eq!(run.counters.unproven_handovers, 0);
        prop_assert_eq!(run.discontinuities().count(), 0);
        let skew = ms(legs.windows(2).map(|pair| pair[1].delay.abs_diff(pair[0].delay)).max().unwrap_or_default().as_millis() as u64);
        for (track, config) in source.tracks.iter().enumerate() {
            let times: Vec<Duration> = run.units(track).map(|(at, _)| at).collect();
            // The first unmarked packets wait for the next one's timestamp.
            let pause = times.windows(2).skip(6).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
            let most = skew + config.kind.interval() * 2 + model::worker::SPREAD;
            prop_assert!(pause <= most, "track {} paused {:?}, at most {:?}", track, pause, most);
        }
    }

    #[test]
    fn what_any_leg_brought_whole_comes_out_and_what_none_brought_is_announced_to_the_packet(
        config in source_config(Duration::from_secs(14)),
        legs in legs(2..=5, Just(Spaces::Same).boxed()),
        losses in losses(5),
        close_after in 0..600_u64,
    ) {
        let source = Source::new(config);
        let losses = within(&source, losses);
        let run = run(&source, &legs, &losses, StitchConfig::default(), ms(close_after));
        check(&source, &run, true);
        prop_assert_eq!(run.counters.unproven_handovers, 0);
    }

    #[test]
    fn legs_in_other_spaces_and_packetisations_are_joined_by_content(
        config in source_config(Duration::from_secs(14)),
        legs in legs(2..=5, other_spaces()),
        close_after in 0..600_u64,
    ) {
        let source = Source::new(config);
        let run = run(&source, &legs, &[], StitchConfig::default(), ms(close_after));
        check(&source, &run, true);
        prop_assert_eq!(run.counters.handovers, legs.len() as u64 - 1);
        prop_assert_eq!(run.counters.unproven_handovers, 0);
        prop_assert_eq!(run.discontinuities().count(), 0);
    }

    #[test]
    fn losses_on_legs_in_other_spaces_are_filled_or_announced(
        config in source_config(Duration::from_secs(14)),
        legs in legs(2..=5, other_spaces()),
        losses in losses(5),
        close_after in 0..600_u64,
    ) {
        let source = Source::new(config);
        let losses = within(&source, losses);
        let run = run(&source, &legs, &losses, StitchConfig::default(), ms(close_after));
        check(&source, &run, false);
    }
}
