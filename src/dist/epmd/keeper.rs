//! Keeps a node registered, whatever becomes of the epmd.
//!
//! ```text
//!                 nothing answers, auto
//!  registered ───────────────────────────────► serving, until the node ends
//!     │    ▲                                     ▲
//!     │    └── it answers again ── lost ─────────┘ nothing has answered for TAKE_OVER, auto
//!     └── the connection ended ─────► │
//! ```
//!
//! A registration lives as long as its TCP connection. When that ends the epmd may just be restarted, so whoever could
//! serve waits a moment before taking the port: an epmd that finds it taken does not start. It must not wait long either:
//! an Erlang node comes back after 2 s.

use super::{
    Epmd, EpmdMode, EpmdStartError, client,
    server::{BindError, Server},
};
use erl_dist::epmd::NodeEntry;
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::oneshot,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

/// A name that is still taken is tried again for so long: epmd sees the end of our earlier life a moment late.
const EARLIER_LIFE: Duration = Duration::from_secs(2);

/// The port can be taken while nothing answers there, by somebody who begins or ends: it is tried again for so long.
const BETWEEN: Duration = Duration::from_secs(5);

/// An epmd that was lost has so long to come back before we serve in its place.
const TAKE_OVER: Duration = Duration::from_secs(1);

/// The longest pause between two tries, as in OTP's `erl_epmd`.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How a node is registered at this moment.
enum Role {
    /// With somebody else, over this connection.
    Registered(TcpStream),
    /// With itself.
    Serving(Box<Server>),
}

/// Holds a name at epmd; dropped, the name is free.
pub(crate) struct Registration {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Registration {
    /// Registers a node and keeps it so.
    pub(super) async fn begin(
        epmd: Epmd,
        entry: NodeEntry,
        mode: EpmdMode,
    ) -> Result<Self, EpmdStartError> {
        let role = match mode {
            EpmdMode::Embedded => match serve(&epmd, &entry) {
                Ok(role) => role,
                Err(error) => return Err(explained(error, &epmd).await),
            },
            mode => register(&epmd, &entry, mode).await?,
        };
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper { epmd, entry, mode };
        let task = tokio::spawn(keeper.run(role, stopped));
        Ok(Self {
            stop: Some(stop),
            task,
        })
    }

    /// Gives the name up; it is free when this returns, and so is the port if epmd was served here.
    pub(crate) async fn end(mut self) {
        drop(self.stop.take());
        let _ = (&mut self.task).await;
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The first registration: with the epmd that answers, or, in auto, with our own.
async fn register(epmd: &Epmd, entry: &NodeEntry, mode: EpmdMode) -> Result<Role, EpmdStartError> {
    let at = epmd.at();
    let began = Instant::now();
    loop {
        match client::register(at, entry).await {
            Ok(stream) => return Ok(Role::Registered(stream)),
            Err(EpmdStartError::Absent { .. }) if mode == EpmdMode::Auto => {
                match serve(epmd, entry) {
                    Ok(role) => return Ok(role),
                    // Somebody was quicker, and will answer in a moment.
                    Err(BindError::InUse(_)) if began.elapsed() < BETWEEN => {
                        sleep(Duration::from_millis(20)).await;
                    }
                    Err(error) => return Err(explained(error, epmd).await),
                }
            }
            Err(EpmdStartError::Taken { .. }) if began.elapsed() < EARLIER_LIFE => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(EpmdStartError::Taken { at, short, .. }) => {
                let other = client::look_up(at, &short).await;
                let port = other.ok().flatten().map(|entry| entry.port);
                return Err(EpmdStartError::Taken { at, short, port });
            }
            Err(error) => return Err(error),
        }
    }
}

fn serve(epmd: &Epmd, entry: &NodeEntry) -> Result<Role, BindError> {
    let server = Server::bind(epmd, entry.clone())?;
    info!(port = epmd.port, "epmd is served inside this node");
    Ok(Role::Serving(Box::new(server)))
}

/// Says who has the port.
async fn explained(error: BindError, epmd: &Epmd) -> EpmdStartError {
    let at = match error {
        BindError::Other(at, why) => return EpmdStartError::Bind { at, why },
        BindError::InUse(at) => at,
    };
    let asked = epmd.at();
    let names = client::names(asked).await;
    let names = names.map(|names| names.into_iter().map(|(name, _)| name).collect());
    EpmdStartError::InUse { at, asked, names }
}

struct Keeper {
    epmd: Epmd,
    entry: NodeEntry,
    mode: EpmdMode,
}

impl Keeper {
    /// Until `stopped`; nothing is held any more then.
    async fn run(self, mut role: Role, mut stopped: oneshot::Receiver<()>) {
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                () = watch(&mut role) => {}
            }
            warn!(at = %self.epmd.at(), name = self.entry.name, "epmd closed our registration: registering again as soon as one answers");
            role = tokio::select! {
                biased;
                _ = &mut stopped => return,
                role = self.again() => role,
            };
        }
        if let Role::Serving(server) = role {
            let names = server.end().await;
            if !names.is_empty() {
                warn!(
                    nodes = %some_of(&names),
                    "other nodes were registered with the epmd inside this node, which ends: nobody finds them until \
                     another node serves one, or `epmd -daemon` does"
                );
            }
        }
    }

    /// A new registration after one was lost.
    async fn again(&self) -> Role {
        let at = self.epmd.at();
        let lost = Instant::now();
        let mut pause = Duration::from_millis(100);
        let mut told = false;
        let mut told_of_port = false;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            match client::register(at, &self.entry).await {
                Ok(stream) => {
                    info!(%at, name = self.entry.name, "registered with epmd again");
                    return Role::Registered(stream);
                }
                Err(error @ EpmdStartError::Taken { .. }) if !told => {
                    told = true;
                    warn!(%error, "another node took our name at epmd: nobody can find us before it is gone");
                }
                Err(EpmdStartError::Absent { .. })
                    if self.mode == EpmdMode::Auto && lost.elapsed() >= TAKE_OVER =>
                {
                    match serve(&self.epmd, &self.entry) {
                        Ok(role) => return role,
                        // Somebody was quicker, and will answer in a moment.
                        Err(BindError::InUse(_)) if lost.elapsed() < BETWEEN => {
                            pause = Duration::from_millis(100);
                        }
                        Err(error) if !told_of_port => {
                            told_of_port = true;
                            let error = explained(error, &self.epmd).await;
                            warn!(%error, "not registered with epmd: nobody can find us there");
                        }
                        Err(error) => debug!(?error, "epmd cannot be served here"),
                    }
                }
                Err(error) => debug!(%error, "not registered with epmd yet"),
            }
        }
    }
}

/// Returns when the registration is lost, which our own never is.
async fn watch(role: &mut Role) {
    match role {
        Role::Registered(stream) => {
            // epmd sends nothing more; what is sent all the same is passed over.
            let mut byte = [0];
            while matches!(stream.read(&mut byte).await, Ok(1..)) {}
        }
        Role::Serving(server) => server.run().await,
    }
}

/// The first few of some names.
pub(super) fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let mut text = names
        .iter()
        .take(SHOWN)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Who has a port that we wanted, in words.
pub(super) fn occupant(asked: SocketAddr, names: &Result<Vec<String>, String>) -> String {
    match names {
        Ok(names) if names.is_empty() => format!("an epmd that knows no node answers at {asked}"),
        Ok(names) => format!("the epmd that knows {} answers at {asked}", some_of(names)),
        Err(why) => format!("no epmd answers at {asked}: {why}"),
    }
}
