//! How a node is to be, and why it could not be.

use super::{
    Cookie, NodeName, Rules, Tls,
    epmd::{Epmd, EpmdMode, EpmdStartError},
};
use crate::term::Limits;
use std::{
    io,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
    time::Duration,
};

/// How a node is to be.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its name.
    pub name: NodeName,
    /// What every node of the cluster must know.
    pub cookie: Cookie,
    /// Hidden nodes appear in `nodes(hidden)` only, and get no mesh by themselves.
    pub hidden: bool,
    /// Where to listen; `None`: the node only connects out.
    pub listen: Option<Listen>,
    /// Whether and how to register with epmd.
    pub epmd_mode: EpmdMode,
    /// Where epmd is.
    pub epmd: Epmd,
    /// After so much silence a peer is taken for dead; it is sent a tick after at most a quarter of it.
    pub tick_time: Duration,
    /// The longest frame that is accepted, in bytes; a longer one ends its connection.
    pub max_frame: usize,
    /// How deep a term may be nested; a message with a deeper one is refused, and the connection stays.
    pub max_depth: usize,
    /// All connections, in both directions, are inside TLS; `None`: none is.
    pub tls: Option<Tls>,
    /// What each peer may reach of what is exported and registered; all of it by default.
    pub access: Rules,
}

impl Options {
    /// The options of a published node that listens on any port, of all addresses or of the loopback when the host of
    /// its name is one.
    pub fn new(name: NodeName, cookie: Cookie) -> Self {
        let loopback = name
            .host_ip()
            .map_or(name.host() == "localhost", |ip| ip.is_loopback());
        let ip = if loopback {
            Ipv4Addr::LOCALHOST
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        Self {
            name,
            cookie,
            hidden: false,
            listen: Some(Listen {
                ip: ip.into(),
                ports: 0..=0,
            }),
            epmd_mode: EpmdMode::Auto,
            epmd: Epmd::default(),
            tick_time: Duration::from_secs(60),
            max_frame: 512 * 1024 * 1024,
            max_depth: Limits::default().max_depth,
            tls: None,
            access: Rules::default(),
        }
    }
}

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address of one interface, or the unspecified one for all.
    pub ip: IpAddr,
    /// The first free one of these is taken; `0..=0`: any.
    pub ports: RangeInclusive<u16>,
}

/// Why a node could not start. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No port to listen on.
    #[error("cannot listen on {ip}, port {}: {why}: choose another --listen", if ports.start() == ports.end() { ports.start().to_string() } else { format!("{}-{}", ports.start(), ports.end()) })]
    Listen {
        /// The address.
        ip: IpAddr,
        /// The ports that were tried.
        ports: RangeInclusive<u16>,
        /// What the system said of the last.
        why: io::Error,
    },
    /// It is to listen inside TLS and has no certificate.
    #[error(
        "a node that listens inside TLS needs a certificate of its own: give --tls-cert and --tls-key"
    )]
    NoCertificate,
    /// Not registered with epmd.
    #[error(transparent)]
    Epmd(#[from] EpmdStartError),
}
