//! A process of our own: a pid with a mailbox.
//!
//! ```text
//!  peer task ──► State (who is linked, who watches) ──► mailbox ──► Process::receive
//!                   ▲            │
//!  Process::link ───┘            └──► the connection that the other end is reached by
//! ```
//!
//! What happens to a process is decided in `state.rs`, under one lock that is held for no longer than that; messages go into
//! mailboxes under it, so what is sent in an order arrives in that order.
//!
//! **A mailbox is bounded** ([`MAX_MESSAGES`], [`MAX_BYTES`]): a message that finds it full is dropped, counted, and
//! told in the log. The sender hears nothing of it, as with a message to a process that has ended. What a process
//! asked for itself (`Down`, `Exit`, `NodeUp`, `NodeDown`) is never dropped.

mod mailbox;
pub(crate) mod state;
mod system;

pub use mailbox::{MAX_BYTES, MAX_MESSAGES};
pub use state::{Counts, Mail, Monitor};

use super::{
    CallError, Node, NodeName, call,
    ids::Ids,
    message::Message,
    node::lock,
    peer::{Command, Handle},
};
use crate::term::{Raw, View};
use futures_util::FutureExt;
use mailbox::Mailbox;
use state::{About, Effect, State, Target};
use std::{
    collections::HashMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};
use system::{System, Then};
use tracing::warn;

/// Whom a message, a link or a monitor is for.
#[derive(Debug, Clone, PartialEq)]
pub enum To {
    /// A process, here or at a peer.
    Pid(Raw),
    /// A registered name of this node.
    Name(String),
    /// A registered name of a peer.
    Remote(String, NodeName),
    /// An alias, here or at a peer.
    Alias(Raw),
}

impl From<&str> for To {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<(&str, &NodeName)> for To {
    fn from((name, node): (&str, &NodeName)) -> Self {
        Self::Remote(name.to_owned(), node.clone())
    }
}

impl From<&Raw> for To {
    /// A reference is an alias; everything else is taken for a pid.
    fn from(term: &Raw) -> Self {
        if term.view().is_reference() {
            Self::Alias(term.clone())
        } else {
            Self::Pid(term.clone())
        }
    }
}

impl To {
    /// What Erlang takes: a pid, an alias, a name of this node, or `{Name, Node}`. `None` for anything else.
    pub fn parse(term: &Raw) -> Option<Self> {
        let view = term.view();
        if view.is_pid() || view.is_reference() {
            return Some(term.into());
        }
        if let Some(name) = view.as_atom() {
            return Some(Self::Name(name.to_owned()));
        }
        let [name, node] = view.tuple_n::<2>()?;
        let node = node.as_atom()?.parse().ok()?;
        Some(Self::Remote(name.as_atom()?.to_owned(), node))
    }
}

/// Why there is no process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpawnError {
    /// The name has an owner already.
    #[error("the name {0} is taken on this node: choose another, or end the process that has it")]
    Taken(String),
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

/// A process is over: its mailbox is closed, and nothing more comes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("the process has ended: {reason:?}")]
pub struct Over {
    /// The reason of the exit signal that ended it.
    pub reason: Raw,
}

/// A message as `gen_server` tells them apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Envelope {
    /// `gen_server:call`, `gen_statem:call`, `gen_event:call` and `sync_notify`: somebody waits for an answer.
    Call(Request),
    /// `gen_server:cast`, `gen_statem:cast`.
    Cast(Raw),
    /// Anything else: `Pid ! Message`, `gen_event:notify`.
    Info(Raw),
}

impl Envelope {
    /// Opens a message.
    pub fn open(message: Raw) -> Self {
        match call::open(message) {
            call::Envelope::Call { from, request } => Self::Call(Request { from, request }),
            call::Envelope::Cast(message) => Self::Cast(message),
            call::Envelope::Bare(message) => match event_call(&message) {
                Some(request) => Self::Call(request),
                None => Self::Info(message),
            },
        }
    }
}

/// `{Caller, From, Request}`: where the others say `$gen_call`, `gen_event` has the pid of the caller.
fn event_call(message: &Raw) -> Option<Request> {
    let [caller, from, request] = message.view().tuple_n::<3>()?;
    if !caller.is_pid() {
        return None;
    }
    Some(Request {
        from: call::From::read(message, from)?,
        request: message.sub(request),
    })
}

/// A call that came as a message: see [`Envelope`].
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    from: call::From,
    /// What is asked.
    pub request: Raw,
}

impl Request {
    /// The call in a message; `None` when it is something else.
    pub fn of(message: &Raw) -> Option<Self> {
        match Envelope::open(message.clone()) {
            Envelope::Call(request) => Some(request),
            _ => None,
        }
    }

    /// The pid of the caller.
    pub fn from(&self) -> &Raw {
        &self.from.pid
    }
}

/// What is owed to a connection: mostly a message to its peer.
pub(crate) type Owed = (u64, Command);

/// All processes of a node.
pub(crate) struct Processes {
    table: Mutex<Table>,
}

struct Table {
    state: State,
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    stopped: bool,
}

impl Processes {
    pub(crate) fn new(ids: Ids, own: NodeName, reserved: impl IntoIterator<Item = String>) -> Self {
        Self {
            table: Mutex::new(Table {
                state: State::new(ids, own, reserved),
                mailboxes: HashMap::new(),
                stopped: false,
            }),
        }
    }

    /// Changes the table, fills mailboxes, and returns what is to be sent to peers: that needs the lock no more.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Effect>) -> T) -> (T, Vec<Owed>) {
        let mut table = lock(&self.table);
        let mut effects = Vec::new();
        let result = change(&mut table.state, &mut effects);
        let mut signals = Vec::new();
        for effect in effects {
            match effect {
                Effect::Deliver(number, mail) => {
                    if let Some(mailbox) = table.mailboxes.get(&number) {
                        mailbox.put(mail);
                    }
                }
                Effect::Signal {
                    connection,
                    message,
                } => signals.push((connection, Command::Write(message))),
                Effect::Stop {
                    connection,
                    number,
                    reason,
                } => signals.push((connection, Command::Stop(number, reason))),
                Effect::Over(number, reason) => {
                    if let Some(mailbox) = table.mailboxes.remove(&number) {
                        mailbox.close(reason);
                    }
                }
            }
        }
        (result, signals)
    }

    fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&lock(&self.table).state)
    }

    fn spawn(&self, name: Option<&str>) -> Result<(u64, Arc<Mailbox>), SpawnError> {
        let mut table = lock(&self.table);
        if table.stopped {
            return Err(SpawnError::Stopped);
        }
        let number = table.state.spawn();
        if let Some(name) = name
            && !table.state.register(number, name)
        {
            table
                .state
                .end(number, &call::atom("normal"), &mut Vec::new());
            return Err(SpawnError::Taken(name.to_owned()));
        }
        let mailbox = Arc::new(Mailbox::default());
        table.mailboxes.insert(number, mailbox.clone());
        Ok((number, mailbox))
    }

    /// A function that a peer has spawned runs, or has ended with a reason.
    pub(crate) fn lend(&self, number: u64, connection: u64) {
        self.change(|state, _| state.lend(number, connection));
    }

    pub(crate) fn returned(&self, number: u64, reason: &Raw) -> Vec<Owed> {
        self.change(|state, effects| state.returned(number, reason, effects))
            .1
    }

    /// A message of a peer that is not for the node itself. Returned: what is owed to peers for it.
    pub(crate) fn received(
        &self,
        connection: u64,
        peer: &NodeName,
        message: Message<Raw>,
    ) -> Vec<Owed> {
        self.change(|state, effects| state.received(connection, peer, message, effects))
            .1
    }

    pub(crate) fn up(&self, peer: &NodeName, visible: bool) {
        self.change(|state, effects| state.up(peer, visible, effects));
    }

    /// Returned: what processes that ended with it owe to other peers.
    pub(crate) fn down(&self, peer: &NodeName, visible: bool, connection: u64) -> Vec<Owed> {
        self.change(|state, effects| state.down(peer, visible, connection, effects))
            .1
    }

    /// The node stops: every process ends with `shutdown`.
    pub(crate) fn stop(&self) -> Vec<Owed> {
        lock(&self.table).stopped = true;
        self.change(|state, effects| {
            let numbers: Vec<u64> = state.numbers().collect();
            for number in numbers {
                state.end(number, &call::atom("shutdown"), effects);
            }
        })
        .1
    }

    pub(crate) fn whereis(&self, name: &str) -> Option<u64> {
        self.look(|state| state.whereis(name))
    }

    /// The name of a process that lives, where it has one; `None` for none that lives.
    pub(crate) fn name_of(&self, number: u64) -> Option<Option<String>> {
        self.look(|state| state.name_of(number).map(|name| name.map(str::to_owned)))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.look(|state| state.names().map(str::to_owned).collect())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.look(State::counts)
    }

    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.look(|state| state.numbers().collect())
    }

    /// What there is to tell of a process that lives.
    pub(crate) fn about(&self, number: u64) -> Option<About> {
        let table = lock(&self.table);
        let mut about = table.state.about(number)?;
        if let Some(mailbox) = table.mailboxes.get(&number) {
            (about.queue, about.bytes) = (mailbox.len(), mailbox.bytes());
        }
        Some(about)
    }

    /// What waits in the mailbox of a process.
    pub(crate) fn mails(&self, number: u64) -> Vec<Mail> {
        let mailbox = lock(&self.table).mailboxes.get(&number).cloned();
        mailbox.map_or_else(Vec::new, |mailbox| mailbox.mails())
    }

    /// Bytes of what waits in all mailboxes.
    pub(crate) fn bytes(&self) -> usize {
        let table = lock(&self.table);
        table
            .mailboxes
            .values()
            .map(|mailbox| mailbox.bytes())
            .sum()
    }
}

/// A process of ours. It is over when it is dropped (`normal`), when [`Process::exit`] says so, or when an exit signal
/// ends it.
pub struct Process {
    node: Node,
    number: u64,
    mailbox: Arc<Mailbox>,
    /// It is a function that runs: that decides when it is over, and why.
    runs: bool,
    /// What `sys:get_state` shows.
    shown: Raw,
    /// `sys:suspend` was the last word.
    suspended: bool,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Process({:?})", self.pid())
    }
}

impl Process {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Its pid.
    pub fn pid(&self) -> Raw {
        self.node.own().ids.pid(self.number)
    }

    /// The next message or signal, in the order in which they came.
    ///
    /// # Errors
    /// An exit signal has ended the process. What had come before that is still received first.
    pub async fn receive(&mut self) -> Result<Mail, Over> {
        self.receive_if(|_| true).await
    }

    /// The first that fits, now or later; what does not fit stays where it is. Each is looked at once a call, so a
    /// selector that waits for one answer among many messages costs no more than one look at each.
    ///
    /// What `sys` asks (`sys:get_state` and its relatives) is answered in here and never returned. Between `sys:suspend` and
    /// `sys:resume` nothing else is.
    ///
    /// # Errors
    /// As [`Process::receive`].
    pub async fn receive_if(&mut self, fits: impl Fn(&Mail) -> bool) -> Result<Mail, Over> {
        let mut seen = 0;
        loop {
            let more = self.mailbox.clone();
            let more = more.more();
            let suspended = self.suspended;
            let wanted = |mail: &Mail| match mail {
                Mail::Message(message) if system::is_system(message) => true,
                mail => !suspended && fits(mail),
            };
            match self.mailbox.take(&mut seen, &wanted) {
                Ok(Some(Mail::Message(message))) => match System::of(&message) {
                    None => return Ok(Mail::Message(message)),
                    Some(asked) => {
                        self.system(&asked);
                        if suspended && !self.suspended {
                            // What was passed over meanwhile counts again.
                            seen = 0;
                        }
                    }
                },
                Ok(Some(mail)) => return Ok(mail),
                Ok(None) => more.await,
                Err(reason) => return Err(Over { reason }),
            }
        }
    }

    /// Waits for nothing: who stops receiving in the middle of it must neither lose the answer nor what was asked for.
    fn system(&mut self, asked: &System) {
        let (reply, then) = asked.answer(&self.pid(), &self.shown, self.suspended);
        match self.remote_caller(&asked.from) {
            // When the connection is gone the one who asked has heard so.
            Some(handle) => {
                if let Some(handle) = handle {
                    handle.owe(Command::Write(asked.from.reply(self.pid(), &reply)));
                }
            }
            None => self.answer_here(&asked.from, &reply),
        }
        match then {
            Then::Nothing => {}
            Then::Suspend => self.suspended = true,
            Then::Resume => self.suspended = false,
            Then::End(reason) => self.end(&reason),
        }
    }

    /// [`Process::receive_if`] for no longer than a time; `None` after it.
    ///
    /// # Errors
    /// As [`Process::receive`].
    pub async fn receive_within(
        &mut self,
        patience: Duration,
        fits: impl Fn(&Mail) -> bool,
    ) -> Result<Option<Mail>, Over> {
        match tokio::time::timeout(patience, self.receive_if(fits)).await {
            Ok(mail) => mail.map(Some),
            Err(_) => Ok(None),
        }
    }

    /// What `sys:get_state` and `sys:get_status` show of this process until the next time; `undefined` at first.
    pub fn show(&mut self, state: &Raw) {
        self.shown = state.clone();
    }

    /// Sends a message, connecting first where needed, and waiting while the connection has no room. As in Erlang nobody
    /// hears whether it arrives; what one process sends to another arrives in its order.
    ///
    /// # Errors
    /// There is no connection to the peer, or a name is none.
    pub async fn send(&self, to: impl Into<To>, message: &Raw) -> Result<(), CallError> {
        self.node.send_from(self.number, &to.into(), message).await
    }

    /// Answers a call.
    ///
    /// # Errors
    /// As [`Process::send`].
    pub async fn reply(&self, to: &Request, value: &Raw) -> Result<(), CallError> {
        match self.remote_caller(&to.from) {
            Some(Some(handle)) => {
                let reply = to.from.reply(self.pid(), value);
                handle.send(Command::Write(reply)).await;
            }
            // The caller heard of the broken connection already.
            Some(None) => {}
            None => self.answer_here(&to.from, value),
        }
        Ok(())
    }

    /// The connection to a caller, where there still is one; `None`: it is a process of ours.
    fn remote_caller(&self, from: &call::From) -> Option<Option<Handle>> {
        let node = from.pid.view().node();
        let remote = node.as_deref() != Some(self.node.name().as_str());
        remote.then(|| self.node.handle_of(from.pid.view()))
    }

    fn answer_here(&self, from: &call::From, value: &Raw) {
        let pair = call::tuple(&[&from.tag, value]);
        let alias = from.alias.as_ref();
        match alias.and_then(|alias| self.node.own().ids.own_reference(alias.view())) {
            Some(alias) => {
                self.change(|state, effects| state.send_alias(alias, pair, effects));
            }
            None => self.node.send_here(&Target::Pid(from.pid.clone()), &pair),
        }
    }

    /// Watches a process: exactly one [`Mail::Down`] comes when it ends or cannot be reached, unless this is taken back.
    pub async fn monitor(&self, target: impl Into<To>) -> Monitor {
        let number = self.number;
        let target = match target.into() {
            To::Pid(pid) => Target::Pid(pid),
            To::Name(name) => Target::Name(name, self.node.name().clone()),
            To::Remote(name, node) => Target::Name(name, node),
            // Erlang has no monitors of aliases: nobody is there.
            To::Alias(_) => Target::Name(String::new(), self.node.name().clone()),
        };
        let Ok(connection) = self.connection(&target).await else {
            return self.change(|state, effects| state.unreachable(number, &target, effects));
        };
        let monitor =
            self.change(|state, effects| state.monitor(number, &target, connection, effects));
        self.node.notice(connection);
        monitor
    }

    /// Takes a monitor back: no `Down` of it comes after this, and one that waits in the mailbox is gone, as with
    /// `demonitor(Ref, [flush])`.
    pub fn demonitor(&self, monitor: Monitor) {
        let number = self.number;
        if !self.change(|state, effects| state.demonitor(number, monitor, effects)) {
            self.mailbox
                .remove(|mail| matches!(mail, Mail::Down { monitor: m, .. } if *m == monitor));
        }
    }

    /// Links to a process: when one of the two ends, the other gets an exit signal. Where there is no such process or no
    /// connection, that signal comes at once.
    pub async fn link(&self, pid: &Raw) {
        let number = self.number;
        let Ok(connection) = self.connection(&Target::Pid(pid.clone())).await else {
            return self.change(|state, effects| state.link_unreachable(number, pid, effects));
        };
        self.change(|state, effects| state.link(number, pid, connection, effects));
        self.node.notice(connection);
    }

    /// Takes a link back: no exit signal of it comes after this.
    pub fn unlink(&self, pid: &Raw) {
        self.change(|state, effects| state.unlink(self.number, pid, effects));
    }

    /// Whether exit signals come as [`Mail::Exit`] instead of ending the process; `kill` always ends it.
    pub fn trap_exit(&self, trap: bool) {
        self.change(|state, _| state.trap_exit(self.number, trap));
    }

    /// `exit(Pid, Reason)`: an exit signal to another process, or to this one.
    ///
    /// # Errors
    /// There is no connection to the peer.
    pub async fn exit_other(&self, pid: &Raw, reason: &Raw) -> Result<(), CallError> {
        let own = self.pid();
        match self.connection(&Target::Pid(pid.clone())).await? {
            None => {
                self.change(|state, effects| state.exit(&own, pid, reason.clone(), effects));
            }
            Some(connection) => self.node.signal(
                connection,
                Command::Write(Message::Exit2 {
                    from: own,
                    to: pid.clone(),
                    reason: reason.clone().into(),
                }),
            ),
        }
        Ok(())
    }

    /// A reference under which messages reach this process until [`Process::unalias`]; `once`: until the first has come.
    /// Give it away instead of the pid where late answers are to vanish.
    pub fn alias(&self, once: bool) -> Raw {
        let number = self.change(|state, _| state.alias(self.number, once));
        self.node.own().ids.reference(number)
    }

    /// Takes an alias back: what is sent to it from now on vanishes. `false`: it was none of ours, or spent.
    pub fn unalias(&self, alias: &Raw) -> bool {
        match self.node.own().ids.own_reference(alias.view()) {
            Some(number) => self.change(|state, _| state.unalias(self.number, number)),
            None => false,
        }
    }

    /// Whether [`Mail::NodeUp`] and [`Mail::NodeDown`] come for visible nodes.
    pub fn monitor_nodes(&self, watch: bool) {
        self.change(|state, _| state.watch_nodes(self.number, watch));
    }

    /// Gives the process a name. `false`: the name is taken, or the process has one already.
    pub fn register(&self, name: &str) -> bool {
        self.change(|state, _| state.register(self.number, name))
    }

    /// Takes the process's name back; nothing happens where it has none.
    pub fn unregister(&self) {
        self.change(|state, _| state.unregister(self.number));
    }

    /// Messages that wait to be received.
    pub fn waiting(&self) -> usize {
        self.mailbox.len()
    }

    /// Messages that were dropped as the mailbox was full.
    pub fn dropped(&self) -> u64 {
        self.mailbox.dropped()
    }

    /// Ends the process with a reason, which everyone linked to it or watching it hears.
    pub fn exit(self, reason: &Raw) {
        self.end(reason);
    }

    fn end(&self, reason: &Raw) {
        self.change(|state, effects| state.end(self.number, reason, effects));
    }

    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Effect>) -> T) -> T {
        self.node.change_processes(change)
    }

    /// The connection by which a target is reached, once it has room; `None` where it is ours.
    async fn connection(&self, target: &Target) -> Result<Option<u64>, CallError> {
        let node = match target {
            Target::Name(_, node) => Some(node.clone()),
            Target::Pid(pid) => pid.view().node().and_then(|node| node.parse().ok()),
        };
        match node {
            Some(node) if node != *self.node.name() => {
                let handle = self.node.connected(&node).await?;
                handle.until_it_owes_little().await;
                Ok(Some(handle.info.connection))
            }
            _ => Ok(None),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing happens where it has ended already.
        if !self.runs {
            self.end(&call::atom("normal"));
        }
    }
}

impl Node {
    /// A process whose mailbox the caller reads.
    ///
    /// # Errors
    /// The node has stopped.
    pub fn process(&self) -> Result<Process, SpawnError> {
        self.new_process(None)
    }

    /// The same with a registered name.
    ///
    /// # Errors
    /// The name is taken, or the node has stopped.
    pub fn process_named(&self, name: &str) -> Result<Process, SpawnError> {
        self.new_process(Some(name))
    }

    fn new_process(&self, name: Option<&str>) -> Result<Process, SpawnError> {
        let (number, mailbox) = self.processes().spawn(name)?;
        Ok(Process {
            node: self.clone(),
            number,
            mailbox,
            runs: false,
            shown: call::atom("undefined"),
            suspended: false,
        })
    }

    /// Runs a function as a process of its own, and returns its pid. It ends `normal` when the function returns `Ok`,
    /// with the reason that it returns otherwise, and with `{panic, Text}` when it panics. An exit signal that ends it
    /// drops the function where it waits.
    ///
    /// # Errors
    /// The name is taken, or the node has stopped.
    pub fn spawn<F, R>(&self, name: Option<&str>, function: F) -> Result<Raw, SpawnError>
    where
        F: FnOnce(Process) -> R + Send + 'static,
        R: Future<Output = Result<(), Raw>> + Send + 'static,
    {
        let mut process = self.new_process(name)?;
        process.runs = true;
        let (pid, number, mailbox) = (process.pid(), process.number, process.mailbox.clone());
        let running = AssertUnwindSafe(async move { function(process).await }).catch_unwind();
        let node = self.clone();
        tokio::spawn(async move {
            let reason = tokio::select! {
                result = running => match result {
                    Ok(Ok(())) => call::atom("normal"),
                    Ok(Err(reason)) => reason,
                    Err(panic) => {
                        let text = panic_text(&*panic);
                        warn!(process = number, panic = text, "a process panicked");
                        call::tuple(&[&call::atom("panic"), &call::string(text)])
                    }
                },
                () = mailbox.closed() => return,
            };
            node.change_processes(|state, effects| state.end(number, &reason, effects));
        });
        Ok(pid)
    }

    /// How much of processes, links, monitors and aliases is kept at this moment.
    pub fn counts(&self) -> Counts {
        self.processes().counts()
    }

    fn change_processes<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Effect>) -> T) -> T {
        let (result, signals) = self.processes().change(change);
        self.signals(signals);
        result
    }

    pub(super) fn signals(&self, signals: Vec<Owed>) {
        for (connection, command) in signals {
            self.signal(connection, command);
        }
    }

    /// Sends what somebody is owed, after all that was sent before it. There is always room: it was asked for by those who
    /// are linked or watch, of whom only so many are kept.
    pub(super) fn signal(&self, connection: u64, command: Command) {
        if let Some(handle) = self.handle_by(connection) {
            handle.owe(command);
        }
    }

    /// A link or monitor was kept for a connection that may have ended a moment before: then its end was told already, and is
    /// told once more for what came too late.
    fn notice(&self, connection: Option<u64>) {
        if let Some(connection) = connection
            && self.handle_by(connection).is_none()
        {
            self.signals(self.processes().down(self.name(), false, connection));
        }
    }

    fn handle_of(&self, pid: View<'_>) -> Option<Handle> {
        self.handle(&pid.node()?.parse().ok()?)
    }

    async fn send_from(&self, from: u64, to: &To, message: &Raw) -> Result<(), CallError> {
        let from = self.own().ids.pid(from);
        let remote = |view: View<'_>| -> Option<NodeName> {
            let node: NodeName = view.node()?.parse().ok()?;
            (node != *self.name()).then_some(node)
        };
        let (peer, sent) = match to {
            To::Pid(pid) => match remote(pid.view()) {
                Some(peer) => (
                    peer,
                    Message::Send {
                        to: pid.clone(),
                        message: message.clone().into(),
                    },
                ),
                None => {
                    let to = Target::Pid(pid.clone());
                    self.send_here(&to, message);
                    return Ok(());
                }
            },
            To::Alias(alias) => match remote(alias.view()) {
                Some(peer) => (
                    peer,
                    Message::AliasSend {
                        from,
                        alias: alias.clone(),
                        owner: None,
                        message: message.clone().into(),
                    },
                ),
                None => {
                    if let Some(number) = self.own().ids.own_reference(alias.view()) {
                        self.change_processes(|state, effects| {
                            state.send_alias(number, message.clone(), effects)
                        });
                    }
                    return Ok(());
                }
            },
            To::Remote(name, peer) if peer != self.name() => (
                peer.clone(),
                Message::RegSend {
                    from,
                    to: call::atom(name),
                    message: message.clone().into(),
                },
            ),
            To::Remote(name, _) | To::Name(name) => {
                let to = Target::Name(name.clone(), self.name().clone());
                self.send_here(&to, message);
                return Ok(());
            }
        };
        let handle = self.connected(&peer).await?;
        if handle.send(Command::Write(sent)).await {
            Ok(())
        } else {
            Err(CallError::gone(&peer, super::DownReason::Closed))
        }
    }

    /// Watches a target over the connection that is there; where there is none it is unreachable.
    pub(super) fn watch(&self, number: u64, target: Target) -> Monitor {
        let node = match &target {
            Target::Name(_, node) => Some(node.clone()),
            Target::Pid(pid) => pid.view().node().and_then(|node| node.parse().ok()),
        };
        let remote = node.filter(|node| node != self.name());
        let connection = remote.as_ref().map(|node| self.handle(node));
        if let Some(None) = connection {
            return self
                .change_processes(|state, effects| state.unreachable(number, &target, effects));
        }
        let connection = connection.flatten().map(|handle| handle.info.connection);
        let monitor = self
            .change_processes(|state, effects| state.monitor(number, &target, connection, effects));
        self.notice(connection);
        monitor
    }

    /// Takes such a monitor back; its `Down` may be on its way.
    pub(super) fn unwatch(&self, number: u64, monitor: Monitor) {
        self.change_processes(|state, effects| state.demonitor(number, monitor, effects));
    }

    pub(super) fn send_here(&self, to: &Target, message: &Raw) {
        self.change_processes(|state, effects| state.send(to, message.clone(), effects));
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    (panic.downcast_ref::<&str>().copied())
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("")
}
