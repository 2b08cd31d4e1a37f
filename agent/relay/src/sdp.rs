//! The SDP that readers get (RFC 8866): formats as the upstream describes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use mtxfleet_ai_client::{Codec, Track};

/// The first payload type without a fixed meaning (RFC 3551, section 6).
const DYNAMIC: u8 = 96;

/// Track `n` has the control `trackID=n`.
pub(crate) fn describe(stream: &str, tracks: &[Track]) -> Vec<u8> {
    let mut sdp = format!("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns={stream}\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n");
    for (index, track) in tracks.iter().enumerate() {
        let (media, payload_type) = (&track.media, track.payload_type);
        sdp += &format!("m={media} 0 RTP/AVP {payload_type}\r\n");
        match &track.rtpmap {
            Some(rtpmap) => sdp += &format!("a=rtpmap:{payload_type} {rtpmap}\r\n"),
            None if payload_type >= DYNAMIC => {
                let (encoding, rate) = (track.encoding.to_ascii_uppercase(), track.clock_rate);
                sdp += &format!("a=rtpmap:{payload_type} {encoding}/{rate}\r\n");
            }
            None => {}
        }
        if let Some(fmtp) = &track.fmtp {
            sdp += &format!("a=fmtp:{payload_type} {fmtp}\r\n");
        }
        sdp += &format!("a=control:trackID={index}\r\n");
    }
    sdp.into_bytes()
}

/// A track's `fmtp` with these parameter sets (RFC 6184 section 8.1, RFC 7798 section 7.1) in the place of those that it had,
/// and of what they say of the profile.
pub(crate) fn with_parameter_sets(track: &Track, sets: &[Bytes]) -> Option<String> {
    let kind = |set: &Bytes| match (track.codec, set.first()) {
        (Codec::H264, Some(first)) => first & 0x1f,
        (Codec::H265, Some(first)) => (first >> 1) & 0x3f,
        _ => 0,
    };
    let of_kinds = |kinds: &[u8]| {
        let found = kinds.iter().flat_map(|wanted| sets.iter().filter(move |set| kind(set) == *wanted));
        found.map(|set| STANDARD.encode(set)).collect::<Vec<_>>().join(",")
    };
    let (dropped, new): (&[&str], Vec<(&str, String)>) = match track.codec {
        Codec::H264 => {
            let profile = sets.iter().find(|set| kind(set) == 7).and_then(|sps| sps.get(1..4));
            let profile = profile.map(|bytes| bytes.iter().map(|byte| format!("{byte:02X}")).collect());
            let profile = profile.map(|profile: String| ("profile-level-id", profile));
            (&[], profile.into_iter().chain([("sprop-parameter-sets", of_kinds(&[7, 8]))]).collect())
        }
        Codec::H265 => (
            &[
                "profile-space",
                "profile-id",
                "tier-flag",
                "level-id",
                "interop-constraints",
                "profile-compatibility-indicator",
            ],
            vec![("sprop-vps", of_kinds(&[32])), ("sprop-sps", of_kinds(&[33])), ("sprop-pps", of_kinds(&[34]))],
        ),
        Codec::Other => return track.fmtp.clone(),
    };
    let key = |parameter: &str| parameter.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
    let stays = |parameter: &&str| {
        !parameter.is_empty()
            && !dropped.contains(&&*key(parameter))
            && !new.iter().any(|(name, _)| *name == key(parameter))
    };
    let old = track.fmtp.as_deref().unwrap_or_default().split(';').map(str::trim).filter(stays).map(str::to_owned);
    let new = new.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| format!("{name}={value}"));
    Some(old.chain(new).collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::tests::{audio, video};

    #[test]
    fn formats_pass_through_and_static_types_need_none() {
        let silent = Track { rtpmap: None, ..video() };
        let sdp = describe("cam1", &[video(), Track { payload_type: 0, rtpmap: None, ..audio() }, silent]);
        let sdp = String::from_utf8(sdp).expect("text");
        assert!(sdp.contains(
            "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:trackID=0\r\n"
        ));
        assert!(sdp.contains("m=audio 0 RTP/AVP 0\r\na=control:trackID=1\r\n"));
        assert_eq!(sdp.matches("a=rtpmap:96 H264/90000").count(), 2);
    }

    #[test]
    fn parameter_sets_take_the_place_of_older_ones_and_the_rest_stays() {
        let sets = |units: &[&'static [u8]]| units.iter().map(|unit| Bytes::from_static(unit)).collect::<Vec<_>>();
        let old = "packetization-mode=1; profile-level-id=42C01E; sprop-parameter-sets=AAAA,BBBB";
        let h264 = Track { fmtp: Some(old.to_owned()), ..video() };
        let changed = with_parameter_sets(&h264, &sets(&[&[0x68, 2], &[0x67, 0x4d, 0x40, 0x1f]]));
        assert_eq!(
            changed.as_deref(),
            Some("packetization-mode=1; profile-level-id=4D401F; sprop-parameter-sets=Z01AHw==,aAI=")
        );
        let old = "sprop-max-don-diff=0; sprop-vps=AA==; level-id=93; sprop-sps=BB==; sprop-pps=CC==";
        let h265 = Track { codec: Codec::H265, fmtp: Some(old.to_owned()), ..video() };
        let changed = with_parameter_sets(&h265, &sets(&[&[0x40, 1], &[0x42, 1], &[0x44, 1]]));
        assert_eq!(changed.as_deref(), Some("sprop-max-don-diff=0; sprop-vps=QAE=; sprop-sps=QgE=; sprop-pps=RAE="));
    }
}
