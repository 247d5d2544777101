//! The handshake of the distribution protocol (ERTS reference manual, "Distribution Handshake"), version 6.
//!
//! ```text
//!  dialler                                   acceptor
//!  'N' flags creation name       ─────────►            who I am
//!                                ◄─────────  's' ok | ok_simultaneous | nok | not_allowed | alive | named:
//!  's' true | false              ─────────►            only after `alive`: yes, replace the old connection
//!                                ◄─────────  'N' flags challenge creation name
//!  'r' challenge' digest         ─────────►            digest = md5(cookie ++ decimal text of challenge)
//!                                ◄─────────  'a' digest'
//! ```
//!
//! Every message has a 2-byte length before it, or a 4-byte one inside TLS, as OTP has it there. Nothing but the fixed deadline and [`LONGEST`] protects us here: whoever
//! reaches the port can talk to this file, so it reads small messages only, allocates nothing that they announce, and
//! compares digests in constant time.

use super::{Cookie, NodeName, Refusal, tls};
use erl_dist::DistributionFlags as Flag;
use md5::{Digest, Md5};
use std::{future::Future, io, time::Duration};
use subtle::ConstantTimeEq;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A node without this bit is hidden.
pub(crate) const PUBLISHED: u64 = Flag::PUBLISHED.bits();

/// How long a whole handshake may take: `net_setuptime` of OTP.
pub(crate) const DEADLINE: Duration = Duration::from_secs(7);

/// The longest message: a name has at most 255 characters, of at most 4 bytes each.
const LONGEST: usize = 1100;

/// "All that is mandatory since OTP 25" in one bit; the crate's constant of this name is another, internal, bit.
const MANDATORY_25_DIGEST: u64 = 0x400_0000;

/// The message to an alias in its new form, operation 37 (OTP 28).
pub(crate) const ALTACT_SIG: u64 = 1 << 37;

/// Records as a type of their own (OTP 29). The crate knows neither this bit nor the one above.
pub(crate) const NATIVE_RECORDS: u64 = 1 << 38;

/// What we offer: all that OTP 29 does but the internal bits.
pub(crate) const FLAGS: u64 = PUBLISHED
    | Flag::EXTENDED_REFERENCES.bits()
    | Flag::DIST_MONITOR.bits()
    | Flag::FUN_TAGS.bits()
    | Flag::DIST_MONITOR_NAME.bits()
    | Flag::NEW_FUN_TAGS.bits()
    | Flag::EXTENDED_PIDS_PORTS.bits()
    | Flag::EXPORT_PTR_TAG.bits()
    | Flag::BIT_BINARIES.bits()
    | Flag::NEW_FLOATS.bits()
    | Flag::UNICODE_IO.bits()
    | Flag::DIST_HDR_ATOM_CACHE.bits()
    | Flag::SMALL_ATOM_TAGS.bits()
    | Flag::UTF8_ATOMS.bits()
    | Flag::MAP_TAGS.bits()
    | Flag::BIG_CREATION.bits()
    | Flag::SEND_SENDER.bits()
    | Flag::BIG_SEQTRACE_LABELS.bits()
    | Flag::EXIT_PAYLOAD.bits()
    | Flag::FRAGMENTS.bits()
    | Flag::HANDSHAKE_23.bits()
    | Flag::UNLINK_ID.bits()
    | MANDATORY_25_DIGEST
    | Flag::SPAWN.bits()
    | Flag::V4_NC.bits()
    | Flag::ALIAS.bits()
    | ALTACT_SIG
    | NATIVE_RECORDS;

/// What a peer must have: what OTP 25 demands of us, and the three without which it could not follow what we send.
const MANDATORY: [(u64, &str); 15] = [
    (Flag::EXTENDED_REFERENCES.bits(), "EXTENDED_REFERENCES"),
    (Flag::FUN_TAGS.bits(), "FUN_TAGS"),
    (Flag::NEW_FUN_TAGS.bits(), "NEW_FUN_TAGS"),
    (Flag::EXTENDED_PIDS_PORTS.bits(), "EXTENDED_PIDS_PORTS"),
    (Flag::EXPORT_PTR_TAG.bits(), "EXPORT_PTR_TAG"),
    (Flag::BIT_BINARIES.bits(), "BIT_BINARIES"),
    (Flag::NEW_FLOATS.bits(), "NEW_FLOATS"),
    (Flag::UTF8_ATOMS.bits(), "UTF8_ATOMS"),
    (Flag::MAP_TAGS.bits(), "MAP_TAG"),
    (Flag::BIG_CREATION.bits(), "BIG_CREATION"),
    (Flag::HANDSHAKE_23.bits(), "HANDSHAKE_23"),
    (Flag::UNLINK_ID.bits(), "UNLINK_ID"),
    (Flag::V4_NC.bits(), "V4_NC"),
    (Flag::SMALL_ATOM_TAGS.bits(), "SMALL_ATOM_TAGS"),
    (Flag::EXIT_PAYLOAD.bits(), "EXIT_PAYLOAD"),
];

/// The bits of [`MANDATORY`] for which `MANDATORY_25_DIGEST` stands when a peer sends it alone.
const DIGEST_STANDS_FOR: u64 = 0x107_0F94;

/// What the first two bytes of a TLS record are, read as a length: a hello, or an alert; no name is as long.
const TLS_HELLO: u32 = 0x1603;
const TLS_ALERT: u32 = 0x1503;

/// What a handshake goes over.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Whether lengths have 4 bytes instead of 2.
    fn wide(&self) -> bool;
}

/// What we say of ourselves.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) name: NodeName,
    pub(crate) flags: u64,
    pub(crate) creation: u32,
    pub(crate) cookie: Cookie,
}

/// What a peer said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) name: NodeName,
    pub(crate) flags: u64,
    pub(crate) creation: u32,
}

/// The acceptor's word on a connection; who says what when is decided in `slots.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// Go on.
    Ok,
    /// Go on; I give up the connection that I was making to you.
    OkSimultaneous,
    /// Stop: I am connecting to you, and my connection wins.
    Nok,
    /// We are connected already; do you want to replace that?
    Alive,
}

/// Why a handshake failed. Nothing is left of the connection in any case.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the socket failed: {0}")]
    Io(io::Error),
    /// TLS failed; says how to mend it.
    #[error("{0}")]
    Tls(String),
    #[error(
        "it speaks TLS and this node does not: give this node --tls-cert, or start the other without TLS"
    )]
    SpeaksTls,
    #[error("it closed the connection where {0} was expected")]
    Closed(&'static str),
    #[error(
        "it closed the connection after our answer to its challenge: its cookie is most likely not ours"
    )]
    CookieRefused,
    #[error("its cookie is not ours: start both nodes with the same --cookie (erl: -setcookie)")]
    Cookie,
    #[error("it sent {0}, which is not of this handshake: is something else listening there?")]
    Malformed(&'static str),
    #[error("{0} lacks {1}: OTP 25 or newer is needed")]
    Flags(NodeName, String),
    #[error("its challenge is that of OTP 22 or older: OTP 25 or newer is needed")]
    Old,
    #[error("it does not accept our node: its log says why")]
    NotAllowed,
    #[error("it is connecting to us at this moment, and that connection goes first")]
    Nok,
    #[error("it was given up: the peer's own connection to us goes first")]
    GivenUp,
    #[error("another node answers there: {0}")]
    OtherName(String),
    #[error("we are connected to it already")]
    Alive,
    #[error("the handshake was not completed within {} s", DEADLINE.as_secs())]
    Late,
    #[error(
        "too many handshakes at a time, and it was the oldest of the address that has the most"
    )]
    TurnedAway,
}

/// What is expected first of a peer that has our name.
const STATUS: &str = "its status";

impl HandshakeError {
    /// The kind of failure, for those outside of this module.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Self::Cookie | Self::CookieRefused => Refusal::Cookie,
            Self::Flags(..) | Self::Old => Refusal::TooOld,
            Self::NotAllowed => Refusal::NotAllowed,
            Self::Closed(STATUS) => Refusal::ClosedAtOnce,
            Self::OtherName(_) => Refusal::OtherName,
            _ => Refusal::Other,
        }
    }

    /// Who answered in the place of the one that was dialled.
    pub(crate) fn answered(&self) -> Option<NodeName> {
        match self {
            Self::OtherName(name) => name.parse().ok(),
            _ => None,
        }
    }
}

impl From<io::Error> for HandshakeError {
    /// What TLS has to say comes out of the socket as an error of it.
    fn from(error: io::Error) -> Self {
        match tls::of_io(&error) {
            Some(why) => Self::Tls(why),
            None => Self::Io(error),
        }
    }
}

/// The dialler's half. `wanted`: whether this dial still has its slot. It may lose it to the peer's own connection at any
/// time; going on then would show the peer a connection that comes and goes, or replace the one that won.
pub(crate) async fn dial<S>(
    stream: &mut S,
    local: &Local,
    peer: &NodeName,
    wanted: impl Fn() -> bool,
) -> Result<Remote, HandshakeError>
where
    S: Transport,
{
    if !wanted() {
        return Err(HandshakeError::GivenUp);
    }
    send(stream, &name_message(local, None)).await?;

    let status = receive(stream, STATUS).await?;
    match status
        .strip_prefix(b"s")
        .ok_or(HandshakeError::Malformed("something else than a status"))?
    {
        b"ok" | b"ok_simultaneous" => {}
        b"nok" => return Err(HandshakeError::Nok),
        b"not_allowed" => return Err(HandshakeError::NotAllowed),
        b"alive" if wanted() => send(stream, b"strue").await?,
        b"alive" => {
            send(stream, b"sfalse").await?;
            return Err(HandshakeError::Alive);
        }
        _ => return Err(HandshakeError::Malformed("an unknown status")),
    }

    let message = receive(stream, "its challenge").await?;
    let (remote, challenge) = parse_challenge(&message)?;
    if remote.name != *peer {
        return Err(HandshakeError::OtherName(remote.name.to_string()));
    }
    check_flags(&remote)?;
    if !wanted() {
        return Err(HandshakeError::GivenUp);
    }

    let ours: u32 = rand::random();
    let mut reply = vec![b'r'];
    reply.extend_from_slice(&ours.to_be_bytes());
    reply.extend_from_slice(&digest(&local.cookie, challenge));
    send(stream, &reply).await?;

    let ack = match receive(stream, "the answer to our challenge").await {
        Err(HandshakeError::Closed(_)) => return Err(HandshakeError::CookieRefused),
        other => other?,
    };
    let theirs = ack
        .strip_prefix(b"a")
        .ok_or(HandshakeError::Malformed("something else than its digest"))?;
    check_digest(&local.cookie, ours, theirs)?;
    Ok(remote)
}

/// The acceptor's first step: who is there. A peer that wants a name from us (`NAME_ME`) gets one here.
pub(crate) async fn receive_name<S>(stream: &mut S) -> Result<(Remote, bool), HandshakeError>
where
    S: Transport,
{
    let message = receive(stream, "its name").await?;
    let malformed = || HandshakeError::Malformed("something else than a node's name");
    let mut fields = Fields(message.strip_prefix(b"N").ok_or_else(malformed)?);
    let flags = fields.u64().ok_or_else(malformed)?;
    let creation = fields.u32().ok_or_else(malformed)?;
    let text = fields.name().ok_or_else(malformed)?;

    let dynamic = flags & Flag::NAME_ME.bits() != 0;
    let remote = if dynamic {
        let name = invent_name(text).ok_or_else(malformed)?;
        Remote {
            name,
            flags: flags & !PUBLISHED,
            creation: new_creation(),
        }
    } else {
        Remote {
            name: text.parse().map_err(|_| malformed())?,
            flags,
            creation,
        }
    };
    if let Err(error) = check_flags(&remote) {
        send(stream, b"snot_allowed").await?;
        return Err(error);
    }
    Ok((remote, dynamic))
}

/// The acceptor's second step, once it is decided what to say. `before_ack` runs when the peer has proved that it knows
/// the cookie, and before it hears that it is connected: an older connection that this one replaces is closed there.
/// `false`: the connection has lost its slot to another, and the peer must not believe that it is up.
pub(crate) async fn accept<S>(
    stream: &mut S,
    local: &Local,
    remote: &Remote,
    dynamic: bool,
    status: Status,
    before_ack: impl Future<Output = bool>,
) -> Result<(), HandshakeError>
where
    S: Transport,
{
    match status {
        Status::Ok if dynamic => {
            let name = remote.name.as_str();
            let mut message = b"snamed:".to_vec();
            message.extend_from_slice(&(name.len() as u16).to_be_bytes());
            message.extend_from_slice(name.as_bytes());
            message.extend_from_slice(&remote.creation.to_be_bytes());
            send(stream, &message).await?;
        }
        Status::Ok => send(stream, b"sok").await?,
        Status::OkSimultaneous => send(stream, b"sok_simultaneous").await?,
        Status::Nok => {
            send(stream, b"snok").await?;
            return Err(HandshakeError::Nok);
        }
        Status::Alive => {
            send(stream, b"salive").await?;
            if receive(stream, "whether to go on").await? != b"strue" {
                return Err(HandshakeError::Alive);
            }
        }
    }

    let challenge: u32 = rand::random();
    let mut said = local.clone();
    if dynamic {
        // As OTP does: the flag comes back in the place of PUBLISHED, and without it the peer never takes its name.
        said.flags = said.flags & !PUBLISHED | Flag::NAME_ME.bits();
    }
    send(stream, &name_message(&said, Some(challenge))).await?;

    let reply = receive(stream, "the answer to our challenge").await?;
    let malformed = || HandshakeError::Malformed("something else than an answer to our challenge");
    let mut fields = Fields(reply.strip_prefix(b"r").ok_or_else(malformed)?);
    let theirs = fields.u32().ok_or_else(malformed)?;
    check_digest(&local.cookie, challenge, fields.0)?;

    if !before_ack.await {
        return Err(HandshakeError::Nok);
    }
    let mut ack = vec![b'a'];
    ack.extend_from_slice(&digest(&local.cookie, theirs));
    send(stream, &ack).await?;
    Ok(())
}

/// A creation for a node's new life: random, never one of the four that older nodes used, so that a pid of an earlier
/// life is never taken for one of this.
pub(crate) fn new_creation() -> u32 {
    rand::random::<u32>().max(4)
}

fn invent_name(host: &str) -> Option<NodeName> {
    let letters: String = (0..13)
        .map(|_| {
            char::from_digit(rand::random_range(10..36), 36)
                .unwrap_or('x')
                .to_ascii_uppercase()
        })
        .collect();
    format!("{letters}@{host}").parse().ok()
}

fn name_message(local: &Local, challenge: Option<u32>) -> Vec<u8> {
    let name = local.name.as_str();
    let mut message = vec![b'N'];
    message.extend_from_slice(&local.flags.to_be_bytes());
    if let Some(challenge) = challenge {
        message.extend_from_slice(&challenge.to_be_bytes());
    }
    message.extend_from_slice(&local.creation.to_be_bytes());
    message.extend_from_slice(&(name.len() as u16).to_be_bytes());
    message.extend_from_slice(name.as_bytes());
    message
}

fn parse_challenge(message: &[u8]) -> Result<(Remote, u32), HandshakeError> {
    let malformed = || HandshakeError::Malformed("something else than a challenge");
    if message.first() == Some(&b'n') {
        return Err(HandshakeError::Old);
    }
    let mut fields = Fields(message.strip_prefix(b"N").ok_or_else(malformed)?);
    let flags = fields.u64().ok_or_else(malformed)?;
    let challenge = fields.u32().ok_or_else(malformed)?;
    let creation = fields.u32().ok_or_else(malformed)?;
    let name = fields.name().ok_or_else(malformed)?;
    let name = name
        .parse()
        .map_err(|_| HandshakeError::OtherName(format!("{name:?}")))?;
    Ok((
        Remote {
            name,
            flags,
            creation,
        },
        challenge,
    ))
}

fn check_flags(peer: &Remote) -> Result<(), HandshakeError> {
    let flags = peer.flags;
    let flags = if flags & MANDATORY_25_DIGEST != 0 {
        flags | DIGEST_STANDS_FOR
    } else {
        flags
    };
    let missing: Vec<&str> = MANDATORY
        .iter()
        .filter(|(bit, _)| flags & bit == 0)
        .map(|(_, name)| *name)
        .collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(HandshakeError::Flags(peer.name.clone(), missing.join(", ")))
    }
}

fn digest(cookie: &Cookie, challenge: u32) -> [u8; 16] {
    let mut md5 = Md5::new();
    md5.update(cookie.expose().as_bytes());
    md5.update(challenge.to_string().as_bytes());
    md5.finalize().into()
}

fn check_digest(cookie: &Cookie, challenge: u32, theirs: &[u8]) -> Result<(), HandshakeError> {
    if bool::from(digest(cookie, challenge).ct_eq(theirs)) {
        Ok(())
    } else {
        Err(HandshakeError::Cookie)
    }
}

async fn send<S: Transport>(stream: &mut S, message: &[u8]) -> io::Result<()> {
    let mut framed = Vec::with_capacity(message.len() + 4);
    if stream.wide() {
        framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    } else {
        framed.extend_from_slice(&(message.len() as u16).to_be_bytes());
    }
    framed.extend_from_slice(message);
    stream.write_all(&framed).await?;
    stream.flush().await
}

async fn receive<S: Transport>(
    stream: &mut S,
    expected: &'static str,
) -> Result<Vec<u8>, HandshakeError> {
    let closed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => {
            HandshakeError::Closed(expected)
        }
        _ => error.into(),
    };
    let length = if stream.wide() {
        stream.read_u32().await.map_err(closed)?
    } else {
        match u32::from(stream.read_u16().await.map_err(closed)?) {
            TLS_HELLO | TLS_ALERT => return Err(HandshakeError::SpeaksTls),
            length => length,
        }
    };
    let length = length as usize;
    if length == 0 || length > LONGEST {
        return Err(HandshakeError::Malformed(
            "a message of an impossible length",
        ));
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await.map_err(closed)?;
    Ok(message)
}

/// Reads fixed fields off the front of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn name(&mut self) -> Option<&'a str> {
        let length = usize::from(u16::from_be_bytes(self.take()?));
        std::str::from_utf8(self.0.get(..length)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Transport for tokio::io::DuplexStream {
        fn wide(&self) -> bool {
            false
        }
    }

    fn local(name: &str, cookie: &str) -> Local {
        Local {
            name: name.parse().unwrap(),
            flags: FLAGS,
            creation: 7,
            cookie: Cookie::new(cookie).unwrap(),
        }
    }

    async fn both(
        ours: Local,
        theirs: Local,
        status: Status,
    ) -> (Result<Remote, HandshakeError>, Result<(), HandshakeError>) {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let target = theirs.name.clone();
        let dialler = async move { dial(&mut a, &ours, &target, || true).await };
        let acceptor = async move {
            let (remote, dynamic) = receive_name(&mut b).await?;
            accept(&mut b, &theirs, &remote, dynamic, status, async { true }).await
        };
        tokio::join!(dialler, acceptor)
    }

    #[test]
    fn the_flags_are_those_of_otp_29() {
        assert_eq!(FLAGS, 0x6D_07DF_7FBD);
        let digest: u64 = MANDATORY[..11].iter().map(|(bit, _)| bit).sum();
        assert_eq!(digest, DIGEST_STANDS_FOR, "the eleven that OTP 25 demands");
    }

    #[tokio::test]
    async fn two_nodes_with_one_cookie_meet() {
        let (dialled, accepted) =
            both(local("a@h", "secret"), local("b@h", "secret"), Status::Ok).await;
        assert_eq!(dialled.unwrap().name.as_str(), "b@h");
        accepted.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_cookie_never_connects_and_both_say_so() {
        let (dialled, accepted) =
            both(local("a@h", "secret"), local("b@h", "other"), Status::Ok).await;
        assert!(matches!(accepted, Err(HandshakeError::Cookie)));
        assert!(dialled.unwrap_err().to_string().contains("cookie"));
    }

    #[tokio::test]
    async fn alive_is_answered_and_leads_to_a_connection() {
        let (dialled, accepted) = both(
            local("a@h", "secret"),
            local("b@h", "secret"),
            Status::Alive,
        )
        .await;
        dialled.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn a_connection_that_has_lost_its_slot_is_never_acknowledged() {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let (ours, theirs) = (local("a@h", "secret"), local("b@h", "secret"));
        let target = theirs.name.clone();
        let acceptor = async move {
            let (remote, dynamic) = receive_name(&mut b).await.unwrap();
            accept(&mut b, &theirs, &remote, dynamic, Status::Ok, async {
                false
            })
            .await
        };
        let (dialled, accepted) = tokio::join!(dial(&mut a, &ours, &target, || true), acceptor);
        assert!(dialled.is_err());
        assert!(matches!(accepted, Err(HandshakeError::Nok)));
    }

    /// The dial loses its slot when it has been asked for the `kept`-th time.
    async fn given_up(
        status: Status,
        kept: usize,
    ) -> (Result<Remote, HandshakeError>, Result<(), HandshakeError>) {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let (ours, theirs) = (local("a@h", "secret"), local("b@h", "secret"));
        let target = theirs.name.clone();
        let acceptor = async move {
            let (remote, dynamic) = receive_name(&mut b).await?;
            accept(&mut b, &theirs, &remote, dynamic, status, async { true }).await
        };
        let dialler = async move {
            let asked = std::cell::Cell::new(0);
            let wanted = || asked.replace(asked.get() + 1) < kept;
            dial(&mut a, &ours, &target, wanted).await
        };
        tokio::join!(dialler, acceptor)
    }

    #[tokio::test]
    async fn a_dial_that_lost_its_slot_never_becomes_a_connection() {
        for kept in 0..2 {
            let (dialled, accepted) = given_up(Status::Ok, kept).await;
            assert!(matches!(dialled, Err(HandshakeError::GivenUp)));
            assert!(matches!(accepted, Err(HandshakeError::Closed(_))));
        }
    }

    #[tokio::test]
    async fn alive_is_declined_when_the_connection_is_there_by_now() {
        let (dialled, accepted) = given_up(Status::Alive, 1).await;
        assert!(matches!(dialled, Err(HandshakeError::Alive)));
        assert!(matches!(accepted, Err(HandshakeError::Alive)));
    }

    #[tokio::test]
    async fn nok_ends_the_dial() {
        let (dialled, _) = both(local("a@h", "secret"), local("b@h", "secret"), Status::Nok).await;
        assert!(matches!(dialled, Err(HandshakeError::Nok)));
    }

    #[tokio::test]
    async fn a_peer_without_a_mandatory_flag_is_told_that_it_is_not_allowed() {
        let mut old = local("a@h", "secret");
        old.flags &= !Flag::V4_NC.bits();
        let (dialled, accepted) = both(old, local("b@h", "secret"), Status::Ok).await;
        assert!(matches!(dialled, Err(HandshakeError::NotAllowed)));
        assert!(accepted.unwrap_err().to_string().contains("V4_NC"));
    }

    #[tokio::test]
    async fn a_challenge_of_the_old_handshake_is_told_as_such() {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let old = async {
            receive(&mut b, "its name").await.unwrap();
            send(&mut b, b"sok").await.unwrap();
            // 'n', version, 32 flags, challenge, name.
            send(&mut b, b"n\0\x05\0\x03\x0f\xff\0\0\0\x01b@h")
                .await
                .unwrap();
        };
        let (ours, peer) = (local("a@h", "secret"), "b@h".parse().unwrap());
        let (dialled, ()) = tokio::join!(dial(&mut a, &ours, &peer, || true), old);
        let error = dialled.unwrap_err();
        assert_eq!(error.refusal(), Refusal::TooOld);
        assert!(error.to_string().contains("OTP 25"), "{error}");
    }

    #[tokio::test]
    async fn the_digest_bit_stands_for_the_flags_of_otp_25() {
        let mut short = local("a@h", "secret");
        short.flags = MANDATORY_25_DIGEST
            | Flag::UNLINK_ID.bits()
            | Flag::V4_NC.bits()
            | Flag::SMALL_ATOM_TAGS.bits()
            | Flag::EXIT_PAYLOAD.bits();
        let (dialled, accepted) = both(short, local("b@h", "secret"), Status::Ok).await;
        dialled.unwrap();
        accepted.unwrap();
    }

    #[tokio::test]
    async fn another_node_at_the_address_is_not_taken_for_the_one_we_want() {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let wanted: NodeName = "wanted@h".parse().unwrap();
        let (ours, theirs) = (local("a@h", "secret"), local("other@h", "secret"));
        let dialler = async move { dial(&mut a, &ours, &wanted, || true).await };
        let acceptor = async move {
            let (remote, dynamic) = receive_name(&mut b).await.unwrap();
            let _ = accept(&mut b, &theirs, &remote, dynamic, Status::Ok, async {
                true
            })
            .await;
        };
        let (dialled, ()) = tokio::join!(dialler, acceptor);
        assert!(dialled.unwrap_err().to_string().contains("other@h"));
    }

    #[tokio::test]
    async fn rubbish_is_an_error_and_never_a_panic() {
        for bytes in [
            &b"GET / HTTP/1.0\r\n\r\n"[..],
            &[0, 0],
            &[0, 1, b'N'],
            &[0, 3, b'N', 1, 2],
            &[255, 255, 0, 0],
            &[0, 2, b's', b'x'],
        ] {
            let (mut a, mut b) = tokio::io::duplex(4096);
            a.write_all(bytes).await.unwrap();
            drop(a);
            assert!(receive_name(&mut b).await.is_err(), "{bytes:?} passed");
        }
    }

    #[tokio::test]
    async fn a_peer_that_asks_for_a_name_gets_one_and_is_hidden() {
        let (mut a, mut b) = tokio::io::duplex(4096);
        let mut message = vec![b'N'];
        message.extend_from_slice(&(FLAGS | Flag::NAME_ME.bits()).to_be_bytes());
        message.extend_from_slice(&[0, 0, 0, 0, 0, 1, b'h']);
        send(&mut a, &message).await.unwrap();
        let (remote, dynamic) = receive_name(&mut b).await.unwrap();
        assert!(dynamic);
        assert_eq!(remote.name.host(), "h");
        assert_eq!(remote.name.short().len(), 13);
        assert_eq!(remote.flags & PUBLISHED, 0);
        assert!(remote.creation >= 4);

        let host = local("host@h", "secret");
        let acceptor = accept(&mut b, &host, &remote, dynamic, Status::Ok, async { true });
        let named = async {
            let status = receive(&mut a, "its status").await.unwrap();
            assert!(status.starts_with(b"snamed:"));
            let challenge = receive(&mut a, "its challenge").await.unwrap();
            drop(a);
            parse_challenge(&challenge).unwrap().0.flags
        };
        let (_, flags) = tokio::join!(acceptor, named);
        assert_eq!(flags & PUBLISHED, 0, "it is hidden");
        assert_ne!(flags & Flag::NAME_ME.bits(), 0, "it takes the name");
    }
}
