//! The mesh: every node announces itself and its meta in Redis, finds the others there and connects to them.
//!
//! ```text
//!   dist::Node ──up, down, calls──►  Grid ──mailbox──►  Driver ──► state (pure)
//!        ▲                            │                   │  ▲
//!        │                            └──reads── view ◄───┤  │ answers, messages
//!        └──────────── Peers: connect ────────────────────┤  │
//!                                                   Redis ▼──┘ commands and subscription
//! ```
//!
//! [`Grid`] is the handle: it reads the published [`View`] without waiting on anyone and hands changes to the
//! [`Driver`], the one task that owns the state and performs its effects. When Redis is away the view stays
//! what it was, and the driver comes back by itself.

mod dial;
mod driver;
mod event;
mod faces;
mod list;
pub mod meta;
mod peers;
mod registration;
mod state;
mod store;
pub mod typed;
mod view;

pub use dial::{Connect, Dialling};
pub use driver::Driver;
pub use list::{Examined, Listed, await_members, examine, list};
pub use meta::{BadMeta, Meta, MetaValue};
pub use peers::Peers;
pub use registration::{Registration, Scope, Status};
pub use view::{Change, ChangeKind, Member, Standing, View};

use crate::dist::{DownReason, NodeName, PeerInfo};
use arc_swap::ArcSwap;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast, oneshot, watch};

/// The most members that a view holds, unless told otherwise.
pub const MAX_MEMBERS: usize = 20_000;
/// How long leaving may take, whatever Redis does.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// What the mailbox holds: beyond it ups and downs are read anew from the node, and calls are refused.
const MAX_PEER_NEWS: usize = 8192;
const MAX_COMMANDS: usize = 1024;
/// Changes that a watcher may be behind before it misses some.
const MAX_CHANGES: usize = 4096;

/// What a mesh is joined with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Our node's name.
    pub name: NodeName,
    /// The address to reach our host at.
    pub ip: IpAddr,
    /// The same in IPv6, when there is one.
    pub ip6: Option<Ipv6Addr>,
    /// URL of Redis. Its password is never shown.
    pub redis: String,
    /// Which mesh.
    pub scope: Scope,
    /// Whether our node is a hidden one.
    pub hidden: bool,
    /// Whether its distribution runs inside TLS.
    pub tls: bool,
    /// Its meta from the start.
    pub meta: Meta,
    /// Whom to connect to.
    pub dialling: Dialling,
    /// The most members that a view holds.
    pub max_members: usize,
}

impl Options {
    /// The default scope, no meta, connected to everyone.
    pub fn new(name: NodeName, ip: IpAddr, redis: impl Into<String>) -> Self {
        Self {
            name,
            ip,
            ip6: None,
            redis: redis.into(),
            scope: Scope::default(),
            hidden: false,
            tls: false,
            meta: Meta::default(),
            dialling: Dialling::default(),
            max_members: MAX_MEMBERS,
        }
    }
}

/// What is wrong with Redis, and the mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong, and where.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.mend)
    }
}

/// What goes wrong with a mesh as a whole. Redis being away is not among it: that is waited for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// The URL of Redis cannot be used; nothing was started. The operator's to mend.
    #[error("the URL of Redis cannot be used: {0}")]
    Url(String),
    /// Another node of our name answers; nothing was registered. The operator's to mend.
    #[error("{0}")]
    NameTaken(String),
    /// The driver has ended; nothing was changed.
    #[error("the node has left the mesh")]
    Stopped,
    /// Too many requests wait for the driver; nothing was changed. Try again later.
    #[error("the mesh has too much to do: try again later")]
    Busy,
    /// Redis could not be asked; says why and what to do.
    #[error("{0}")]
    Redis(Trouble),
    /// It did not come to be in time; says how far it came.
    #[error("{0}")]
    Timeout(String),
}

/// A node's place in the mesh. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub struct Grid {
    shared: Arc<Shared>,
}

/// What handle and driver share.
struct Shared {
    name: NodeName,
    dialling: Dialling,
    view: ArcSwap<View>,
    mailbox: Mutex<Mailbox>,
    news: Notify,
    changes: broadcast::Sender<Change>,
    /// Whether Redis has had our registration at least once.
    joined: watch::Sender<bool>,
    /// The node, while the driver runs.
    node: Mutex<Option<Arc<dyn Peers>>>,
}

/// What waits for the driver, in the order it came.
#[derive(Default)]
struct Mailbox {
    news: VecDeque<News>,
    commands: usize,
    /// Ups and downs did not fit: the driver reads them from the node.
    resync: bool,
    /// The connection of each peer that is up.
    up: HashMap<NodeName, u64>,
    /// Peers whose end the driver has not seen yet: no view may list them.
    down: HashMap<NodeName, u64>,
    stopped: bool,
}

enum News {
    Up(PeerInfo),
    Down(PeerInfo, DownReason),
    Command(Command, oneshot::Sender<()>),
}

enum Command {
    UpdateMeta(Meta),
    Suspend,
    Resume,
    Leave,
}

impl Shared {
    fn node(&self) -> MutexGuard<'_, Option<Arc<dyn Peers>>> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        // Nothing panics while it is held; were it so, what is in it is still whole.
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes what the driver knows, less what it does not know yet.
    fn publish(&self, view: View) {
        let mailbox = self.mailbox();
        if view.age().is_some() {
            self.joined
                .send_if_modified(|joined| !std::mem::replace(joined, true));
        }
        let view = match mailbox.down.is_empty() {
            true => view,
            false => view.without(|node| mailbox.down.contains_key(node)),
        };
        self.view.store(Arc::new(view));
    }
}

impl Grid {
    /// The handle, which is the node's [`Service`](crate::dist::Service), and the driver, which is to be
    /// [run](Driver::run) when the node listens. Nothing is sent before that.
    ///
    /// # Errors
    /// [`GridError::Url`].
    pub fn new(options: Options) -> Result<(Grid, Driver), GridError> {
        let client = store_client(&options.redis)?;
        let own = Registration {
            hidden: options.hidden,
            tls: options.tls,
            ip6: options.ip6,
            meta: options.meta,
            implementation: concat!("redgrid ", env!("CARGO_PKG_VERSION")).into(),
            started_at: unix_ms(),
            ..Registration::new(options.name.clone(), options.ip.to_string())
        };
        let alone = Member {
            registration: Arc::new(own.clone()),
            standing: Standing::Listed,
            connected: None,
            confirmed: Instant::now(),
            note: None,
            speakable: true,
            atoms: true,
        };
        let shared = Arc::new(Shared {
            name: options.name,
            dialling: Dialling {
                tls: options.tls,
                ..options.dialling
            },
            view: ArcSwap::from_pointee(View::new(Arc::new(alone), Vec::new(), false, None)),
            mailbox: Mutex::default(),
            news: Notify::new(),
            changes: broadcast::channel(MAX_CHANGES).0,
            joined: watch::channel(false).0,
            node: Mutex::default(),
        });
        let driver = Driver::new(
            shared.clone(),
            client,
            options.scope,
            own,
            options.max_members,
        );
        Ok((Grid { shared }, driver))
    }

    /// The mesh as last known. Never waits; during an outage of Redis it is the last view, with its age.
    pub fn nodes(&self) -> Arc<View> {
        self.shared.view.load_full()
    }

    /// Waits until Redis has had our registration for the first time.
    pub async fn joined(&self) {
        // We hold the sender ourselves, so it cannot be gone.
        let _ = self
            .shared
            .joined
            .subscribe()
            .wait_for(|joined| *joined)
            .await;
    }

    /// Our own status.
    pub fn status(&self) -> Status {
        self.nodes().own().registration.status.clone()
    }

    /// What happens in the mesh from now on. A watcher that falls 4,096 changes behind is told how many it missed.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// Replaces our meta: keys that are not named any more disappear everywhere. Done when our own view has it;
    /// Redis is told right after, or when it is back.
    ///
    /// # Errors
    /// [`GridError::Busy`], [`GridError::Stopped`].
    pub async fn update_meta(&self, meta: Meta) -> Result<(), GridError> {
        self.command(Command::UpdateMeta(meta)).await
    }

    /// Withdraws from all views until [`Grid::resume`]; connections stay.
    ///
    /// # Errors
    /// As [`Grid::update_meta`].
    pub async fn suspend(&self) -> Result<(), GridError> {
        self.command(Command::Suspend).await
    }

    /// Comes back into the views.
    ///
    /// # Errors
    /// As [`Grid::update_meta`].
    pub async fn resume(&self) -> Result<(), GridError> {
        self.command(Command::Resume).await
    }

    /// Deletes our keys and says so; the driver ends. Takes two seconds at most, whatever Redis does: then the keys
    /// end by themselves within a minute.
    pub async fn leave(&self) {
        let left = self.command(Command::Leave);
        // Whether it took too long or the driver had ended already: we are out either way.
        let _ = tokio::time::timeout(LEAVE_TIMEOUT, left).await;
    }

    async fn command(&self, command: Command) -> Result<(), GridError> {
        let done = self.send(command)?;
        done.await.map_err(|_| GridError::Stopped)
    }

    /// Hands a command to the driver. What is returned resolves when the view shows it.
    fn send(&self, command: Command) -> Result<oneshot::Receiver<()>, GridError> {
        let (done, when_done) = oneshot::channel();
        let mut mailbox = self.shared.mailbox();
        if mailbox.stopped {
            return Err(GridError::Stopped);
        }
        // Leaving is never refused.
        if mailbox.commands >= MAX_COMMANDS && !matches!(command, Command::Leave) {
            return Err(GridError::Busy);
        }
        mailbox.commands += 1;
        mailbox.news.push_back(News::Command(command, done));
        drop(mailbox);
        self.shared.news.notify_one();
        Ok(when_done)
    }

    fn peer_is_up(&self, peer: &PeerInfo) {
        let mut mailbox = self.shared.mailbox();
        mailbox.up.insert(peer.name.clone(), peer.connection);
        mailbox.peer_news(News::Up(peer.clone()));
        drop(mailbox);
        self.shared.news.notify_one();
    }

    /// The view shows it when this returns, however busy the driver is.
    fn peer_is_down(&self, peer: &PeerInfo, reason: &DownReason) {
        let mut mailbox = self.shared.mailbox();
        let current = mailbox.up.get(&peer.name) == Some(&peer.connection);
        // When another connection took its place, nothing is lost.
        if current && *reason != DownReason::Replaced {
            mailbox.up.remove(&peer.name);
            mailbox.down.insert(peer.name.clone(), peer.connection);
            let view = self.shared.view.load().without(|node| *node == peer.name);
            self.shared.view.store(Arc::new(view));
        }
        mailbox.peer_news(News::Down(peer.clone(), reason.clone()));
        drop(mailbox);
        self.shared.news.notify_one();
    }
}

impl Mailbox {
    fn peer_news(&mut self, news: News) {
        if self.news.len() < MAX_PEER_NEWS && !self.resync {
            self.news.push_back(news);
        } else {
            self.resync = true;
        }
    }
}

fn store_client(url: &str) -> Result<redis::Client, GridError> {
    redis::Client::open(url).map_err(|error| {
        // The error quotes no URL; its detail might, so only its kind is told.
        let shown = registration::star_password(url).unwrap_or_else(|| url.to_owned());
        let reason = error
            .detail()
            .filter(|detail| !detail.contains("://"))
            .unwrap_or("it is no URL of Redis");
        GridError::Url(format!("{shown}: {reason}"))
    })
}

fn unix_ms() -> Option<i64> {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    i64::try_from(since.as_millis()).ok()
}
