//! A path's rolling recording: what a crash of anything but this server's disk leaves.
//!
//! ```text
//!  RTP of the first H.264 or H.265 track -> access_units -> parts -> a file for each segment -> playback: /list, /get
//! ```
//!
//! As MediaMTX 1.20.1 does it (`internal/recorder`, `internal/playback`): it begins at a keyframe, each keyframe carries
//! its parameter sets, a part reaches the disk once it is complete, and one that is not dies with the process. The files
//! are of a form of their own, since nobody but the stand-in reads them, and hold video only.

mod access_units;
mod file;
mod mp4;
pub(super) mod playback;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::Uuid;

use super::media::{Codec, Track};
use access_units::{AccessUnit, AccessUnits, ParameterSets};
use file::{Header, Segment, Writer};

/// Access units of a part that are kept at most, whatever their times say.
const PART_UNITS: usize = 1_000;

/// `record...` of `mediamtx.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settings {
    /// The folder of `recordPath`, with `%path` in it.
    pub(super) folder: String,
    pub(super) part: Duration,
    pub(super) segment: Duration,
    pub(super) delete_after: Duration,
}

impl Settings {
    /// `None` for a name that would lead out of the folder.
    pub(super) fn folder_of(&self, path: &str) -> Option<PathBuf> {
        let leads_out = path.split('/').any(|part| matches!(part, "" | "." | ".."));
        (!leads_out).then(|| PathBuf::from(self.folder.replace("%path", path)))
    }
}

/// Records one stream until it is dropped.
#[derive(Debug)]
pub(super) struct Recorder {
    settings: Settings,
    folder: PathBuf,
    /// Which of the stream's tracks.
    pub(super) track: usize,
    clock_rate: u32,
    units: AccessUnits,
    parameters: ParameterSets,
    /// Its segments belong together.
    stream: Uuid,
    segments: u32,
    clock: Unwrapped,
    part: Vec<Recorded>,
    open: Option<(Writer, i64)>,
    failed: bool,
}

#[derive(Debug)]
struct Recorded {
    unit: AccessUnit,
    /// In ticks since the stream's first.
    pts: i64,
    arrived: SystemTime,
}

/// RTP timestamps without the wrap at 32 bits.
#[derive(Debug, Default)]
struct Unwrapped {
    last: Option<(u32, i64)>,
}

impl Unwrapped {
    fn at(&mut self, timestamp: u32) -> i64 {
        let time = self.last.map_or(0, |(last, time)| time + i64::from(timestamp.wrapping_sub(last) as i32));
        self.last = Some((timestamp, time));
        time
    }
}

impl Recorder {
    /// `None` where nothing of the stream can be recorded.
    pub(super) fn new(settings: &Settings, path: &str, tracks: &[Track]) -> Option<Self> {
        let track = tracks.iter().position(|track| matches!(track.codec, Codec::H264 | Codec::H265))?;
        let of_track = &tracks[track];
        Some(Self {
            folder: settings.folder_of(path)?,
            settings: settings.clone(),
            track,
            clock_rate: of_track.clock_rate,
            units: AccessUnits::new(of_track.codec == Codec::H265),
            parameters: ParameterSets::of_sdp(of_track),
            stream: Uuid::new_v4(),
            segments: 0,
            clock: Unwrapped::default(),
            part: Vec::new(),
            open: None,
            failed: false,
        })
    }

    /// Takes the next packet's payload.
    pub(super) fn write(&mut self, timestamp: u32, marker: bool, payload: &[u8]) {
        if self.failed {
            return;
        }
        let Some(mut unit) = self.units.push(timestamp, marker, payload) else { return };
        self.parameters.take_from(&mut unit, self.units.is_h265);
        if unit.nals.is_empty() {
            return;
        }
        if unit.keyframe {
            self.parameters.put_before(&mut unit);
        } else if self.open.is_none() && self.part.is_empty() {
            return;
        }
        let pts = self.clock.at(unit.timestamp);
        if let Err(error) = self.add(Recorded { unit, pts, arrived: SystemTime::now() }) {
            // As the real one: reading goes on.
            tracing::error!("recording into {}: {error:#}", self.folder.display());
            self.failed = true;
        }
    }

    fn add(&mut self, new: Recorded) -> anyhow::Result<()> {
        let passed = |since: i64| ticks_to_duration(new.pts - since, self.clock_rate);
        let segment_over = self.open.as_ref().is_some_and(|(_, began)| passed(*began) >= self.settings.segment);
        let part_over = self.part.first().is_some_and(|first| passed(first.pts) >= self.settings.part);
        let ends_segment = segment_over && new.unit.keyframe;
        if part_over || ends_segment || self.part.len() >= PART_UNITS {
            self.flush()?;
        }
        if ends_segment {
            self.open = None;
        }
        self.part.push(new);
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        let Some(first) = self.part.first() else { return Ok(()) };
        if self.open.is_none() {
            let start = first.arrived.duration_since(UNIX_EPOCH).unwrap_or_default();
            let segment = Segment { start, stream: self.stream, number: self.segments };
            self.segments += 1;
            let header = Header {
                is_h265: self.units.is_h265,
                clock_rate: self.clock_rate,
                parameters: self.parameters.all().to_vec(),
            };
            file::delete_older(&self.folder, start.saturating_sub(self.settings.delete_after));
            self.open = Some((Writer::create(&self.folder, &segment, &header)?, first.pts));
        }
        if let Some((writer, _)) = &mut self.open {
            writer.append(self.part.drain(..).map(|recorded| (recorded.pts, recorded.unit)))?;
        }
        Ok(())
    }
}

/// The end of a publisher is the end of its last part.
impl Drop for Recorder {
    fn drop(&mut self) {
        if !self.failed {
            let _ = self.flush();
        }
    }
}

fn ticks_to_duration(ticks: i64, clock_rate: u32) -> Duration {
    Duration::try_from_secs_f64(ticks as f64 / f64::from(clock_rate)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
