//! Comparison by content: what a camera sent against what a reader got.
//!
//! Both sides are sequences of hashes of the coded pictures themselves, so nothing that a client counts or claims
//! takes part. The camera's sequence is what a plain reader recorded at the ingestion node from before the reader
//! under test began until after it ended.
//!
//! A still scene can repeat a picture byte for byte, so one equal hash is no proof of place: a repeated picture is
//! put where it follows its neighbours, see [`compare`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::plain_reader::{SeenFrame, VideoCodec, vcl_hash};

/// One access unit as a reader saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// [`vcl_hash`] of it.
    pub hash: u64,
    pub at: Instant,
}

impl From<SeenFrame> for Arrival {
    fn from(frame: SeenFrame) -> Self {
        Self { hash: frame.hash, at: frame.at }
    }
}

/// [`vcl_hash`] of an access unit in Annex B form (NAL units behind `00 00 01`), as the worker library hands it out.
/// `None` when it holds no slice.
#[must_use]
pub fn vcl_hash_annex_b(codec: VideoCodec, annex_b: &[u8]) -> Option<u64> {
    let mut length_prefixed = Vec::with_capacity(annex_b.len() + 16);
    for unit in annex_b_units(annex_b) {
        length_prefixed.extend_from_slice(&(unit.len() as u32).to_be_bytes());
        length_prefixed.extend_from_slice(unit);
    }
    vcl_hash(codec, &length_prefixed)
}

/// [`vcl_hash`] of each picture of an elementary stream in Annex B form, as ffmpeg writes it to a `.h264` or `.hevc`
/// file. A picture begins with the slice that is its first (H.264: `first_mb_in_slice` is 0; H.265:
/// `first_slice_segment_in_pic_flag`).
#[must_use]
pub fn vcl_hashes_annex_b(codec: VideoCodec, stream: &[u8]) -> Vec<u64> {
    let mut hashes = Vec::new();
    let mut picture: Vec<u8> = Vec::new();
    for unit in annex_b_units(stream) {
        let first = match codec {
            // An Exp-Golomb 0 is a single bit 1.
            VideoCodec::H264 => {
                matches!(unit, [header, slice, ..] if matches!(header & 0x1f, 1 | 5) && slice & 0x80 != 0)
            }
            VideoCodec::H265 => {
                matches!(unit, [header, _, slice, ..] if (header >> 1) & 0x3f <= 31 && slice & 0x80 != 0)
            }
        };
        if first {
            hashes.extend(vcl_hash(codec, &picture));
            picture.clear();
        }
        picture.extend_from_slice(&(unit.len() as u32).to_be_bytes());
        picture.extend_from_slice(unit);
    }
    hashes.extend(vcl_hash(codec, &picture));
    hashes
}

/// NAL units between start codes. A NAL unit never ends in a zero byte (H.264 section 7.4.1), so zeros before a start
/// code belong to that.
fn annex_b_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts: Vec<usize> = data.windows(3).enumerate().filter(|(_, w)| *w == [0, 0, 1]).map(|(at, _)| at).collect();
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([data.len()]).collect();
    starts.into_iter().zip(ends).filter_map(|(start, end)| {
        let unit = &data[start + 3..end];
        let length = unit.iter().rposition(|byte| *byte != 0)? + 1;
        Some(&unit[..length])
    })
}

/// What became of one camera's frames on their way to one reader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Comparison {
    /// Frames of the camera from the reader's first one until reading ended.
    pub sent: u64,
    /// Frames that the reader got, repeats included.
    pub received: u64,
    /// Of `sent`, those that never came.
    pub lost: u64,
    /// Frames that came again after they had come once.
    pub duplicated: u64,
    /// Frames that came after a later one, for the first time.
    pub out_of_order: u64,
    /// Frames that the camera never sent: damaged on the way, or cut in half.
    pub foreign: u64,
    /// Longest time between two frames at the reader.
    pub longest_pause_ms: u64,
    /// Longest time between two frames at the ingestion node meanwhile: the camera's own stutter.
    pub camera_pause_ms: u64,
    /// The camera's mean time between two frames.
    pub frame_interval_ms: u64,
    /// How much later than usual a frame came at most, measured against the same frame at the ingestion node: what
    /// the way added, without the camera's own stutter.
    pub longest_delay_ms: u64,
}

impl Comparison {
    /// Every frame once, in order, and nothing else.
    #[must_use]
    pub const fn is_perfect(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.out_of_order == 0 && self.foreign == 0 && self.received > 0
    }
}

/// Why two sequences say nothing about each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotCompare {
    #[error("the recording at the ingestion node holds {0} frames, too few to compare with")]
    NoTruth(usize),
    #[error("the reader got no frame at all")]
    NothingReceived,
    #[error("none of the {0} frames that the reader got was recorded at the ingestion node")]
    NothingInCommon(usize),
    #[error(
        "{repeated} of {frames} pictures of the camera are repeats of another, too many to tell frames apart; \
         give it a livelier scene"
    )]
    TooMuchAlike { repeated: usize, frames: usize },
}

/// A share of repeated pictures above this makes places guesswork: one in this many.
const REPEATS_AT_MOST_ONE_IN: usize = 10;

/// How long a frame may be on its way to the reader when reading ends: frames that the camera sent after
/// `ended` less this are not missed. Generous: a handover may hold the last frames back for the skew of two legs.
const IN_FLIGHT: Duration = Duration::from_secs(1);

/// Holds what a reader got against what its camera sent.
///
/// `truth` must begin before the reader does and go on until after it ended; `ended` is when reading was stopped (not
/// when the last frame came, or a reader that was cut off would have lost nothing).
///
/// # Errors
/// [`CannotCompare`] when the sequences do not allow any statement.
pub fn compare(truth: &[Arrival], reader: &[Arrival], ended: Instant) -> Result<Comparison, CannotCompare> {
    if truth.len() < 2 {
        return Err(CannotCompare::NoTruth(truth.len()));
    }
    if reader.is_empty() {
        return Err(CannotCompare::NothingReceived);
    }
    let places = Places::of(truth)?;
    let assigned = places.assign(reader);
    let Some(first) = assigned.iter().flatten().min().copied() else {
        return Err(CannotCompare::NothingInCommon(reader.len()));
    };
    let last_received = assigned.iter().flatten().max().copied().unwrap_or(first);
    let owed = truth.iter().take_while(|frame| frame.at + IN_FLIGHT <= ended).count();
    let end = (last_received + 1).max(owed);

    let mut comparison = Comparison {
        sent: (end - first) as u64,
        received: reader.len() as u64,
        longest_pause_ms: longest_pause(reader, ended),
        camera_pause_ms: longest_pause(&truth[first..end], truth[end - 1].at),
        frame_interval_ms: mean_interval(truth),
        ..Comparison::default()
    };
    comparison.longest_delay_ms = longest_delay(truth, reader, &assigned);
    let mut came = vec![false; truth.len()];
    let mut furthest = None;
    for place in assigned {
        let Some(place) = place else {
            comparison.foreign += 1;
            continue;
        };
        if came[place] {
            comparison.duplicated += 1;
        } else if furthest.is_some_and(|furthest| place < furthest) {
            comparison.out_of_order += 1;
        }
        came[place] = true;
        furthest = furthest.max(Some(place));
    }
    comparison.lost = came[first..end].iter().filter(|came| !**came).count() as u64;
    Ok(comparison)
}

/// Where in the camera's sequence each content stands.
struct Places {
    by_hash: HashMap<u64, Vec<usize>>,
}

impl Places {
    fn of(truth: &[Arrival]) -> Result<Self, CannotCompare> {
        let mut by_hash: HashMap<u64, Vec<usize>> = HashMap::with_capacity(truth.len());
        for (place, frame) in truth.iter().enumerate() {
            by_hash.entry(frame.hash).or_default().push(place);
        }
        let repeated = truth.len() - by_hash.len();
        if repeated * REPEATS_AT_MOST_ONE_IN > truth.len() {
            return Err(CannotCompare::TooMuchAlike { repeated, frames: truth.len() });
        }
        Ok(Self { by_hash })
    }

    /// Gives each received frame its place; `None` for what the camera never sent.
    ///
    /// A picture that the camera sent once has one place. Of a repeated picture's places the one is taken that makes
    /// the frames beside it follow each other; when none does, the next one not used yet, and else it is a repeat of
    /// the last one used.
    fn assign(&self, reader: &[Arrival]) -> Vec<Option<usize>> {
        let certain = |index: usize| -> Option<usize> {
            let places = self.by_hash.get(&reader.get(index)?.hash)?;
            (places.len() == 1).then(|| places[0])
        };
        let mut assigned = Vec::with_capacity(reader.len());
        let mut previous: Option<usize> = None;
        for (index, frame) in reader.iter().enumerate() {
            let Some(places) = self.by_hash.get(&frame.hash) else {
                assigned.push(None);
                continue;
            };
            let place = match places.as_slice() {
                [only] => *only,
                several => {
                    let after_previous = previous.map(|p| p + 1);
                    // The next frame with only one place, if it stands right behind, says where this one is.
                    let before_next = (index + 1..reader.len().min(index + 8))
                        .find_map(|later| certain(later).map(|place| (place, later - index)))
                        .and_then(|(place, distance)| place.checked_sub(distance));
                    [after_previous, before_next]
                        .into_iter()
                        .flatten()
                        .find(|wanted| several.contains(wanted))
                        .or_else(|| several.iter().copied().find(|place| previous.is_none_or(|p| *place > p)))
                        .unwrap_or(several[several.len() - 1])
                }
            };
            previous = Some(place);
            assigned.push(Some(place));
        }
        assigned
    }
}

/// The pause that is still on when reading ends counts too.
fn longest_pause(frames: &[Arrival], ended: Instant) -> u64 {
    let between = frames.windows(2).map(|pair| pair[1].at.saturating_duration_since(pair[0].at));
    let last = frames.last().map(|frame| ended.saturating_duration_since(frame.at));
    between.chain(last).max().unwrap_or_default().as_millis() as u64
}

/// Over the median, since clocks of reader and recording may differ by what either needs to read a frame.
fn longest_delay(truth: &[Arrival], reader: &[Arrival], assigned: &[Option<usize>]) -> u64 {
    let placed = reader.iter().zip(assigned).filter_map(|(frame, place)| Some((frame.at, truth[(*place)?].at)));
    let mut delays: Vec<i128> = placed.map(|(here, there)| nanos_between(here, there)).collect();
    delays.sort_unstable();
    let over_median = delays.last().zip(delays.get(delays.len() / 2)).map_or(0, |(most, median)| most - median);
    (over_median / 1_000_000) as u64
}

/// `here` less `there`, which may be negative.
fn nanos_between(here: Instant, there: Instant) -> i128 {
    let later = here.saturating_duration_since(there).as_nanos() as i128;
    later - there.saturating_duration_since(here).as_nanos() as i128
}

fn mean_interval(frames: &[Arrival]) -> u64 {
    let span = frames[frames.len() - 1].at.saturating_duration_since(frames[0].at);
    (span.as_secs_f64() * 1000.0 / (frames.len() - 1) as f64).round() as u64
}

#[cfg(test)]
mod tests;
