//! Process groups, as OTP's `pg`: runs the machines of `pg/`, each as the process that its name promises.
//!
//! A scope's process has a pid and a name, is watched by the scopes of the peers, and watches them and our members. Messages
//! to it do not wait in its mailbox: the connection that brings one hands it to the machine itself, since the machine has to
//! know whose it is. What the machine wants sent is sent while it is locked, so that changes leave in the order in which they
//! happened. The lock is the outermost: nobody asks for it who holds the one of the slots or of the processes.

use super::{
    Answer, Node, NodeName, PeerInfo, call,
    message::Message,
    node::lock,
    peer::Command,
    pg::{self, Effect, Input, Limits, Refused, Scope},
    process::{Mail, Monitor, Process, SpawnError, state::Target},
};
use crate::term::Raw;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, RwLock},
};
use tracing::{debug, warn};

/// The scopes that this node runs.
#[derive(Default)]
pub(super) struct Scopes {
    /// By the numbers of their processes.
    running: RwLock<HashMap<u64, Groups>>,
}

/// One scope of process groups on this node: see [`Node::groups`]. Cheap to clone.
#[derive(Clone)]
pub struct Groups {
    node: Node,
    /// Name and number of its process.
    name: Arc<str>,
    process: u64,
    machine: Arc<Mutex<Machine>>,
}

struct Machine {
    scope: Scope,
    /// Processes that are watched: scopes of peers, members and monitors of ours.
    watched: HashMap<Raw, Monitor>,
}

impl Groups {
    /// Each process joins the group, which is any term; once more if it has joined before. Its end takes it out again.
    ///
    /// # Errors
    /// A pid that is not of this node, or too many memberships.
    pub fn join(&self, group: &Raw, pids: &[Raw]) -> Result<(), Refused> {
        self.change(|scope, effects| scope.join(std::slice::from_ref(group), pids, effects))
    }

    /// Each process leaves the group, once. `false`: none of them was in it.
    ///
    /// # Errors
    /// A pid that is not of this node.
    pub fn leave(&self, group: &Raw, pids: &[Raw]) -> Result<bool, Refused> {
        self.change(|scope, effects| scope.leave(std::slice::from_ref(group), pids, effects))
    }

    /// The pids in a group, of all nodes, each as often as it has joined.
    pub fn members(&self, group: &Raw) -> Vec<Raw> {
        lock(&self.machine).scope.members(group)
    }

    /// The same of this node alone.
    pub fn local_members(&self, group: &Raw) -> Vec<Raw> {
        lock(&self.machine).scope.local_members(group)
    }

    /// All groups that have members.
    pub fn groups(&self) -> Vec<Raw> {
        lock(&self.machine).scope.groups().cloned().collect()
    }

    /// Who is in the group now; from here on the process hears of its changes as messages
    /// `{Reference, join | leave, Group, Pids}`.
    ///
    /// # Errors
    /// Too many monitors.
    pub fn monitor(&self, by: &Process, group: &Raw) -> Result<(Raw, Vec<Raw>), Refused> {
        let reference = self.node.own().ids.reference(self.node.own().ids.fresh());
        let members = self
            .change(|scope, effects| scope.monitor(&by.pid(), reference.clone(), group, effects))?;
        Ok((reference, members))
    }

    /// The same of all groups there are and will be.
    ///
    /// # Errors
    /// Too many monitors.
    #[expect(
        clippy::type_complexity,
        reason = "a reference, and groups with their members"
    )]
    pub fn monitor_scope(&self, by: &Process) -> Result<(Raw, Vec<(Raw, Vec<Raw>)>), Refused> {
        let reference = self.node.own().ids.reference(self.node.own().ids.fresh());
        let all = self
            .change(|scope, effects| scope.monitor_scope(&by.pid(), reference.clone(), effects))?;
        Ok((reference, all))
    }

    /// Takes a monitor back; `false`: there was none.
    pub fn demonitor(&self, reference: &Raw) -> bool {
        self.change(|scope, effects| scope.demonitor(reference, effects))
    }

    fn input(&self, input: Input) {
        self.change(|scope, effects| scope.handle(input, effects));
    }

    fn change<T>(&self, change: impl FnOnce(&mut Scope, &mut Vec<Effect>) -> T) -> T {
        let mut machine = lock(&self.machine);
        let mut effects = Vec::new();
        let result = change(&mut machine.scope, &mut effects);
        for effect in effects {
            self.perform(&mut machine, effect);
        }
        result
    }

    fn perform(&self, machine: &mut Machine, effect: Effect) {
        let watched = &mut machine.watched;
        match effect {
            Effect::SendName { node, message } => self.send(&node, |from| Message::RegSend {
                from,
                to: call::atom(&self.name),
                message: message.into(),
            }),
            Effect::Send { node, to, message } => self.send(&node, |_| Message::Send {
                to,
                message: message.into(),
            }),
            Effect::Monitor(pid) | Effect::Watch(pid) => {
                let monitor = self.node.watch(self.process, Target::Pid(pid.clone()));
                watched.insert(pid, monitor);
            }
            Effect::Demonitor(pid) | Effect::Unwatch(pid) => {
                if let Some(monitor) = watched.remove(&pid) {
                    self.node.unwatch(self.process, monitor);
                }
            }
            Effect::Deliver { to, message } => self.node.send_here(&Target::Pid(to), &message),
            Effect::Log { peer, what } => warn!(%peer, scope = &*self.name, "{what}"),
        }
    }

    /// Over the connection that is there. It cannot wait for room, as the lock is held, and must not be lost while the
    /// connection stands: the peer would never hear of the change again.
    fn send(&self, node: &NodeName, message: impl FnOnce(Raw) -> Message<super::Body>) {
        if let Some(handle) = self.node.handle(node) {
            let from = self.node.own().ids.pid(self.process);
            handle.owe(Command::Write(message(from)));
        }
    }

    /// Something that the scope's process watches has ended.
    fn down(&self, monitor: Monitor, pid: Raw) {
        let mut machine = lock(&self.machine);
        // Else it was taken back meanwhile, or belonged to an earlier connection.
        if machine.watched.get(&pid) != Some(&monitor) {
            return;
        }
        machine.watched.remove(&pid);
        let ours = self.node.own().ids.own_pid(pid.view()).is_some();
        drop(machine);
        self.input(if ours {
            Input::LocalEnded(pid)
        } else {
            Input::ScopeDown(pid)
        });
    }

    fn peer_down(&self, peer: &NodeName) {
        // The monitors of its scope ended with the connection.
        lock(&self.machine)
            .watched
            .retain(|pid, _| pid.view().node().as_deref() != Some(peer.as_str()));
        self.input(Input::PeerDown(peer.clone()));
    }

    async fn run(self, mut process: Process) -> Result<(), Raw> {
        loop {
            match process.receive().await {
                Ok(Mail::Down {
                    monitor, target, ..
                }) => self.down(monitor, target),
                Ok(other) => debug!(scope = &*self.name, ?other, "not for a scope of groups"),
                Err(over) => return Err(over.reason),
            }
        }
    }
}

impl Node {
    /// The process groups of a scope; `pg` is the one that OTP uses when none is named. Where this node does not run it
    /// yet it begins to, and finds the scopes of all visible peers; a scope that it does not run is left alone.
    ///
    /// # Errors
    /// Something else has the name, or the node has stopped.
    pub fn groups(&self, scope: &str) -> Result<Groups, SpawnError> {
        // Held until it is in the table: of two who ask at the same time one begins it, and both have it.
        let mut running = self.scopes().write();
        if let Some(groups) = running.values().find(|groups| &*groups.name == scope) {
            return Ok(groups.clone());
        }
        let process = self.process_named(scope)?;
        let (number, pid) = (process.number(), process.pid());
        let machine = Machine {
            scope: Scope::new(self.name().clone(), pid, Limits::default()),
            watched: HashMap::new(),
        };
        let groups = Groups {
            node: self.clone(),
            name: scope.into(),
            process: number,
            machine: Arc::new(Mutex::new(machine)),
        };
        running.insert(number, groups.clone());
        drop(running);
        let (node, scope) = (self.clone(), groups.clone());
        tokio::spawn(async move {
            // With which reason it ended those who watched it know.
            let _ = scope.run(process).await;
            node.scopes().write().remove(&number);
        });
        for peer in self.peers().into_iter().filter(|peer| !peer.hidden) {
            groups.input(Input::PeerUp(peer.name));
        }
        Ok(groups)
    }

    fn scope_named(&self, name: &str) -> Option<Groups> {
        let running = self.scopes().read();
        running
            .values()
            .find(|groups| &*groups.name == name)
            .cloned()
    }

    /// Hands a message to the scope whose process it is for; `Err`: it is for something else.
    #[expect(
        clippy::result_large_err,
        reason = "it is the message, for whoever comes next"
    )]
    pub(super) fn to_scope(
        &self,
        peer: &PeerInfo,
        message: Message<Raw>,
    ) -> Result<(), Message<Raw>> {
        if self.scopes().read().is_empty() {
            return Err(message);
        }
        let number = match &message {
            Message::Send { to, .. } => self.own().ids.own_pid(to.view()),
            Message::RegSend { to, .. } => {
                (to.view().as_atom()).and_then(|name| self.processes().whereis(name))
            }
            _ => None,
        };
        let scope = number.and_then(|number| self.scopes().read().get(&number).cloned());
        match (scope, message) {
            (Some(scope), Message::Send { message, .. } | Message::RegSend { message, .. }) => {
                let from = peer.name.clone();
                scope.input(Input::Message { from, message });
                Ok(())
            }
            (_, message) => Err(message),
        }
    }

    /// A connection is up, and nothing was read from it yet.
    pub(super) fn scopes_up(&self, peer: &PeerInfo) {
        for scope in self.all_scopes() {
            // Whatever is known of an earlier connection, whose end may be told later.
            scope.peer_down(&peer.name);
            if !peer.hidden {
                scope.input(Input::PeerUp(peer.name.clone()));
            }
        }
    }

    /// A connection is over, and no other took its place.
    pub(super) fn scopes_down(&self, peer: &PeerInfo) {
        if self.handle(&peer.name).is_none() {
            for scope in self.all_scopes() {
                scope.peer_down(&peer.name);
            }
        }
    }

    fn all_scopes(&self) -> Vec<Groups> {
        self.scopes().read().values().cloned().collect()
    }

    /// The functions of `pg` that can be asked for by `rpc`.
    pub(super) fn apply_pg(&self, function: &str, args: &[Raw]) -> Answer {
        let named = match (function, args) {
            ("get_members" | "get_local_members", [name, _])
            | ("which_groups" | "which_local_groups", [name]) => name.view().as_atom(),
            _ => Some(pg::DEFAULT_SCOPE),
        };
        let groups = named.and_then(|name| self.scope_named(name));
        let machine = groups.as_ref().map(|groups| lock(&groups.machine));
        let scope = machine.as_ref().map(|machine| &machine.scope);
        match pg::apply(|_| scope, function, args) {
            pg::Answered::Value(value) => Answer::Reply(value),
            pg::Answered::Error(reason) => Answer::Error(reason),
            pg::Answered::Undef => Answer::Undef,
        }
    }
}

impl Scopes {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u64, Groups>> {
        self.running
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<u64, Groups>> {
        self.running
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
