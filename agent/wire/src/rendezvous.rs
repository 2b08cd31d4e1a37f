//! Rendezvous (highest random weight) hashing: every process that knows the same candidates chooses
//! alike, and when one candidate goes, only what had chosen it moves (Thaler and Ravishankar, 1998).

/// FNV-1a, 64 bit: stable between versions and machines, unlike the standard library's hasher.
#[must_use]
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Score of `candidate` for `key`; the candidate with the highest score is the choice.
///
/// `weight` is relative and above 0: a candidate of weight 2 is chosen twice as often as one of weight 1.
/// Weighted as in Schindelhauer and Schomaker, "Weighted distributed hash tables" (2005): `-w / ln(h)`.
#[must_use]
pub fn rendezvous_score(key: &str, candidate: &str, weight: f64) -> f64 {
    let mixed = rendezvous_hash(fnv1a(key.as_bytes()), fnv1a(candidate.as_bytes()));
    // In (0, 1), never either end, so that the logarithm is finite and negative.
    let uniform = ((mixed >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    -weight / uniform.ln()
}

/// What the score is made from, of the [`fnv1a`] of both: even over all 64 bits.
#[must_use]
pub const fn rendezvous_hash(key: u64, candidate: u64) -> u64 {
    mix(key ^ candidate.rotate_left(32))
}

/// The finaliser of SplitMix64: FNV alone leaves the high bits of short texts alike.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice<'a>(key: &str, nodes: &[(&'a str, f64)]) -> &'a str {
        nodes
            .iter()
            .max_by(|a, b| rendezvous_score(key, a.0, a.1).total_cmp(&rendezvous_score(key, b.0, b.1)))
            .expect("some")
            .0
    }

    #[test]
    fn each_node_gets_its_weight_and_only_a_leavers_keys_move() {
        let all = [("a", 1.0), ("b", 1.0), ("c", 2.0)];
        let keys: Vec<String> = (0..4000).map(|n| format!("cam{n}")).collect();
        let to_c = keys.iter().filter(|k| choice(k, &all) == "c").count();
        assert!((1800..2200).contains(&to_c), "{to_c} of 4000 went to the node of half the weight");
        for key in &keys {
            let before = choice(key, &all);
            let after = choice(key, &all[1..]);
            assert!(before == "a" || before == after, "{key} moved from {before} to {after}");
        }
    }
}
