use std::sync::atomic::Ordering::Relaxed;

use mtxfleet_wire::ClusterName;
use proptest::prelude::*;

use super::*;
use crate::edge::gossip::seal::{Opener, Sealer, Sender};

const KEY: [u8; 32] = [1; 32];

fn sender(node: &str, generation: u64) -> Sender {
    Sender { node: NodeId::new(node).unwrap(), address: ([127, 0, 0, 1], 7946).into(), generation }
}

/// One end that sends, and what the other end makes of it.
struct Line {
    sealer: Sealer,
    opener: Opener,
    senders: Senders,
    counters: GossipCounters,
    now: Instant,
}

impl Line {
    fn new(from: &Sender) -> Self {
        let cluster = ClusterName::new("fleet").unwrap();
        Self {
            sealer: Sealer::new(&cluster, &KEY, from, [5; 16]),
            opener: Opener::new(&cluster, &[KEY]),
            senders: Senders::default(),
            counters: GossipCounters::default(),
            now: Instant::now(),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let room = self.sealer.room();
        let count = bytes.len().div_ceil(room).max(1) as u16;
        let first = self.sealer.take_counters(count);
        let sealer = &mut self.sealer;
        let mut seal = |(index, body): (u16, &[u8])| {
            let mut out = Vec::new();
            sealer.seal(Part { counter: first + u64::from(index), index, count, raw_length: 0 }, body, &mut out);
            out
        };
        (0..count).zip(bytes.chunks(room)).map(&mut seal).collect()
    }

    fn receive(&mut self, datagram: &[u8]) -> Result<Option<Vec<u8>>, Refusal> {
        let mut datagram = datagram.to_vec();
        let opened = self.opener.open(&mut datagram).unwrap();
        let whole = self.senders.take(&opened, self.now, &self.counters)?;
        Ok(whole.map(|whole| whole.bytes))
    }

    fn reassemblies_given_up(&self) -> u64 {
        self.counters.snapshot().refused(Refusal::Reassembly)
    }

    fn assert_bounded(&self) {
        assert!(self.senders.partial.len() <= MAX_PARTIAL);
        let bytes: usize = self.senders.partial.iter().map(|partial| partial.bytes).sum();
        assert_eq!(bytes, self.senders.partial_bytes);
        assert!(bytes <= MAX_PARTIAL_BYTES);
    }
}

#[test]
fn a_replay_is_refused() {
    let mut line = Line::new(&sender("n1", 1));
    let datagrams = line.send(b"short");
    assert_eq!(line.receive(&datagrams[0]), Ok(Some(b"short".to_vec())));
    assert_eq!(line.receive(&datagrams[0]), Err(Refusal::Replayed));
}

#[test]
fn an_older_start_is_refused_once_a_newer_one_was_heard() {
    let mut old = Line::new(&sender("n1", 1));
    let mut new = Line::new(&sender("n1", 2));
    let from_old = [old.send(b"one"), old.send(b"two")].concat();
    let from_new = new.send(b"three");
    assert!(old.receive(&from_old[0]).is_ok());
    // The counter of the new start begins anew, and that is no replay.
    assert!(old.receive(&from_new[0]).is_ok());
    assert_eq!(old.receive(&from_old[1]), Err(Refusal::Replayed));
}

#[test]
fn senders_do_not_share_a_window() {
    let mut one = Line::new(&sender("n1", 1));
    let mut two = Line::new(&sender("n2", 1));
    let from_one = one.send(b"a");
    let from_two = two.send(b"b");
    assert!(one.receive(&from_one[0]).is_ok());
    assert!(one.receive(&from_two[0]).is_ok());
}

#[test]
fn a_message_with_a_lost_part_is_given_up_after_a_while_and_counted() {
    let mut line = Line::new(&sender("n1", 1));
    let parts = line.send(&[7; 5_000]);
    for part in &parts[1..] {
        assert_eq!(line.receive(part), Ok(None));
    }
    line.now += MAX_AGE + Duration::from_millis(1);
    let other = line.send(&[8; 2_000]);
    assert_eq!(line.receive(&other[0]), Ok(None));
    assert_eq!(line.reassemblies_given_up(), 1);
    assert_eq!(line.senders.partial.len(), 1);
    // The straggler begins a message that never ends, and costs no more than any other.
    assert_eq!(line.receive(&parts[0]), Ok(None));
    line.assert_bounded();
}

#[test]
fn parts_that_contradict_each_other_drop_the_message() {
    let mut line = Line::new(&sender("n1", 1));
    let mut seal = |counter, index, count, raw_length| {
        let mut out = Vec::new();
        line.sealer.seal(Part { counter, index, count, raw_length }, b"x", &mut out);
        out
    };
    let (first, other_count) = (seal(10, 0, 3, 0), seal(11, 1, 4, 0));
    let (second, other_length) = (seal(20, 0, 2, 100), seal(21, 1, 2, 200));
    let (outside, before_all) = (seal(30, 5, 5, 0), seal(2, 3, 4, 0));
    let too_many = seal(40, 0, u16::MAX, 0);
    assert_eq!(line.receive(&first), Ok(None));
    assert_eq!(line.receive(&other_count), Err(Refusal::Reassembly));
    assert_eq!(line.receive(&second), Ok(None));
    assert_eq!(line.receive(&other_length), Err(Refusal::Reassembly));
    assert_eq!(line.receive(&outside), Err(Refusal::Reassembly));
    assert_eq!(line.receive(&before_all), Err(Refusal::Reassembly));
    assert_eq!(line.receive(&too_many), Err(Refusal::Reassembly));
    assert!(line.senders.partial.is_empty());
    line.assert_bounded();
}

#[test]
fn a_member_that_only_ever_sends_first_parts_holds_a_bounded_share() {
    let mut line = Line::new(&sender("n1", 1));
    for _ in 0..100 {
        let parts = line.send(&[7; 3_000]);
        assert_eq!(line.receive(&parts[0]), Ok(None));
        line.assert_bounded();
    }
    assert_eq!(line.senders.partial.len(), MAX_PARTIAL_PER_SENDER);
    assert_eq!(line.reassemblies_given_up(), 100 - MAX_PARTIAL_PER_SENDER as u64);
}

#[test]
fn the_bytes_of_all_incomplete_messages_are_bounded() {
    let mut line = Line::new(&sender("n0", 1));
    for node in 0..8 {
        line.sealer = Line::new(&sender(&format!("n{node}"), 1)).sealer;
        let parts = line.send(&vec![7; MAX_MESSAGE - 2_000]);
        for part in &parts[1..] {
            assert_eq!(line.receive(part), Ok(None));
        }
        line.assert_bounded();
    }
    assert!(line.reassemblies_given_up() >= 4);
}

#[test]
fn the_sender_not_heard_for_longest_is_forgotten_first() {
    let mut line = Line::new(&sender("n", 1));
    let hear = |line: &mut Line, node: usize| {
        let sender = sender(&format!("n{node}"), 1);
        let part = Part { counter: 1, index: 0, count: 1, raw_length: 0 };
        let opened = Opened { sender, part, body: b"x", key: 0 };
        line.senders.take(&opened, line.now, &line.counters).map(|_| ())
    };
    for node in 0..=MAX_SENDERS {
        assert_eq!(hear(&mut line, node), Ok(()));
    }
    assert_eq!(line.senders.known.len(), MAX_SENDERS);
    assert_eq!(hear(&mut line, 1), Err(Refusal::Replayed), "still known");
    assert_eq!(hear(&mut line, 0), Ok(()), "forgotten, so its first counter is taken as new");
    assert_eq!(line.counters.datagrams_in.load(Relaxed), 0, "this test bypasses the socket");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_once_and_whole_in_any_order_with_duplicates(
        lengths in prop::collection::vec(1..6_000_usize, 1..8),
        seed in prop::collection::vec(any::<u32>(), 64),
        twice in prop::collection::vec(any::<bool>(), 64),
        lost in prop::collection::vec(prop::bool::weighted(0.1), 64),
    ) {
        let mut line = Line::new(&sender("n1", 1));
        let messages: Vec<Vec<u8>> = lengths.iter().enumerate().map(|(n, &length)| vec![n as u8; length]).collect();
        let mut on_the_way = Vec::new();
        let mut expected = Vec::new();
        let mut number = 0;
        for message in &messages {
            let mut complete = true;
            for datagram in line.send(message) {
                let place = number % 64;
                number += 1;
                if lost[place] {
                    complete = false;
                    continue;
                }
                on_the_way.push((seed[place], datagram.clone()));
                if twice[place] {
                    on_the_way.push((seed[63 - place], datagram));
                }
            }
            if complete {
                expected.push(message.clone());
            }
        }
        on_the_way.sort();
        let mut arrived = Vec::new();
        for (_, datagram) in &on_the_way {
            match line.receive(datagram) {
                Ok(whole) => arrived.extend(whole),
                Err(why) => prop_assert_eq!(why, Refusal::Replayed),
            }
            line.assert_bounded();
        }
        arrived.sort();
        expected.sort();
        prop_assert_eq!(arrived, expected);
    }
}
