//! The side of a node that accepts: its listener, and the handshakes of those who come.

use super::{
    ConnectError, DownReason, Listen, Node, NodeName, StartError,
    handshake::{self, HandshakeError, Status},
    node::lock,
};
use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, warn};

/// At most so many connections may be in their handshake at a time; more wait in the system's queue.
const MAX_HANDSHAKES: usize = 256;

/// How long a connection that is replaced may take to end.
const REPLACE_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    pub(super) async fn listen(self, listener: TcpListener) {
        let mut stopped = self.inner.stopped.subscribe();
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                accepted = async {
                    let permit = handshakes.clone().acquire_owned().await;
                    (listener.accept().await, permit)
                } => accepted,
            };
            match accepted {
                (Ok((stream, from)), permit) => {
                    let node = self.clone();
                    tokio::spawn(async move {
                        node.accept(stream, from).await;
                        drop(permit);
                    });
                }
                (Err(error), _) => {
                    // Out of file descriptors, most likely: waiting is all that helps.
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn accept(&self, mut stream: TcpStream, from: SocketAddr) {
        let id = self.next_connection();
        let mut named = None;
        let outcome = timeout(handshake::DEADLINE, async {
            stream.set_nodelay(true)?;
            let (remote, dynamic) = handshake::receive_name(&mut stream).await?;
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
            Ok(remote)
        });
        match outcome.await {
            Ok(Ok(remote)) => return self.established(id, stream, remote, from),
            Ok(Err(HandshakeError::Nok | HandshakeError::Alive)) => {
                debug!(%from, peer = ?named, "an incoming connection gave way")
            }
            Ok(Err(error)) => refused(from, named.as_ref(), &error),
            Err(_) => refused(
                from,
                named.as_ref(),
                &"the handshake was not completed within 7 s",
            ),
        }
        if let Some(peer) = named {
            self.failed(&peer, id, || ConnectError::Handshake {
                node: peer.clone(),
                why: "its own connection to us, for which we gave ours up, failed".into(),
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

fn refused(from: SocketAddr, peer: Option<&NodeName>, why: &dyn fmt::Display) {
    match peer {
        Some(peer) => warn!(%from, %peer, "a connection was refused: {why}"),
        None => warn!(%from, "a connection was refused: {why}"),
    }
}
