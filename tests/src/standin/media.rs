//! Tracks, as SDP describes them (RFC 8866), and the little that has to be known of their RTP payloads.

use anyhow::{Context, ensure};
use sdp_types::Session;

/// Cameras have two to four.
const MAX_TRACKS: usize = 16;

/// One media of a stream.
#[derive(Debug, Clone)]
pub(super) struct Track {
    /// The `a=control` value of whoever sends it: part of the URL of its SETUP.
    pub(super) control: String,
    pub(super) codec: Codec,
    /// RTP clock, in Hz.
    pub(super) clock_rate: u32,
    media: sdp_types::Media,
}

impl Track {
    /// The value of one of the parameters in `a=fmtp`.
    pub(super) fn format_parameter(&self, name: &str) -> Option<String> {
        let (_, parameters) = self.media.get_first_attribute_value("fmtp").flatten()?.split_once(' ')?;
        let mut pairs = parameters.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

/// What a track is encoded with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Codec {
    H264,
    H265,
    /// Any other, by the name that the real server's API gives it.
    Other(String),
}

impl Codec {
    pub(super) fn name(&self) -> &str {
        match self {
            Codec::H264 => "H264",
            Codec::H265 => "H265",
            Codec::Other(name) => name,
        }
    }

    fn from_encoding(encoding: &str) -> Codec {
        match encoding.to_ascii_uppercase().as_str() {
            "H264" => Codec::H264,
            "H265" => Codec::H265,
            "MPEG4-GENERIC" => Codec::Other("MPEG-4 Audio".to_owned()),
            "MP4A-LATM" => Codec::Other("MPEG-4 Audio LATM".to_owned()),
            "OPUS" => Codec::Other("Opus".to_owned()),
            "PCMU" | "PCMA" => Codec::Other("G711".to_owned()),
            _ => Codec::Other("Generic".to_owned()),
        }
    }

    /// Whether decoding can begin with this RTP payload: parameter sets or the begin of a keyframe (RFC 6184, RFC
    /// 7798). Always, where every packet stands for itself.
    pub(super) fn starts_decoding(&self, payload: &[u8]) -> bool {
        match self {
            Codec::H264 => starts_h264(payload),
            Codec::H265 => starts_h265(payload),
            Codec::Other(_) => true,
        }
    }
}

fn starts_h264(payload: &[u8]) -> bool {
    let idr_or_sps = |kind: u8| matches!(kind, 5 | 7);
    match payload.first().map(|header| header & 0x1f) {
        Some(24) => aggregated(&payload[1..]).any(|nal| idr_or_sps(nal[0] & 0x1f)),
        Some(28) => payload.get(1).is_some_and(|fu| fu & 0x80 != 0 && fu & 0x1f == 5),
        Some(kind) => idr_or_sps(kind),
        None => false,
    }
}

fn starts_h265(payload: &[u8]) -> bool {
    let irap_or_parameters = |kind: u8| matches!(kind, 16..=21 | 32..=34);
    match payload.first().map(|header| (header >> 1) & 0x3f) {
        Some(48) => {
            payload.get(2..).is_some_and(|nals| aggregated(nals).any(|nal| irap_or_parameters((nal[0] >> 1) & 0x3f)))
        }
        Some(49) => payload.get(2).is_some_and(|fu| fu & 0x80 != 0 && matches!(fu & 0x3f, 16..=21)),
        Some(kind) => irap_or_parameters(kind),
        None => false,
    }
}

/// NAL units that stand behind their length of two bytes; none is empty.
pub(super) fn aggregated(mut rest: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, tail) = rest.split_first_chunk::<2>()?;
        let (nal, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        rest = tail;
        (!nal.is_empty()).then_some(nal)
    })
}

/// The tracks of an SDP, in its order.
///
/// # Errors
///
/// When it is no SDP, or has no track, or too many, or one that is not RTP/AVP.
pub(super) fn tracks(sdp: &[u8]) -> anyhow::Result<Vec<Track>> {
    let session = Session::parse(sdp).context("the SDP cannot be read")?;
    ensure!((1..=MAX_TRACKS).contains(&session.medias.len()), "the SDP has {} tracks", session.medias.len());
    session
        .medias
        .into_iter()
        .map(|media| {
            ensure!(media.proto.starts_with("RTP/AVP"), "a track is sent by {}, not RTP/AVP", media.proto);
            let attribute = |name| media.get_first_attribute_value(name).flatten();
            // `96 H264/90000` or `97 mpeg4-generic/44100/1`; static payload types may go without.
            let rtpmap = attribute("rtpmap").and_then(|map| map.split_once(' ')).map_or("", |(_, map)| map);
            let mut parts = rtpmap.split('/');
            let encoding = parts.next().unwrap_or_default();
            let clock_rate = parts.next().and_then(|rate| rate.trim().parse().ok()).filter(|rate| *rate > 0);
            Ok(Track {
                control: attribute("control").unwrap_or_default().to_owned(),
                codec: Codec::from_encoding(encoding),
                clock_rate: clock_rate.unwrap_or(if media.media == "video" { 90_000 } else { 8_000 }),
                media,
            })
        })
        .collect()
}

/// The SDP that readers get: track `n` has the control `trackID=n`.
pub(super) fn describe(tracks: &[Track]) -> Vec<u8> {
    let mut sdp = String::from("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n");
    for (index, track) in tracks.iter().enumerate() {
        let media = &track.media;
        sdp += &format!("m={} 0 RTP/AVP {}\r\na=control:trackID={index}\r\n", media.media, media.fmt);
        for attribute in media.attributes.iter().filter(|a| matches!(a.attribute.as_str(), "rtpmap" | "fmtp")) {
            sdp += &format!("a={}:{}\r\n", attribute.attribute, attribute.value.as_deref().unwrap_or_default());
        }
    }
    sdp.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FFMPEG: &[u8] = b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=No Name\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
        m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:streamid=0\r\n\
        m=audio 0 RTP/AVP 97\r\nb=AS:69\r\na=rtpmap:97 MPEG4-GENERIC/44100/1\r\na=control:streamid=1\r\n";

    #[test]
    fn an_announced_sdp_is_described_with_track_ids() {
        let seen = tracks(FFMPEG).unwrap();
        assert_eq!(seen[0].control, "streamid=0");
        assert_eq!(seen[1].codec.name(), "MPEG-4 Audio");
        assert_eq!((seen[0].clock_rate, seen[1].clock_rate), (90_000, 44_100));
        let again = tracks(&describe(&seen)).unwrap();
        assert_eq!(again[1].control, "trackID=1");
        assert_eq!(again[0].codec, Codec::H264);
    }

    #[test]
    fn damaged_or_empty_sdp_is_refused() {
        assert!(tracks(b"hello").is_err());
        assert!(tracks(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n").is_err());
    }

    #[test]
    fn keyframes_are_seen_in_every_packetisation() {
        for (payload, starts) in [
            (&[0x65, 1][..], true),
            (&[0x41, 1], false),
            (&[0x18, 0, 2, 0x67, 1, 0, 1, 0x68], true),
            (&[0x18, 0, 9, 0x67], false),
            (&[0x7c, 0x85, 1], true),
            (&[0x7c, 0x05, 1], false),
            (&[0x7c], false),
            (&[], false),
        ] {
            assert_eq!(Codec::H264.starts_decoding(payload), starts, "H.264 {payload:x?}");
        }
        for (payload, starts) in [
            (&[19 << 1, 1, 0][..], true),
            (&[1 << 1, 1, 0], false),
            (&[48 << 1, 1, 0, 2, 32 << 1, 1], true),
            (&[49 << 1, 1, 0x80 | 19], true),
            (&[49 << 1, 1, 19], false),
            (&[48 << 1], false),
        ] {
            assert_eq!(Codec::H265.starts_decoding(payload), starts, "H.265 {payload:x?}");
        }
    }
}
