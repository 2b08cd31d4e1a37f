//! The SDP that readers get (RFC 8866): formats as the upstream describes them.

use mtxfleet_ai_client::Track;

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
}
