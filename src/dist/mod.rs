//! An Erlang node: it listens, connects, answers what OTP asks of a visible node, and hands the rest to a [`Service`].
//!
//! ```text
//!              epmd (registered while we live)
//!                │
//!  listener ─► door ─► TLS or plain ─► handshake ─► slot (one per peer name) ─► peer task ⇄ socket
//!                                                                                │  frame → message → state → effects
//!  Node::connect, call, send ──── mailbox ───────────────────────────────────────┤
//!                                                                                └─► Service: calls, casts, functions
//! ```
//!
//! Nothing here has heard of Redis. The protocol is told in the chapter "Distribution Protocol" of the ERTS reference
//! manual; `docs/protocol.md` says what we do with it.

mod access;
mod atoms;
mod call;
mod cookie;
mod dial;
mod door;
pub(crate) mod epmd;
mod error;
pub(crate) mod frame;
// Pure, and not on the wire yet: its head tells what is left to do.
#[allow(dead_code)]
mod global;
mod groups;
pub(crate) mod handshake;
mod ids;
mod listen;
pub(crate) mod message;
mod name;
mod node;
mod options;
mod otp;
pub(crate) mod outbox;
mod peer;
mod pg;
mod process;
mod room;
mod slots;
mod state;
mod stream;
mod tls;

pub use access::{BadRule, Rules};
pub use cookie::{BadCookie, Cookie};
pub use epmd::{DEFAULT_PORT as DEFAULT_EPMD_PORT, Epmd, EpmdMode, EpmdStartError};
pub use error::{CallError, Refusal};
pub use groups::Groups;
pub use message::Body;
pub use name::{NameStyle, NodeName, NodeNameError};
pub use node::Node;
pub use options::{Listen, Options, StartError};
pub use pg::Refused as GroupRefused;
pub use process::{
    Counts, Envelope, MAX_BYTES, MAX_MESSAGES, Mail, Monitor, Over, Process, Request, SpawnError,
    To,
};
pub use tls::{Tls, TlsError, TlsPem, TlsVerify};

use crate::term::Raw;
use std::{fmt, future::Future, net::IpAddr, pin::Pin, time::Duration};

/// Where a peer can be dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The host, always an address: names are resolved by whoever made this.
    pub ip: IpAddr,
    /// The distribution port; without it the epmd at `ip` is asked.
    pub port: Option<u16>,
}

/// What a [`Service`] knows of where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    /// There, and nowhere else.
    At(Address),
    /// It has not heard of it: the host part of the name is resolved.
    Unknown,
    /// It must not be dialled, for this reason.
    Never(String),
}

/// A connected peer, as it told about itself in the handshake.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Its name.
    pub name: NodeName,
    /// Which of its lives this is.
    pub creation: u32,
    /// Whether it is hidden, or we are: then neither shows in the other's `nodes()`.
    pub hidden: bool,
    /// Counts the connections of this node: two connections never share one.
    pub connection: u64,
    /// When the connection was up.
    pub since: std::time::SystemTime,
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownReason {
    /// The peer closed the socket.
    Closed,
    /// No byte came for the tick time.
    TickTimeout,
    /// The peer did not read what we wrote for the tick time, or let too much of it pile up.
    NotReading,
    /// The socket failed.
    Io(std::io::ErrorKind),
    /// The peer broke the protocol.
    Protocol(String),
    /// The peer sent more at a time than we take.
    Overload(String),
    /// We were asked to disconnect.
    Requested,
    /// A newer connection to the same peer took the place of this one.
    Replaced,
    /// Our node stops.
    Stopping,
}

impl fmt::Display for DownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed the connection"),
            Self::TickTimeout => f.write_str("nothing was heard for the tick time"),
            Self::NotReading => f.write_str("the peer does not read what it is sent"),
            Self::Io(kind) => write!(f, "the socket failed: {kind}"),
            Self::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
            Self::Overload(what) => write!(f, "the peer sends more than we take: {what}"),
            Self::Requested => f.write_str("disconnected on request"),
            Self::Replaced => f.write_str("a newer connection took its place"),
            Self::Stopping => f.write_str("our node stops"),
        }
    }
}

/// What a caller is answered.
pub enum Answer {
    /// The value.
    Reply(Raw),
    /// An error with a reason, as `error(Reason)` in Erlang; the stack is empty.
    Error(Raw),
    /// `exit(Reason)`.
    Exit(Raw),
    /// `throw(Value)`.
    Throw(Raw),
    /// There is no such function, process or request here: the caller hears what OTP would say.
    Undef,
    /// The answer comes later; when the caller goes away the future is dropped.
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

/// What a node offers to its peers beside what OTP itself expects, and what it wants to hear of them.
///
/// All methods but the futures that they return run inside the connection's own task: they must not block.
pub trait Service: Send + Sync + 'static {
    /// The names registered by this service.
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    /// `gen_server:call({name, node}, request)`.
    fn call(&self, name: &str, request: &Raw) -> Answer {
        let _ = (name, request);
        Answer::Undef
    }

    /// `gen_server:cast({name, node}, message)`.
    fn cast(&self, name: &str, message: &Raw) {
        let _ = (name, message);
    }

    /// A bare message to a registered name; what is returned is sent: pid, message.
    fn info(&self, name: &str, message: &Raw) -> Vec<(Raw, Body)> {
        let _ = (name, message);
        Vec::new()
    }

    /// `rpc:call(node, module, function, args)` and its relatives. [`Answer::Undef`] where it is not exported.
    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        let _ = (module, function, args);
        Answer::Undef
    }

    /// Whether [`Service::apply`] knows such a function, as `erlang:function_exported/3` tells it.
    fn exports(&self, module: &str, function: &str, arity: usize) -> bool {
        let _ = (module, function, arity);
        false
    }

    /// A peer is connected. Told under the lock of the node's table of peers, so that ups and downs come in their order:
    /// here and in [`Service::peer_down`] the node must not be asked for its peers, nor to connect or disconnect.
    fn peer_up(&self, peer: &PeerInfo) {
        let _ = peer;
    }

    /// A peer that was up is not any more.
    fn peer_down(&self, peer: &PeerInfo, reason: &DownReason) {
        let _ = (peer, reason);
    }

    /// Where to dial a peer that someone sends to and that is not connected.
    fn locate(&self, peer: &NodeName) -> Located {
        let _ = peer;
        Located::Unknown
    }
}

/// Why a peer could not be connected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// epmd at the address does not answer.
    #[error("epmd at {at} does not answer ({why}): is {node}'s host up, and epmd running there?")]
    Epmd {
        /// The peer.
        node: NodeName,
        /// Where epmd was asked.
        at: std::net::SocketAddr,
        /// What the system said.
        why: String,
    },
    /// epmd there knows no such node.
    #[error("epmd at {at} knows no {}: {node} is not running there", node.short())]
    NotRegistered {
        /// The peer.
        node: NodeName,
        /// Where epmd was asked.
        at: std::net::SocketAddr,
    },
    /// The host part of the name does not resolve.
    #[error("the host of {node} does not resolve: {why}")]
    Resolve {
        /// The peer.
        node: NodeName,
        /// What the system said.
        why: String,
    },
    /// The port does not accept, or the connection broke.
    #[error("no connection to {node} at {at}: {why}")]
    Io {
        /// The peer.
        node: NodeName,
        /// The address that was dialled.
        at: std::net::SocketAddr,
        /// What the system said.
        why: String,
    },
    /// The handshake failed: cookie, flags, name. Nothing is left of the connection.
    #[error("{node} refused the handshake: {why}")]
    Handshake {
        /// The peer.
        node: NodeName,
        /// What went wrong and how to mend it.
        why: String,
        /// The same for a program.
        refusal: Refusal,
        /// The node that answered, when it is another.
        answered: Option<NodeName>,
    },
    /// No TLS came to be with it, or one of the two does not speak it.
    #[error("no TLS with {node}: {why}")]
    Tls {
        /// The peer.
        node: NodeName,
        /// What went wrong and how to mend it.
        why: String,
    },
    /// It did not happen in time.
    #[error("{node} did not complete the handshake within {} s", after.as_secs())]
    Timeout {
        /// The peer.
        node: NodeName,
        /// How long it was waited for.
        after: Duration,
    },
    /// It must not be dialled.
    #[error("{node} is not dialled: {why}")]
    Never {
        /// The peer.
        node: NodeName,
        /// Whose rule forbids it.
        why: String,
    },
    /// A node does not connect to itself.
    #[error("{0} is this very node")]
    Itself(NodeName),
    /// Our node has stopped.
    #[error("the node has stopped")]
    Stopped,
}
