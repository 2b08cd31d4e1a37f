//! The one secret that members share, and what is derived from it.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::edge::mediamtx::Credentials;

/// User name of the fleet's own credential in every member's MediaMTX.
pub const FLEET_USER: &str = "fleet";

/// The label keeps this use of the key apart from the gossip's seal.
const FLEET_PASSWORD_LABEL: &[u8] = b"mtxfleet fleet password v1";

const INVENTORY_LABEL: &[u8] = b"mtxfleet camera inventory v1";

/// 32 bytes, written as 64 hexadecimal digits. `Debug` shows none of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKey([u8; 32]);

impl ClusterKey {
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// # Errors
    /// What is wrong with the text, without showing it.
    pub fn from_hex(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u32>> = text.trim().chars().map(|c| c.to_digit(16)).collect();
        let Some(digits) = digits.filter(|digits| digits.len() == 64) else {
            return Err("must be 64 hexadecimal digits; make one with: openssl rand -hex 32".to_owned());
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (pair[0] * 16 + pair[1]) as u8;
        }
        Ok(Self(bytes))
    }

    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Password of [`FLEET_USER`]: the first 32 hexadecimal digits of HMAC-SHA256 (RFC 2104) over a label, so that it
    /// changes with the key and does not give it away.
    #[must_use]
    pub fn fleet_password(&self) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(FLEET_PASSWORD_LABEL);
        mac.finalize().into_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 16 hexadecimal digits of HMAC-SHA256 over a label and `what`: nobody without the key can try passwords
    /// on it.
    #[must_use]
    pub fn inventory_hash(&self, what: &[u8]) -> String {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        mac.update(INVENTORY_LABEL);
        mac.update(what);
        mac.finalize().into_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[must_use]
    pub fn fleet_credentials(&self) -> Credentials {
        Credentials { user: FLEET_USER.to_owned(), password: self.fleet_password() }
    }
}

impl std::fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClusterKey(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_password_is_the_hmac_of_its_label() {
        let key = ClusterKey::from_hex(&"0f".repeat(32)).unwrap();
        // printf 'mtxfleet fleet password v1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0f0f...
        assert_eq!(key.fleet_password(), "c5e94fe135603cb902cfb39059ba10a1");
        assert_ne!(ClusterKey::new([1; 32]).fleet_password(), key.fleet_password());
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits_and_never_shown() {
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(64)] {
            assert!(ClusterKey::from_hex(wrong).is_err(), "{wrong}");
        }
        assert!(!format!("{:?}", ClusterKey::new([0xab; 32])).contains("ab"));
    }
}
