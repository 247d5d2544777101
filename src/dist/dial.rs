//! The side of a node that connects: where a peer is, and the handshake with it.

use super::{
    Address, CallError, ConnectError, DownReason, Located, Node, NodeName, PeerInfo,
    handshake::{self, HandshakeError, Local},
    node::lock,
    peer::Handle,
    slots::Slot,
    stream::Stream,
    tls,
};
use std::{
    io,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tokio::{net::TcpStream, sync::oneshot, time::timeout};

/// How long a caller waits for somebody else's attempt to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// How long a peer that refused our dial, as it was dialling us, may take to reach us.
const NOK_PATIENCE: Duration = Duration::from_secs(2);

impl Node {
    /// Connects to a peer at an address. There is one attempt at a time for a peer, however many ask; a peer that is
    /// connected already is an answer at once.
    ///
    /// # Errors
    /// The peer is not there, or the handshake failed; after about 15 s at the latest.
    pub async fn connect(
        &self,
        peer: &NodeName,
        address: Address,
    ) -> Result<PeerInfo, ConnectError> {
        if peer == self.name() {
            return Err(ConnectError::Itself(peer.clone()));
        }
        let outcome = {
            // Both locks at once, so that an attempt cannot end between the look and the wait.
            let mut slots = lock(&self.inner.slots);
            if *self.inner.stopped.borrow() {
                return Err(ConnectError::Stopped);
            }
            if let Some(Slot::Up(_, handle)) = slots.get(peer) {
                return Ok(handle.info.clone());
            }
            let (sender, outcome) = oneshot::channel();
            lock(&self.inner.waiting)
                .entry(peer.clone())
                .or_default()
                .push(sender);
            let id = self.next_connection();
            if slots.dial(peer, id) {
                tokio::spawn(self.clone().dial(peer.clone(), address, id));
            }
            outcome
        };
        match timeout(CONNECT_PATIENCE, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ConnectError::Stopped),
            Err(_) => Err(ConnectError::Timeout {
                node: peer.clone(),
                after: CONNECT_PATIENCE,
            }),
        }
    }

    /// Whether the node at an address completes a handshake under the given name. It sees a hidden node come and go.
    pub async fn answers_as(&self, name: &NodeName, address: Address) -> bool {
        let attempt = async {
            let at = self.address_of(name, address).await.ok()?;
            let stream = open(at).await.ok()?;
            let tls = self.inner.options.tls.as_ref();
            let mut stream = Stream::dialled(stream, tls, name, at.ip()).await.ok()?;
            let probe = format!("probe-{:08x}@{}", rand::random::<u32>(), self.name().host())
                .parse()
                .ok()?;
            let local = Local {
                name: probe,
                flags: self.inner.local.flags & !handshake::PUBLISHED,
                ..self.inner.local.clone()
            };
            handshake::dial(&mut stream, &local, name, || true)
                .await
                .ok()
        };
        matches!(timeout(handshake::DEADLINE, attempt).await, Ok(Some(_)))
    }

    /// The connection to a peer, made when there is none.
    pub(super) async fn connected(&self, peer: &NodeName) -> Result<Handle, CallError> {
        if let Some(handle) = self.handle(peer) {
            return Ok(handle);
        }
        let address = match self.inner.service.locate(peer) {
            Located::At(address) => address,
            Located::Unknown => resolve(peer).await?,
            Located::Never(why) => {
                let node = peer.clone();
                return Err(ConnectError::Never { node, why }.into());
            }
        };
        self.connect(peer, address).await?;
        self.handle(peer)
            .ok_or_else(|| CallError::gone(peer, DownReason::Closed))
    }

    async fn dial(self, peer: NodeName, address: Address, id: u64) {
        let tls = self.inner.options.tls.as_ref();
        let in_tls = AtomicBool::new(false);
        let attempt = async {
            let at = self.address_of(&peer, address).await?;
            let io = |error: io::Error| ConnectError::Io {
                node: peer.clone(),
                at,
                why: error.to_string(),
            };
            let stream = open(at).await.map_err(io)?;
            in_tls.store(tls.is_some(), Ordering::Relaxed);
            let done = async {
                let mut stream = Stream::dialled(stream, tls, &peer, at.ip()).await?;
                in_tls.store(false, Ordering::Relaxed);
                let wanted = || lock(&self.inner.slots).holds(&peer, id);
                let remote = handshake::dial(&mut stream, &self.inner.local, &peer, wanted).await?;
                Ok((stream, remote))
            };
            Ok::<_, ConnectError>((at, done.await))
        };
        let node = peer.clone();
        let error = match timeout(handshake::DEADLINE, attempt).await {
            Ok(Ok((at, Ok((stream, remote))))) => return self.established(id, stream, remote, at),
            Ok(Ok((_, Err(error)))) => {
                if matches!(error, HandshakeError::Nok) && *self.name() < peer {
                    // The peer's own connection goes first: it is on its way, takes the slot, and serves whoever waits.
                    // But the peer may hold a dead attempt of ours for it, and then nothing comes.
                    tokio::time::sleep(NOK_PATIENCE).await;
                }
                let why = error.to_string();
                match error {
                    HandshakeError::Tls(_) | HandshakeError::SpeaksTls => {
                        ConnectError::Tls { node, why }
                    }
                    error => ConnectError::Handshake {
                        node,
                        why,
                        refusal: error.refusal(),
                        answered: error.answered(),
                    },
                }
            }
            Ok(Err(error)) => error,
            // A plain node of OTP takes our hello for the beginning of a long message, and waits for the rest of it.
            Err(_) if in_tls.load(Ordering::Relaxed) => ConnectError::Tls {
                node,
                why: tls::NO_ANSWER.into(),
            },
            Err(_) => ConnectError::Timeout {
                node,
                after: handshake::DEADLINE,
            },
        };
        self.failed(&peer, id, || error);
    }

    async fn address_of(
        &self,
        peer: &NodeName,
        address: Address,
    ) -> Result<SocketAddr, ConnectError> {
        let port = match address.port {
            Some(port) => port,
            None => self.inner.options.epmd.look_up(address.ip, peer).await?,
        };
        Ok(SocketAddr::new(address.ip, port))
    }
}

async fn open(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn resolve(peer: &NodeName) -> Result<Address, ConnectError> {
    let failed = |why: String| ConnectError::Resolve {
        node: peer.clone(),
        why,
    };
    let mut found = tokio::net::lookup_host((peer.host(), 0))
        .await
        .map_err(|error| failed(error.to_string()))?;
    // Erlang nodes listen on IPv4 unless told otherwise.
    let first = found
        .next()
        .ok_or_else(|| failed("it has no address".into()))?;
    let ip = std::iter::once(first)
        .chain(found)
        .find(SocketAddr::is_ipv4)
        .unwrap_or(first)
        .ip();
    Ok(Address { ip, port: None })
}
