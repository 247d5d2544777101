//! epmd, the port mapper of Erlang hosts, seen from a node: look a name up, be registered, or be epmd oneself (ERTS
//! reference manual, "EPMD Protocol").
//!
//! | File | Holds |
//! |---|---|
//! | `client` | what is asked of an epmd |
//! | `keeper` | the registration while the node lives: with another epmd, or with our own |
//! | `server` | the sockets of our own |
//! | `state` (pure) | what it knows, and `Table::answer` |
//! | `protocol` (pure) | requests and answers as bytes |

mod client;
mod keeper;
pub(crate) mod protocol;
mod server;
pub(crate) mod state;

pub(crate) use self::keeper::Registration;

use super::{ConnectError, NodeName};
use erl_dist::epmd::NodeEntry;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// The port that epmd listens on unless `ERL_EPMD_PORT` says otherwise.
pub const DEFAULT_PORT: u16 = 4369;

/// How long epmd may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a node is to be found by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpmdMode {
    /// Register with the epmd of this host; serve one inside this process while none runs.
    #[default]
    Auto,
    /// Serve an epmd inside this process; it is an error when another runs.
    Embedded,
    /// Register with the epmd that runs; it is an error when none does.
    External,
    /// Register nowhere: a node that only connects out.
    Unregistered,
}

/// Why a node could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum EpmdStartError {
    /// Nothing listens there.
    #[error(
        "no epmd answers at {at} ({why}): start one with `epmd -daemon`, or let this node serve one with --epmd auto"
    )]
    Absent {
        /// Where it was asked.
        at: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// An epmd cannot be served, since the port is taken.
    #[error(
        "epmd cannot be served at {at}, since the port is taken; {}: {}",
        keeper::occupant(*asked, names),
        if names.is_ok() { "--epmd auto registers with it" } else { "choose another --epmd-port, or stop what listens there" }
    )]
    InUse {
        /// The address that is taken.
        at: SocketAddr,
        /// Where was asked who has it.
        asked: SocketAddr,
        /// The nodes registered there; when it is no epmd, what went wrong.
        names: Result<Vec<String>, String>,
    },
    /// An epmd cannot be served for another reason.
    #[error(
        "epmd cannot be served at {at} ({why}): choose another --epmd-port, or addresses of this host in ERL_EPMD_ADDRESS"
    )]
    Bind {
        /// Where it was to listen.
        at: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// Another node of this name is registered there.
    #[error("epmd at {at} has a node {short:?} already{}: stop that one, or choose another --name", port.map_or(String::new(), |p| format!(", on port {p}")))]
    Taken {
        /// Where it was asked.
        at: SocketAddr,
        /// The short name.
        short: String,
        /// The port of the other node.
        port: Option<u16>,
    },
    /// It said something else than epmd would.
    #[error("what listens at {at} is no epmd: {why}")]
    Strange {
        /// Where it was asked.
        at: SocketAddr,
        /// What was wrong.
        why: String,
    },
}

/// Where an epmd listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epmd {
    /// Its port, the same on every host of a cluster.
    pub port: u16,
    /// The address of the local one. Every epmd listens at the loopback, whatever else it was told.
    pub local: IpAddr,
    /// Where one that is served inside this process listens; empty: everywhere. Always at the loopback, too.
    pub addresses: Vec<IpAddr>,
}

impl Default for Epmd {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            local: Ipv4Addr::LOCALHOST.into(),
            addresses: Vec::new(),
        }
    }
}

impl Epmd {
    /// The distribution port of a node on the host `ip`.
    ///
    /// # Errors
    /// epmd does not answer within 5 s, or does not know the node.
    pub async fn look_up(&self, ip: IpAddr, node: &NodeName) -> Result<u16, ConnectError> {
        let at = SocketAddr::new(ip, self.port);
        match client::look_up(at, node.short()).await {
            Ok(Some(entry)) if entry.port != 0 => Ok(entry.port),
            Ok(_) => Err(ConnectError::NotRegistered {
                node: node.clone(),
                at,
            }),
            Err(why) => Err(ConnectError::Epmd {
                node: node.clone(),
                at,
                why,
            }),
        }
    }

    /// All names that the epmd on the host `ip` knows, with their ports.
    ///
    /// # Errors
    /// What the system or the protocol said, in words.
    pub async fn names(&self, ip: IpAddr) -> Result<Vec<(String, u16)>, String> {
        client::names(SocketAddr::new(ip, self.port)).await
    }

    /// Registers a node, and keeps it registered until the returned guard is dropped.
    pub(crate) async fn register(
        &self,
        node: &NodeName,
        port: u16,
        hidden: bool,
        mode: EpmdMode,
    ) -> Result<Registration, EpmdStartError> {
        let entry = if hidden {
            NodeEntry::new_hidden(node.short(), port)
        } else {
            NodeEntry::new(node.short(), port)
        };
        Registration::begin(self.clone(), entry, mode).await
    }

    /// The local one.
    fn at(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.port)
    }
}
