//! The files of a recording: one for each segment, named `START_STREAM_NUMBER`, START in microseconds since 1970.
//!
//! ```text
//! header as a line of JSON, then of each access unit: PTS in ticks (8 bytes), 1 for a keyframe (1), size (4), and its NAL
//! units behind their lengths of 4 bytes
//! ```
//! A file that was cut short by a crash has the access units that came whole.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::access_units::AccessUnit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// When its first access unit came, since 1970.
    pub(super) start: Duration,
    /// Of those with one id, each goes on from the one with the number before.
    pub(super) stream: Uuid,
    pub(super) number: u32,
}

impl Segment {
    fn name(&self) -> String {
        format!("{}_{}_{}", self.start.as_micros(), self.stream.simple(), self.number)
    }

    fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.split('_');
        let start = Duration::from_micros(parts.next()?.parse().ok()?);
        Some(Self { start, stream: parts.next()?.parse().ok()?, number: parts.next()?.parse().ok()? })
    }

    pub(super) fn goes_on_from(&self, before: &Self) -> bool {
        self.stream == before.stream && self.number == before.number + 1
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) is_h265: bool,
    pub(super) clock_rate: u32,
    pub(super) parameters: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) pts: i64,
    pub(super) keyframe: bool,
    /// NAL units behind their lengths, as MP4 has them.
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Writer {
    file: File,
}

impl Writer {
    pub(super) fn create(folder: &Path, segment: &Segment, header: &Header) -> anyhow::Result<Self> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let mut file = File::create(folder.join(segment.name()))?;
        let mut line = serde_json::to_vec(header)?;
        line.push(b'\n');
        file.write_all(&line)?;
        Ok(Self { file })
    }

    /// One write for all of them.
    pub(super) fn append(&mut self, units: impl Iterator<Item = (i64, AccessUnit)>) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        for (pts, unit) in units {
            let size: usize = unit.nals.iter().map(|nal| 4 + nal.len()).sum();
            bytes.extend_from_slice(&pts.to_be_bytes());
            bytes.push(u8::from(unit.keyframe));
            bytes.extend_from_slice(&u32::try_from(size)?.to_be_bytes());
            for nal in &unit.nals {
                bytes.extend_from_slice(&u32::try_from(nal.len())?.to_be_bytes());
                bytes.extend_from_slice(nal);
            }
        }
        Ok(self.file.write_all(&bytes)?)
    }
}

/// Oldest first; none where there is no folder.
pub(super) fn segments(folder: &Path) -> Vec<Segment> {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut found: Vec<Segment> = names.filter_map(|name| Segment::of_name(name.to_str()?)).collect();
    found.sort_by_key(|segment| (segment.start, segment.number));
    found
}

pub(super) fn delete_older(folder: &Path, than: Duration) {
    for segment in segments(folder).iter().filter(|segment| segment.start < than) {
        let _ = fs::remove_file(folder.join(segment.name()));
    }
}

pub(super) fn read(folder: &Path, segment: &Segment) -> anyhow::Result<(Header, Vec<Sample>)> {
    let bytes = fs::read(folder.join(segment.name()))?;
    let line = bytes.iter().position(|byte| *byte == b'\n').context("no header")?;
    let header = serde_json::from_slice(&bytes[..line])?;
    let mut samples = Vec::new();
    let mut rest = &bytes[line + 1..];
    while let Some((sample, after)) = sample(rest) {
        samples.push(sample);
        rest = after;
    }
    Ok((header, samples))
}

fn sample(bytes: &[u8]) -> Option<(Sample, &[u8])> {
    let (pts, rest) = bytes.split_first_chunk()?;
    let (keyframe, rest) = rest.split_first()?;
    let (size, rest) = rest.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
    Some((Sample { pts: i64::from_be_bytes(*pts), keyframe: *keyframe == 1, data: data.to_vec() }, rest))
}
