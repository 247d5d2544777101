//! epmd, the port mapper of Erlang hosts, seen from a node: look a name up, and be registered (ERTS reference manual,
//! "EPMD Protocol"). The requests are `erl_dist`'s.
//!
//! A registration lives as long as its TCP connection: it is held open by a task of its own, which registers again, with
//! the same creation, when epmd was restarted.

use super::{ConnectError, NodeName};
use erl_dist::epmd::{EpmdClient, EpmdError, NodeEntry};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Stdio,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, BufStream},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_util::compat::{Compat, TokioAsyncReadCompatExt};
use tracing::{debug, info, warn};

/// The port that epmd listens on unless `ERL_EPMD_PORT` says otherwise.
pub const DEFAULT_PORT: u16 = 4369;

/// How long epmd may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an epmd that was just started may take until it answers.
const STARTING: Duration = Duration::from_secs(5);

/// A name that is still taken is tried again for so long: epmd sees the end of our earlier life a moment late.
const EARLIER_LIFE: Duration = Duration::from_secs(2);

/// How a node is to be found by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EpmdMode {
    /// Register with the epmd of this host; start the `epmd` program when none runs, as `erl` does.
    #[default]
    Auto,
    /// Register with the epmd that runs; it is an error when none does.
    External,
    /// Register nowhere: a node that only connects out.
    Unregistered,
}

/// Why a node could not be registered.
#[derive(Debug, thiserror::Error)]
pub enum EpmdStartError {
    /// Nothing listens there.
    #[error("no epmd answers at {at} ({why}): start one with `epmd -daemon`")]
    Absent {
        /// Where it was asked.
        at: SocketAddr,
        /// What the system said.
        why: io::Error,
    },
    /// The program is not installed or ended at once.
    #[error(
        "no epmd answers at {at}, and the program `epmd` cannot be started ({why}): install Erlang (Debian: erlang-base)"
    )]
    Program {
        /// Where it was asked.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epmd {
    /// Its port, the same on every host of a cluster.
    pub port: u16,
    /// The address of the local one.
    pub local: IpAddr,
}

impl Default for Epmd {
    fn default() -> Self {
        Self {
            port: DEFAULT_PORT,
            local: Ipv4Addr::LOCALHOST.into(),
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
        let failed = |why: String| ConnectError::Epmd {
            node: node.clone(),
            at,
            why,
        };
        let entry = timeout(PATIENCE, async {
            let client = connect(at)
                .await
                .map_err(|error| failed(error.to_string()))?;
            client
                .get_node(node.short())
                .await
                .map_err(|error| failed(error.to_string()))
        });
        match entry
            .await
            .unwrap_or_else(|_| Err(failed("no answer within 5 s".into())))?
        {
            Some(entry) if entry.port != 0 => Ok(entry.port),
            _ => Err(ConnectError::NotRegistered {
                node: node.clone(),
                at,
            }),
        }
    }

    /// All names that the epmd on the host `ip` knows, with their ports.
    ///
    /// # Errors
    /// What the system or the protocol said, in words.
    pub async fn names(&self, ip: IpAddr) -> Result<Vec<(String, u16)>, String> {
        let at = SocketAddr::new(ip, self.port);
        let names = timeout(PATIENCE, async {
            let client = connect(at).await.map_err(|error| error.to_string())?;
            client.get_names().await.map_err(|error| error.to_string())
        });
        names
            .await
            .unwrap_or_else(|_| Err("no answer within 5 s".into()))
    }

    /// Registers a node, and keeps it registered until the returned guard is dropped.
    pub(crate) async fn register(
        &self,
        node: &NodeName,
        port: u16,
        hidden: bool,
        mode: EpmdMode,
    ) -> Result<Registration, EpmdStartError> {
        let at = SocketAddr::new(self.local, self.port);
        let entry = if hidden {
            NodeEntry::new_hidden(node.short(), port)
        } else {
            NodeEntry::new(node.short(), port)
        };
        let began = Instant::now();
        let mut started = false;
        let stream = loop {
            let error = match register_once(at, &entry).await {
                Ok(stream) => break stream,
                Err(error) => error,
            };
            match error {
                EpmdStartError::Absent { .. } if mode == EpmdMode::Auto && !started => {
                    start_program(at).map_err(|why| EpmdStartError::Program { at, why })?;
                    started = true;
                }
                EpmdStartError::Absent { .. } if started && began.elapsed() < STARTING => {
                    sleep(Duration::from_millis(20)).await
                }
                EpmdStartError::Taken { .. } if began.elapsed() < EARLIER_LIFE => {
                    sleep(Duration::from_millis(50)).await
                }
                EpmdStartError::Taken { at, short, .. } => {
                    let port = self.look_up(self.local, node).await.ok();
                    return Err(EpmdStartError::Taken { at, short, port });
                }
                error => return Err(error),
            }
        };
        let task = tokio::spawn(keep(stream, at, entry));
        Ok(Registration { task })
    }
}

/// Holds a name at epmd; dropped, the name is free.
pub(crate) struct Registration {
    task: tokio::task::JoinHandle<()>,
}

impl Registration {
    /// Gives the name up; it is free when this returns.
    pub(crate) async fn end(mut self) {
        self.task.abort();
        // The socket is closed when the task is gone, not when that was asked for.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Stream = Compat<BufStream<TcpStream>>;

async fn connect(at: SocketAddr) -> io::Result<EpmdClient<Stream>> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(EpmdClient::new(BufStream::new(stream).compat()))
}

async fn register_once(at: SocketAddr, entry: &NodeEntry) -> Result<Stream, EpmdStartError> {
    let strange = |why: String| EpmdStartError::Strange { at, why };
    let registered = timeout(PATIENCE, async {
        let client = connect(at)
            .await
            .map_err(|why| EpmdStartError::Absent { at, why })?;
        client
            .register(entry.clone())
            .await
            .map_err(|error| match error {
                EpmdError::RegisterNodeError { .. } => EpmdStartError::Taken {
                    at,
                    short: entry.name.clone(),
                    port: None,
                },
                error => strange(error.to_string()),
            })
    });
    let (stream, _creation) = registered
        .await
        .unwrap_or_else(|_| Err(strange("no answer within 5 s".into())))?;
    Ok(stream)
}

/// Watches the connection that holds a registration; nothing is ever sent on it.
async fn keep(stream: Stream, at: SocketAddr, entry: NodeEntry) {
    let mut stream = stream.into_inner();
    loop {
        let mut byte = [0];
        while matches!(stream.read(&mut byte).await, Ok(1..)) {}
        warn!(%at, name = entry.name, "epmd closed our registration: registering again as soon as it is back");
        let mut pause = Duration::from_millis(100);
        let mut told = false;
        stream = loop {
            sleep(pause).await;
            match register_once(at, &entry).await {
                Ok(stream) => break stream.into_inner(),
                Err(error @ EpmdStartError::Taken { .. }) if !told => {
                    told = true;
                    warn!(%error, "another node took our name at epmd: nobody can find us before it is gone");
                }
                Err(error) => debug!(%error, "not registered with epmd yet"),
            }
            pause = (pause * 2).min(Duration::from_secs(5));
        };
        info!(%at, name = entry.name, "registered with epmd again");
    }
}

/// Starts epmd as `erl` does: in the background, outliving us.
fn start_program(at: SocketAddr) -> io::Result<()> {
    let mut child = std::process::Command::new("epmd")
        .arg("-daemon")
        .env("ERL_EPMD_PORT", at.port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    info!(%at, "no epmd was running here: started one");
    // The program puts itself into the background and ends; reaped aside so that nobody waits for it.
    std::thread::spawn(move || child.wait());
    Ok(())
}
