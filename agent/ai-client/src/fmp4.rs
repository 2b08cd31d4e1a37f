//! Fragmented MP4, as MediaMTX's playback server sends it (ISO/IEC 14496-12 and -15), read piece by piece. Pure.
//!
//! Every byte comes from the network: sizes are bounded, and what does not fit is an error, never a panic. A file that
//! ends in the middle of a fragment has the samples that came whole.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes, BytesMut};
use mp4_atom::{Atom as _, Codec as SampleEntry, DecodeMaybe as _, FourCC, Header, Moof, Moov, Trak};
use mtxfleet_stitch::Codec;

/// A box larger than this is refused; MediaMTX writes a fragment a second.
const LARGEST_BOX: usize = 64 << 20;

/// Samples in one run; a fragment of a second has some hundred at most.
const MOST_SAMPLES: usize = 100_000;

const NON_SYNC: u32 = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Fmp4Error {
    #[error("it is no MP4 that can be read: {0}")]
    Malformed(#[from] mp4_atom::Error),
    #[error("a box of {0} bytes is larger than any recording's")]
    TooLarge(usize),
    #[error("it begins without a description of its tracks")]
    NoTracks,
    #[error("a fragment points outside its data")]
    Outside,
}

/// One access unit of the first video track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Decode time in ticks of the track's clock, from the start that was asked for.
    pub dts: i64,
    /// Presentation time, on the same line.
    pub pts: i64,
    /// Ticks until the next one. MediaMTX gives 0 to what it sends only so that decoding can begin, whose times say
    /// nothing.
    pub duration: u32,
    pub keyframe: bool,
    /// NAL units, without their lengths.
    pub nals: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct VideoTrack {
    id: u32,
    pub codec: Codec,
    pub timescale: u32,
    /// Bytes of a NAL unit's length, 1 to 4.
    length_size: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Parser {
    buffer: BytesMut,
    video: Option<VideoTrack>,
    described: bool,
    /// The fragment whose data comes next, and the size of its `moof` with header.
    fragment: Option<(Moof, usize)>,
    samples: VecDeque<Sample>,
}

impl Parser {
    /// Takes the next piece.
    ///
    /// # Errors
    /// What follows cannot be understood any more; samples given before are good.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<(), Fmp4Error> {
        self.buffer.extend_from_slice(piece);
        while let Some((kind, header_len, body)) = self.next_box()? {
            match kind {
                Moov::KIND => {
                    let moov = Moov::decode_body(&mut &body[..])?;
                    self.video = moov.trak.iter().find_map(video_track);
                    self.described = true;
                }
                Moof::KIND => {
                    let size = header_len + body.len();
                    self.fragment = Some((Moof::decode_body(&mut &body[..])?, size));
                }
                kind if kind == FourCC::new(b"mdat") => {
                    if !self.described {
                        return Err(Fmp4Error::NoTracks);
                    }
                    if let Some((moof, size)) = self.fragment.take() {
                        self.fragment_samples(&moof, size + header_len, &body)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The next access unit of the video track.
    pub(crate) fn next(&mut self) -> Option<Sample> {
        self.samples.pop_front()
    }

    /// The first video track that is H.264 or H.265, once the description was read.
    pub(crate) const fn video(&self) -> Option<VideoTrack> {
        self.video
    }

    /// The description was read: what [`Parser::video`] says is final.
    pub(crate) const fn is_described(&self) -> bool {
        self.described
    }

    /// A whole box: its kind, the length of its header, its body.
    fn next_box(&mut self) -> Result<Option<(FourCC, usize, Bytes)>, Fmp4Error> {
        let mut ahead = &self.buffer[..];
        let Some(header) = Header::decode_maybe(&mut ahead)? else { return Ok(None) };
        let header_len = self.buffer.len() - ahead.len();
        // To the end of the file: never so in a stream of fragments.
        let size = header.size.ok_or(Fmp4Error::TooLarge(usize::MAX))?;
        if size > LARGEST_BOX {
            return Err(Fmp4Error::TooLarge(size));
        }
        if ahead.len() < size {
            return Ok(None);
        }
        self.buffer.advance(header_len);
        Ok(Some((header.kind, header_len, self.buffer.split_to(size).freeze())))
    }

    /// `before` is what lies between the begin of the `moof` and the data.
    fn fragment_samples(&mut self, moof: &Moof, before: usize, data: &Bytes) -> Result<(), Fmp4Error> {
        let Some(video) = self.video else { return Ok(()) };
        for traf in moof.traf.iter().filter(|traf| traf.tfhd.track_id == video.id) {
            let base = traf.tfdt.as_ref().map_or(0, |tfdt| tfdt.base_media_decode_time);
            let mut dts = i64::try_from(base).map_err(|_| Fmp4Error::Outside)?;
            let mut at = 0;
            for run in &traf.trun {
                if let Some(offset) = run.data_offset {
                    let offset = usize::try_from(offset).ok();
                    at = offset.and_then(|offset| offset.checked_sub(before)).ok_or(Fmp4Error::Outside)?;
                }
                if run.samples.len() > MOST_SAMPLES {
                    return Err(Fmp4Error::Outside);
                }
                for entry in run.samples.iter() {
                    let size = entry.size.or(traf.tfhd.default_sample_size).unwrap_or(0) as usize;
                    let duration = entry.duration.or(traf.tfhd.default_sample_duration).unwrap_or(0);
                    let flags = entry.flags.or(traf.tfhd.default_sample_flags).unwrap_or(0);
                    let end = at.checked_add(size).filter(|end| *end <= data.len()).ok_or(Fmp4Error::Outside)?;
                    let nals = nal_units(data.slice(at..end), video.length_size)?;
                    let pts = dts.checked_add(entry.cts.unwrap_or(0)).ok_or(Fmp4Error::Outside)?;
                    let keyframe = flags & NON_SYNC == 0;
                    self.samples.push_back(Sample { dts, pts, duration, keyframe, nals });
                    at = end;
                    dts = dts.checked_add(i64::from(duration)).ok_or(Fmp4Error::Outside)?;
                }
            }
        }
        Ok(())
    }
}

fn video_track(trak: &Trak) -> Option<VideoTrack> {
    let found = trak.mdia.minf.stbl.stsd.codecs.iter().find_map(|entry| match entry {
        SampleEntry::Avc1(avc) => Some((Codec::H264, avc.avcc.length_size)),
        SampleEntry::Avc3(avc) => Some((Codec::H264, avc.avcc.length_size)),
        SampleEntry::Hev1(hevc) => Some((Codec::H265, hevc.hvcc.length_size_minus_one + 1)),
        SampleEntry::Hvc1(hevc) => Some((Codec::H265, hevc.hvcc.length_size_minus_one + 1)),
        _ => None,
    });
    let (codec, length_size) = found.filter(|(_, length)| (1..=4).contains(length))?;
    let timescale = trak.mdia.mdhd.timescale.max(1);
    Some(VideoTrack { id: trak.tkhd.track_id, codec, timescale, length_size: usize::from(length_size) })
}

/// ISO/IEC 14496-15: each NAL unit behind its length. Empty ones are left out.
fn nal_units(mut sample: Bytes, length_size: usize) -> Result<Vec<Bytes>, Fmp4Error> {
    let mut nals = Vec::new();
    while !sample.is_empty() {
        if sample.len() < length_size {
            return Err(Fmp4Error::Outside);
        }
        let length = sample.split_to(length_size).iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        if length > sample.len() {
            return Err(Fmp4Error::Outside);
        }
        let nal = sample.split_to(length);
        if !nal.is_empty() {
            nals.push(nal);
        }
    }
    Ok(nals)
}

#[cfg(test)]
mod tests;
