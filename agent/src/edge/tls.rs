//! TLS: one provider (ring) for the whole process.

/// Installs ring as the process's TLS provider. `reqwest` is built without one, so call this before making its
/// first client; calling it again does nothing.
pub fn install_crypto() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
