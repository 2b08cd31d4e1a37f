//! Generations of this node's claims: which of two nodes that say they own a stream has had it from its camera last.
//!
//! Clocks of two machines cannot say so. A node that gets a stream claims it with a number one above all that it has
//! heard of for that stream (Lamport, "Time, clocks, and the ordering of events in a distributed system", 1978), and
//! keeps that number for as long as the stream is there.

use std::collections::BTreeMap;

use mtxfleet_leader::Fleet;
use mtxfleet_wire::{StreamName, StreamReport, UnixMillis};

#[derive(Debug, Default)]
pub struct Claims(BTreeMap<StreamName, Claim>);

#[derive(Debug, Clone, Copy)]
struct Claim {
    number: u64,
    /// Of this node's own MediaMTX, compared with itself only: another time is another connection of the camera.
    since: UnixMillis,
}

impl Claims {
    /// Numbers what a look at MediaMTX has found; a stream that is not among it is given up. While MediaMTX does not
    /// answer nothing is: nobody knows.
    pub(super) fn number(&mut self, streams: &mut [StreamReport], fleet: &Fleet) {
        let mut before = std::mem::take(&mut self.0);
        for stream in streams.iter_mut().filter(|stream| stream.ready) {
            let known = before.remove(&stream.name).filter(|claim| claim.since == stream.since);
            if known.is_none() && !stream.owned {
                continue;
            }
            let claim =
                known.unwrap_or_else(|| Claim { number: 1 + highest(fleet, &stream.name), since: stream.since });
            stream.claim = claim.number;
            self.0.insert(stream.name.clone(), claim);
        }
    }
}

/// Among all members, the dead ones too: what they said last is older than what begins now.
fn highest(fleet: &Fleet, stream: &StreamName) -> u64 {
    let claims = fleet.members().flat_map(|member| member.peer.streams.iter());
    claims.filter(|report| report.name == *stream).map(|report| report.claim).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use mtxfleet_leader::Peer;
    use mtxfleet_wire::{Mono, NodeId};

    use super::*;

    fn cam(since: u64, claim: u64) -> StreamReport {
        StreamReport {
            name: StreamName::new("cam1").expect("valid"),
            owned: true,
            ready: true,
            flowing: true,
            since: UnixMillis(since),
            claim,
            legs: Vec::new(),
            readers: 0,
            bitrate: None,
        }
    }

    fn fleet(claim: u64) -> Fleet {
        let mut fleet = Fleet::new(Duration::from_secs(5));
        let peer = Peer {
            alive: true,
            streams: Arc::new([cam(1, claim)]),
            ..Peer::silent(NodeId::new("other").expect("valid"))
        };
        fleet.update(Mono::default(), vec![peer]);
        fleet
    }

    fn numbered(claims: &mut Claims, stream: StreamReport, fleet: &Fleet) -> u64 {
        let mut streams = [stream];
        claims.number(&mut streams, fleet);
        streams[0].claim
    }

    #[test]
    fn a_stream_that_comes_is_claimed_above_all_that_was_heard_and_keeps_its_number() {
        let mut claims = Claims::default();
        assert_eq!(numbered(&mut claims, cam(100, 0), &fleet(4)), 5);
        assert_eq!(numbered(&mut claims, cam(100, 0), &fleet(6)), 5, "another took it: it is not taken back");
        assert_eq!(numbered(&mut claims, cam(50, 0), &fleet(6)), 7, "its camera came anew, whatever the clock says");
    }

    #[test]
    fn a_stream_that_was_away_is_claimed_anew_and_one_withdrawn_is_not_forgotten() {
        let mut claims = Claims::default();
        assert_eq!(numbered(&mut claims, cam(100, 0), &fleet(4)), 5);
        let withdrawn = StreamReport { owned: false, ..cam(100, 0) };
        assert_eq!(numbered(&mut claims, withdrawn, &fleet(8)), 5);
        claims.number(&mut [], &fleet(8));
        assert_eq!(numbered(&mut claims, cam(100, 0), &fleet(8)), 9);
    }
}
