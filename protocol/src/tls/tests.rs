//! Handshakes over loopback: only who holds the right key gets through.

use rustls::HandshakeKind;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn identity(name: &str) -> Identity {
    Identity::generate(name).unwrap()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

type Accepted = Result<(TlsStream<TcpStream>, Pin), TlsError>;
type Dialled = Result<TlsStream<TcpStream>, TlsError>;

/// One handshake between a listening identity and whoever dials with this connector. The client
/// reads once, for in TLS 1.3 it learns only then that the server did not want it.
async fn meet(server: &Identity, client: &TlsConnector) -> (Accepted, Dialled) {
    let (listener, address) = listen().await;
    let acceptor = acceptor(server).unwrap();
    let accepting = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut accepted = accept(&acceptor, stream).await?;
        accepted.0.write_all(b"in").await.map_err(TlsError::Handshake)?;
        Ok(accepted)
    };
    let dialling = async {
        let mut stream = dial(client, address).await?;
        let mut word = [0; 2];
        stream.read_exact(&mut word).await.map_err(TlsError::Handshake)?;
        Ok(stream)
    };
    tokio::join!(accepting, dialling)
}

/// A client's config with the right server pin, its certificate left to the caller.
fn half_config(server: Pin) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = provider();
    let verifier = Arc::new(Pinned { provider: provider.clone(), only: Some(server) });
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
}

#[tokio::test]
async fn the_right_pin_gets_through_and_the_server_learns_the_clients() {
    let (grc, crm) = (identity("grc"), identity("crm a"));
    let (accepted, dialled) = meet(&grc, &connector(&crm, grc.pin()).unwrap()).await;
    let ((stream, pin), _) = (accepted.unwrap(), dialled.unwrap());
    assert_eq!(pin, crm.pin());
    let version = stream.get_ref().1.protocol_version();
    assert_eq!(version, Some(rustls::ProtocolVersion::TLSv1_3));
}

#[tokio::test]
async fn a_server_with_another_certificate_is_refused_before_anything_is_sent() {
    let (grc, other, crm) = (identity("grc"), identity("grc"), identity("crm a"));
    let (accepted, dialled) = meet(&other, &connector(&crm, grc.pin()).unwrap()).await;
    let error = dialled.unwrap_err();
    assert!(matches!(error, TlsError::WrongPin), "{error}");
    assert!(accepted.is_err());
}

#[tokio::test]
async fn both_ends_of_a_connection_derive_the_same_and_no_two_connections_do() {
    let (grc, client) = (identity("grc"), identity("client"));
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (accepted, dialled) = meet(&grc, &connector(&client, grc.pin()).unwrap()).await;
        let (server, client) = (binding(&accepted.unwrap().0).unwrap(), binding(&dialled.unwrap()).unwrap());
        assert_eq!(server, client);
        assert!(seen.insert(server), "two connections between the same peers");
    }
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let grc = identity("grc");
    let anonymous = TlsConnector::from(Arc::new(half_config(grc.pin()).with_no_client_auth()));
    let (accepted, dialled) = meet(&grc, &anonymous).await;
    assert!(matches!(accepted, Err(TlsError::Handshake(_))));
    assert!(dialled.is_err());
}

/// Presents somebody's certificate with a key that is not of it.
#[derive(Debug)]
struct Thief(Arc<CertifiedKey>);

impl ResolvesClientCert for Thief {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let (grc, crm, own) = (identity("grc"), identity("crm a"), identity("thief"));
    let key = rustls::crypto::ring::sign::any_eddsa_type(&match own.key() {
        PrivateKeyDer::Pkcs8(key) => key,
        other => panic!("{other:?}"),
    })
    .unwrap();
    let thief = Thief(Arc::new(CertifiedKey::new(vec![crm.certificate()], key)));
    let config = half_config(grc.pin()).with_client_cert_resolver(Arc::new(thief));
    let (accepted, dialled) = meet(&grc, &TlsConnector::from(Arc::new(config))).await;
    assert!(matches!(accepted, Err(TlsError::Handshake(_))));
    assert!(dialled.is_err());
}

/// A resumed session would skip the verifier: whoever was let in once would stay in.
#[tokio::test]
async fn no_session_is_ever_resumed() {
    let (grc, crm) = (identity("grc"), identity("crm a"));
    let connector = connector(&crm, grc.pin()).unwrap();
    for _ in 0..3 {
        let (accepted, dialled) = meet(&grc, &connector).await;
        let kind = accepted.unwrap().0.get_ref().1.handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Full));
        assert_eq!(dialled.unwrap().get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
}

/// A ClientHello as TLS 1.2 writes it: no `supported_versions`, an ECDSA suite of that time.
fn tls12_hello() -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..],  // supported_groups: x25519
        &[0, 13, 0, 6, 0, 4, 8, 7, 4, 3], // signature_algorithms: ed25519, ecdsa_secp256r1
        &[0, 11, 0, 2, 1, 0],             // ec_point_formats
        &[0, 23, 0, 0],                   // extended_master_secret
    ]
    .concat();
    let mut hello = vec![3, 3];
    hello.extend([0x42; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    record
}

#[tokio::test]
async fn what_is_not_tls13_is_refused() {
    let grc = identity("grc");
    let acceptor = acceptor(&grc).unwrap();
    for (bytes, why) in [
        (tls12_hello(), "1.2"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), ""),
        (vec![0xff; 64], ""),
        (crate::hello::Hello::ours(crate::hello::Role::Crm).encode().to_vec(), ""),
    ] {
        let (listener, address) = listen().await;
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(&bytes).await.unwrap();
        stranger.shutdown().await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        match accept(&acceptor, stream).await {
            Err(TlsError::Handshake(cause)) if why == "1.2" => {
                let cause = format!("{cause:?}");
                assert!(cause.contains("Tls12NotOffered") || cause.contains("SupportedVersions"), "{cause}");
            }
            Err(TlsError::Handshake(_)) => {}
            other => panic!("{:?}", other.map(|(_, pin)| pin)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_shakes_hands_is_not_waited_for() {
    let (grc, crm) = (identity("grc"), identity("crm a"));
    let (listener, address) = listen().await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let accepted = accept(&acceptor(&grc).unwrap(), stream).await;
    assert!(matches!(accepted, Err(TlsError::Timeout)));
    let dialled = dial(&connector(&crm, grc.pin()).unwrap(), address).await;
    assert!(matches!(dialled, Err(TlsError::Timeout)));
}

#[tokio::test]
async fn an_address_where_nobody_listens_is_named() {
    let (grc, crm) = (identity("grc"), identity("crm a"));
    let (listener, address) = listen().await;
    drop(listener);
    let error = dial(&connector(&crm, grc.pin()).unwrap(), address).await.unwrap_err();
    assert!(matches!(error, TlsError::Dial { .. }) && error.to_string().contains(&address.to_string()));
}
