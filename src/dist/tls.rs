//! The distribution inside TLS, as OTP's `-proto_dist inet_tls` has it: TLS 1.3 or 1.2 on the plain port, from the first
//! byte on, and in it the same handshake and frames.
//!
//! ```text
//!              what is checked of the peer      of the one who dials     of the one who is dialled
//!  TlsVerify::Full   its chain, and that its     always, with the name    a certificate is demanded, and must be for the
//!                    certificate is for its      that we dial             host of the name that it gives in the handshake
//!                    node's host
//!  TlsVerify::Peer   its chain                   always                   a certificate is demanded
//!  TlsVerify::None   nothing                                              none is asked for
//! ```
//!
//! OTP's dialler checks what `Full` does there, its acceptor what `Peer` does. A certificate that was checked with one
//! node's name says nothing of the next, so sessions are not resumed: connections live long anyway.

use super::{NodeName, StartError, handshake::HandshakeError};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as RustlsError, RootCertStore,
    ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{self, PemObject},
    },
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
};
use std::{fmt, io, net::IpAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// How far peers are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVerify {
    /// Their certificates must be signed by one of our authorities and be for the host part of their names. Peers that
    /// connect to us must present one.
    #[default]
    Full,
    /// The same, for any name.
    Peer,
    /// Nothing is checked and no certificate asked for: the connection is encrypted, with whom is not known.
    None,
}

/// What a node's TLS is made of, each as the text of a PEM file.
#[derive(Clone, Copy, Default)]
pub struct TlsPem<'a> {
    /// Our certificate, and those between it and the authority, in this order. A node that listens needs one.
    pub certificate: Option<&'a [u8]>,
    /// Its key: PKCS #8, PKCS #1 or SEC1, without a password.
    pub key: Option<&'a [u8]>,
    /// The certificates of the authorities whose signature we trust.
    pub authorities: Option<&'a [u8]>,
    /// How far peers are checked.
    pub verify: TlsVerify,
}

/// Why no TLS can be made of a text. None of it is in the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// The certificate cannot be used.
    #[error("the certificate {0}")]
    Certificate(String),
    /// The key cannot be used.
    #[error("the key {0}")]
    Key(String),
    /// The authorities cannot be used.
    #[error("the authorities' certificates {0}")]
    Authorities(String),
    /// A certificate without a key, or the reverse.
    #[error("a certificate and its key are needed together")]
    Half,
    /// Peers are to be checked, and nobody is trusted.
    #[error("peers are to be verified, and no authority is named whose certificates are trusted")]
    NoAuthorities,
}

/// A node's certificate and key, whom it trusts, and how far it checks. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    inner: Arc<Inner>,
}

struct Inner {
    connector: TlsConnector,
    acceptor: Option<TlsAcceptor>,
    verify: TlsVerify,
    chain: Vec<CertificateDer<'static>>,
    peers: Arc<Peers>,
    /// What checks those who dial us, when anything does.
    diallers: Option<Arc<dyn ClientCertVerifier>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("verify", &self.inner.verify)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Makes TLS out of PEM texts.
    ///
    /// # Errors
    /// What cannot be used, and why; certificate and key do not belong together.
    pub fn new(pem: TlsPem<'_>) -> Result<Self, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = match pem.certificate {
            Some(text) => certificates(text).map_err(TlsError::Certificate)?,
            None => Vec::new(),
        };
        let key = match pem.key {
            Some(text) => Some(PrivateKeyDer::from_pem_slice(text).map_err(|error| {
                TlsError::Key(match error {
                    pem::Error::NoItemsFound if encrypted(text) => {
                        "has a password, which cannot be given here: write it \
                        without (openssl pkey -in FILE)"
                            .into()
                    }
                    error => not_pem(&error, "PRIVATE KEY"),
                })
            })?),
            None => None,
        };
        let own = match (chain.is_empty(), key) {
            (true, None) => None,
            (false, Some(key)) => Some(key),
            _ => return Err(TlsError::Half),
        };
        let mut roots = RootCertStore::empty();
        for certificate in match pem.authorities {
            Some(text) => certificates(text).map_err(TlsError::Authorities)?,
            None => Vec::new(),
        } {
            roots
                .add(certificate)
                .map_err(|error| TlsError::Authorities(format!("cannot be read: {error}")))?;
        }
        if roots.is_empty() && pem.verify != TlsVerify::None {
            return Err(TlsError::NoAuthorities);
        }
        let peers = Arc::new(Peers {
            roots: Arc::new(roots),
            verify: pem.verify,
            provider: provider.clone(),
        });
        let client = client(&provider, &peers, &chain, own.as_ref())?;
        let diallers = match pem.verify {
            TlsVerify::None => None,
            _ => Some(diallers(&peers.roots, &provider)?),
        };
        let acceptor = match own {
            Some(key) => {
                let config = server(provider, diallers.clone(), chain.clone(), key)?;
                Some(TlsAcceptor::from(Arc::new(config)))
            }
            None => None,
        };
        Ok(Self {
            inner: Arc::new(Inner {
                connector: TlsConnector::from(Arc::new(client)),
                acceptor,
                verify: pem.verify,
                chain,
                peers,
                diallers,
            }),
        })
    }

    /// How far peers are checked.
    pub fn verify(&self) -> TlsVerify {
        self.inner.verify
    }

    /// What peers that are configured as we are would refuse of us: better heard at our start than from them.
    pub fn doubts(&self, name: &NodeName) -> Option<String> {
        let Inner {
            chain,
            peers,
            diallers,
            ..
        } = &*self.inner;
        let (own, between) = chain.split_first()?;
        let host = ServerName::try_from(name.host()).ok()?;
        let now = UnixTime::now();
        let as_dialler = || match diallers {
            Some(diallers) => diallers.verify_client_cert(own, between, now).map(drop),
            None => Ok(()),
        };
        match peers
            .check(own, between, &host, now)
            .and_then(|()| as_dialler())
        {
            Err(RustlsError::InvalidCertificate(why)) => Some(invalid("our own", &why)),
            Err(error) => Some(format!("our own certificate cannot be used: {error}")),
            Ok(()) => None,
        }
    }

    /// A node that listens is asked for its certificate.
    pub(crate) fn listens(&self) -> Result<(), StartError> {
        match self.inner.acceptor {
            Some(_) => Ok(()),
            None => Err(StartError::NoCertificate),
        }
    }

    /// The dialler's half of the TLS handshake.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        peer: &NodeName,
        ip: IpAddr,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        // As OTP: the name that is asked for, and checked, is the host part of the node's name.
        let host = match ServerName::try_from(peer.host().to_owned()) {
            Ok(host) => host,
            Err(_) if self.verify() != TlsVerify::Full => ServerName::from(ip),
            Err(_) => {
                return Err(HandshakeError::Tls(format!(
                    "no certificate can be for the host {:?}: --tls-verify peer does without the host name",
                    peer.host()
                )));
            }
        };
        let stream = self.inner.connector.connect(host, stream).await;
        stream.map(TlsStream::from).map_err(in_tls)
    }

    /// The acceptor's half.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let Some(acceptor) = &self.inner.acceptor else {
            return Err(HandshakeError::Tls("we have no certificate".into()));
        };
        let stream = acceptor.accept(stream).await;
        stream.map(TlsStream::from).map_err(in_tls)
    }

    /// Whether the one who connected to us may call itself so.
    pub(crate) fn check_name(
        &self,
        stream: &TlsStream<TcpStream>,
        name: &NodeName,
    ) -> Result<(), HandshakeError> {
        if self.verify() != TlsVerify::Full {
            return Ok(());
        }
        let (_, connection) = stream.get_ref();
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let checked = match (certificate, ServerName::try_from(name.host())) {
            (Some(certificate), Ok(host)) => ParsedCertificate::try_from(certificate)
                .and_then(|certificate| verify_server_name(&certificate, &host)),
            _ => Err(CertificateError::NotValidForName.into()),
        };
        checked.map_err(|error| HandshakeError::Tls(explained(&error)))
    }
}

fn client(
    provider: &Arc<CryptoProvider>,
    peers: &Arc<Peers>,
    chain: &[CertificateDer<'static>],
    key: Option<&PrivateKeyDer<'static>>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Key(format!("cannot be used: {error}")))?
        .dangerous()
        .with_custom_certificate_verifier(peers.clone());
    let mut config = match key {
        Some(key) => builder
            .with_client_auth_cert(chain.to_vec(), key.clone_key())
            .map_err(|error| unusable(&error))?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn server(
    provider: Arc<CryptoProvider>,
    diallers: Option<Arc<dyn ClientCertVerifier>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Key(format!("cannot be used: {error}")))?;
    let builder = match diallers {
        Some(diallers) => builder.with_client_cert_verifier(diallers),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&error))?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// What demands a sound certificate of whoever dials us.
fn diallers(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| TlsError::Authorities(format!("cannot be used: {error}")))
}

fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(not_pem(&pem::Error::NoItemsFound, "CERTIFICATE")),
        Ok(found) => Ok(found),
        Err(error) => Err(not_pem(&error, "CERTIFICATE")),
    }
}

fn not_pem(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("has no part that begins with -----BEGIN {what}-----"),
        _ => "is broken PEM: write it anew".into(),
    }
}

fn encrypted(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("ENCRYPTED")
}

fn unusable(error: &RustlsError) -> TlsError {
    match error {
        RustlsError::InconsistentKeys(_) => TlsError::Key(
            "is not the one of the certificate: name the pair that belongs together".into(),
        ),
        RustlsError::InvalidCertificate(_) => {
            TlsError::Certificate(format!("cannot be read: {error}"))
        }
        _ => TlsError::Key(format!(
            "is of a kind that cannot be used ({error}): take RSA of 2048 bits or more, ECDSA P-256 or P-384, or Ed25519"
        )),
    }
}

/// What we check of the one whom we dial.
#[derive(Debug)]
struct Peers {
    roots: Arc<RootCertStore>,
    verify: TlsVerify,
    provider: Arc<CryptoProvider>,
}

impl Peers {
    fn check(
        &self,
        own: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), RustlsError> {
        if self.verify == TlsVerify::None {
            return Ok(());
        }
        let certificate = ParsedCertificate::try_from(own)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            between,
            now,
            algorithms,
        )?;
        match self.verify {
            TlsVerify::Full => verify_server_name(&certificate, host),
            _ => Ok(()),
        }
    }
}

impl ServerCertVerifier for Peers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, RustlsError> {
        self.check(end_entity, intermediates, server_name, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, RustlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What ended the TLS handshake.
fn in_tls(error: io::Error) -> HandshakeError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => HandshakeError::Tls(NO_ANSWER.into()),
        _ => error.into(),
    }
}

/// Of a peer that closes, or stays silent, where TLS would go on.
pub(crate) const NO_ANSWER: &str = "it did not go on with the TLS handshake: most likely it speaks no TLS (start both nodes \
    with it, or both without), else its log says what it refuses";

/// A failure of TLS in words, with the mend. `None`: the socket itself failed.
pub(crate) fn of_io(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<RustlsError>()?;
    Some(explained(inner))
}

fn explained(error: &RustlsError) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        RustlsError::InvalidCertificate(why) => invalid("its", why),
        RustlsError::NoCertificatesPresented => "it presented no certificate: give it one (--tls-cert and --tls-key; \
            erl: certfile and keyfile for the client too)"
            .into(),
        RustlsError::AlertReceived(alert) => match alert {
            Alert::UnknownCA => "it does not know the authority of our certificate: its --tls-ca (erl: cacertfile) must name \
                the one that signed ours"
                .into(),
            Alert::CertificateExpired => {
                "it says that our certificate has expired: give this node a new one".into()
            }
            Alert::CertificateRequired => {
                "it demands a certificate of us: give --tls-cert and --tls-key".into()
            }
            Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied => {
                format!("it refuses our certificate ({alert:?}): its log says why")
            }
            Alert::HandshakeFailure => "it refuses our certificate or its absence, or has no cipher in common with us \
                (HandshakeFailure): its log says which"
                .into(),
            Alert::ProtocolVersion => {
                "it speaks neither TLS 1.3 nor 1.2: let it (erl: versions)".into()
            }
            _ => format!("it ended the TLS handshake with the alert {alert:?}: its log may say why"),
        },
        RustlsError::InvalidMessage(_) => "it speaks no TLS and this node does: start both nodes with it \
            (erl: -proto_dist inet_tls), or both without --tls-cert"
            .into(),
        RustlsError::PeerIncompatible(why) => {
            format!("it has no version, cipher or key exchange of TLS in common with us ({why:?})")
        }
        other => format!("TLS failed: {:.200}", other.to_string()),
    }
}

/// `whose`: "its" or "our own".
fn invalid(whose: &str, why: &CertificateError) -> String {
    use CertificateError as Why;
    let days = |from: UnixTime, to: UnixTime| {
        let seconds = to.as_secs().saturating_sub(from.as_secs());
        match seconds / 86_400 {
            0 => format!("{} ago", human(seconds)),
            days => format!("{days} days ago"),
        }
    };
    match why {
        Why::Expired => format!("{whose} certificate has expired: it needs a new one"),
        Why::ExpiredContext { time, not_after } => format!(
            "{whose} certificate has expired {}: it needs a new one, or a clock is wrong",
            days(*not_after, *time)
        ),
        Why::NotValidYet | Why::NotValidYetContext { .. } => {
            format!("{whose} certificate is not valid yet: is a clock wrong?")
        }
        Why::UnknownIssuer | Why::BadSignature => format!(
            "{whose} certificate is not signed by any authority in --tls-ca: name the one that signed it there"
        ),
        Why::NotValidForName => format!(
            "{whose} certificate is not for the host of the node's name: it needs that as a subjectAltName, or \
             --tls-verify peer takes any name"
        ),
        Why::NotValidForNameContext {
            expected,
            presented,
        } => format!(
            "{whose} certificate is not for {} but for {}: it needs that host as a subjectAltName, or --tls-verify peer \
             takes any name",
            expected.to_str(),
            shown_names(presented)
        ),
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => format!(
            "{whose} certificate is not meant for this: its extended key usage must be both serverAuth and clientAuth, \
             or be left out"
        ),
        Why::UnsupportedSignatureAlgorithmContext { .. }
        | Why::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "{whose} certificate is signed in a way that is not taken: have it signed with SHA-256 or more, by a key of RSA, \
             ECDSA P-256 or P-384, or Ed25519"
        ),
        // Some of these list every algorithm there is.
        other => format!("{whose} certificate is refused: {:.200}", other.to_string()),
    }
}

fn human(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

/// The names in a peer's certificate, which are its own choice: a few, and cut.
fn shown_names(names: &[String]) -> String {
    const MOST: usize = 5;
    let mut shown: Vec<String> = names
        .iter()
        .take(MOST)
        .map(|name| {
            name.escape_debug()
                .take(80)
                .collect::<String>()
                .replace("\\\"", "\"")
        })
        .collect();
    if shown.is_empty() {
        return "no host at all".into();
    }
    if names.len() > MOST {
        shown.push("others".into());
    }
    shown.join(", ")
}
