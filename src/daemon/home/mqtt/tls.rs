//! TLS to a broker, whose certificate is always verified.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::MqttError;

/// Debian's bundle of certificate authorities (package `ca-certificates`).
const SYSTEM_CA: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A connector that accepts certificates signed by those in `ca`, or by the system's authorities.
pub fn connector(ca: Option<&Path>) -> Result<TlsConnector, MqttError> {
    let path = ca.unwrap_or(Path::new(SYSTEM_CA));
    let pem = std::fs::read(path).map_err(|source| MqttError::File { path: path.to_owned(), source })?;
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    if added == 0 {
        return Err(MqttError::Certificates { path: path.to_owned() });
    }
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
