//! The node itself: its options, its listener, its slots, and the connections that it makes.

use super::{
    Address, CallError, ConnectError, Cookie, DownReason, Located, NodeName, PeerInfo, Service,
    call,
    epmd::{self, Epmd, EpmdMode, EpmdStartError},
    frame::Agreed,
    handshake::{self, HandshakeError, Local, Status},
    ids::{self, Ids},
    message::Message,
    peer::{self, Command, Handle},
    slots::{Slot, Slots},
    state::{self, Failure, Own},
};
use crate::term::Raw;
use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot, watch},
    time::timeout,
};
use tracing::{debug, info, warn};

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
    /// Not registered with epmd.
    #[error(transparent)]
    Epmd(#[from] EpmdStartError),
}

/// At most so many connections may be in their handshake at a time; more wait in the system's queue.
const MAX_HANDSHAKES: usize = 256;

/// How long a caller waits for somebody else's attempt to connect.
const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

/// How long a connection that is replaced may take to end.
const REPLACE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a peer that refused our dial, as it was dialling us, may take to reach us.
const NOK_PATIENCE: Duration = Duration::from_secs(2);

/// How long the connections of a node that stops may take to end.
const STOP_PATIENCE: Duration = Duration::from_millis(800);

/// A running node. Cheap to clone; it ends with [`Node::stop`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

/// Someone who wants a peer connected.
type Waiter = oneshot::Sender<Result<PeerInfo, ConnectError>>;

struct Inner {
    local: Local,
    own: Arc<Own>,
    options: Options,
    port: u16,
    service: Arc<dyn Service>,
    slots: Mutex<Slots<Handle>>,
    /// Who waits for a connection that somebody else is making.
    waiting: Mutex<HashMap<NodeName, Vec<Waiter>>>,
    connections: AtomicU64,
    refused: AtomicU64,
    stopped: watch::Sender<bool>,
    registration: Mutex<Option<epmd::Registration>>,
}

impl Node {
    /// Listens, registers with epmd, and answers from then on.
    ///
    /// # Errors
    /// The port is taken, or epmd refuses or does not answer.
    pub async fn start(options: Options, service: Arc<dyn Service>) -> Result<Self, StartError> {
        let listener = match &options.listen {
            Some(listen) => Some(bind(listen).await?),
            None => None,
        };
        let port = listener
            .as_ref()
            .and_then(|l| l.local_addr().ok())
            .map_or(0, |at| at.port());
        let creation = handshake::new_creation();
        let flags = if options.hidden {
            handshake::FLAGS & !handshake::PUBLISHED
        } else {
            handshake::FLAGS
        };
        let names = ["net_kernel", "rex"]
            .into_iter()
            .map(str::to_owned)
            .chain(service.names());
        let own = Own {
            ids: Ids::new(options.name.clone(), creation),
            name: call::atom(options.name.as_str()),
            names: names.zip(ids::FIRST_NAME..).collect(),
            tick_time: options.tick_time,
        };
        let registration = match options.epmd_mode {
            EpmdMode::Unregistered => None,
            mode => Some(
                options
                    .epmd
                    .register(&options.name, port, options.hidden, mode)
                    .await?,
            ),
        };
        let local = Local {
            name: options.name.clone(),
            flags,
            creation,
            cookie: options.cookie.clone(),
        };
        let node = Self {
            inner: Arc::new(Inner {
                local,
                own: Arc::new(own),
                port,
                service,
                slots: Mutex::new(Slots::new(options.name.clone())),
                waiting: Mutex::new(HashMap::new()),
                connections: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                stopped: watch::channel(false).0,
                registration: Mutex::new(registration),
                options,
            }),
        };
        if let Some(listener) = listener {
            tokio::spawn(node.clone().listen(listener));
        }
        Ok(node)
    }

    /// The node's name.
    pub fn name(&self) -> &NodeName {
        &self.inner.local.name
    }

    /// Which life of the name this is: random, fixed at the start.
    pub fn creation(&self) -> u32 {
        self.inner.local.creation
    }

    /// The port that it listens on; 0 when it does not.
    pub fn port(&self) -> u16 {
        self.inner.port
    }

    /// Whether it is hidden.
    pub fn hidden(&self) -> bool {
        self.inner.options.hidden
    }

    /// The silence after which a peer is taken for dead.
    pub fn tick_time(&self) -> Duration {
        self.inner.options.tick_time
    }

    /// The peers that are connected at this moment, in no order.
    pub fn peers(&self) -> Vec<PeerInfo> {
        lock(&self.inner.slots)
            .up()
            .map(|(_, handle)| handle.info.clone())
            .collect()
    }

    /// A connected peer.
    pub fn peer(&self, name: &NodeName) -> Option<PeerInfo> {
        self.handle(name).map(|handle| handle.info)
    }

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

    /// Ends the connection to a peer; nothing happens when there is none.
    pub fn disconnect(&self, peer: &NodeName) {
        if let Some(handle) = self.handle(peer) {
            handle.close(DownReason::Requested);
        }
    }

    /// Whether the node at an address completes a handshake under the given name. It sees a hidden node come and go.
    pub async fn answers_as(&self, name: &NodeName, address: Address) -> bool {
        let attempt = async {
            let at = self.address_of(name, address).await.ok()?;
            let mut stream = open(at).await.ok()?;
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

    /// Calls a function on a peer, as `erpc:call/5` does, connecting first where needed. `args`: a proper list.
    ///
    /// # Errors
    /// See [`CallError`]; `timeout` counts for the whole, and nothing is left waiting after it.
    pub async fn call(
        &self,
        peer: &NodeName,
        module: &str,
        function: &str,
        args: Raw,
        timeout: Duration,
    ) -> Result<Raw, CallError> {
        let (module, function) = (call::atom(module), call::atom(function));
        self.ask(peer, timeout, |number, answer| Command::Call {
            number,
            module,
            function,
            args,
            answer,
        })
        .await
    }

    /// `gen_server:call({name, peer}, request, timeout)`, connecting first where needed. A late answer vanishes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn gen_call(
        &self,
        peer: &NodeName,
        name: &str,
        request: Raw,
        timeout: Duration,
    ) -> Result<Raw, CallError> {
        let process = call::atom(name);
        self.ask(peer, timeout, |number, answer| Command::GenCall {
            number,
            process,
            request,
            answer,
        })
        .await
    }

    /// The same for a process as Erlang names it: a pid, or `{Name, Node}`.
    ///
    /// # Errors
    /// See [`CallError`]; what names no process of another node is answered `noproc`.
    pub async fn call_process(
        &self,
        process: &Raw,
        request: Raw,
        timeout: Duration,
    ) -> Result<Raw, CallError> {
        let view = process.view();
        let (node, process) = match view.tuple_n::<2>() {
            Some([name, node]) => (node.atom_name(), process.sub(name)),
            None => (view.node().filter(|_| view.is_pid()), process.clone()),
        };
        let named = process.view().is_pid() || process.view().as_atom().is_some();
        match node.and_then(|node| node.parse::<NodeName>().ok()) {
            Some(peer) if named && peer != *self.name() => {
                self.ask(&peer, timeout, |number, answer| Command::GenCall {
                    number,
                    process,
                    request,
                    answer,
                })
                .await
            }
            _ => Err(CallError::Exit {
                node: self.name().clone(),
                reason: call::atom("noproc"),
            }),
        }
    }

    /// Sends a message to a registered name on a peer, connecting first where needed. As in Erlang nobody hears whether
    /// the name exists. Waits while the connection's mailbox is full.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn send(&self, peer: &NodeName, name: &str, message: Raw) -> Result<(), CallError> {
        let handle = self.connected(peer).await?;
        let message = Message::RegSend {
            from: self.inner.own.ids.pid(ids::CALLER),
            to: call::atom(name),
            message: message.into(),
        };
        if handle.send(Command::Write(message)).await {
            Ok(())
        } else {
            Err(CallError::gone(peer, DownReason::Closed))
        }
    }

    /// Has a function run on a peer, as `erpc:cast/4` does, connecting first where needed. Nobody hears of its result.
    /// `args`: a proper list.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn cast(
        &self,
        peer: &NodeName,
        module: &str,
        function: &str,
        args: Raw,
    ) -> Result<(), CallError> {
        let handle = self.connected(peer).await?;
        let ids = &self.inner.own.ids;
        let request = state::cast_request(ids, ids.fresh(), module, function, &args);
        if handle.send(Command::Write(request)).await {
            Ok(())
        } else {
            Err(CallError::gone(peer, DownReason::Closed))
        }
    }

    /// Leaves epmd, closes the port and all connections, and waits for their ends (0.8 s at most).
    pub async fn stop(&self) {
        let registration = lock(&self.inner.registration).take();
        if let Some(registration) = registration {
            registration.end().await;
        }
        let handles: Vec<Handle> = {
            let slots = lock(&self.inner.slots);
            self.inner.stopped.send_replace(true);
            slots.up().map(|(_, handle)| handle.clone()).collect()
        };
        for handle in &handles {
            handle.close(DownReason::Stopping);
        }
        let all = async {
            for handle in &handles {
                handle.closed().await;
            }
        };
        let _ = timeout(STOP_PATIENCE, all).await;
        lock(&self.inner.waiting).clear();
    }

    /// How many messages of peers were refused because they could not be read: no terms, nested too deep, or unknown.
    pub fn refused_messages(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    pub(crate) fn count_refused(&self) {
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn own(&self) -> Arc<Own> {
        self.inner.own.clone()
    }

    pub(crate) fn service(&self) -> &dyn Service {
        &*self.inner.service
    }

    pub(crate) fn max_frame(&self) -> usize {
        self.inner.options.max_frame
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.own.names.keys().map(String::as_str)
    }

    pub(crate) fn whereis(&self, name: &str) -> Option<Raw> {
        self.inner
            .own
            .names
            .get(name)
            .map(|number| self.inner.own.ids.pid(*number))
    }

    fn handle(&self, peer: &NodeName) -> Option<Handle> {
        match lock(&self.inner.slots).get(peer) {
            Some(Slot::Up(_, handle)) => Some(handle.clone()),
            _ => None,
        }
    }

    fn next_connection(&self) -> u64 {
        self.inner.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The connection to a peer, made when there is none.
    async fn connected(&self, peer: &NodeName) -> Result<Handle, CallError> {
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

    async fn ask(
        &self,
        peer: &NodeName,
        patience: Duration,
        command: impl FnOnce(u64, oneshot::Sender<Result<Raw, Failure>>) -> Command,
    ) -> Result<Raw, CallError> {
        let number = self.inner.own.ids.fresh();
        let attempt = async {
            let handle = self.connected(peer).await?;
            let (sender, answer) = oneshot::channel();
            // Dropped before the answer came, it takes the question back.
            let abandon = Abandon {
                handle: &handle,
                number,
                armed: true,
            };
            if !handle.send(command(number, sender)).await {
                return Err(CallError::gone(peer, DownReason::Closed));
            }
            let answer = answer.await;
            abandon.disarm();
            match answer {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(failure)) => Err(CallError::of(peer, failure)),
                Err(_) => Err(CallError::gone(peer, DownReason::Closed)),
            }
        };
        match timeout(patience, attempt).await {
            Ok(result) => result,
            Err(_) => Err(CallError::Timeout {
                node: peer.clone(),
                after: patience,
            }),
        }
    }

    async fn listen(self, listener: TcpListener) {
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

    async fn dial(self, peer: NodeName, address: Address, id: u64) {
        let attempt = async {
            let at = self.address_of(&peer, address).await?;
            let io = |error: io::Error| ConnectError::Io {
                node: peer.clone(),
                at,
                why: error.to_string(),
            };
            let mut stream = open(at).await.map_err(io)?;
            let wanted = || lock(&self.inner.slots).holds(&peer, id);
            let remote = handshake::dial(&mut stream, &self.inner.local, &peer, wanted).await;
            Ok::<_, ConnectError>((stream, at, remote))
        };
        let error = match timeout(handshake::DEADLINE, attempt).await {
            Ok(Ok((stream, at, Ok(remote)))) => return self.established(id, stream, remote, at),
            Ok(Ok((_, _, Err(error)))) => {
                if matches!(error, HandshakeError::Nok) && *self.name() < peer {
                    // The peer's own connection goes first: it is on its way, takes the slot, and serves whoever waits.
                    // But the peer may hold a dead attempt of ours for it, and then nothing comes.
                    tokio::time::sleep(NOK_PATIENCE).await;
                }
                ConnectError::Handshake {
                    node: peer.clone(),
                    why: error.to_string(),
                }
            }
            Ok(Err(error)) => error,
            Err(_) => ConnectError::Timeout {
                node: peer.clone(),
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

    /// An attempt ended without a connection: whoever waits hears it, unless another attempt has the slot by now.
    fn failed(&self, peer: &NodeName, id: u64, error: impl FnOnce() -> ConnectError) {
        let waiting = {
            let mut slots = lock(&self.inner.slots);
            if !slots.holds(peer, id) {
                return;
            }
            slots.release(peer, id);
            lock(&self.inner.waiting).remove(peer).unwrap_or_default()
        };
        if waiting.is_empty() {
            return;
        }
        let error = error();
        debug!(%peer, %error, "not connected");
        for waiter in waiting {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// The handshake is done: the connection's task starts, unless the slot is somebody else's by now.
    fn established(&self, id: u64, stream: TcpStream, remote: handshake::Remote, at: SocketAddr) {
        let info = PeerInfo {
            hidden: remote.flags & self.inner.local.flags & handshake::PUBLISHED == 0,
            name: remote.name,
            creation: remote.creation,
            connection: id,
            since: SystemTime::now(),
        };
        let agreed = Agreed::of(remote.flags & self.inner.local.flags);
        let (handle, mut start) = Handle::new(info.clone(), agreed);
        let waiting = {
            let mut slots = lock(&self.inner.slots);
            if *self.inner.stopped.borrow() || slots.established(&info.name, id, handle).is_err() {
                debug!(peer = %info.name, "a connection gave way to another");
                return;
            }
            // Told under the lock, so that ups and downs of one name come in their order.
            tell(&info.name, || self.inner.service.peer_up(&info));
            lock(&self.inner.waiting)
                .remove(&info.name)
                .unwrap_or_default()
        };
        info!(peer = %info.name, %at, hidden = info.hidden, "connected");
        for waiter in waiting {
            let _ = waiter.send(Ok(info.clone()));
        }
        let node = self.clone();
        tokio::spawn(async move {
            let reason = peer::run(&node, &info, stream, &mut start).await;
            {
                let mut slots = lock(&node.inner.slots);
                slots.release(&info.name, id);
                tell(&info.name, || node.inner.service.peer_down(&info, &reason));
            }
            info!(peer = %info.name, %reason, "disconnected");
            drop(start);
        });
    }
}

/// Takes the question back when the one who asked stops waiting.
struct Abandon<'a> {
    handle: &'a Handle,
    number: u64,
    armed: bool,
}

impl Abandon<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if self.armed && !self.handle.try_send(Command::Abandon(self.number)) {
            debug!(
                number = self.number,
                "a call that timed out is kept until its answer comes: the mailbox is full"
            );
        }
    }
}

async fn bind(listen: &Listen) -> Result<TcpListener, StartError> {
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

/// Tells the service about a peer. When it panics over that the slots must still be right.
fn tell(peer: &NodeName, what: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(what)).is_err() {
        warn!(%peer, "the service panicked when it was told of a peer");
    }
}

fn refused(from: SocketAddr, peer: Option<&NodeName>, why: &dyn fmt::Display) {
    match peer {
        Some(peer) => warn!(%from, %peer, "a connection was refused: {why}"),
        None => warn!(%from, "a connection was refused: {why}"),
    }
}

/// The data under our locks is changed in single steps, so a panic elsewhere leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
