//! Addresses and ports that nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

/// Below the ports that Linux gives to outgoing connections and to bind(0): 32768 and up.
const PORTS: Range<u16> = 20_000..32_000;

/// A loopback address of this lab's own, and the ports given out on it.
///
/// All of 127.0.0.0/8 is this machine. On an address that only this lab uses, ports can simply be counted; what may
/// still be there is a server on *every* address, so each port is tried first. It is tried by connecting, not by
/// binding: a bound socket is inherited by a child that another thread forks just then, and stays taken for as long
/// as that child needs to exec.
#[derive(Debug)]
pub struct Loopback {
    ip: Ipv4Addr,
    ports: Range<u16>,
}

impl Loopback {
    /// The next address of this process.
    #[must_use]
    pub fn next() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        Self { ip: address(std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)), ports: PORTS }
    }

    #[must_use]
    pub const fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// A port that nobody listens on, not given before.
    ///
    /// # Errors
    /// When all were given.
    pub fn port(&mut self) -> Result<SocketAddr> {
        for port in self.ports.by_ref() {
            let address = SocketAddr::from((self.ip, port));
            if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_err() {
                return Ok(address);
            }
        }
        bail!("no port of {PORTS:?} is left on {}", self.ip)
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
    use std::collections::HashSet;
    use std::net::TcpListener;

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
        let _everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORTS.start + 1));
        let ports: Vec<SocketAddr> = (0..20).map(|_| loopback.port().expect("a free port")).collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 20);
        let _all: Vec<TcpListener> = ports.iter().map(|p| TcpListener::bind(p).expect("free")).collect();
    }
}
