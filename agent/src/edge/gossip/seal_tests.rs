use proptest::prelude::*;

use super::*;

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn sender(node: &str, address: &str) -> Sender {
    Sender { node: NodeId::new(node).unwrap(), address: address.parse().unwrap(), generation: 17 }
}

fn seal_one(cluster_name: &str, key: u8, body: &[u8]) -> Vec<u8> {
    let mut sealer = Sealer::new(&cluster(cluster_name), &[key; 32], &sender("n1", "127.0.0.1:7946"), [3; 16]);
    let counter = sealer.take_counters(1);
    let mut out = Vec::new();
    sealer.seal(Part { counter, index: 0, count: 1, raw_length: 0 }, body, &mut out);
    out
}

#[test]
fn a_datagram_of_another_key_is_forged_and_left_as_it_was() {
    let mut datagram = seal_one("fleet", 1, b"hello");
    let before = datagram.clone();
    let opener = Opener::new(&cluster("fleet"), &[[2; 32], [3; 32]]);
    assert_eq!(opener.open(&mut datagram).unwrap_err(), Refusal::Forged);
    assert_eq!(datagram, before);
}

#[test]
fn a_datagram_of_another_cluster_with_the_same_key_is_refused() {
    let opener = Opener::new(&cluster("fleet-b"), &[[1; 32]]);
    let mut datagram = seal_one("fleet-a", 1, b"hello");
    assert_eq!(opener.open(&mut datagram).unwrap_err(), Refusal::OtherCluster);
    // The tag in the clear is only a hint: one that claims to be of this cluster fails to authenticate.
    let mut disguised = seal_one("fleet-a", 1, b"hello");
    let own = seal_one("fleet-b", 1, b"hello");
    disguised[..CLEAR].copy_from_slice(&own[..CLEAR]);
    assert_eq!(opener.open(&mut disguised).unwrap_err(), Refusal::Forged);
}

#[test]
fn either_of_two_keys_opens_and_it_says_which() {
    let opener = Opener::new(&cluster("fleet"), &[[1; 32], [2; 32]]);
    for (key, place) in [(1, 0), (2, 1)] {
        let mut datagram = seal_one("fleet", key, b"hello");
        let opened = opener.open(&mut datagram).unwrap();
        assert_eq!((opened.body, opened.key), (&b"hello"[..], place));
    }
}

#[test]
fn every_truncation_is_refused() {
    let opener = Opener::new(&cluster("fleet"), &[[1; 32]]);
    let whole = seal_one("fleet", 1, b"some words");
    for length in 0..whole.len() {
        let mut cut = whole[..length].to_vec();
        let why = opener.open(&mut cut).unwrap_err();
        let expected = if length < MIN_DATAGRAM { Refusal::Truncated } else { Refusal::Forged };
        assert_eq!(why, expected, "{length} bytes");
    }
}

#[test]
fn a_datagram_too_long_is_refused_unread() {
    let opener = Opener::new(&cluster("fleet"), &[[1; 32]]);
    let mut datagram = seal_one("fleet", 1, &[0; 100]);
    datagram.resize(MAX_DATAGRAM + 1, 0);
    assert_eq!(opener.open(&mut datagram).unwrap_err(), Refusal::Oversize);
}

#[test]
fn a_full_datagram_has_the_full_length_whatever_the_sender_is_called() {
    for (node, address) in [("n", "127.0.0.1:1"), (&"x".repeat(128), "[2001:db8::1]:65535")] {
        let mut sealer = Sealer::new(&cluster("fleet"), &[1; 32], &sender(node, address), [3; 16]);
        let body = vec![7; sealer.room()];
        let mut out = Vec::new();
        sealer.seal(Part { counter: 1, index: 0, count: 1, raw_length: 0 }, &body, &mut out);
        assert_eq!(out.len(), MAX_DATAGRAM);
        assert!(sealer.room() >= 984);
        let opener = Opener::new(&cluster("fleet"), &[[1; 32]]);
        assert_eq!(opener.open(&mut out).unwrap().sender, sender(node, address));
    }
}

#[test]
fn equal_bodies_are_sealed_differently() {
    let mut sealer = Sealer::new(&cluster("fleet"), &[1; 32], &sender("n1", "127.0.0.1:7946"), [3; 16]);
    let mut seal = || {
        let counter = sealer.take_counters(1);
        let mut out = Vec::new();
        sealer.seal(Part { counter, index: 0, count: 1, raw_length: 0 }, b"same", &mut out);
        out
    };
    assert_ne!(seal(), seal());
}

proptest! {
    #[test]
    fn what_is_sealed_opens_to_the_same(
        node in "[A-Za-z0-9._~-]{1,128}",
        address in any::<SocketAddr>(),
        generation in any::<u64>(),
        counter in any::<u64>(),
        index in any::<u16>(),
        count in any::<u16>(),
        raw_length in any::<u32>(),
        body in prop::collection::vec(any::<u8>(), 0..900),
    ) {
        // Flow label and scope of IPv6 have no meaning on another machine.
        let address = SocketAddr::new(address.ip(), address.port());
        let sender = Sender { node: NodeId::new(node).unwrap(), address, generation };
        let part = Part { counter, index, count, raw_length };
        let mut sealer = Sealer::new(&cluster("fleet"), &[1; 32], &sender, [9; 16]);
        let mut out = Vec::new();
        sealer.seal(part, &body, &mut out);
        let opener = Opener::new(&cluster("fleet"), &[[1; 32]]);
        let opened = opener.open(&mut out).unwrap();
        prop_assert_eq!(&opened.sender, &sender);
        prop_assert_eq!(opened.part, part);
        prop_assert_eq!(opened.body, &body[..]);
    }

    #[test]
    fn one_changed_bit_anywhere_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut datagram = seal_one("fleet", 1, b"some words that matter");
        let at = at.index(datagram.len());
        datagram[at] ^= 1 << bit;
        prop_assert!(Opener::new(&cluster("fleet"), &[[1; 32]]).open(&mut datagram).is_err());
    }

    #[test]
    fn garbage_never_opens_and_never_panics(mut garbage in prop::collection::vec(any::<u8>(), 0..1_300)) {
        prop_assert!(Opener::new(&cluster("fleet"), &[[1; 32]]).open(&mut garbage).is_err());
    }

    #[test]
    fn an_odd_header_sealed_by_a_member_never_panics(header in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(1, &header);
    }
}
