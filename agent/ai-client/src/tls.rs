//! RTSP over TLS (`rtsps://`). retina speaks TCP only, so a leg reads through a door of its own: a port on the loopback
//! that takes one connection and carries it through TLS. What passes the door can be seen by who administers this
//! machine, and by nobody on the network.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// A door that nobody has come through by then closes.
const DOOR_OPEN: Duration = Duration::from_secs(10);

/// A server that speaks RTSP without TLS may wait for the rest of what it takes for a request, for ever.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Which servers are trusted behind `rtsps://`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Those with a certificate of an authority that this machine trusts, for the host of the stable URL.
    #[default]
    Machine,
    /// Those with a certificate of one of the authorities in this PEM file, for the host of the stable URL. A
    /// self-signed certificate is its own authority.
    Authorities(PathBuf),
    /// Those with this very certificate, whatever names it has: the SHA-256 of it in hexadecimal, with or without
    /// colons, as `openssl x509 -fingerprint -sha256` prints it.
    Certificate(String),
}

/// How legs reach servers through TLS.
#[derive(Clone)]
pub(crate) struct Tls {
    connector: TlsConnector,
    /// Whom every server's certificate must name: nodes are reached by their addresses, and are all the same service.
    name: ServerName<'static>,
}

impl Tls {
    /// For a stable URL with this host.
    ///
    /// # Errors
    /// What is wrong with the trust, in words.
    pub(crate) fn new(trust: &Trust, host: &str) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
        let custom = |verifier: Arc<dyn ServerCertVerifier>| {
            builder.clone().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
        };
        let config = match trust {
            Trust::Machine => {
                let verifier = rustls_platform_verifier::Verifier::new(provider)
                    .map_err(|error| format!("this machine's certificate authorities: {error}"))?;
                custom(Arc::new(verifier))
            }
            Trust::Authorities(file) => {
                let roots = authorities(file).map_err(|fault| format!("{}: {fault}", file.display()))?;
                builder.clone().with_root_certificates(roots).with_no_client_auth()
            }
            Trust::Certificate(fingerprint) => custom(Arc::new(Pinned { sha256: sha256(fingerprint)?, provider })),
        };
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| error.to_string())?;
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    /// Connects to a server and opens a door to it.
    ///
    /// # Errors
    /// When it cannot be reached, or is not trusted.
    pub(crate) async fn door(&self, host: &str, port: u16) -> std::io::Result<SocketAddr> {
        let server = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        server.set_nodelay(true)?;
        let handshake = tokio::time::timeout(HANDSHAKE, self.connector.connect(self.name.clone(), server));
        let no_tls = |_| std::io::Error::other("the server does not answer in TLS");
        let server = handshake.await.map_err(no_tls)??;
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = door.local_addr()?;
        tokio::spawn(async move {
            let Ok(Ok((mut client, _))) = tokio::time::timeout(DOOR_OPEN, door.accept()).await else { return };
            drop(door);
            let _ = client.set_nodelay(true);
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = tokio::io::split(server);
            // Either side's end, or failure, is the end of both: a server that hangs never ends its own.
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
            }
        });
        Ok(address)
    }
}

fn authorities(file: &std::path::Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("no certificate in it".to_owned()) } else { Ok(roots) }
}

fn sha256(hexadecimal: &str) -> Result<[u8; 32], String> {
    let digits: Vec<u8> = hexadecimal.bytes().filter(|byte| *byte != b':').collect();
    let byte = |pair: &[u8]| {
        let all_digits = pair.len() == 2 && pair.iter().all(u8::is_ascii_hexdigit);
        u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|_| all_digits)?, 16).ok()
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.ok_or_else(|| "a SHA-256 fingerprint is 64 hexadecimal digits".to_owned())
}

/// Trusts one certificate. Who shows it must also have its key, as ever.
#[derive(Debug)]
struct Pinned {
    sha256: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Sha256::digest(end_entity.as_ref()).as_slice() == self.sha256 {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the server has another certificate than the one that is trusted".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_taken_as_openssl_prints_them_and_nothing_else_is() {
        let plain = "00ff".repeat(16);
        let colons: Vec<String> = plain.as_bytes().chunks(2).map(|p| String::from_utf8_lossy(p).into_owned()).collect();
        assert_eq!(sha256(&plain), sha256(&colons.join(":")));
        assert!(sha256(&plain).is_ok_and(|bytes| bytes[..2] == [0, 255]));
        for bad in ["", "00", &plain[1..], "zz".repeat(32).as_str(), "+f".repeat(32).as_str(), "é".repeat(32).as_str()]
        {
            assert!(sha256(bad).is_err(), "{bad}");
        }
        let nowhere = Trust::Authorities("/nowhere/ca.pem".into());
        assert!(Tls::new(&nowhere, "live.example").err().is_some_and(|fault| fault.contains("/nowhere/ca.pem")));
    }
}
