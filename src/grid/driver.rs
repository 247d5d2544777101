//! The one task that owns the mesh's state: it feeds it messages, answers and the time, and performs its effects.
//!
//! The connection to Redis has a keeper of its own, which connects, subscribes, passes messages on and connects again;
//! look-ups and dials run beside the driver and come back as inputs. So nothing ever waits for Redis or for a peer
//! but those who asked for it.

use super::dial::Dialling;
use super::registration::{Registration, Scope};
use super::state::{Effect, Input, Level, Settings, State};
use super::store::{self, Store};
use super::{Command, GridError, LEAVE_TIMEOUT, News, Peers, Shared, typed};
use crate::dist::{Address, NodeName};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use redis::RedisResult;
use std::collections::HashSet;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;

/// Pauses between attempts to reach Redis. Each node waits a random part of it: a thousand of them should not come
/// back in the same millisecond, but within two seconds.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_millis(1500);
/// A subscription that is silent for this long is asked whether it is still there.
const PROBE: Duration = Duration::from_secs(15);
/// How long resolving a host may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages and answers that wait for the driver. Messages beyond it are dropped, and what they told is read anew.
const MAX_MESSAGES: usize = 8192;
const MAX_WAITING: usize = 16 << 20;
const MAX_ANSWERS: usize = 256;
/// Different refusals of Redis that are told.
const MAX_REFUSED: usize = 32;
/// Inputs taken in one go before the view is published.
const MAX_AT_ONCE: usize = 1024;

/// Owns the mesh's state. Made by [`Grid::new`](super::Grid::new).
pub struct Driver {
    shared: Arc<Shared>,
    client: redis::Client,
    scope: Scope,
    own: Registration,
    max_members: usize,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: redis::Client,
        scope: Scope,
        own: Registration,
        max_members: usize,
    ) -> Self {
        Self {
            shared,
            client,
            scope,
            own,
            max_members,
        }
    }

    /// Joins the mesh and stays in it until `shutdown` completes or [`Grid::leave`](super::Grid::leave) is called;
    /// then leaves it, within two seconds whatever Redis does.
    ///
    /// # Errors
    /// [`GridError::NameTaken`]: another node of our name runs. Nothing was registered.
    pub async fn run<P: Peers>(
        mut self,
        node: P,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), GridError> {
        self.own.creation = Some(node.creation());
        self.own.port = node.port();
        let state = State::new(Settings {
            scope: self.scope.clone(),
            own: self.own.clone(),
            dialling: self.shared.dialling.clone(),
            max_members: self.max_members,
            seed: rand::random(),
        });
        let (answers, answered) = mpsc::channel(MAX_ANSWERS);
        let (messages, heard) = mpsc::channel(MAX_MESSAGES);
        let keeper = Arc::new(Keeper {
            client: self.client.clone(),
            scope: self.scope.clone(),
            place: store::place(&self.client),
            messages,
            answers: answers.clone(),
            waiting: AtomicUsize::new(0),
            missed: AtomicBool::new(false),
            broken: Notify::new(),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(keep(keeper.clone()));
        let node = Arc::new(node);
        *self.shared.node() = Some(node.clone());
        let run = Run {
            state,
            node,
            keeper,
            answers,
            tasks,
            store: None,
            generation: 0,
            last_write: None,
            publish: true,
            done: Vec::new(),
            leaving: Vec::new(),
            left: false,
            trouble: None,
            refused: HashSet::new(),
            shared: self.shared,
        };
        run.run(answered, heard, shutdown).await
    }
}

/// What comes back to the driver.
enum Answer {
    /// Redis answers, and the subscription stands.
    Redis(Store),
    /// Redis is away, and why.
    Away(String),
    /// The answer to an effect that was sent over the connection of this generation.
    Of(u64, Option<Input>, Option<redis::RedisError>),
    /// Anything else.
    Input(Input),
}

/// A driver at work.
struct Run<P> {
    state: State,
    shared: Arc<Shared>,
    node: Arc<P>,
    keeper: Arc<Keeper>,
    answers: mpsc::Sender<Answer>,
    tasks: JoinSet<()>,
    store: Option<Store>,
    /// Counts the connections to Redis: what an older one answers is of no interest.
    generation: u64,
    /// Resolves when the last write of our own keys is done: they must not overtake each other.
    last_write: Option<oneshot::Receiver<()>>,
    publish: bool,
    /// Who is answered when the view is published.
    done: Vec<oneshot::Sender<()>>,
    /// Who is answered when our keys are gone.
    leaving: Vec<oneshot::Sender<()>>,
    left: bool,
    /// What was last told about Redis being away.
    trouble: Option<String>,
    /// What Redis refused, as it was told.
    refused: HashSet<String>,
}

impl<P: Peers> Run<P> {
    async fn run(
        mut self,
        mut answered: mpsc::Receiver<Answer>,
        mut heard: mpsc::Receiver<Message>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), GridError> {
        let stop = Stop(self.shared.clone());
        let mut shutdown = std::pin::pin!(shutdown);
        let mut deadline: Option<tokio::time::Instant> = None;
        self.input(Input::Peers(self.node.peers()))?;
        while !self.left {
            self.publish();
            let wake = self.state.wake_at().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                () = &mut shutdown, if deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT);
                    self.input(Input::Leave)?;
                }
                () = sleep_until(deadline) => {
                    tracing::warn!("{} did not delete our keys in time: they end by themselves", self.keeper.place);
                    break;
                }
                () = self.shared.news.notified() => {}
                Some(answer) = answered.recv() => self.answer(answer)?,
                Some(message) = heard.recv() => self.message(message)?,
                () = sleep_until(wake) => {}
            }
            for _ in 0..MAX_AT_ONCE {
                if let Ok(answer) = answered.try_recv() {
                    self.answer(answer)?;
                } else if let Ok(message) = heard.try_recv() {
                    self.message(message)?;
                } else {
                    break;
                }
            }
            if self.keeper.missed.swap(false, Ordering::Relaxed) {
                self.input(Input::Missed)?;
            }
            self.news()?;
            self.wake()?;
            if deadline.is_none() && !self.leaving.is_empty() {
                deadline = Some(tokio::time::Instant::now() + LEAVE_TIMEOUT);
            }
            while self.tasks.try_join_next().is_some() {}
        }
        self.publish();
        drop(stop);
        self.leaving.into_iter().for_each(answer_now);
        Ok(())
    }

    /// What the node and its program have to say.
    fn news(&mut self) -> Result<(), GridError> {
        let (news, resync) = {
            let mut mailbox = self.shared.mailbox();
            mailbox.commands = 0;
            mailbox.down.clear();
            (
                std::mem::take(&mut mailbox.news),
                std::mem::take(&mut mailbox.resync),
            )
        };
        for news in news {
            let (input, done) = match news {
                News::Up(peer) => (Input::Up(peer), None),
                News::Down(peer, reason) => (Input::Down(peer, reason), None),
                News::Command(Command::UpdateMeta(meta), done) => {
                    (Input::UpdateMeta(meta), Some(done))
                }
                News::Command(Command::Suspend, done) => (Input::Suspend, Some(done)),
                News::Command(Command::Resume, done) => (Input::Resume, Some(done)),
                News::Command(Command::Leave, done) => {
                    self.leaving.push(done);
                    (Input::Leave, None)
                }
            };
            self.done.extend(done);
            self.input(input)?;
        }
        if resync {
            self.input(Input::Peers(self.node.peers()))?;
        }
        Ok(())
    }

    fn message(&mut self, message: Message) -> Result<(), GridError> {
        let length = message.payload.len();
        self.keeper.waiting.fetch_sub(length, Ordering::Relaxed);
        self.input(message.input())
    }

    fn answer(&mut self, answer: Answer) -> Result<(), GridError> {
        match answer {
            Answer::Redis(store) => {
                match self.trouble.take() {
                    Some(_) => tracing::info!("{} answers again", self.keeper.place),
                    None => tracing::debug!("connected to {}", self.keeper.place),
                }
                self.store = Some(store);
                self.generation += 1;
                self.input(Input::RedisUp)
            }
            Answer::Away(why) => {
                // Once per change, not per attempt.
                if self.trouble.as_ref() != Some(&why) {
                    tracing::warn!("{why} (the node stays up and keeps trying)");
                    self.trouble = Some(why);
                }
                if self.store.take().is_some() {
                    self.generation += 1;
                    self.input(Input::RedisDown)?;
                }
                Ok(())
            }
            Answer::Of(generation, ..) if generation != self.generation => Ok(()),
            Answer::Of(_, input, error) => {
                match error {
                    // What is wrong is found out, and told, when it is opened again.
                    Some(error) if store::is_away(&error) => self.keeper.broken.notify_one(),
                    Some(error) => {
                        let why = store::explain(&self.keeper.place, &error);
                        if self.refused.len() < MAX_REFUSED && self.refused.insert(why.clone()) {
                            tracing::warn!("{why}");
                        }
                    }
                    None if matches!(input, Some(Input::Written(..))) => self.refused.clear(),
                    None => {}
                }
                input.map_or(Ok(()), |input| self.input(input))
            }
            Answer::Input(input) => self.input(input),
        }
    }

    fn publish(&mut self) {
        if std::mem::take(&mut self.publish) {
            self.shared.publish(self.state.view(Instant::now()));
        }
        self.done.drain(..).for_each(answer_now);
    }

    fn input(&mut self, input: Input) -> Result<(), GridError> {
        let mut effects = Vec::new();
        self.state.handle(Instant::now(), input, &mut effects);
        self.perform(effects)
    }

    fn wake(&mut self) -> Result<(), GridError> {
        let now = Instant::now();
        if self.state.wake_at().is_none_or(|at| now < at) {
            return Ok(());
        }
        let mut effects = Vec::new();
        self.state.wake(now, &mut effects);
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), GridError> {
        for effect in effects {
            match effect {
                Effect::Publish => self.publish = true,
                Effect::Change(change) => {
                    tracing::info!("{change}");
                    // Nobody may be watching.
                    let _ = self.shared.changes.send(change);
                }
                Effect::Tell(Level::Warn, line) => tracing::warn!("{line}"),
                Effect::Tell(Level::Info, line) => tracing::info!("{line}"),
                Effect::Refuse(why) => return Err(GridError::NameTaken(why)),
                Effect::Left => self.left = true,
                Effect::Connect(node, host, port) => self.connect(node, host, port),
                Effect::ProveOwn(token, host, port) => self.prove_own(token, host, port),
                Effect::Announce(message) => self.ask(
                    |_| None,
                    move |store| async move { store.announce(&message).await },
                ),
                Effect::ReadOwn(token) => {
                    let name = self.shared.name.clone();
                    self.ask(
                        move |keys| Some(Input::OwnRead(token, keys)),
                        move |store| async move { store.read_own(&name).await },
                    );
                }
                Effect::Write(token, write) => {
                    let name = self.shared.name.clone();
                    let before = self.last_write.take();
                    let (done, when_done) = oneshot::channel::<()>();
                    self.last_write = Some(when_done);
                    self.ask(
                        move |at| Some(Input::Written(token, at)),
                        move |store| async move {
                            if let Some(before) = before {
                                // That it ends by being dropped is what is waited for.
                                let _ = before.await;
                            }
                            let written = store.write(&name, &write).await;
                            drop(done);
                            written
                        },
                    );
                }
                Effect::Renew(token, renewal) => {
                    let name = self.shared.name.clone();
                    self.ask(
                        move |answer| Some(Input::Renewed(token, answer)),
                        move |store| async move { store.renew(&name, renewal).await },
                    );
                }
                Effect::LookUp(token, nodes) => self.ask(
                    move |answer| Some(Input::LookedUp(token, answer)),
                    move |store| async move { store.look_up(&nodes).await },
                ),
                Effect::ReadIndex(token, from, most) => self.ask(
                    move |entries| Some(Input::IndexRead(token, entries)),
                    move |store| async move { store.index(from, most).await },
                ),
                Effect::Scan { token, lock, most } => {
                    let lock = lock.then(|| self.shared.name.clone());
                    self.ask(
                        move |keys: Option<Option<_>>| Some(Input::Scanned(token, keys.flatten())),
                        move |store| async move { store.scan(lock.as_ref(), most).await },
                    );
                }
            }
        }
        Ok(())
    }

    /// Asks Redis beside the driver; the answer comes back as an input.
    fn ask<T, F>(
        &mut self,
        input: impl FnOnce(Option<T>) -> Option<Input> + Send + 'static,
        question: impl FnOnce(Store) -> F,
    ) where
        T: Send,
        F: Future<Output = RedisResult<T>> + Send + 'static,
    {
        // Without Redis the state has given up the answer already.
        let Some(store) = self.store.clone() else {
            return;
        };
        let question = question(store);
        let (answers, generation) = (self.answers.clone(), self.generation);
        self.tasks.spawn(async move {
            let (value, error) = match question.await {
                Ok(value) => (Some(value), None),
                Err(error) => (None, Some(error)),
            };
            // Only a driver that has ended does not take it.
            let _ = answers
                .send(Answer::Of(generation, input(value), error))
                .await;
        });
    }

    fn connect(&mut self, peer: NodeName, host: String, port: Option<u16>) {
        let (node, answers) = (self.node.clone(), self.answers.clone());
        let rules = self.shared.dialling.clone();
        self.tasks.spawn(async move {
            let result = match resolve(&host, &rules).await {
                Ok(ip) => {
                    let connected = node.connect(peer.clone(), Address { ip, port }).await;
                    connected.map_err(|why| why.to_string())
                }
                Err(why) => Err(format!("{peer} is not connected to: {why}")),
            };
            let _ = answers
                .send(Answer::Input(Input::Connected(peer, result)))
                .await;
        });
    }

    fn prove_own(&mut self, token: u64, host: String, port: Option<u16>) {
        let (node, answers) = (self.node.clone(), self.answers.clone());
        let (name, rules) = (self.shared.name.clone(), self.shared.dialling.clone());
        self.tasks.spawn(async move {
            let alive = match resolve(&host, &rules).await {
                Ok(ip) => node.answers_as(name, Address { ip, port }).await,
                Err(_) => false,
            };
            let _ = answers
                .send(Answer::Input(Input::OwnProved(token, alive)))
                .await;
        });
    }
}

fn answer_now(done: oneshot::Sender<()>) {
    // Who asked may have gone.
    let _ = done.send(());
}

/// Marks the mesh as stopped, however the driver ends: nobody may wait for it after that.
struct Stop(Arc<Shared>);

impl Drop for Stop {
    fn drop(&mut self) {
        let mut mailbox = self.0.mailbox();
        *self.0.node() = None;
        mailbox.stopped = true;
        mailbox.news.clear();
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The address of a host, when it may be dialled. Classic members may register a name; it must lead to IPv4.
async fn resolve(host: &str, rules: &Dialling) -> Result<IpAddr, String> {
    let ip = match host.parse() {
        Ok(ip) => ip,
        Err(_) => {
            let found =
                tokio::time::timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, 0))).await;
            let found = found.map_err(|_| format!("its ip {host} does not resolve in time"))?;
            let mut found =
                found.map_err(|why| format!("its ip {host} does not resolve: {why}"))?;
            let v4 = found.find_map(|address| Some(address.ip()).filter(IpAddr::is_ipv4));
            v4.ok_or(format!("its ip {host} does not resolve to an IPv4 address"))?
        }
    };
    rules.permits(ip).map(|()| ip)
}

/// What keeps the connection to Redis.
struct Keeper {
    client: redis::Client,
    scope: Scope,
    /// How Redis is called in the log.
    place: String,
    messages: mpsc::Sender<Message>,
    /// Bytes of the messages that wait.
    waiting: AtomicUsize,
    /// Messages were dropped.
    missed: AtomicBool,
    answers: mpsc::Sender<Answer>,
    /// A command has found that the connection is of no more use.
    broken: Notify,
}

/// One published message.
struct Message {
    event: bool,
    payload: Bytes,
}

impl Message {
    fn input(self) -> Input {
        match self.event {
            true => Input::Event(self.payload),
            false => Input::Key(self.payload),
        }
    }
}

async fn keep(keeper: Arc<Keeper>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let away = match keeper.open().await {
            Ok((store, pubsub)) => {
                pause = FIRST_PAUSE;
                // What the last connection had to complain about is over.
                let _ = keeper.broken.notified().now_or_never();
                if keeper.answers.send(Answer::Redis(store)).await.is_err() {
                    return;
                }
                keeper.listen(pubsub).await
            }
            Err(error) => store::explain(&keeper.place, &error),
        };
        if keeper.answers.send(Answer::Away(away)).await.is_err() {
            return;
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

impl Keeper {
    async fn open(&self) -> RedisResult<(Store, redis::aio::PubSub)> {
        let connection = store::connect(&self.client).await?;
        let subscribe = async {
            let mut pubsub = self.client.get_async_pubsub().await?;
            pubsub
                .subscribe(&[self.scope.channel(), self.scope.events()])
                .await?;
            RedisResult::Ok(pubsub)
        };
        let timeout = store::CONNECT_TIMEOUT + store::RESPONSE_TIMEOUT;
        let pubsub = tokio::time::timeout(timeout, subscribe)
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        Ok((Store::new(connection, self.scope.clone()), pubsub))
    }

    /// Passes messages on until the subscription or the connection ends; says why.
    async fn listen(&self, pubsub: redis::aio::PubSub) -> String {
        let events = self.scope.events();
        let (mut sink, mut stream) = pubsub.split();
        loop {
            tokio::select! {
                message = stream.next() => match message {
                    Some(message) => {
                        let event = message.get_channel_name() == events;
                        self.pass(event, message.get_payload_bytes());
                    }
                    None => return format!("{} has closed the connection", self.place),
                },
                () = self.broken.notified() => return format!("{} does not answer any more", self.place),
                () = tokio::time::sleep(PROBE) => {
                    let ping = sink.ping::<redis::Value>();
                    if !matches!(tokio::time::timeout(store::RESPONSE_TIMEOUT, ping).await, Ok(Ok(_))) {
                        return format!("{} does not answer any more", self.place);
                    }
                }
            }
        }
    }

    /// Never waits: when the driver is behind, messages are dropped and that is said.
    fn pass(&self, event: bool, payload: &[u8]) {
        // One byte too many is enough to be refused for it.
        let payload = &payload[..payload.len().min(typed::MAX_TERM + 1)];
        let waiting = self.waiting.fetch_add(payload.len(), Ordering::Relaxed);
        let payload = Bytes::copy_from_slice(payload);
        let length = payload.len();
        if waiting > MAX_WAITING || self.messages.try_send(Message { event, payload }).is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}
