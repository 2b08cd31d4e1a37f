//! The camera: access units of several tracks, and their packets.

use std::time::Duration;

use bytes::Bytes;
use mtxfleet_stitch::{Codec, RtpPacket, TrackConfig};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One slice a picture.
    H264,
    /// As x264 writes it with sliced threads.
    H264Slices,
    H265,
    /// Marker on every packet, as AAC has.
    Audio,
    /// No marker at all, as G.711 and Opus have it.
    UnmarkedAudio,
    /// Pictures of several packets of which none says that it is the first, as the stitch sees MJPEG and metadata.
    Opaque,
}

impl Kind {
    pub fn codec(self) -> Codec {
        match self {
            Kind::H264 | Kind::H264Slices => Codec::H264,
            Kind::H265 => Codec::H265,
            Kind::Audio | Kind::UnmarkedAudio | Kind::Opaque => Codec::Other,
        }
    }

    fn is_sound(self) -> bool {
        matches!(self, Kind::Audio | Kind::UnmarkedAudio)
    }

    pub fn track(self) -> TrackConfig {
        TrackConfig { codec: self.codec(), clock_rate: self.clock_rate() }
    }

    fn clock_rate(self) -> u32 {
        if self.is_sound() { 48_000 } else { 90_000 }
    }

    pub fn interval(self) -> Duration {
        Duration::from_millis(if self.is_sound() { 20 } else { 40 })
    }
}

#[derive(Clone, Debug)]
pub struct SourceConfig {
    pub seed: u64,
    pub tracks: Vec<Kind>,
    pub length: Duration,
    /// First sequence number and timestamp of each track.
    pub first_sequence: u16,
    pub first_timestamp: u32,
    /// Decode order differs from display order: timestamps run backwards.
    pub b_frames: bool,
    /// Of a hundred pictures, how many are followed by up to eight exact repeats of them.
    pub stills_percent: u64,
    /// Keyframes come with access unit delimiter and parameter sets in one STAP-A, or with each in its own packet.
    pub aggregate: bool,
    /// Largest NAL unit, in bytes.
    pub max_nal: usize,
}

pub struct Source {
    pub config: SourceConfig,
    pub tracks: Vec<SourceTrack>,
}

pub struct SourceTrack {
    pub kind: Kind,
    pub units: Vec<SourceUnit>,
}

pub struct SourceUnit {
    /// Extended timestamp, in the camera's space.
    pub time: i64,
    /// When its first packet leaves the camera.
    pub sent: Duration,
    pub nals: Vec<Vec<u8>>,
    /// As the camera sent them.
    pub packets: Vec<RtpPacket>,
    /// Extended number of the first packet.
    pub first_seq: i64,
}

/// Payload bytes of the camera's packets.
pub const CAMERA_MTU: usize = 400;

pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15))
    }

    /// splitmix64.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

impl Source {
    pub fn new(config: SourceConfig) -> Self {
        let tracks = config
            .tracks
            .iter()
            .enumerate()
            .map(|(index, kind)| SourceTrack { kind: *kind, units: units(&config, *kind, index as u64) })
            .collect();
        Self { config, tracks }
    }

    pub fn track_configs(&self) -> Vec<TrackConfig> {
        self.tracks.iter().map(|track| track.kind.track()).collect()
    }
}

fn units(config: &SourceConfig, kind: Kind, track: u64) -> Vec<SourceUnit> {
    let mut random = Random::new(config.seed ^ (track << 56));
    let count = (config.length.as_millis() / kind.interval().as_millis()) as u64;
    let ticks = i64::from(kind.clock_rate()) * kind.interval().as_millis() as i64 / 1000;
    let mut seq = i64::from(config.first_sequence.wrapping_add(track as u16 * 7));
    let mut repeats = 0;
    let mut nals = Vec::new();
    let mut units = Vec::new();
    for index in 0..count {
        let video = kind.codec() != Codec::Other;
        let key = video && index % 25 == 0;
        repeats = if repeats > 0 { repeats - 1 } else { 0 };
        if key || repeats == 0 || nals.is_empty() {
            nals = picture(config, kind, key, &mut random);
            // Not of keyframes: their repeats would be keyframes.
            if !key && random.below(100) < config.stills_percent {
                repeats = 1 + random.below(8);
            }
        }
        // Each P is sent before the two B that it follows in time.
        let display = match (config.b_frames && video, index % 3) {
            (false, _) => index,
            (true, 0) => index + 2,
            (true, _) => index - 1,
        };
        let time = i64::from(config.first_timestamp) + display as i64 * ticks;
        let packets = packetise(kind, &nals, seq, time, CAMERA_MTU);
        let first_seq = seq;
        seq += packets.len() as i64;
        units.push(SourceUnit { time, sent: kind.interval() * index as u32, nals: nals.clone(), packets, first_seq });
    }
    units
}

fn picture(config: &SourceConfig, kind: Kind, key: bool, random: &mut Random) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    let mut slice = |header: &[u8], first: bool| {
        let length = 20 + random.below(config.max_nal as u64) as usize;
        let mut nal = header.to_vec();
        nal.extend(random.bytes(length));
        nal[header.len()] = (nal[header.len()] & 0x7f) | if first { 0x80 } else { 0 };
        nal
    };
    match kind {
        Kind::H264 | Kind::H264Slices => {
            if key {
                nals.extend([vec![9, 0xf0], vec![0x67, 1, 2, 3, 4], vec![0x68, 5, 6]]);
            }
            let header = [if key { 0x65 } else { 0x41 }];
            let slices = if kind == Kind::H264 { 1 } else { 3 };
            nals.extend((0..slices).map(|index| slice(&header, index == 0)));
        }
        Kind::H265 => {
            if key {
                nals.extend([vec![32 << 1, 1, 9], vec![33 << 1, 1, 8, 7], vec![34 << 1, 1, 6]]);
            }
            nals.push(slice(&[if key { 19 << 1 } else { 1 << 1 }, 1], true));
        }
        Kind::Opaque => {
            let length = 1 + random.below(config.max_nal as u64) as usize;
            nals.push(random.bytes(length));
        }
        Kind::Audio | Kind::UnmarkedAudio => {
            let length = 60 + random.below(100) as usize;
            nals.push(random.bytes(length));
        }
    }
    if !config.aggregate && key && kind.codec() != Codec::Other {
        // Without the delimiter, a unit that lost its first packet cannot be told from a whole one.
        nals.remove(0);
    }
    nals
}

/// RFC 6184 and RFC 7798: parameter sets in one aggregate when several stand together, larger NAL units in fragments.
pub fn packetise(kind: Kind, nals: &[Vec<u8>], first_seq: i64, time: i64, mtu: usize) -> Vec<RtpPacket> {
    let codec = kind.codec();
    let header = if codec == Codec::H264 { 1 } else { 2 };
    let is_small = |nal: &Vec<u8>| nal.len() < 10;
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    let small = nals.iter().take_while(|nal| is_small(nal)).count();
    let first_type = if codec == Codec::H264 { 9 } else { 32 << 1 };
    let delimited = nals.first().is_some_and(|nal| nal[0] == first_type);
    let aggregated = if codec != Codec::Other && small > 1 && delimited && mtu < 1000 { small } else { 0 };
    if aggregated > 0 {
        let mut payload = if codec == Codec::H264 { vec![24] } else { vec![48 << 1, 1] };
        for nal in &nals[..aggregated] {
            payload.extend((nal.len() as u16).to_be_bytes());
            payload.extend(nal);
        }
        payloads.push(payload);
    }
    for nal in &nals[aggregated..] {
        if kind == Kind::Opaque {
            payloads.extend(nal.chunks(mtu).map(<[u8]>::to_vec));
            continue;
        }
        if codec == Codec::Other || nal.len() <= mtu {
            payloads.push(nal.clone());
            continue;
        }
        let pieces: Vec<&[u8]> = nal[header..].chunks(mtu - 3).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let flags = if index == 0 { 0x80 } else { 0 } | if index + 1 == pieces.len() { 0x40 } else { 0 };
            let mut payload = match codec {
                Codec::H264 => vec![(nal[0] & 0xe0) | 28, flags | (nal[0] & 0x1f)],
                _ => vec![(nal[0] & 0x81) | (49 << 1), nal[1], flags | ((nal[0] >> 1) & 0x3f)],
            };
            payload.extend(*piece);
            payloads.push(payload);
        }
    }
    let count = payloads.len();
    payloads
        .into_iter()
        .enumerate()
        .map(|(index, payload)| RtpPacket {
            sequence: (first_seq + index as i64) as u16,
            timestamp: time as u32,
            marker: index + 1 == count && kind != Kind::UnmarkedAudio,
            payload: Bytes::from(payload),
        })
        .collect()
}
