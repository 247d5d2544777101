//! The node itself: its slots, its connections, and what is asked of peers through them. How it accepts is in `listen.rs`,
//! how it connects in `dial.rs`.

use super::{
    CallError, ConnectError, DownReason, NodeName, Options, PeerInfo, Service, StartError,
    access::Access,
    call,
    epmd::{self, EpmdMode},
    frame::Agreed,
    groups::Scopes,
    handshake::{self, Local},
    ids::{self, Ids},
    message::Message,
    otp,
    peer::{self, Command, Handle},
    process::Processes,
    slots::{Slot, Slots},
    state::{self, Failure, Own},
    stream::Stream,
};
use crate::term::Raw;
use std::{
    collections::HashMap,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};
use tracing::{debug, info, warn};

/// How long to wait for more from a peer that has just sent much. The system adds about as much again.
const MOMENT: Duration = Duration::from_micros(50);

/// How long the connections of a node that stops may take to end.
const STOP_PATIENCE: Duration = Duration::from_millis(800);

/// A running node. Cheap to clone; it ends with [`Node::stop`].
#[derive(Clone)]
pub struct Node {
    pub(super) inner: Arc<Inner>,
}

/// Someone who wants a peer connected.
type Waiter = oneshot::Sender<Result<PeerInfo, ConnectError>>;

pub(super) struct Inner {
    pub(super) local: Local,
    own: Arc<Own>,
    pub(super) options: Options,
    port: u16,
    pub(super) service: Arc<dyn Service>,
    pub(super) slots: Mutex<Slots<Handle>>,
    processes: Processes,
    scopes: Scopes,
    kept: otp::Kept,
    /// Who waits for a connection that somebody else is making.
    pub(super) waiting: Mutex<HashMap<NodeName, Vec<Waiter>>>,
    pub(super) connections: AtomicU64,
    refused: AtomicU64,
    /// One of our threads waits for more to come; see [`Node::moment`].
    resting: AtomicBool,
    /// The runtime has more threads than one.
    spare_threads: bool,
    /// Handshakes that were ended to make room.
    pub(super) turned_away: AtomicU64,
    pub(super) stopped: watch::Sender<bool>,
    registration: Mutex<Option<epmd::Registration>>,
}

impl Node {
    /// Listens, registers with epmd, and answers from then on.
    ///
    /// # Errors
    /// The port is taken, or epmd refuses or does not answer; or there is no certificate to listen with inside TLS.
    pub async fn start(options: Options, service: Arc<dyn Service>) -> Result<Self, StartError> {
        if let Some(tls) = &options.tls {
            if options.listen.is_some() {
                tls.listens()?;
            }
            if let Some(doubt) = tls.doubts(&options.name) {
                warn!("other nodes will most likely refuse this one: {doubt}");
            }
        }
        let listener = match &options.listen {
            Some(listen) => Some(super::listen::bind(listen).await?),
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
        let processes = Processes::new(
            own.ids.clone(),
            options.name.clone(),
            // That one is spoken for in state.rs.
            (own.names.keys().cloned()).chain(["global_name_server".to_owned()]),
        );
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
                processes,
                scopes: Scopes::default(),
                kept: otp::Kept::new(),
                waiting: Mutex::new(HashMap::new()),
                connections: AtomicU64::new(0),
                refused: AtomicU64::new(0),
                resting: AtomicBool::new(false),
                spare_threads: tokio::runtime::Handle::current().metrics().num_workers() > 1,
                turned_away: AtomicU64::new(0),
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

    /// Ends the connection to a peer; nothing happens when there is none.
    pub fn disconnect(&self, peer: &NodeName) {
        if let Some(handle) = self.handle(peer) {
            handle.close(DownReason::Requested);
        }
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
        // Whoever is linked to our processes or watches them hears `shutdown`, and not only that the node is gone.
        self.signals(self.processes().stop());
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

    /// Waits a tenth of a millisecond for more to come from a peer that has just sent much.
    ///
    /// Who reads at once gets what follows a few messages at a time, and pays a wake-up, a read, a write and a packet for
    /// each few; measured, that is two thirds of what a busy connection costs. A timer would not do, as every packet
    /// wakes the thread that waits for sockets: so this thread sleeps. At most one of a node does so at a time, and none
    /// where it is the only one, so another is there for everything else.
    pub(crate) fn moment(&self) {
        let resting = &self.inner.resting;
        if !self.inner.spare_threads || resting.swap(true, Ordering::Acquire) {
            return;
        }
        std::thread::sleep(MOMENT);
        resting.store(false, Ordering::Release);
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

    pub(crate) fn access_of(&self, peer: &NodeName) -> Access {
        self.inner.options.access.of(peer)
    }

    pub(crate) fn max_frame(&self) -> usize {
        self.inner.options.max_frame
    }

    pub(crate) fn max_depth(&self) -> usize {
        self.inner.options.max_depth
    }

    pub(crate) fn kept(&self) -> &otp::Kept {
        &self.inner.kept
    }

    pub(super) fn scopes(&self) -> &Scopes {
        &self.inner.scopes
    }

    pub(crate) fn processes(&self) -> &Processes {
        &self.inner.processes
    }

    /// All registered names, in no order.
    pub fn registered(&self) -> Vec<String> {
        let own = self.inner.own.names.keys().cloned();
        own.chain(self.processes().names()).collect()
    }

    /// The pid that has a registered name on this node.
    pub fn whereis(&self, name: &str) -> Option<Raw> {
        let own = &self.inner.own;
        let number = match own.names.get(name) {
            Some(number) => Some(*number),
            None => self.processes().whereis(name),
        };
        number.map(|number| own.ids.pid(number))
    }

    pub(super) fn handle(&self, peer: &NodeName) -> Option<Handle> {
        match lock(&self.inner.slots).get(peer) {
            Some(Slot::Up(_, handle)) => Some(handle.clone()),
            _ => None,
        }
    }

    /// The connection of this number, while it stands.
    pub(super) fn handle_by(&self, connection: u64) -> Option<Handle> {
        let slots = lock(&self.inner.slots);
        let (_, handle) = slots
            .up()
            .find(|(_, up)| up.info.connection == connection)?;
        Some(handle.clone())
    }

    pub(super) fn next_connection(&self) -> u64 {
        self.inner.connections.fetch_add(1, Ordering::Relaxed) + 1
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

    /// An attempt ended without a connection: whoever waits hears it, unless another attempt has the slot by now.
    pub(super) fn failed(&self, peer: &NodeName, id: u64, error: impl FnOnce() -> ConnectError) {
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
    pub(super) fn established(
        &self,
        id: u64,
        stream: Stream,
        remote: handshake::Remote,
        at: SocketAddr,
    ) {
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
            self.processes().up(&info.name, !info.hidden);
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
            node.scopes_up(&info);
            let reason = match stream {
                Stream::Plain(stream) => peer::run(&node, &info, stream, &mut start).await,
                Stream::Sealed(stream) => peer::run(&node, &info, stream, &mut start).await,
            };
            let owed = {
                let mut slots = lock(&node.inner.slots);
                slots.release(&info.name, id);
                tell(&info.name, || node.inner.service.peer_down(&info, &reason));
                node.processes().down(&info.name, !info.hidden, id)
            };
            node.signals(owed);
            node.scopes_down(&info);
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

/// Tells the service about a peer. When it panics over that the slots must still be right.
fn tell(peer: &NodeName, what: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(what)).is_err() {
        warn!(%peer, "the service panicked when it was told of a peer");
    }
}

/// The data under our locks is changed in single steps, so a panic elsewhere leaves nothing half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
