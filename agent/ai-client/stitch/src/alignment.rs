//! Where a leg stands in the output, found from what both have in common.
//!
//! Two relays of one source pass sequence numbers and timestamps through unchanged, so one unit equal in number, time
//! and content is proof. Where the spaces differ (a camera pulled twice, a relay that splits packets), a run of equal
//! content hashes with equal spacing in time is, if it admits one offset only. A still scene repeats pictures byte for
//! byte, alone or in a cycle (`frame_num` wraps), and the place where the leg really is may not be in the output yet. So
//! only units whose content came once count for an offset; all count against it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::Duration;

/// A whole unit of a leg or of the output, as far as alignment looks at it. Lists are in decode order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) time: i64,
    pub(crate) first_seq: i64,
    pub(crate) last_seq: i64,
    pub(crate) len: usize,
    /// `None` for output whose content is no longer kept.
    pub(crate) hash: Option<u64>,
    /// Nothing is missing between the mark before and this one.
    pub(crate) joined: bool,
    pub(crate) received: Duration,
}

/// What to add to a leg's values to get output space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offsets {
    pub(crate) time: i64,
    pub(crate) seq: i64,
    /// `seq` was the same for every unit compared: the leg has the packets of the output.
    pub(crate) seq_steady: bool,
}

impl Offsets {
    /// The leg's space is output space.
    pub(crate) const SAME: Self = Self { time: 0, seq: 0, seq_steady: true };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Search {
    Proven(Offsets),
    /// One offset fits, and too little speaks for it to stop looking while there is time.
    Likely(Offsets),
    /// Several offsets fit, or one for which too little speaks.
    Open,
    /// Nothing in common.
    Nothing,
}

/// Payload bytes of content that came once, which cannot be equal by accident.
const TELLING_BYTES: usize = 1000;

/// Looks for the offset between `leg` and `output`. Units received more than `max_skew` apart are never the same.
pub(crate) fn search(output: &[Mark], leg: &[Mark], max_skew: Duration, min_run: usize) -> Search {
    let near = |ours: &Mark, theirs: &Mark| ours.received.abs_diff(theirs.received) <= max_skew;
    if same_packets(output, leg, near) {
        return Search::Proven(Offsets::SAME);
    }
    let candidates = candidates(output, leg, near);
    // Relays keep timestamps, so the offset 0 is the likely one, and never fits by accident.
    if let Some(same) = candidates.get(&0)
        && !same.refuted
        && same.run >= min_run
    {
        return Search::Proven(same.offsets(0));
    }
    let fits = |(_, candidate): &(&i64, &Candidate)| !candidate.refuted;
    let mut told = candidates.iter().filter(fits).filter(|(_, candidate)| candidate.telling > 0);
    match (told.next(), told.next()) {
        (Some((time, only)), None) if only.telling >= min_run => Search::Proven(only.offsets(*time)),
        (Some((time, only)), None) if only.bytes >= TELLING_BYTES && (only.telling > 1 || only.to_the_end) => {
            Search::Likely(only.offsets(*time))
        }
        (None, _) if !candidates.iter().any(|candidate| fits(&candidate)) => Search::Nothing,
        _ => Search::Open,
    }
}

/// The same for a leg whose numbers are those of another one, with these offsets: one more relay of a camera that was
/// pulled anew. So it is placed also where its content says nothing, such as silence.
pub(crate) fn shares_numbers(output: &[Mark], leg: &[Mark], offsets: Offsets, max_skew: Duration) -> bool {
    let near = |ours: &Mark, theirs: &Mark| ours.received.abs_diff(theirs.received) <= max_skew;
    let shifted = leg.iter().map(|mark| Mark {
        time: mark.time + offsets.time,
        first_seq: mark.first_seq + offsets.seq,
        last_seq: mark.last_seq + offsets.seq,
        ..*mark
    });
    same_packets(output, &shifted.collect::<Vec<_>>(), near)
}

/// A unit with the same numbers, time, length and (where still kept) content.
fn same_packets(output: &[Mark], leg: &[Mark], near: impl Fn(&Mark, &Mark) -> bool) -> bool {
    // A clock that goes back gives one timestamp to two units.
    let named: HashMap<(i64, i64), &Mark> = output.iter().map(|mark| ((mark.time, mark.last_seq), mark)).collect();
    leg.iter().any(|ours| {
        named.get(&(ours.time, ours.last_seq)).is_some_and(|theirs| {
            near(ours, theirs)
                && (ours.first_seq, ours.len) == (theirs.first_seq, theirs.len)
                && (theirs.hash.is_none() || theirs.hash == ours.hash)
        })
    })
}

/// What speaks for and against one offset in time.
#[derive(Debug)]
struct Candidate {
    /// Equal units.
    run: usize,
    /// Those among them whose content came once in the output and once on the leg, and their bytes.
    telling: usize,
    bytes: usize,
    /// The last unit of the output is among them.
    to_the_end: bool,
    /// Units that should have been equal were not.
    refuted: bool,
    seq: i64,
    seq_steady: bool,
}

impl Candidate {
    fn offsets(&self, time: i64) -> Offsets {
        Offsets { time, seq: self.seq, seq_steady: self.seq_steady }
    }
}

/// Where each content stands in the output, and how often on the leg.
struct Seen {
    output: HashMap<u64, Vec<usize>>,
    leg: HashMap<u64, usize>,
}

impl Seen {
    fn telling(&self, hash: u64) -> bool {
        self.output.get(&hash).is_some_and(|places| places.len() == 1) && self.leg.get(&hash) == Some(&1)
    }
}

fn candidates(output: &[Mark], leg: &[Mark], near: impl Fn(&Mark, &Mark) -> bool) -> HashMap<i64, Candidate> {
    let mut seen = Seen { output: HashMap::new(), leg: HashMap::new() };
    for (at, hash) in output.iter().enumerate().filter_map(|(at, mark)| Some((at, mark.hash?))) {
        seen.output.entry(hash).or_default().push(at);
    }
    for hash in leg.iter().filter_map(|mark| mark.hash) {
        *seen.leg.entry(hash).or_default() += 1;
    }
    let mut candidates = HashMap::new();
    for (ours_at, ours) in leg.iter().enumerate() {
        let equals = ours.hash.and_then(|hash| seen.output.get(&hash)).map_or(&[][..], Vec::as_slice);
        for theirs_at in equals {
            if near(ours, &output[*theirs_at]) {
                follow_run((output, *theirs_at), (leg, ours_at), &seen, &mut candidates);
            }
        }
    }
    candidates
}

/// From the first of a run of equal units, follows it to its end, and notes whether something contradicts it there.
fn follow_run(
    (output, theirs): (&[Mark], usize),
    (leg, ours): (&[Mark], usize),
    seen: &Seen,
    candidates: &mut HashMap<i64, Candidate>,
) {
    let time = output[theirs].time - leg[ours].time;
    // Both lists go on without a gap to these, so they are the same unit, or the offset is wrong.
    let comparable = |theirs: usize, ours: usize| output[theirs].joined && leg[ours].joined;
    let equal = |theirs: usize, ours: usize| {
        let (theirs, ours) = (&output[theirs], &leg[ours]);
        theirs.hash.is_none() || theirs.hash == ours.hash && theirs.time - ours.time == time
    };
    let mut refuted = false;
    if theirs > 0 && ours > 0 && comparable(theirs, ours) {
        if output[theirs - 1].hash.is_some() && equal(theirs - 1, ours - 1) {
            return; // in the middle of a run that was followed from its beginning
        }
        refuted = !equal(theirs - 1, ours - 1);
    }
    let (mut theirs, mut ours) = (theirs, ours);
    loop {
        let (output_unit, leg_unit) = (&output[theirs], &leg[ours]);
        let seq = output_unit.last_seq.wrapping_sub(leg_unit.last_seq);
        let same_count = output_unit.last_seq - output_unit.first_seq == leg_unit.last_seq - leg_unit.first_seq;
        let candidate = match candidates.entry(time) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Candidate {
                run: 0,
                telling: 0,
                bytes: 0,
                to_the_end: false,
                refuted: false,
                seq,
                seq_steady: true,
            }),
        };
        candidate.run += 1;
        if leg_unit.hash.is_some_and(|hash| seen.telling(hash)) {
            candidate.telling += 1;
            candidate.bytes += leg_unit.len;
        }
        candidate.to_the_end |= theirs + 1 == output.len();
        candidate.seq_steady &= same_count && candidate.seq == seq;
        candidate.seq = seq;
        (theirs, ours) = (theirs + 1, ours + 1);
        if theirs == output.len() || ours == leg.len() || !comparable(theirs, ours) {
            candidate.refuted |= refuted;
            return;
        }
        if !equal(theirs, ours) {
            candidate.refuted = true;
            return;
        }
        if output[theirs].hash.is_none() {
            candidate.refuted |= refuted;
            return;
        }
    }
}

#[cfg(test)]
mod tests;
