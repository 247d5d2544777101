//! The sockets of an epmd inside this process. What it knows and answers is [`Table`]'s.
//!
//! ```text
//!  listener ──┐              ┌─► task: read one request ─► Table::answer ─► write ─► close
//!  listener ──┴─► Server::run┤
//!                            └─► task: the same, registered: held until the other end closes or says anything more
//! ```
//!
//! The port is open to everybody, so nothing here is without a bound: a request is at most 3 KiB, read as it arrives, and
//! whole after a minute (both as at OTP's); an answer is taken within [`UNREAD`] or cut; at most [`MAX_UNREGISTERED`]
//! connections are under way, and when one more comes the oldest of them, of another host when there is one, makes
//! room: who asks in earnest needs a millisecond. At most 511 more hold a name, all from this host.

use super::{
    Epmd, protocol,
    state::{Answer, Table},
};
use erl_dist::epmd::NodeEntry;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// So many connections may be under way that hold no name.
const MAX_UNREGISTERED: usize = 128;

/// A connection has so long for its request, as at OTP's.
const SILENCE: Duration = Duration::from_secs(60);

/// An answer that the other end has not taken by then is cut. Almost always the system takes it at once.
const UNREAD: Duration = Duration::from_secs(10);

/// What the system queues for us to accept.
const BACKLOG: i32 = 1024;

/// Why it cannot listen.
#[derive(Debug)]
pub(super) enum BindError {
    /// Somebody else does.
    InUse(SocketAddr),
    /// Something else.
    Other(SocketAddr, io::Error),
}

/// A running epmd; dropped, its port is free and all names are gone.
pub(super) struct Server {
    listeners: Vec<TcpListener>,
    table: Arc<Mutex<Table>>,
    connections: JoinSet<()>,
    /// Those that may still hold no name, the oldest first.
    waiting: VecDeque<Waiting>,
    last: u64,
    silence: Duration,
    unread: Duration,
    told: bool,
}

struct Waiting {
    task: AbortHandle,
    registered: Arc<AtomicBool>,
    local: bool,
}

impl Server {
    /// Listens where `epmd` says, with this node as the first that is registered. All of the addresses or none.
    pub(super) fn bind(epmd: &Epmd, own: NodeEntry) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        let mut refused = None;
        for (ip, needed) in addresses(&epmd.addresses) {
            let at = SocketAddr::new(ip, epmd.port);
            match listen(at) {
                Ok(listener) => listeners.push(listener),
                Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
                    return Err(BindError::InUse(at));
                }
                Err(why) if needed => return Err(BindError::Other(at, why)),
                // A host without IPv6, most likely.
                Err(why) => {
                    debug!(%at, %why, "epmd is not served there");
                    refused = Some(BindError::Other(at, why));
                }
            }
        }
        if let (true, Some(refused)) = (listeners.is_empty(), refused) {
            return Err(refused);
        }
        Ok(Self {
            listeners,
            table: Arc::new(Mutex::new(Table::new(epmd.port, own, rand::random()))),
            connections: JoinSet::new(),
            waiting: VecDeque::new(),
            last: 0,
            silence: SILENCE,
            unread: UNREAD,
            told: false,
        })
    }

    /// Serves until it is dropped; the returned future may be dropped and made anew at any time.
    pub(super) async fn run(&mut self) {
        loop {
            tokio::select! {
                accepted = accept(&self.listeners) => match accepted {
                    Ok((stream, from)) => self.admit(stream, from),
                    Err(error) => {
                        // Out of file descriptors, most likely: waiting is all that helps.
                        warn!(%error, "epmd: a connection could not be accepted");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    /// Closes everything; the port is free when this returns. Gives the names that were registered beside our own.
    pub(super) async fn end(mut self) -> Vec<String> {
        self.listeners.clear();
        let names = lock(&self.table).others().map(str::to_owned).collect();
        self.connections.shutdown().await;
        names
    }

    fn admit(&mut self, stream: TcpStream, from: SocketAddr) {
        if self.waiting.len() >= MAX_UNREGISTERED {
            self.waiting.retain(|waiting| {
                !waiting.task.is_finished() && !waiting.registered.load(Ordering::Relaxed)
            });
        }
        if self.waiting.len() >= MAX_UNREGISTERED {
            let remote = self.waiting.iter().position(|waiting| !waiting.local);
            if let Some(oldest) = self.waiting.remove(remote.unwrap_or(0)) {
                oldest.task.abort();
            }
            if !std::mem::replace(&mut self.told, true) {
                warn!(%from, "epmd has {MAX_UNREGISTERED} connections that ask for nothing: from now on each further one ends the oldest");
            }
        }
        self.last += 1;
        let registered = Arc::new(AtomicBool::new(false));
        let connection = Connection {
            id: self.last,
            local: is_local(&stream, from.ip()),
            table: self.table.clone(),
            registered: registered.clone(),
            silence: self.silence,
            unread: self.unread,
        };
        let local = connection.local;
        let task = self.connections.spawn(connection.run(stream));
        self.waiting.push_back(Waiting {
            task,
            registered,
            local,
        });
    }
}

/// One connection: it asks once.
struct Connection {
    id: u64,
    local: bool,
    table: Arc<Mutex<Table>>,
    registered: Arc<AtomicBool>,
    silence: Duration,
    unread: Duration,
}

impl Connection {
    async fn run(self, mut stream: TcpStream) {
        let Ok(Some(request)) = timeout(self.silence, receive(&mut stream)).await else {
            return;
        };
        let answer = lock(&self.table).answer(self.id, &request, self.local);
        drop(request);
        match answer {
            Answer::Close => {}
            Answer::Reply(bytes) => {
                let _ = timeout(self.unread, stream.write_all(&bytes)).await;
            }
            Answer::Keep(bytes) => {
                let _held = Held(&self);
                self.registered.store(true, Ordering::Relaxed);
                let sent = timeout(self.unread, stream.write_all(&bytes)).await;
                if matches!(sent, Ok(Ok(()))) {
                    // Nothing is to come: whatever does ends the registration.
                    let _ = stream.read(&mut [0]).await;
                }
            }
        }
    }
}

/// A name that is held; dropped, also by a task that is aborted, it is free.
struct Held<'a>(&'a Connection);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.0.table).closed(self.0.id);
    }
}

/// One request without its length; `None`: it will never be one.
async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut got = Vec::new();
    loop {
        let missing = protocol::missing(&got)?;
        if missing == 0 {
            return Some(got.split_off(2));
        }
        // All at once where there is room for it: what is there beyond a request is seen then, and closes the connection.
        got.reserve_exact(missing);
        let limit = missing as u64;
        if !matches!(stream.take(limit).read_buf(&mut got).await, Ok(1..)) {
            return None;
        }
    }
}

/// Whether the other end is on this host: a loopback address, or the one that it reached us at. As OTP's epmd decides it.
fn is_local(stream: &TcpStream, from: IpAddr) -> bool {
    from.is_loopback() || stream.local_addr().is_ok_and(|at| at.ip() == from)
}

/// Where to listen, and whether it is an error when that cannot be. As OTP's epmd: everywhere, or at these addresses and
/// always at the loopback.
fn addresses(wanted: &[IpAddr]) -> Vec<(IpAddr, bool)> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    if wanted.is_empty() {
        return vec![(any[0], true), (any[1], false)];
    }
    let mut addresses: Vec<(IpAddr, bool)> = Vec::new();
    for (any, loopback) in any.into_iter().zip([
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ]) {
        if wanted.contains(&any) {
            // The others of this family are part of it, and could not be had beside it.
            addresses.push((any, true));
            continue;
        }
        addresses.push((loopback, wanted.contains(&loopback)));
        for ip in wanted.iter().filter(|ip| ip.is_ipv4() == any.is_ipv4()) {
            if addresses.iter().all(|(other, _)| other != ip) {
                addresses.push((*ip, true));
            }
        }
    }
    addresses
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        // Else all of IPv6 would be all of IPv4 as well, which has a socket of its own.
        socket.set_only_v6(true)?;
    }
    // Connections of an epmd that has just ended do not keep the port, one that listens does.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The next connection of any listener.
async fn accept(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|context| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "server/tests.rs"]
mod tests;
