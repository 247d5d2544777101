//! Our own processes: who has which name and alias, who is linked to whom, who watches whom. Pure: what happens is a
//! method, what is to be done about it an [`Effect`]; mailboxes and connections are somebody else's.
//!
//! The rules are those of the chapter "Processes" of the Erlang reference manual and of "Protocol between Connected Nodes"
//! in the ERTS one:
//!
//! ```text
//! link      LINK ──►                       kept on both sides; to one that is not there: EXIT noproc
//! unlink    UNLINK_ID(id) ──►              until ◄── UNLINK_ID_ACK(id), its EXIT and LINK are ignored
//! ends      EXIT ──► each link, then MONITOR_P_EXIT ──► each watcher, then DEMONITOR_P ──► what it watched itself
//! nodedown  nothing is sent: both sides tell their own processes `noconnection`
//! ```
//!
//! A monitor of a name is answered with the name, one of a pid with the pid. What belongs to a connection carries its number,
//! so that the end of an old connection to a peer touches nothing of the new one.

mod about;

pub(crate) use about::About;

use crate::dist::{
    NodeName, call,
    ids::Ids,
    message::{Body, Message},
};
use crate::term::{Raw, is_atom_name, write::put_pid};
use bytes::BytesMut;
use std::collections::{HashMap, HashSet};

/// At most so many links and so many watchers of one process are kept; who makes more hears `system_limit`.
const MAX_WATCHERS: usize = 100_000;

/// What a process is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Mail {
    /// A message.
    Message(Raw),
    /// What was watched has ended, or the connection to it.
    Down {
        /// Which of our monitors.
        monitor: Monitor,
        /// The pid that was watched, or `{Name, Node}`.
        target: Raw,
        /// With which reason: `noproc` where nothing was there, `noconnection` where the connection broke.
        reason: Raw,
    },
    /// An exit signal, where the process traps exits.
    Exit {
        /// Who sent it: what we were linked to, or whoever called `exit/2`.
        from: Raw,
        /// Why.
        reason: Raw,
    },
    /// A visible node is connected.
    NodeUp(NodeName),
    /// It is not any more.
    NodeDown(NodeName),
}

/// A monitor that a process of ours holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Monitor(pub(crate) u64);

/// What is to be done.
#[expect(
    clippy::large_enum_variant,
    reason = "signals are what most of them are"
)]
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Into the mailbox of a process.
    Deliver(u64, Mail),
    /// To a peer, if this connection to it still stands.
    Signal {
        connection: u64,
        message: Message<Body>,
    },
    /// A process is over: its mailbox closes.
    Over(u64, Raw),
    /// A function that runs for this connection is to be stopped.
    Stop {
        connection: u64,
        number: u64,
        reason: Raw,
    },
}

#[derive(Debug)]
struct Link {
    connection: Option<u64>,
    /// We have taken it back under this id, and wait to hear that the other side knows.
    unlinking: Option<u64>,
}

/// By what a monitor on a process of ours is known: the connection that it came over, none where it is our own, and its
/// reference, which is unique only among those of one node.
type WatcherKey = (Option<u64>, Raw);

/// Who watches a process of ours.
#[derive(Debug)]
struct Watcher {
    process: u64,
    pid: Raw,
    /// How it names what it watches: a pid or a name.
    target: Raw,
}

/// A monitor of ours.
#[derive(Debug)]
struct Watch {
    owner: u64,
    /// As the peer knows it: a pid or a name.
    target: Raw,
    /// As our process is told of it: a pid, or `{Name, Node}`.
    told: Raw,
    /// `None` for a process of ours.
    connection: Option<u64>,
}

#[derive(Debug, Default)]
struct Entry {
    name: Option<String>,
    trap_exit: bool,
    links: HashMap<Raw, Link>,
    watchers: HashSet<WatcherKey>,
    monitors: HashSet<u64>,
    aliases: HashSet<u64>,
    leader: Option<Raw>,
}

#[derive(Debug)]
struct Alias {
    owner: u64,
    once: bool,
}

/// How much is kept: all of it is zero when nothing lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Processes that live.
    pub processes: usize,
    /// Names that they have.
    pub names: usize,
    /// Links, counted at each end that is ours.
    pub links: usize,
    /// Monitors that others hold on them.
    pub watchers: usize,
    /// Monitors that they hold.
    pub monitors: usize,
    /// Aliases that they have.
    pub aliases: usize,
}

/// What can be watched, linked to, sent to: one that is ours, or one at a peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Target {
    /// A pid.
    Pid(Raw),
    /// A registered name, and its node.
    Name(String, NodeName),
}

pub(crate) struct State {
    ids: Ids,
    own: NodeName,
    /// Names that are not for processes of the program.
    reserved: HashSet<String>,
    processes: HashMap<u64, Entry>,
    /// Those of them that are functions which a peer has spawned, and the connections that they run for.
    functions: HashMap<u64, u64>,
    names: HashMap<String, u64>,
    aliases: HashMap<u64, Alias>,
    watchers: HashMap<WatcherKey, Watcher>,
    monitors: HashMap<u64, Watch>,
    node_watchers: HashSet<u64>,
}

type Effects = Vec<Effect>;

impl State {
    pub(crate) fn new(ids: Ids, own: NodeName, reserved: impl IntoIterator<Item = String>) -> Self {
        Self {
            ids,
            own,
            reserved: reserved.into_iter().collect(),
            processes: HashMap::new(),
            functions: HashMap::new(),
            names: HashMap::new(),
            aliases: HashMap::new(),
            watchers: HashMap::new(),
            monitors: HashMap::new(),
            node_watchers: HashSet::new(),
        }
    }

    /// A new process.
    pub(crate) fn spawn(&mut self) -> u64 {
        let number = self.ids.fresh();
        self.processes.insert(number, Entry::default());
        number
    }

    /// A function that a peer has spawned runs under this number. The peer's own links and monitors are kept by its connection;
    /// those of everybody else here.
    pub(crate) fn lend(&mut self, number: u64, connection: u64) {
        self.processes.insert(number, Entry::default());
        self.functions.insert(number, connection);
    }

    /// It has ended by itself.
    pub(crate) fn returned(&mut self, number: u64, reason: &Raw, effects: &mut Effects) {
        if self.functions.remove(&number).is_some() {
            self.end(number, reason, effects);
        }
    }

    /// Gives a process a name. `false`: the name is taken, or the process has one, or is over.
    pub(crate) fn register(&mut self, number: u64, name: &str) -> bool {
        // `undefined` is what `whereis/1` says of nobody.
        let possible = is_atom_name(name) && name != "undefined" && !self.reserved.contains(name);
        if !possible || self.names.contains_key(name) {
            return false;
        }
        match self.processes.get_mut(&number) {
            Some(entry) if entry.name.is_none() => {
                entry.name = Some(name.to_owned());
                self.names.insert(name.to_owned(), number);
                true
            }
            _ => false,
        }
    }

    /// Takes a process's name back.
    pub(crate) fn unregister(&mut self, number: u64) {
        let entry = self.processes.get_mut(&number);
        if let Some(name) = entry.and_then(|entry| entry.name.take()) {
            self.names.remove(&name);
        }
    }

    pub(crate) fn whereis(&self, name: &str) -> Option<u64> {
        self.names.get(name).copied()
    }

    /// The name of a process that lives, where it has one; `None` for none that lives.
    pub(crate) fn name_of(&self, number: u64) -> Option<Option<&str>> {
        let entry = self.processes.get(&number)?;
        Some(entry.name.as_deref())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.processes.keys().copied()
    }

    pub(crate) fn lives(&self, number: u64) -> bool {
        self.processes.contains_key(&number)
    }

    pub(crate) fn counts(&self) -> Counts {
        let sum = |count: fn(&Entry) -> usize| self.processes.values().map(count).sum();
        Counts {
            processes: self.processes.len(),
            names: self.names.len(),
            links: sum(|entry| entry.links.len()),
            watchers: self.watchers.len(),
            monitors: self.monitors.len(),
            aliases: self.aliases.len(),
        }
    }

    pub(crate) fn trap_exit(&mut self, number: u64, trap: bool) {
        if let Some(entry) = self.processes.get_mut(&number) {
            entry.trap_exit = trap;
        }
    }

    pub(crate) fn watch_nodes(&mut self, number: u64, watch: bool) {
        if watch && self.lives(number) {
            self.node_watchers.insert(number);
        } else {
            self.node_watchers.remove(&number);
        }
    }

    /// A reference under which messages reach a process until it is taken back, or `once`.
    pub(crate) fn alias(&mut self, owner: u64, once: bool) -> u64 {
        let number = self.ids.fresh();
        if let Some(entry) = self.processes.get_mut(&owner) {
            entry.aliases.insert(number);
            self.aliases.insert(number, Alias { owner, once });
        }
        number
    }

    /// Takes an alias back. `false`: the process has none such.
    pub(crate) fn unalias(&mut self, owner: u64, number: u64) -> bool {
        let entry = self.processes.get_mut(&owner);
        let held = entry.is_some_and(|entry| entry.aliases.remove(&number));
        if held {
            self.aliases.remove(&number);
        }
        held
    }

    /// A message from here to a process of ours; `false` where there is none.
    pub(crate) fn send(&self, to: &Target, message: Raw, effects: &mut Effects) -> bool {
        let Some(number) = self.find(to) else {
            return false;
        };
        effects.push(Effect::Deliver(number, Mail::Message(message)));
        true
    }

    /// A message from here to an alias of ours.
    pub(crate) fn send_alias(&mut self, alias: u64, message: Raw, effects: &mut Effects) -> bool {
        let Some(found) = self.aliases.get(&alias) else {
            return false;
        };
        let (owner, once) = (found.owner, found.once);
        if once {
            self.unalias(owner, alias);
        }
        effects.push(Effect::Deliver(owner, Mail::Message(message)));
        true
    }

    /// The number of a process of ours that lives.
    fn find(&self, target: &Target) -> Option<u64> {
        match target {
            Target::Pid(pid) => (self.ids.own_pid(pid.view())).filter(|number| self.lives(*number)),
            Target::Name(name, node) if *node == self.own => self.whereis(name),
            Target::Name(..) => None,
        }
    }

    fn pid(&self, number: u64) -> Raw {
        self.ids.pid(number)
    }

    /// A process watches another. `connection`: the one that reaches it; none where it is ours.
    pub(crate) fn monitor(
        &mut self,
        owner: u64,
        target: &Target,
        connection: Option<u64>,
        effects: &mut Effects,
    ) -> Monitor {
        let number = self.ids.fresh();
        let (watched, told) = named(target);
        if !self.lives(owner) {
            return Monitor(number);
        }
        match (connection, self.find(target)) {
            (Some(connection), _) => effects.push(Effect::Signal {
                connection,
                message: Message::Monitor {
                    watcher: self.pid(owner),
                    target: watched.clone(),
                    reference: self.ids.reference(number),
                },
            }),
            (None, Some(found)) => {
                let key = (None, self.ids.reference(number));
                let (pid, target) = (self.pid(owner), told.clone());
                self.watched(found, key, pid, target);
            }
            (None, None) => {
                effects.push(down(owner, Monitor(number), told, "noproc"));
                return Monitor(number);
            }
        }
        if let Some(entry) = self.processes.get_mut(&owner) {
            entry.monitors.insert(number);
        }
        self.monitors.insert(
            number,
            Watch {
                owner,
                target: watched,
                told,
                connection,
            },
        );
        Monitor(number)
    }

    /// A target that cannot be reached: its watcher hears it at once.
    pub(crate) fn unreachable(
        &self,
        owner: u64,
        target: &Target,
        effects: &mut Effects,
    ) -> Monitor {
        let monitor = Monitor(self.ids.fresh());
        effects.push(down(owner, monitor, named(target).1, "noconnection"));
        monitor
    }

    /// Takes a monitor back: no `Down` of it comes after this. `false`: it had fired already.
    pub(crate) fn demonitor(
        &mut self,
        owner: u64,
        monitor: Monitor,
        effects: &mut Effects,
    ) -> bool {
        let entry = self.processes.get_mut(&owner);
        let held = entry.is_some_and(|entry| entry.monitors.remove(&monitor.0));
        if held {
            self.let_go(monitor.0, effects);
        }
        held
    }

    /// Tells whoever is watched that we do so no more.
    fn let_go(&mut self, number: u64, effects: &mut Effects) {
        let Some(watch) = self.monitors.remove(&number) else {
            return;
        };
        let reference = self.ids.reference(number);
        match watch.connection {
            Some(connection) => effects.push(Effect::Signal {
                connection,
                message: Message::Demonitor {
                    watcher: self.pid(watch.owner),
                    target: watch.target,
                    reference,
                },
            }),
            None => self.unwatched(&(None, reference)),
        }
    }

    fn watched(&mut self, process: u64, key: WatcherKey, pid: Raw, target: Raw) {
        if let Some(entry) = self.processes.get_mut(&process) {
            entry.watchers.insert(key.clone());
            let watcher = Watcher {
                process,
                pid,
                target,
            };
            self.watchers.insert(key, watcher);
        }
    }

    fn unwatched(&mut self, key: &WatcherKey) {
        if let Some(watcher) = self.watchers.remove(key)
            && let Some(entry) = self.processes.get_mut(&watcher.process)
        {
            entry.watchers.remove(key);
        }
    }

    /// Links a process to another. `connection`: the one that reaches it; none where it is ours.
    pub(crate) fn link(
        &mut self,
        number: u64,
        pid: &Raw,
        connection: Option<u64>,
        effects: &mut Effects,
    ) {
        let own = self.pid(number);
        let pid = &one_form(pid);
        let Some(entry) = self.processes.get_mut(&number) else {
            return;
        };
        if *pid == own || entry.is_linked(pid) {
            return;
        }
        let link = Link {
            connection,
            unlinking: None,
        };
        entry.links.insert(pid.clone(), link);
        match connection {
            Some(connection) => {
                let (from, to) = (own, pid.clone());
                let message = Message::Link { from, to };
                effects.push(Effect::Signal {
                    connection,
                    message,
                });
            }
            None => {
                let other = self.ids.own_pid(pid.view());
                match other.and_then(|other| self.processes.get_mut(&other)) {
                    Some(other) => {
                        let link = Link {
                            connection: None,
                            unlinking: None,
                        };
                        other.links.insert(own, link);
                    }
                    None => self.link_broke(number, pid, &call::atom("noproc"), effects),
                }
            }
        }
    }

    /// A link that cannot be made as there is no connection.
    pub(crate) fn link_unreachable(&mut self, number: u64, pid: &Raw, effects: &mut Effects) {
        self.exit_signal(number, pid, call::atom("noconnection"), false, effects);
    }

    /// Takes a link back: no exit signal of it comes after this.
    pub(crate) fn unlink(&mut self, number: u64, pid: &Raw, effects: &mut Effects) {
        let own = self.pid(number);
        let Some(entry) = self.processes.get_mut(&number) else {
            return;
        };
        let pid = &one_form(pid);
        let Some(link) = entry.links.get_mut(pid).filter(|l| l.unlinking.is_none()) else {
            return;
        };
        match link.connection {
            Some(connection) => {
                // Not 0, which a BEAM takes for a broken message.
                let id = self.ids.fresh();
                link.unlinking = Some(id);
                effects.push(Effect::Signal {
                    connection,
                    message: Message::Unlink {
                        id: call::integer(id as i64),
                        from: own,
                        to: pid.clone(),
                    },
                });
            }
            None => {
                entry.links.remove(pid);
                if let Some(other) = self.ids.own_pid(pid.view())
                    && let Some(other) = self.processes.get_mut(&other)
                {
                    other.links.remove(&own);
                }
            }
        }
    }

    /// `exit(Pid, Reason)` from a process of ours to one of ours.
    pub(crate) fn exit(&mut self, from: &Raw, to: &Raw, reason: Raw, effects: &mut Effects) {
        if let Some(number) = self.ids.own_pid(to.view()) {
            self.exit_signal(number, from, reason, true, effects);
        }
    }

    /// An exit signal arrives. `sent`: by `exit/2`, where `kill` cannot be trapped; else by a link.
    fn exit_signal(
        &mut self,
        number: u64,
        from: &Raw,
        reason: Raw,
        sent: bool,
        effects: &mut Effects,
    ) {
        let own = self.pid(number);
        let Some(entry) = self.processes.get(&number) else {
            return;
        };
        if sent && reason.view().is_atom("kill") {
            self.end(number, &call::atom("killed"), effects);
        } else if entry.trap_exit {
            let from = from.compact();
            effects.push(Effect::Deliver(number, Mail::Exit { from, reason }));
        } else if !reason.view().is_atom("normal") || (sent && *from == own) {
            self.end(number, &reason, effects);
        }
    }

    /// What we are linked to has ended.
    fn link_broke(&mut self, number: u64, from: &Raw, reason: &Raw, effects: &mut Effects) {
        let Some(entry) = self.processes.get_mut(&number) else {
            return;
        };
        // Not linked: never, or not any more. Taken back: the other side does not know yet.
        let from = &one_form(from);
        if entry.is_linked(from) {
            entry.links.remove(from);
            self.exit_signal(number, from, reason.clone(), false, effects);
        }
    }

    /// A process is over. Whoever it was linked to is told first, then its watchers, as on the BEAM.
    pub(crate) fn end(&mut self, number: u64, reason: &Raw, effects: &mut Effects) {
        // One process that ends may end others with it, and those further ones: not by recursion, as there may be many.
        let mut ending = vec![(number, reason.clone())];
        while let Some((number, reason)) = ending.pop() {
            self.end_one(number, &reason, &mut ending, effects);
        }
    }

    fn end_one(
        &mut self,
        number: u64,
        reason: &Raw,
        ending: &mut Vec<(u64, Raw)>,
        effects: &mut Effects,
    ) {
        let Some(entry) = self.processes.remove(&number) else {
            return;
        };
        let own = self.pid(number);
        self.node_watchers.remove(&number);
        if let Some(name) = &entry.name {
            self.names.remove(name);
        }
        for alias in &entry.aliases {
            self.aliases.remove(alias);
        }
        for (pid, link) in entry.links {
            match link {
                Link {
                    unlinking: Some(_), ..
                } => {}
                Link {
                    connection: Some(connection),
                    ..
                } => effects.push(Effect::Signal {
                    connection,
                    message: Message::Exit {
                        from: own.clone(),
                        to: pid,
                        reason: reason.clone().into(),
                    },
                }),
                Link { .. } => {
                    let other = self.ids.own_pid(pid.view());
                    let Some(other) = other else { continue };
                    let Some(entry) = self.processes.get_mut(&other) else {
                        continue;
                    };
                    entry.links.remove(&own);
                    if entry.trap_exit {
                        let (from, reason) = (own.clone(), reason.clone());
                        effects.push(Effect::Deliver(other, Mail::Exit { from, reason }));
                    } else if !reason.view().is_atom("normal") {
                        ending.push((other, reason.clone()));
                    }
                }
            }
        }
        for key in entry.watchers {
            let Some(watcher) = self.watchers.remove(&key) else {
                continue;
            };
            let (connection, reference) = key;
            match connection {
                Some(connection) => effects.push(Effect::Signal {
                    connection,
                    message: Message::MonitorExit {
                        target: watcher.target,
                        watcher: watcher.pid,
                        reference,
                        reason: reason.clone().into(),
                    },
                }),
                None => self.fired(None, &reference, reason.clone(), effects),
            }
        }
        for monitor in entry.monitors {
            self.let_go(monitor, effects);
        }
        effects.push(match self.functions.remove(&number) {
            None => Effect::Over(number, reason.clone()),
            Some(connection) => Effect::Stop {
                connection,
                number,
                reason: reason.clone(),
            },
        });
    }

    /// A monitor of ours has fired: over the connection of what it watches, as nobody else can know.
    fn fired(
        &mut self,
        connection: Option<u64>,
        reference: &Raw,
        reason: Raw,
        effects: &mut Effects,
    ) {
        let Some(number) = self.ids.own_reference(reference.view()) else {
            return;
        };
        let watched = |watch: &Watch| watch.connection == connection;
        if !self.monitors.get(&number).is_some_and(watched) {
            return;
        }
        let Some(watch) = self.monitors.remove(&number) else {
            return;
        };
        if let Some(entry) = self.processes.get_mut(&watch.owner) {
            entry.monitors.remove(&number);
        }
        let mail = Mail::Down {
            monitor: Monitor(number),
            target: watch.told,
            reason,
        };
        effects.push(Effect::Deliver(watch.owner, mail));
    }

    /// A message of a peer about a process of ours. What is owed to the peer for it comes back as [`Effect::Signal`].
    ///
    /// A peer speaks for its own processes only: what it says in the name of another node's is not heard, as it could break
    /// that one's links.
    pub(crate) fn received(
        &mut self,
        connection: u64,
        peer: &NodeName,
        message: Message<Raw>,
        effects: &mut Effects,
    ) {
        if let Message::Link { from, .. }
        | Message::Unlink { from, .. }
        | Message::UnlinkAck { from, .. }
        | Message::Exit { from, .. }
        | Message::Exit2 { from, .. }
        | Message::Monitor { watcher: from, .. } = &message
            && from.view().node().as_deref() != Some(peer.as_str())
        {
            return;
        }
        let signal = |message| Effect::Signal {
            connection,
            message,
        };
        match message {
            Message::Send { to, message } => {
                self.send(&Target::Pid(to), message.kept(), effects);
            }
            Message::RegSend { to, message, .. } => {
                if let Some(number) = to.view().as_atom().and_then(|name| self.whereis(name)) {
                    effects.push(Effect::Deliver(number, Mail::Message(message.kept())));
                }
            }
            Message::AliasSend { alias, message, .. } => {
                if let Some(number) = self.ids.own_reference(alias.view()) {
                    self.send_alias(number, message.kept(), effects);
                }
            }
            Message::Monitor {
                watcher,
                target,
                reference,
            } => {
                let key = (Some(connection), reference.compact());
                let refused = match self.own_number(&target) {
                    None => Err("noproc"),
                    Some(_) if self.watchers.contains_key(&key) => Ok(()),
                    Some(number) if self.has_room(number) => {
                        self.watched(number, key, watcher.compact(), target.compact());
                        Ok(())
                    }
                    Some(_) => Err("system_limit"),
                };
                if let Err(reason) = refused {
                    let reason = call::atom(reason).into();
                    effects.push(signal(Message::MonitorExit {
                        target,
                        watcher,
                        reference,
                        reason,
                    }));
                }
            }
            Message::Demonitor { reference, .. } => {
                self.unwatched(&(Some(connection), reference));
            }
            Message::MonitorExit {
                reference, reason, ..
            } => self.fired(Some(connection), &reference, reason.kept(), effects),
            Message::Link { from, to } => {
                if let Err(reason) = self.linked(connection, &from, &to) {
                    let reason = call::atom(reason).into();
                    effects.push(signal(Message::Exit {
                        from: to,
                        to: from,
                        reason,
                    }));
                }
            }
            Message::Unlink { id, from, to } => {
                let linked = one_form(&from);
                if let Some(number) = self.ids.own_pid(to.view())
                    && let Some(entry) = self.processes.get_mut(&number)
                    && entry.is_linked(&linked)
                {
                    entry.links.remove(&linked);
                }
                let (from, to) = (to, from);
                effects.push(signal(Message::UnlinkAck { id, from, to }));
            }
            Message::UnlinkAck { id, from, to } => {
                let id = id.view().as_i64().and_then(|id| u64::try_from(id).ok());
                let from = one_form(&from);
                if let Some(number) = self.ids.own_pid(to.view())
                    && let Some(entry) = self.processes.get_mut(&number)
                    && let Some(link) = entry.links.get(&from)
                    && link.unlinking.is_some()
                    && link.unlinking == id
                {
                    entry.links.remove(&from);
                }
            }
            Message::Exit { from, to, reason } => {
                if let Some(number) = self.ids.own_pid(to.view()) {
                    self.link_broke(number, &from, &reason.kept(), effects);
                }
            }
            Message::Exit2 { from, to, reason } => self.exit(&from, &to, reason.kept(), effects),
            Message::GroupLeader { leader, pid } => {
                if let Some(number) = self.ids.own_pid(pid.view())
                    && let Some(entry) = self.processes.get_mut(&number)
                {
                    entry.leader = Some(leader.compact());
                }
            }
            // Nobody's process here asked for anything to be spawned.
            Message::SpawnRequest { .. } | Message::SpawnReply { .. } => {}
        }
    }

    /// The process that a peer names by its pid or name.
    fn own_number(&self, target: &Raw) -> Option<u64> {
        match target.view().as_atom() {
            Some(name) => self.whereis(name),
            None => (self.ids.own_pid(target.view())).filter(|number| self.lives(*number)),
        }
    }

    fn has_room(&self, number: u64) -> bool {
        let room = |entry: &Entry| entry.watchers.len() < MAX_WATCHERS;
        self.processes.get(&number).is_some_and(room)
    }

    fn linked(&mut self, connection: u64, from: &Raw, to: &Raw) -> Result<(), &'static str> {
        let number = self.ids.own_pid(to.view()).ok_or("noproc")?;
        let entry = self.processes.get_mut(&number).ok_or("noproc")?;
        let from = one_form(from);
        // Known already; or taken back by us, and not known of there when this was sent.
        if entry.links.contains_key(&from) {
            return Ok(());
        }
        if entry.links.len() >= MAX_WATCHERS {
            return Err("system_limit");
        }
        let link = Link {
            connection: Some(connection),
            unlinking: None,
        };
        entry.links.insert(from, link);
        Ok(())
    }

    /// A connection is up. `visible`: who watches nodes hears it.
    pub(crate) fn up(&self, node: &NodeName, visible: bool, effects: &mut Effects) {
        if visible {
            let mail = |number: &u64| Effect::Deliver(*number, Mail::NodeUp(node.clone()));
            effects.extend(self.node_watchers.iter().map(mail));
        }
    }

    /// A connection is over: whoever is linked over it, or watches something there, hears `noconnection`.
    pub(crate) fn down(
        &mut self,
        node: &NodeName,
        visible: bool,
        connection: u64,
        effects: &mut Effects,
    ) {
        let over = Some(connection);
        let noconnection = call::atom("noconnection");
        let mut broken = Vec::new();
        for (number, entry) in &mut self.processes {
            entry.watchers.retain(|(connection, _)| *connection != over);
            let gone = entry.links.extract_if(|_, link| link.connection == over);
            let gone = gone.filter(|(_, link)| link.unlinking.is_none());
            broken.extend(gone.map(|(pid, _)| (*number, pid)));
        }
        self.watchers
            .retain(|(connection, _), _| *connection != over);
        let fired: Vec<u64> = (self.monitors.iter())
            .filter(|(_, watch)| watch.connection == over)
            .map(|(number, _)| *number)
            .collect();
        for number in fired {
            let reference = self.ids.reference(number);
            self.fired(over, &reference, noconnection.clone(), effects);
        }
        for (number, pid) in broken {
            self.exit_signal(number, &pid, noconnection.clone(), false, effects);
        }
        if visible {
            let mail = |number: &u64| Effect::Deliver(*number, Mail::NodeDown(node.clone()));
            effects.extend(self.node_watchers.iter().map(mail));
        }
    }
}

impl Entry {
    fn is_linked(&self, pid: &Raw) -> bool {
        (self.links.get(pid)).is_some_and(|link| link.unlinking.is_none())
    }
}

/// A pid in the form in which we write it: the name of its node can come in others.
fn one_form(pid: &Raw) -> Raw {
    let Some(parts) = pid.view().as_pid() else {
        return pid.compact();
    };
    let mut out = BytesMut::new();
    put_pid(
        &mut out,
        &parts.node,
        parts.id,
        parts.serial,
        parts.creation,
    );
    Raw::own(out)
}

/// How a target is called at its own node, and how its watcher is told of it.
fn named(target: &Target) -> (Raw, Raw) {
    match target {
        Target::Pid(pid) => (pid.clone(), pid.clone()),
        Target::Name(name, node) => {
            let name = call::atom(name);
            let told = call::tuple(&[&name, &call::atom(node.as_str())]);
            (name, told)
        }
    }
}

fn down(owner: u64, monitor: Monitor, target: Raw, reason: &str) -> Effect {
    let mail = Mail::Down {
        monitor,
        target,
        reason: call::atom(reason),
    };
    Effect::Deliver(owner, mail)
}

#[cfg(test)]
mod tests;
