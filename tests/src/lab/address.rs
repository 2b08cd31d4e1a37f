//! Addresses and ports that nobody else uses.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// A loopback address of this lab's own, and the ports given out on it.
///
/// All of 127.0.0.0/8 is this machine. With an address for each lab, a port that was free when asked for is not taken
/// by another test, nor by somebody's outgoing connection (those leave from 127.0.0.1), before its server binds it.
#[derive(Debug)]
pub struct Loopback {
    ip: Ipv4Addr,
    given: HashSet<u16>,
}

impl Loopback {
    /// The next address of this process.
    #[must_use]
    pub fn next() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        Self { ip: address(std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)), given: HashSet::new() }
    }

    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// A port free for TCP and UDP, not given before.
    ///
    /// # Errors
    /// When the address has no free port.
    pub fn port(&mut self) -> Result<SocketAddr> {
        for _ in 0..1000 {
            let tcp = TcpListener::bind((self.ip, 0)).with_context(|| format!("no free port on {}", self.ip))?;
            let port = tcp.local_addr()?.port();
            if UdpSocket::bind((self.ip, port)).is_ok() && self.given.insert(port) {
                return Ok(SocketAddr::V4(SocketAddrV4::new(self.ip, port)));
            }
        }
        anyhow::bail!("no free port on {} in 1000 tries", self.ip)
    }
}

/// 22 bits of pid (the most that Linux has) and 2 of a counter, in the 24 that 127.0.0.0/8 leaves.
fn address(pid: u32, counter: u32) -> Ipv4Addr {
    let host = ((pid & 0x3f_ffff) << 2) | (counter & 3);
    // 127.0.0.1 belongs to everybody, and 127.255.255.255 is for broadcasts.
    let host = if host == 0xff_ffff || host < 4 { 4 } else { host };
    Ipv4Addr::from(0x7f00_0000 | host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_has_addresses_of_its_own_on_the_loopback() {
        let mut seen = HashSet::new();
        for pid in [2, 3, 400, 32_767, 4_194_303] {
            for counter in 0..3 {
                let ip = address(pid, counter);
                assert!(ip.is_loopback() && ip != Ipv4Addr::LOCALHOST && !ip.is_broadcast());
                assert!(seen.insert(ip), "{ip} twice");
            }
        }
    }

    #[test]
    fn a_port_is_given_once_and_can_be_bound() {
        let mut loopback = Loopback::next();
        let ports: Vec<SocketAddr> = (0..20).map(|_| loopback.port().expect("a free port")).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
        let _all: Vec<TcpListener> = ports.iter().map(|p| TcpListener::bind(p).expect("free")).collect();
    }
}
