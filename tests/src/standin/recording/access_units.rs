//! From RTP payloads to access units (RFC 6184, RFC 7798), and what of them a recording keeps.

use base64::Engine;

use super::super::media::{Codec, Track, aggregated};

/// Larger ones are no video of a camera.
const LARGEST_UNIT: usize = 16 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AccessUnit {
    pub(super) timestamp: u32,
    pub(super) keyframe: bool,
    pub(super) nals: Vec<Vec<u8>>,
}

/// Puts packets together. Those of a publisher over TCP come in order and none is missing.
#[derive(Debug)]
pub(super) struct AccessUnits {
    pub(super) is_h265: bool,
    timestamp: u32,
    nals: Vec<Vec<u8>>,
    bytes: usize,
    /// The last one of `nals` is not complete.
    in_fragment: bool,
}

impl AccessUnits {
    pub(super) fn new(is_h265: bool) -> Self {
        Self { is_h265, timestamp: 0, nals: Vec::new(), bytes: 0, in_fragment: false }
    }

    /// The access unit that this packet ends, if it does.
    pub(super) fn push(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Option<AccessUnit> {
        // Some cameras mark no end; a packet of another time then begins the next.
        let before = (timestamp != self.timestamp).then(|| self.take()).flatten();
        self.timestamp = timestamp;
        self.bytes += payload.len();
        if self.bytes > LARGEST_UNIT {
            self.nals.clear();
            self.in_fragment = false;
        } else if self.is_h265 {
            self.unpack_h265(payload);
        } else {
            self.unpack_h264(payload);
        }
        before.or_else(|| marker.then(|| self.take()).flatten())
    }

    fn take(&mut self) -> Option<AccessUnit> {
        let nals = std::mem::take(&mut self.nals);
        (self.bytes, self.in_fragment) = (0, false);
        let keyframe = nals.iter().any(|nal| match self.is_h265 {
            true => matches!(h265_kind(nal), 16..=21),
            false => h264_kind(nal) == 5,
        });
        (!nals.is_empty()).then_some(AccessUnit { timestamp: self.timestamp, keyframe, nals })
    }

    fn unpack_h264(&mut self, payload: &[u8]) {
        match payload {
            [header, nals @ ..] if header & 0x1f == 24 => self.nals.extend(aggregated(nals).map(<[u8]>::to_vec)),
            [header, fu, rest @ ..] if header & 0x1f == 28 => {
                self.fragment(fu & 0x80 != 0, &[header & 0xe0 | fu & 0x1f], rest);
            }
            [header, ..] if (1..24).contains(&(header & 0x1f)) => self.nals.push(payload.to_vec()),
            _ => {}
        }
    }

    fn unpack_h265(&mut self, payload: &[u8]) {
        match payload {
            [header, _, nals @ ..] if (header >> 1) & 0x3f == 48 => {
                self.nals.extend(aggregated(nals).map(<[u8]>::to_vec));
            }
            [header, layer, fu, rest @ ..] if (header >> 1) & 0x3f == 49 => {
                self.fragment(fu & 0x80 != 0, &[header & 0x81 | (fu & 0x3f) << 1, *layer], rest);
            }
            [header, _, ..] if (header >> 1) & 0x3f < 48 => self.nals.push(payload.to_vec()),
            _ => {}
        }
    }

    fn fragment(&mut self, begins: bool, header: &[u8], rest: &[u8]) {
        if begins {
            self.nals.push(header.to_vec());
            self.in_fragment = true;
        }
        if let Some(nal) = self.nals.last_mut().filter(|_| self.in_fragment) {
            nal.extend_from_slice(rest);
        }
    }
}

/// What a decoder needs before a keyframe: SPS and PPS, for H.265 with a VPS before them. From the SDP, then from the stream.
#[derive(Debug, Default)]
pub(super) struct ParameterSets {
    sets: Vec<Vec<u8>>,
}

impl ParameterSets {
    pub(super) fn of_sdp(track: &Track) -> Self {
        let names: &[&str] = match track.codec {
            Codec::H265 => &["sprop-vps", "sprop-sps", "sprop-pps"],
            _ => &["sprop-parameter-sets"],
        };
        let encoded = names.iter().filter_map(|name| track.format_parameter(name));
        let sets = encoded.flat_map(|sets| sets.split(',').map(str::to_owned).collect::<Vec<_>>());
        let decode = |set: String| base64::engine::general_purpose::STANDARD.decode(set).ok();
        Self { sets: sets.filter_map(decode).filter(|set| !set.is_empty()).collect() }
    }

    pub(super) fn all(&self) -> &[Vec<u8>] {
        &self.sets
    }

    /// Takes them out of an access unit, and delimiters with them.
    pub(super) fn take_from(&mut self, unit: &mut AccessUnit, is_h265: bool) {
        let kind = |nal: &[u8]| if is_h265 { h265_kind(nal) } else { h264_kind(nal) };
        let (sets, delimiter) = if is_h265 { (32..=34, 35) } else { (7..=8, 9) };
        let (found, kept) = std::mem::take(&mut unit.nals).into_iter().partition(|nal| sets.contains(&kind(nal)));
        unit.nals = kept;
        unit.nals.retain(|nal| kind(nal) != delimiter);
        let found: Vec<Vec<u8>> = found;
        if !found.is_empty() {
            self.sets.retain(|known| !found.iter().any(|new| kind(new) == kind(known)));
            self.sets.extend(found);
            self.sets.sort_by_key(|set| kind(set));
        }
    }

    pub(super) fn put_before(&self, unit: &mut AccessUnit) {
        unit.nals.splice(0..0, self.sets.iter().cloned());
    }
}

pub(super) fn h264_kind(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1f)
}

pub(super) fn h265_kind(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| (header >> 1) & 0x3f)
}
