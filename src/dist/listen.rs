//! The side of a node that accepts: its listener, and the handshakes of those who come.

use super::{
    ConnectError, DownReason, Listen, Node, NodeName, Refusal, StartError,
    door::{Complaints, Door},
    handshake::{self, HandshakeError, Status},
    node::lock,
    stream::Stream,
};
use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    time::timeout,
};
use tracing::{debug, warn};

/// How long a connection that is replaced may take to end.
const REPLACE_PATIENCE: Duration = Duration::from_secs(2);

/// So many refusals of one address are told one by one in a minute.
const REFUSALS_TOLD: u64 = 50;

/// The door, those behind it, and what was said of them.
struct Entrance {
    door: Door,
    /// How to tell each of those in their handshake to leave.
    inside: HashMap<u64, oneshot::Sender<()>>,
    refused: Complaints,
    turned_away: Complaints,
}

/// A connection's place in its handshake, given back however that ends.
struct Place {
    entrance: Arc<Mutex<Entrance>>,
    from: SocketAddr,
    id: u64,
}

impl Place {
    /// A place for a newcomer, and what fires when it is needed for another.
    fn take(
        entrance: &Arc<Mutex<Entrance>>,
        from: SocketAddr,
        id: u64,
    ) -> (Self, oneshot::Receiver<()>) {
        let (sender, needed) = oneshot::channel();
        {
            let mut entrance = lock(entrance);
            if let Some(leaves) = entrance.door.enter(from.ip(), id)
                && let Some(sender) = entrance.inside.remove(&leaves)
            {
                let _ = sender.send(());
            }
            entrance.inside.insert(id, sender);
        }
        let place = Self {
            entrance: entrance.clone(),
            from,
            id,
        };
        (place, needed)
    }

    /// One line of why this connection came to nothing, unless there were many of its address.
    fn refused(&self, peer: Option<&NodeName>, why: &HandshakeError) {
        let crowded = matches!(why, HandshakeError::TurnedAway);
        let left_out = {
            let entrance = &mut *lock(&self.entrance);
            let complaints = if crowded {
                &mut entrance.turned_away
            } else {
                &mut entrance.refused
            };
            complaints.of(self.from.ip(), Instant::now())
        };
        let from = self.from;
        let more = match left_out {
            None => return,
            Some(0) => String::new(),
            Some(count) => {
                format!(" ({count} more of its address since the last line of this kind)")
            }
        };
        match peer {
            Some(peer) => warn!(%from, %peer, "a connection was refused: {why}{more}"),
            None => warn!(%from, "a connection was refused: {why}{more}"),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut entrance = lock(&self.entrance);
        entrance.door.leave(self.from.ip(), self.id);
        entrance.inside.remove(&self.id);
    }
}

impl Node {
    /// How many connections were ended in their handshake, since the start, as their places were needed for others.
    pub fn turned_away(&self) -> u64 {
        self.inner.turned_away.load(Ordering::Relaxed)
    }

    pub(super) async fn listen(self, listener: TcpListener) {
        let mut stopped = self.inner.stopped.subscribe();
        let entrance = Arc::new(Mutex::new(Entrance {
            door: Door::default(),
            inside: HashMap::new(),
            refused: Complaints::new(REFUSALS_TOLD),
            turned_away: Complaints::new(1),
        }));
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => {
                    let id = self.next_connection();
                    let (place, needed) = Place::take(&entrance, from, id);
                    let node = self.clone();
                    tokio::spawn(async move { node.accept(stream, place, needed).await });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: waiting is all that helps.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self, stream: TcpStream, place: Place, needed: oneshot::Receiver<()>) {
        let id = place.id;
        let tls = self.inner.options.tls.as_ref();
        let mut named = None;
        let handshake = timeout(handshake::DEADLINE, async {
            stream.set_nodelay(true)?;
            let mut stream = Stream::accepted(stream, tls).await?;
            let (remote, dynamic) = handshake::receive_name(&mut stream).await?;
            // Before anything is decided under a name that may not be its.
            stream.check_name(tls, &remote.name)?;
            if remote.name == *self.name() {
                return Err(HandshakeError::OtherName(format!(
                    "{}, which is our own name",
                    remote.name
                )));
            }
            let status = lock(&self.inner.slots).incoming(&remote.name, id);
            named = Some(remote.name.clone());
            let before_ack = async {
                if status == Status::Alive {
                    self.replace(&remote.name, id).await;
                }
                lock(&self.inner.slots).holds(&remote.name, id)
            };
            handshake::accept(
                &mut stream,
                &self.inner.local,
                &remote,
                dynamic,
                status,
                before_ack,
            )
            .await?;
            Ok((stream, remote))
        });
        let outcome = tokio::select! {
            outcome = handshake => outcome.unwrap_or(Err(HandshakeError::Late)),
            Ok(()) = needed => {
                self.inner.turned_away.fetch_add(1, Ordering::Relaxed);
                Err(HandshakeError::TurnedAway)
            }
        };
        match outcome {
            Ok((stream, remote)) => return self.established(id, stream, remote, place.from),
            Err(HandshakeError::Nok | HandshakeError::Alive) => {
                debug!(from = %place.from, peer = ?named, "an incoming connection gave way")
            }
            Err(error) => place.refused(named.as_ref(), &error),
        }
        if let Some(peer) = named {
            self.failed(&peer, id, || ConnectError::Handshake {
                node: peer.clone(),
                why: "its own connection to us, for which we gave ours up, failed".into(),
                refusal: Refusal::Other,
                answered: None,
            });
        }
    }

    /// Ends the connection whose place a new one takes, and waits until everybody has heard of it.
    async fn replace(&self, peer: &NodeName, id: u64) {
        let old = lock(&self.inner.slots).replace(peer, id);
        if let Some(old) = old {
            old.close(DownReason::Replaced);
            let _ = timeout(REPLACE_PATIENCE, old.closed()).await;
        }
    }
}

pub(super) async fn bind(listen: &Listen) -> Result<TcpListener, StartError> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for port in listen.ports.clone() {
        match TcpListener::bind((listen.ip, port)).await {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(StartError::Listen {
        ip: listen.ip,
        ports: listen.ports.clone(),
        why: last,
    })
}
