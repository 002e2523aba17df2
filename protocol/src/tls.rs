//! Mutual TLS 1.3 between programs that know each other by [`Pin`].
//!
//! Both ends always present a certificate. The handshake proves possession of its key; which pins
//! are welcome is decided by the caller: a client pins the one server it means, a server looks the
//! pin up after every accept. Sessions are never resumed, for a resumed one skips the verifier.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::identity::{Identity, Pin};

/// How long a handshake may take.
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// Tells what [`binding`] derives from whatever else might be derived from the same connection.
const BINDING_LABEL: &[u8] = b"EXPORTER-gridpilot-login";

/// Why there is no secure connection.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot reach {address}: {source}")]
    Dial { address: SocketAddr, source: std::io::Error },
    #[error("the TLS handshake failed: {0}")]
    Handshake(std::io::Error),
    #[error("the TLS handshake did not end within {} s", HANDSHAKE_TIME.as_secs())]
    Timeout,
    #[error("the peer showed no certificate")]
    NoCertificate,
    #[error("the server's certificate is not the pinned one")]
    WrongPin,
    #[error("this connection cannot be told from others: {0}")]
    NoBinding(Error),
    #[error("this identity cannot be used for TLS: {0}")]
    Identity(Error),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts a certificate if the peer holds its key, and, for a client, if it is the pinned one.
struct Pinned {
    provider: Arc<CryptoProvider>,
    /// The only certificate accepted; `None` leaves the choice to the caller.
    only: Option<Pin>,
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("only", &self.only).finish_non_exhaustive()
    }
}

impl Pinned {
    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// TLS 1.2 is not compiled in; the trait wants an answer all the same.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken".into()))
}

/// What both verifier traits ask of signatures, in the same words.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            no_tls12()
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.check_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.only == Some(Pin::of(end_entity)) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
    }

    signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Possession of the key is proven by the signature; the caller looks the pin up.
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// For a listening program. The pin of every accepted peer must be looked up by the caller.
pub fn acceptor(identity: &Identity) -> Result<TlsAcceptor, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Pinned { provider: provider.clone(), only: None });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Identity)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![identity.certificate()], identity.key())
        .map_err(TlsError::Identity)?;
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// For a dialling program that means exactly one server.
pub fn connector(identity: &Identity, server: Pin) -> Result<TlsConnector, TlsError> {
    let provider = provider();
    let verifier = Arc::new(Pinned { provider: provider.clone(), only: Some(server) });
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(vec![identity.certificate()], identity.key())
        .map_err(TlsError::Identity)?;
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_sni = false;
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Completes the server's side of a handshake and tells who the peer is.
pub async fn accept(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Result<(TlsStream<TcpStream>, Pin), TlsError> {
    stream.set_nodelay(true).map_err(TlsError::Handshake)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIME, acceptor.accept(stream))
        .await
        .map_err(|_| TlsError::Timeout)?
        .map_err(TlsError::Handshake)?;
    let certificate =
        stream.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
    let pin = Pin::of(certificate);
    Ok((stream.into(), pin))
}

/// Dials and completes the client's side of a handshake.
pub async fn dial(connector: &TlsConnector, address: SocketAddr) -> Result<TlsStream<TcpStream>, TlsError> {
    let connect = async {
        let stream =
            TcpStream::connect(address).await.map_err(|source| TlsError::Dial { address, source })?;
        stream.set_nodelay(true).map_err(TlsError::Handshake)?;
        // The name is part of the API, not of what is checked: the pin is.
        let name = ServerName::IpAddress(address.ip().into());
        connector.connect(name, stream).await.map_err(handshake_failed)
    };
    let stream = tokio::time::timeout(HANDSHAKE_TIME, connect).await.map_err(|_| TlsError::Timeout)??;
    Ok(stream.into())
}

/// The one refusal that our own verifier makes has a name of its own.
fn handshake_failed(error: std::io::Error) -> TlsError {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)) => {
            TlsError::WrongPin
        }
        _ => TlsError::Handshake(error),
    }
}

/// What both ends of this very connection know and nobody else: a signature over it is worth
/// nothing on another one, be it relayed by somebody in between (RFC 8446, 7.5; RFC 9266).
pub fn binding(stream: &TlsStream<TcpStream>) -> Result<[u8; 32], TlsError> {
    let exported = match stream {
        TlsStream::Client(stream) => stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None),
        TlsStream::Server(stream) => stream.get_ref().1.export_keying_material([0; 32], BINDING_LABEL, None),
    };
    exported.map_err(TlsError::NoBinding)
}

#[cfg(test)]
mod tests;
