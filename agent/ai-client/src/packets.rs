//! RTP packets of a recorded access unit, cut as a sender would (RFC 6184 section 5.8, RFC 7798 section 4.4.3). Pure.

use bytes::{BufMut as _, Bytes, BytesMut};
use mtxfleet_stitch::{Codec, RtpPacket};

/// Payload bytes of one packet: what MediaMTX itself cuts to (1,452 bytes of UDP less the RTP header).
const LARGEST: usize = 1440;

/// Packets of one access unit, the last one marked. Sequence numbers count from 0: nothing is known of the camera's.
/// `whole` leaves large NAL units in one packet each, which saves a copy where none is sent on.
pub(crate) fn of_nal_units(codec: Codec, nals: &[Bytes], timestamp: u32, whole: bool) -> Vec<RtpPacket> {
    let mut payloads: Vec<Bytes> = Vec::with_capacity(nals.len());
    for nal in nals {
        if whole || nal.len() <= LARGEST {
            payloads.push(nal.clone());
        } else {
            fragments(codec, nal, &mut payloads);
        }
    }
    let last = payloads.len().saturating_sub(1);
    let packet = |(index, payload)| RtpPacket { sequence: index as u16, timestamp, marker: index == last, payload };
    payloads.into_iter().enumerate().map(packet).collect()
}

fn fragments(codec: Codec, nal: &Bytes, payloads: &mut Vec<Bytes>) {
    let header_len = if codec == Codec::H265 { 2 } else { 1 };
    let (header, body) = nal.split_at(header_len.min(nal.len()));
    let pieces = body.chunks(LARGEST - header_len - 1);
    let count = pieces.len();
    for (index, piece) in pieces.enumerate() {
        let bits = (u8::from(index == 0) << 7) | (u8::from(index + 1 == count) << 6);
        let mut payload = BytesMut::with_capacity(header_len + 1 + piece.len());
        match (codec, header) {
            (Codec::H265, [first, second]) => {
                payload.put_slice(&[(first & 0x81) | (49 << 1), *second, bits | ((first >> 1) & 0x3f)]);
            }
            (_, header) => {
                let first = header.first().copied().unwrap_or_default();
                payload.put_slice(&[(first & 0xe0) | 28, bits | (first & 0x1f)]);
            }
        }
        payload.put_slice(piece);
        payloads.push(payload.freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_unit_cut_and_put_together_again_is_the_same() {
        for (codec, header) in [(Codec::H264, &[0x65][..]), (Codec::H265, &[0x26, 0x01])] {
            let large: Bytes = header.iter().copied().chain((0..5000_u32).map(|n| n as u8)).collect();
            let nals = [Bytes::copy_from_slice(&[header, &[7; 20]].concat()), large];
            let cut = of_nal_units(codec, &nals, 9, false);
            let whole = of_nal_units(codec, &nals, 9, true);
            assert!(cut.iter().all(|packet| packet.payload.len() <= LARGEST));
            assert_eq!((cut.len(), whole.len()), (5, 2));
            assert!(cut.last().is_some_and(|packet| packet.marker) && !cut[0].marker);
            assert_eq!(mtxfleet_stitch::annex_b(codec, &cut), mtxfleet_stitch::annex_b(codec, &whole));
            assert_eq!(mtxfleet_stitch::content_hash(codec, &cut), mtxfleet_stitch::content_hash(codec, &whole));
        }
    }
}
