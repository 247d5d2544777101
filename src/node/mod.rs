//! The node that a program uses: the distribution and the mesh, put together.
//!
//! [`Node::builder`] takes the settings, [`Builder::start`] makes the node. A node without Redis is a node all the same:
//! it is connected to by name, and `redgrid` is not registered on it.

pub mod doctor;
mod echo;
mod processes;
mod services;

pub use services::{Call, Exception};

use crate::{
    dist::{
        self, Answer, BadCookie, BadRule, CallError, Cookie, Epmd, EpmdMode, Listen, NodeName,
        NodeNameError, Options, PeerInfo, Rules, Service, Tls,
    },
    grid::{
        self, BadMeta, Change, Connect, Dialling, Grid, GridError, Meta, MetaValue, Scope, View,
    },
    term::{Limits, Raw, Term, TermError},
};
use echo::Echo;
use ipnet::IpNet;
use services::Services;
use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{broadcast, watch},
    task::JoinHandle,
};

/// How long a call may take unless [`Node::call_within`] says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long [`Builder::start`] waits for the mesh to be joined. Redis being away is no failure: the node starts, and
/// joins when Redis is there.
const JOIN_PATIENCE: Duration = Duration::from_secs(1);

/// Why a node did not start. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its name is none.
    #[error(transparent)]
    Name(#[from] NodeNameError),
    /// Its cookie cannot be one.
    #[error(transparent)]
    Cookie(#[from] BadCookie),
    /// It has no cookie: every node of a cluster needs the same one.
    #[error("the node {0} has no cookie: give it the one of its cluster")]
    NoCookie(NodeName),
    /// A rule of [`Builder::allow`] or [`Builder::deny`] is none.
    #[error(transparent)]
    Access(#[from] BadRule),
    /// Its meta is refused.
    #[error(transparent)]
    Meta(#[from] BadMeta),
    /// Its host does not resolve, so the others could not be told where it is.
    #[error("the host of {name} does not resolve ({why}): give the node an ip")]
    Ip {
        /// The node.
        name: NodeName,
        /// What the system said.
        why: String,
    },
    /// It cannot listen, or epmd refuses it.
    #[error(transparent)]
    Dist(#[from] dist::StartError),
    /// The URL of Redis is none, or another node of this name is in the mesh and answers.
    #[error(transparent)]
    Mesh(#[from] GridError),
}

/// Why a call had no value.
#[derive(Debug, thiserror::Error)]
pub enum CallFailure {
    /// An argument is no term that can be sent.
    #[error("an argument cannot be sent: {0}")]
    Argument(TermError),
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The value came, but [`Term`] cannot hold it.
    #[error("the value cannot be held: {0}")]
    Value(TermError),
}

/// Settings of a node, each with the default that the command line has.
#[must_use = "nothing starts before `start`"]
pub struct Builder {
    name: Result<NodeName, NodeNameError>,
    cookie: Option<Result<Cookie, BadCookie>>,
    redis: Option<String>,
    scope: Scope,
    meta: Result<Meta, BadMeta>,
    ip: Option<IpAddr>,
    listen: Option<Listen>,
    epmd: Epmd,
    epmd_mode: EpmdMode,
    hidden: bool,
    tick_time: Duration,
    max_frame: usize,
    max_depth: usize,
    tls: Option<Tls>,
    access: Result<Rules, BadRule>,
    dialling: Dialling,
    max_members: usize,
    echo: bool,
}

impl Builder {
    /// What every node of the cluster must know: a text or a [`Cookie`].
    pub fn cookie<C>(mut self, cookie: C) -> Self
    where
        C: TryInto<Cookie, Error: Into<BadCookie>>,
    {
        self.cookie = Some(cookie.try_into().map_err(Into::into));
        self
    }

    /// Joins the mesh in this Redis, for example `redis://127.0.0.1:6379/`.
    pub fn redis(mut self, url: impl Into<String>) -> Self {
        self.redis = Some(url.into());
        self
    }

    /// Which mesh in that Redis: domain and version, both empty by default.
    pub fn scope(mut self, domain: impl Into<String>, version: impl Into<String>) -> Self {
        self.scope = Scope::new(domain, version);
        self
    }

    /// Takes members of every version of the domain for members of ours: for clusters of nodes that poll.
    pub fn any_version(mut self, any_version: bool) -> Self {
        self.scope = self.scope.any_version(any_version);
        self
    }

    /// What the node announces about itself: at most 64 entries, keys of at most 255 bytes, values of at most 4 KiB.
    pub fn meta<K, V>(mut self, entries: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<MetaValue>,
    {
        self.meta = Meta::new(entries);
        self
    }

    /// The same, made already.
    pub fn typed_meta(mut self, meta: Meta) -> Self {
        self.meta = Ok(meta);
        self
    }

    /// Where the others reach this host; the host part of the name, resolved, by default.
    pub fn ip(mut self, ip: impl Into<IpAddr>) -> Self {
        self.ip = Some(ip.into());
        self
    }

    /// Where to listen; any port by default, of the loopback when the name's host is one.
    pub fn listen(mut self, listen: Listen) -> Self {
        self.listen = Some(listen);
        self
    }

    /// Where epmd is.
    pub fn epmd(mut self, epmd: Epmd) -> Self {
        self.epmd = epmd;
        self
    }

    /// Whether and how to register with epmd.
    pub fn epmd_mode(mut self, mode: EpmdMode) -> Self {
        self.epmd_mode = mode;
        self
    }

    /// Stays out of the others' `nodes()`.
    pub fn hidden(mut self, hidden: bool) -> Self {
        self.hidden = hidden;
        self
    }

    /// The silence after which a peer is taken for dead; 60 s by default, as in OTP.
    pub fn tick_time(mut self, tick_time: Duration) -> Self {
        self.tick_time = tick_time;
        self
    }

    /// The longest frame that is accepted, in bytes; 512 MiB by default.
    pub fn max_frame(mut self, bytes: usize) -> Self {
        self.max_frame = bytes;
        self
    }

    /// How deep a term from a peer may be nested; 10,000 by default. A deeper one costs its message alone.
    pub fn max_depth(mut self, levels: usize) -> Self {
        self.max_depth = levels;
        self
    }

    /// Puts all connections between nodes inside TLS; then only nodes that do so, too, are connected to.
    pub fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Allows peers to reach something: `"billing@*=stock:count/1,orders"` the nodes `billing` a function and a process,
    /// `"redgrid:nodes"` all nodes another. From then on whatever is not allowed is denied, to every peer; without any
    /// such rule all that is exported and registered is allowed.
    pub fn allow(mut self, rules: &str) -> Self {
        self.access = self.access.and_then(|access| access.allow(rules));
        self
    }

    /// Denies something, in the same form, whatever is allowed. To its peers it is as if it were not there.
    pub fn deny(mut self, rules: &str) -> Self {
        self.access = self.access.and_then(|access| access.deny(rules));
        self
    }

    /// All such rules, made already.
    pub fn access(mut self, rules: Rules) -> Self {
        self.access = Ok(rules);
        self
    }

    /// Whom to connect to of its own accord; everybody by default.
    pub fn connect(mut self, connect: Connect) -> Self {
        self.dialling.connect = connect;
        self
    }

    /// The networks that may be dialled into; any by default.
    pub fn peers(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.dialling.peers = networks.into_iter().collect();
        self
    }

    /// The most members that a view holds; 20,000 by default.
    pub fn max_members(mut self, members: usize) -> Self {
        self.max_members = members;
        self
    }

    /// Registers the processes `echo` and `sink`, with which connections are measured.
    pub fn echo(mut self, echo: bool) -> Self {
        self.echo = echo;
        self
    }

    /// Starts the node: it listens, is registered with epmd, and joins the mesh. When Redis is away it joins later.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left behind.
    pub async fn start(self) -> Result<Node, StartError> {
        let name = self.name?;
        let cookie = match self.cookie {
            Some(cookie) => cookie?,
            None => return Err(StartError::NoCookie(name)),
        };
        let mut options = Options {
            hidden: self.hidden,
            epmd: self.epmd,
            epmd_mode: self.epmd_mode,
            tick_time: self.tick_time,
            max_frame: self.max_frame,
            max_depth: self.max_depth,
            tls: self.tls,
            access: self.access?,
            ..Options::new(name.clone(), cookie)
        };
        if let Some(listen) = self.listen {
            options.listen = Some(listen);
        }

        let mut list: Vec<Arc<dyn Service>> = Vec::new();
        let mesh = match self.redis {
            Some(redis) => {
                let ip = match self.ip {
                    Some(ip) => ip,
                    None => resolve(&name).await?,
                };
                let (grid, driver) = Grid::new(grid::Options {
                    scope: self.scope,
                    hidden: self.hidden,
                    tls: options.tls.is_some(),
                    meta: self.meta?,
                    dialling: self.dialling,
                    max_members: self.max_members,
                    ..grid::Options::new(name, ip, redis)
                })?;
                list.push(Arc::new(grid.clone()));
                Some((grid, driver))
            }
            None => None,
        };
        if self.echo {
            list.push(Arc::new(Echo::default()));
        }
        let services = Arc::new(Services::new(list));
        let dist = dist::Node::start(options, services.clone()).await?;

        let (refused, refusal) = watch::channel(None);
        let (grid, driving) = match mesh {
            Some((grid, driver)) => {
                let node = dist.clone();
                let driving = tokio::spawn(async move {
                    if let Err(error) = driver.run(node, std::future::pending()).await {
                        refused.send_replace(Some(error));
                    }
                });
                (Some(grid), Some(driving))
            }
            None => (None, None),
        };
        let node = Node {
            inner: Arc::new(Inner {
                dist,
                grid,
                services,
                refusal,
                driving: std::sync::Mutex::new(driving),
            }),
        };
        if let Some(error) = node.joined().await {
            node.leave().await;
            return Err(error.into());
        }
        Ok(node)
    }
}

async fn resolve(name: &NodeName) -> Result<IpAddr, StartError> {
    if let Some(ip) = name.host_ip() {
        return Ok(ip);
    }
    if name.host() == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    let failed = |why: String| StartError::Ip {
        name: name.clone(),
        why,
    };
    let found = tokio::net::lookup_host((name.host(), 0))
        .await
        .map_err(|error| failed(error.to_string()))?;
    // Classic members reach us by IPv4 only.
    found
        .map(|at| at.ip())
        .find(IpAddr::is_ipv4)
        .ok_or_else(|| failed("it has no IPv4 address".into()))
}

/// A running node. Cheap to clone; it lives until [`Node::leave`].
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    dist: dist::Node,
    grid: Option<Grid>,
    services: Arc<Services>,
    /// Why the mesh does not take us, once it is known.
    refusal: watch::Receiver<Option<GridError>>,
    driving: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Node {
    /// Settings for a node of this name.
    pub fn builder<N>(name: N) -> Builder
    where
        N: TryInto<NodeName, Error: Into<NodeNameError>>,
    {
        Builder {
            name: name.try_into().map_err(Into::into),
            cookie: None,
            redis: None,
            scope: Scope::default(),
            meta: Ok(Meta::default()),
            ip: None,
            listen: None,
            epmd: Epmd::default(),
            epmd_mode: EpmdMode::Auto,
            hidden: false,
            tick_time: Duration::from_secs(60),
            max_frame: 512 * 1024 * 1024,
            max_depth: Limits::default().max_depth,
            tls: None,
            access: Ok(Rules::default()),
            dialling: Dialling::default(),
            max_members: grid::MAX_MEMBERS,
            echo: false,
        }
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        self.inner.dist.name()
    }

    /// The node of the distribution: connections, peers, calls with terms as they came.
    pub fn dist(&self) -> &dist::Node {
        &self.inner.dist
    }

    /// The peers that are connected, as `nodes(connected)` in Erlang.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.inner.dist.peers()
    }

    /// The mesh as last known, own node first, without waiting on anyone. `None` for a node without Redis.
    pub fn nodes(&self) -> Option<Arc<View>> {
        self.inner.grid.as_ref().map(Grid::nodes)
    }

    /// Replaces the meta that this node announces: keys not named any more disappear everywhere. Done when our own
    /// view has it; Redis hears of it right after, or when it is back.
    ///
    /// # Errors
    /// The node is in no mesh, or has left it; or too much is asked of it at this moment.
    pub async fn update_meta(&self, meta: Meta) -> Result<(), GridError> {
        self.grid()?.update_meta(meta).await
    }

    /// Withdraws from the mesh until [`Node::resume`]; connections stay.
    ///
    /// # Errors
    /// As [`Node::update_meta`].
    pub async fn suspend(&self) -> Result<(), GridError> {
        self.grid()?.suspend().await
    }

    /// Comes back after [`Node::suspend`].
    ///
    /// # Errors
    /// As [`Node::update_meta`].
    pub async fn resume(&self) -> Result<(), GridError> {
        self.grid()?.resume().await
    }

    /// What happens in the mesh from now on. A watcher that falls too far behind is told how much it missed.
    pub fn watch(&self) -> Option<broadcast::Receiver<Change>> {
        self.inner.grid.as_ref().map(Grid::changes)
    }

    /// Calls a function on a peer, connecting first where needed, and waits 5 s for its value.
    ///
    /// # Errors
    /// See [`CallFailure`]. Whether the function ran is not known after a timeout or a broken connection.
    pub async fn call(
        &self,
        peer: &NodeName,
        module: &str,
        function: &str,
        args: impl IntoIterator<Item = Term>,
    ) -> Result<Term, CallFailure> {
        self.call_within(CALL_TIMEOUT, peer, module, function, args)
            .await
    }

    /// [`Node::call`] with a time of the caller's choice.
    ///
    /// # Errors
    /// As [`Node::call`].
    pub async fn call_within(
        &self,
        timeout: Duration,
        peer: &NodeName,
        module: &str,
        function: &str,
        args: impl IntoIterator<Item = Term>,
    ) -> Result<Term, CallFailure> {
        let args = crate::term::list(args.into_iter().collect::<Vec<_>>());
        let args = Raw::try_encode(&args).map_err(CallFailure::Argument)?;
        let value = self
            .inner
            .dist
            .call(peer, module, function, args, timeout)
            .await?;
        value.decode().map_err(CallFailure::Value)
    }

    /// Sends a message to a registered name on a peer, connecting first where needed. As in Erlang nobody hears
    /// whether the name exists.
    ///
    /// # Errors
    /// There is no connection, or the message is no term that can be sent.
    pub async fn send(
        &self,
        peer: &NodeName,
        name: &str,
        message: &Term,
    ) -> Result<(), CallFailure> {
        let message = Raw::try_encode(message).map_err(CallFailure::Argument)?;
        Ok(self.inner.dist.send(peer, name, message).await?)
    }

    /// Offers the functions of a module to `rpc:call` and its relatives. The function is async and runs for many
    /// callers at a time; when its caller goes away it is dropped where it waits.
    ///
    /// ```no_run
    /// # use redgrid::{Exception, Node, term};
    /// # fn main_(node: Node) {
    /// node.export("billing", |call| async move {
    ///     match (call.function.as_str(), call.args.as_slice()) {
    ///         ("double", [n]) => match term::as_i64(n) {
    ///             Some(n) => Ok(term::int(2 * n)),
    ///             None => Err(Exception::error("badarg")),
    ///         },
    ///         _ => Err(Exception::Undefined),
    ///     }
    /// });
    /// # }
    /// ```
    pub fn export<F, R>(&self, module: &str, function: F)
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Term, Exception>> + Send + 'static,
    {
        self.inner.services.export(module, function);
    }

    /// Waits until another node of our name is found in the mesh, and returns what is to be said about it. A node that
    /// has heard this should stop.
    pub async fn refused(&self) -> GridError {
        let mut refusal = self.inner.refusal.clone();
        let refused = match refusal.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        match refused {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Leaves the mesh, epmd and all peers; at most 3 s, whatever Redis does. The node is over then.
    pub async fn leave(&self) {
        if let Some(grid) = &self.inner.grid {
            grid.leave().await;
        }
        self.inner.dist.stop().await;
        let driving = self
            .inner
            .driving
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if let Some(driving) = driving {
            driving.abort();
        }
    }

    fn grid(&self) -> Result<&Grid, GridError> {
        self.inner.grid.as_ref().ok_or(GridError::Stopped)
    }

    /// Waits until we are in the mesh, it is plain that we are not taken, or it takes too long.
    async fn joined(&self) -> Option<GridError> {
        let grid = self.inner.grid.as_ref()?;
        tokio::select! {
            error = self.refused() => Some(error),
            _ = tokio::time::timeout(JOIN_PATIENCE, grid.joined()) => None,
        }
    }
}

/// A term as the answer of a service.
impl From<Term> for Answer {
    fn from(term: Term) -> Self {
        Answer::Reply(Raw::encode(&term))
    }
}
