//! This node's own report as gossip values.

use mtxfleet_wire::{MAX_GOSSIP_VALUE, STREAM_SHARDS, StreamReport, stream_shard};
use serde::Serialize;

pub const FACTS: &str = "facts";
pub const LOAD: &str = "load";
pub const DRAIN: &str = "drain";
/// As `drain`, of cameras that a node hands over while it stays in service.
pub const MOVES: &str = "moves";
pub const TERMS: &str = "terms";
pub const PLAN: &str = "plan";
pub const DECISIONS: &str = "decisions";
pub const CONTROLS: &str = "controls";
pub const CAMERAS: &str = "cameras";
/// Says that the node has left the fleet for good; its value means nothing.
pub const LEFT: &str = "left";
/// By shard number.
pub const STREAMS: [&str; STREAM_SHARDS as usize] = [
    "streams/0",
    "streams/1",
    "streams/2",
    "streams/3",
    "streams/4",
    "streams/5",
    "streams/6",
    "streams/7",
    "streams/8",
    "streams/9",
    "streams/a",
    "streams/b",
    "streams/c",
    "streams/d",
    "streams/e",
    "streams/f",
];

/// A value longer than [`MAX_GOSSIP_VALUE`]: its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// # Errors
/// [`TooLong`].
pub fn encode<T: Serialize>(value: &T) -> Result<String, TooLong> {
    // The wire types hold nothing that JSON cannot say; a length of 0 would show it.
    let text = serde_json::to_string(value).map_err(|_| TooLong(0))?;
    if text.len() > MAX_GOSSIP_VALUE { Err(TooLong(text.len())) } else { Ok(text) }
}

/// The values of the `streams/` keys, `None` for one without streams, and how many streams found no room. Those owned
/// go first, since the other nodes look for them here.
#[must_use]
pub fn encode_streams(streams: &[StreamReport]) -> ([Option<String>; STREAM_SHARDS as usize], usize) {
    let mut sorted: Vec<&StreamReport> = streams.iter().collect();
    sorted.sort_by(|a, b| (!a.owned, &a.name).cmp(&(!b.owned, &b.name)));
    let mut shards = [const { None::<String> }; STREAM_SHARDS as usize];
    let mut left_out = 0;
    for stream in sorted {
        let shard = &mut shards[usize::from(stream_shard(&stream.name))];
        let length_now = shard.as_ref().map_or(0, String::len);
        // With a comma or bracket before it and the last bracket after it.
        match encode(stream) {
            Ok(text) if length_now + text.len() + 2 <= MAX_GOSSIP_VALUE => {
                let shard = shard.get_or_insert_default();
                shard.push(if length_now == 0 { '[' } else { ',' });
                shard.push_str(&text);
            }
            _ => left_out += 1,
        }
    }
    for shard in shards.iter_mut().flatten() {
        shard.push(']');
    }
    (shards, left_out)
}

#[cfg(test)]
mod tests {
    use mtxfleet_wire::{Leg, LegId, StreamName, UnixMillis, WorkerId};

    use super::*;

    fn stream(name: String, owned: bool, legs: usize) -> StreamReport {
        let leg = |n| Leg {
            worker: WorkerId::new(format!("worker-{n}")).unwrap(),
            leg: LegId::new(format!("{n:036}")).unwrap(),
        };
        StreamReport {
            name: StreamName::new(name).unwrap(),
            owned,
            ready: true,
            flowing: true,
            since: UnixMillis(1),
            claim: 0,
            legs: (0..legs).map(leg).collect(),
            readers: 0,
            bitrate: None,
        }
    }

    #[test]
    fn every_stream_comes_back_from_its_shard() {
        let streams: Vec<_> = (0..200).map(|n| stream(format!("site/cam{n}"), n % 2 == 0, 3)).collect();
        let (shards, left_out) = encode_streams(&streams);
        assert_eq!(left_out, 0);
        let mut back: Vec<StreamReport> = Vec::new();
        for (number, value) in shards.iter().enumerate() {
            let value = value.as_ref().expect("200 streams use all 16 shards");
            let some: Vec<StreamReport> = serde_json::from_str(value).unwrap();
            assert!(some.iter().all(|stream| usize::from(stream_shard(&stream.name)) == number));
            back.extend(some);
        }
        let by_name = |a: &StreamReport, b: &StreamReport| a.name.cmp(&b.name);
        back.sort_by(by_name);
        let mut expected = streams;
        expected.sort_by(by_name);
        assert_eq!(back, expected);
    }

    #[test]
    fn no_streams_are_no_values() {
        assert_eq!(encode_streams(&[]), ([const { None }; 16], 0));
    }

    #[test]
    fn what_does_not_fit_is_counted_and_owned_streams_go_first() {
        // Some 100 bytes a leg: 300 legs are half a shard.
        let mut streams: Vec<_> = (0..120).map(|n| stream(format!("a{n}"), false, 300)).collect();
        streams.extend((0..16).map(|n| stream(format!("z{n}"), true, 1)));
        let (shards, left_out) = encode_streams(&streams);
        let mut kept = 0;
        let mut owned = 0;
        for value in shards.iter().flatten() {
            assert!(value.len() <= MAX_GOSSIP_VALUE);
            let some: Vec<StreamReport> = serde_json::from_str(value).unwrap();
            kept += some.len();
            owned += some.iter().filter(|stream| stream.owned).count();
        }
        assert!(left_out > 0);
        assert_eq!(kept + left_out, streams.len());
        assert_eq!(owned, 16);
    }

    #[test]
    fn a_value_too_long_is_refused_before_it_is_set() {
        assert_eq!(encode(&"x".repeat(MAX_GOSSIP_VALUE - 2)).map(|text| text.len()), Ok(MAX_GOSSIP_VALUE));
        assert_eq!(encode(&"x".repeat(MAX_GOSSIP_VALUE - 1)), Err(TooLong(MAX_GOSSIP_VALUE + 1)));
    }
}
