//! One scope: who is in which group, which peers run the scope too, and who wants to hear of changes. Pure.
//!
//! A peer's scope process goes through
//!
//! ```text
//!   unknown ── discover, sync ──► known ── a sync or a change beyond the limit ──► refused (no members)
//!      ▲                            │  ▲                                              │
//!      └── it or its node went down ┘  └───────────────── a sync that fits ───────────┘
//! ```
//!
//! Each node has one scope process at a time, since it is registered: a new one takes the place of the one before, whose
//! end may be heard of later.

use super::terms::{self, Change, Incoming, Unread};
use crate::dist::NodeName;
use crate::term::Raw;
use std::collections::{HashMap, HashSet, hash_map::Entry};

/// How much may be kept. Each membership counts as the bytes of its pid and its group, and 64 more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// What one peer may have joined; default 64 MiB.
    pub(crate) peer: usize,
    /// What all peers together may have joined; default 256 MiB.
    pub(crate) peers: usize,
    /// What our own processes may have joined; default 64 MiB.
    pub(crate) local: usize,
    /// Most monitors of our own processes; default 10,000.
    pub(crate) monitors: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            peer: 64 << 20,
            peers: 256 << 20,
            local: 64 << 20,
            monitors: 10_000,
        }
    }
}

/// What a scope is told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Input {
    /// A visible peer is connected.
    PeerUp(NodeName),
    /// The connection to a peer is gone.
    PeerDown(NodeName),
    /// A message to the scope, by name or by pid.
    Message {
        /// The peer whose connection brought it.
        from: NodeName,
        /// The message.
        message: Raw,
    },
    /// The monitor of this scope process fired, for whatever reason.
    ScopeDown(Raw),
    /// This process of ours, which was to be watched, has ended.
    LocalEnded(Raw),
}

/// What a scope wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Send to the process that is registered under the scope's name at a connected peer.
    SendName {
        /// The peer.
        node: NodeName,
        /// The message.
        message: Raw,
    },
    /// Send to the scope process of a connected peer.
    Send {
        /// The peer.
        node: NodeName,
        /// The process.
        to: Raw,
        /// The message.
        message: Raw,
    },
    /// Monitor the scope process of a peer.
    Monitor(Raw),
    /// Take that monitor back.
    Demonitor(Raw),
    /// Tell when this process of ours ends.
    Watch(Raw),
    /// Do so no more.
    Unwatch(Raw),
    /// Send `{Ref, join | leave, Group, Pids}` to a process of ours.
    Deliver {
        /// The process.
        to: Raw,
        /// The message.
        message: Raw,
    },
    /// Worth a line in the log.
    Log {
        /// The peer that is at fault.
        peer: NodeName,
        /// What it did and what became of it.
        what: &'static str,
    },
}

/// Why something was not done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Only processes of this node can join and leave here, as in OTP.
    #[error("{0:?} is no process of this node: only those can join a group here")]
    NotLocal(Raw),
    /// Our own processes have joined more than the 64 MiB that are kept of them.
    #[error("the groups of this scope are full: leave some, or raise the limit")]
    Full,
    /// There are more than 10,000 monitors.
    #[error("this scope has too many monitors: take some back, or raise the limit")]
    TooManyMonitors,
}

/// How often each pid is in a group.
type Bag = HashMap<Raw, u32>;

struct Peer {
    pid: Raw,
    version: u8,
    /// It has all our members, and so can make sense of changes.
    told: bool,
    /// It went beyond its limit: none of its members count until it sends all of them again.
    refused: bool,
    groups: HashSet<Raw>,
    cost: usize,
}

/// A process of ours that is a member, or monitors, or both.
#[derive(Default)]
struct Local {
    groups: HashMap<Raw, u32>,
    monitors: HashSet<Raw>,
}

struct Monitor {
    owner: Raw,
    /// All groups when there is none.
    group: Option<Raw>,
}

/// The machine of one scope. See the [module](super) for its wiring.
pub(crate) struct Scope {
    node: NodeName,
    pid: Raw,
    limits: Limits,
    /// The members of each group by their nodes, ours among them. No bag and no group is empty.
    groups: HashMap<Raw, HashMap<NodeName, Bag>>,
    peers: HashMap<NodeName, Peer>,
    locals: HashMap<Raw, Local>,
    monitors: HashMap<Raw, Monitor>,
    /// The references of the monitors of a group, or of all.
    monitored: HashMap<Option<Raw>, HashSet<Raw>>,
    local_cost: usize,
    peers_cost: usize,
    /// Peers whose rubbish was told of, so that it fills no log.
    told_of: HashSet<NodeName>,
}

impl Scope {
    /// A scope on this node, whose process has this pid.
    pub(crate) fn new(node: NodeName, pid: Raw, limits: Limits) -> Self {
        Self {
            node,
            pid,
            limits,
            groups: HashMap::new(),
            peers: HashMap::new(),
            locals: HashMap::new(),
            monitors: HashMap::new(),
            monitored: HashMap::new(),
            local_cost: 0,
            peers_cost: 0,
            told_of: HashSet::new(),
        }
    }

    /// Takes in what has happened.
    pub(crate) fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::PeerUp(node) if node == self.node => {}
            Input::PeerUp(node) => {
                // Without a version, for all: OTP 25 knows no other form.
                let message = terms::discover(&self.pid, 0);
                effects.push(Effect::SendName { node, message });
            }
            Input::PeerDown(node) => {
                self.told_of.remove(&node);
                self.forget(&node, effects);
            }
            Input::Message { from, message } => self.message(from, &message, effects),
            Input::ScopeDown(pid) => {
                let node = self.peers.iter().find(|(_, peer)| peer.pid == pid);
                if let Some(node) = node.map(|(node, _)| node.clone()) {
                    self.forget(&node, effects);
                }
            }
            Input::LocalEnded(pid) => self.ended(&pid, effects),
        }
    }

    /// Each of the processes joins each of the groups, once more if it has joined before.
    ///
    /// # Errors
    /// A pid that is not of this node, or too many memberships.
    pub(crate) fn join(
        &mut self,
        groups: &[Raw],
        pids: &[Raw],
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let (groups, pids) = self.settled(groups, pids)?;
        let pairs = || groups.iter().flat_map(|g| pids.iter().map(move |p| (g, p)));
        let room = self.limits.local.saturating_sub(self.local_cost);
        let mut cost = 0usize;
        for (group, pid) in pairs() {
            cost += terms::cost(group, pid);
            if cost > room {
                return Err(Refused::Full);
            }
        }
        if pids.is_empty() {
            return Ok(());
        }
        for (group, pid) in pairs() {
            *self
                .local(pid, effects)
                .groups
                .entry(group.clone())
                .or_default() += 1;
        }
        let join = |group: &Raw| Change {
            group: group.clone(),
            add: pids.clone(),
            remove: Vec::new(),
        };
        self.publish(groups.iter().map(join).collect(), effects);
        Ok(())
    }

    /// Each of the processes leaves each of the groups, once. `false` when none was in any: OTP's `not_joined`.
    ///
    /// # Errors
    /// A pid that is not of this node.
    pub(crate) fn leave(
        &mut self,
        groups: &[Raw],
        pids: &[Raw],
        effects: &mut Vec<Effect>,
    ) -> Result<bool, Refused> {
        let (groups, pids) = self.settled(groups, pids)?;
        let mut changes = Vec::new();
        for group in &groups {
            let mut remove = Vec::new();
            for pid in &pids {
                let Some(local) = self.locals.get_mut(pid) else {
                    continue;
                };
                if take(&mut local.groups, group) {
                    remove.push(pid.clone());
                    self.unwatch_idle(pid, effects);
                }
            }
            // OTP 25 crashes when somebody leaves a group that it has not been told of.
            if !remove.is_empty() {
                let group = group.clone();
                changes.push(Change {
                    group,
                    add: Vec::new(),
                    remove,
                });
            }
        }
        let left = !changes.is_empty();
        self.publish(changes, effects);
        Ok(left)
    }

    /// Who is in the group now; from here on `owner`, a process of ours, hears of its changes under this reference, which
    /// must be new.
    ///
    /// # Errors
    /// A pid that is not of this node, or too many monitors.
    pub(crate) fn monitor(
        &mut self,
        owner: &Raw,
        reference: Raw,
        group: &Raw,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<Raw>, Refused> {
        let group = terms::settled(group.view());
        self.add_monitor(owner, reference, Some(group.clone()), effects)?;
        Ok(self.members(&group))
    }

    /// The same of all groups there are and will be.
    ///
    /// # Errors
    /// A pid that is not of this node, or too many monitors.
    pub(crate) fn monitor_scope(
        &mut self,
        owner: &Raw,
        reference: Raw,
        effects: &mut Vec<Effect>,
    ) -> Result<Vec<(Raw, Vec<Raw>)>, Refused> {
        self.add_monitor(owner, reference, None, effects)?;
        let all = self.groups.keys();
        Ok(all
            .map(|group| (group.clone(), self.members(group)))
            .collect())
    }

    /// Takes a monitor back; `false` when there is none. What was delivered is the owner's to take out of its mailbox.
    pub(crate) fn demonitor(&mut self, reference: &Raw, effects: &mut Vec<Effect>) -> bool {
        let Some(monitor) = self.monitors.remove(reference) else {
            return false;
        };
        if let Entry::Occupied(mut references) = self.monitored.entry(monitor.group) {
            references.get_mut().remove(reference);
            if references.get().is_empty() {
                references.remove();
            }
        }
        if let Some(local) = self.locals.get_mut(&monitor.owner) {
            local.monitors.remove(reference);
            self.unwatch_idle(&monitor.owner, effects);
        }
        true
    }

    /// The members of a group on all nodes, in no order, as often as they have joined.
    pub(crate) fn members(&self, group: &Raw) -> Vec<Raw> {
        let group = self.groups.get(&terms::settled(group.view()));
        let bags = group.into_iter().flat_map(HashMap::values);
        bags.flat_map(pids_of).collect()
    }

    /// Those of them that are processes of ours.
    pub(crate) fn local_members(&self, group: &Raw) -> Vec<Raw> {
        let group = self.groups.get(&terms::settled(group.view()));
        let bag = group.and_then(|nodes| nodes.get(&self.node));
        bag.into_iter().flat_map(pids_of).collect()
    }

    /// All groups that have members, in no order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &Raw> {
        self.groups.keys()
    }

    /// Those that processes of ours are in.
    pub(crate) fn local_groups(&self) -> impl Iterator<Item = &Raw> {
        let groups = self.groups.iter();
        groups.filter_map(|(group, nodes)| nodes.contains_key(&self.node).then_some(group))
    }

    /// The peers that run this scope.
    #[cfg(test)]
    pub(crate) fn peers(&self) -> impl Iterator<Item = &NodeName> {
        self.peers.keys()
    }

    /// Whether nothing is kept of anybody.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
            && self.peers.is_empty()
            && self.locals.is_empty()
            && self.monitors.is_empty()
            && self.monitored.is_empty()
            && self.local_cost + self.peers_cost == 0
    }

    fn message(&mut self, from: NodeName, message: &Raw, effects: &mut Vec<Effect>) {
        if from == self.node {
            return;
        }
        match terms::read(message, &from, self.limits.peer) {
            Ok(Incoming::Discover { peer, version }) => {
                self.discovered(from, peer, version, effects)
            }
            Ok(Incoming::Replace {
                peer,
                version,
                members,
            }) => {
                self.learn(&from, peer, version, effects);
                self.replace(from, members, effects);
            }
            // A change from a scope process that we have not met, or not any more, is late or early: what counts is the
            // sync that comes with meeting it.
            Ok(Incoming::Change { peer, changes }) => {
                let known = self.peers.get(&from);
                if known.is_some_and(|known| known.pid == peer && !known.refused) {
                    self.apply(&from, changes, effects);
                }
            }
            Err(Unread::TooLarge { peer })
                if self.peers.get(&from).is_some_and(|known| known.pid == peer) =>
            {
                self.refuse(&from, effects);
            }
            Err(Unread::TooLarge { .. }) => {
                self.tell_of(
                    from,
                    "sent its pg scope more than we keep: ignored",
                    effects,
                );
            }
            Err(Unread::Unknown) => {
                let what = "sent its pg scope something that is no message of pg's: ignored";
                self.tell_of(from, what, effects);
            }
        }
    }

    fn tell_of(&mut self, peer: NodeName, what: &'static str, effects: &mut Vec<Effect>) {
        if self.told_of.insert(peer.clone()) {
            effects.push(Effect::Log { peer, what });
        }
    }

    fn discovered(&mut self, from: NodeName, pid: Raw, version: u8, effects: &mut Vec<Effect>) {
        let new = self.learn(&from, pid.clone(), version, effects);
        let members = self.own_members();
        let Some(peer) = self.peers.get_mut(&from) else {
            return;
        };
        peer.told = true;
        let message = terms::all(&self.pid, peer.version, &members);
        let (node, to) = (from.clone(), pid.clone());
        effects.push(Effect::Send { node, to, message });
        if new {
            let message = terms::discover(&self.pid, peer.version);
            let (node, to) = (from, pid);
            effects.push(Effect::Send { node, to, message });
        }
    }

    /// Whether the scope process is new to us; then it is monitored.
    fn learn(&mut self, node: &NodeName, pid: Raw, version: u8, effects: &mut Vec<Effect>) -> bool {
        match self.peers.get_mut(node) {
            Some(peer) if peer.pid == pid => {
                // OTP 29 says 0 in the forms of old, as long as it has not heard a version from us.
                peer.version = peer.version.max(version);
                return false;
            }
            Some(before) => {
                effects.push(Effect::Demonitor(before.pid.clone()));
                self.forget(node, effects);
            }
            None => {}
        }
        effects.push(Effect::Monitor(pid.clone()));
        let peer = Peer {
            pid,
            version,
            told: false,
            refused: false,
            groups: HashSet::new(),
            cost: 0,
        };
        self.peers.insert(node.clone(), peer);
        true
    }

    /// What a peer has now is this and nothing else.
    fn replace(
        &mut self,
        node: NodeName,
        members: Vec<(Raw, Vec<Raw>)>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(peer) = self.peers.get_mut(&node) else {
            return;
        };
        peer.refused = false;
        let mut wanted: HashMap<Raw, Bag> = HashMap::new();
        for (group, pids) in members {
            let bag = wanted.entry(group).or_default();
            for pid in pids {
                *bag.entry(pid).or_default() += 1;
            }
        }
        let gone = peer
            .groups
            .iter()
            .filter(|group| !wanted.contains_key(*group));
        let gone: Vec<Raw> = gone.cloned().collect();
        let mut changes = Vec::new();
        let (none, empty) = (HashMap::new(), Bag::new());
        for (group, new) in wanted
            .iter()
            .chain(gone.iter().map(|group| (group, &empty)))
        {
            let old = self
                .groups
                .get(group)
                .unwrap_or(&none)
                .get(&node)
                .unwrap_or(&empty);
            let (add, remove) = (beyond(new, old), beyond(old, new));
            if !(add.is_empty() && remove.is_empty()) {
                let group = group.clone();
                changes.push(Change { group, add, remove });
            }
        }
        // Room is made before it is taken.
        changes.sort_by_key(|change| change.remove.is_empty());
        self.apply(&node, changes, effects);
    }

    /// Changes of a peer that is known.
    fn apply(&mut self, node: &NodeName, changes: Vec<Change>, effects: &mut Vec<Effect>) {
        for change in changes {
            let Some(peer) = self.peers.get_mut(node) else {
                return;
            };
            let done = shift(&mut self.groups, node, change);
            let count = |pids: &[Raw]| -> usize {
                pids.iter().map(|pid| terms::cost(&done.group, pid)).sum()
            };
            let (more, less) = (count(&done.add), count(&done.remove));
            // Both sums have grown by what is taken off here.
            peer.cost = (peer.cost + more).saturating_sub(less);
            self.peers_cost = (self.peers_cost + more).saturating_sub(less);
            let has_some = self
                .groups
                .get(&done.group)
                .is_some_and(|nodes| nodes.contains_key(node));
            match has_some {
                true => peer.groups.insert(done.group.clone()),
                false => peer.groups.remove(&done.group),
            };
            let full = peer.cost > self.limits.peer || self.peers_cost > self.limits.peers;
            self.notify(&done, effects);
            if full {
                return self.refuse(node, effects);
            }
        }
    }

    fn refuse(&mut self, node: &NodeName, effects: &mut Vec<Effect>) {
        self.clear(node, effects);
        if let Some(peer) = self.peers.get_mut(node)
            && !std::mem::replace(&mut peer.refused, true)
        {
            let what = "has more members in its pg groups than we keep: none of them count until it has fewer";
            effects.push(Effect::Log {
                peer: node.clone(),
                what,
            });
        }
    }

    /// All members of a peer leave.
    fn clear(&mut self, node: &NodeName, effects: &mut Vec<Effect>) {
        let Some(peer) = self.peers.get_mut(node) else {
            return;
        };
        self.peers_cost = self
            .peers_cost
            .saturating_sub(std::mem::take(&mut peer.cost));
        for group in std::mem::take(&mut peer.groups) {
            let bag = self.groups.get(&group).and_then(|nodes| nodes.get(node));
            let remove = bag.into_iter().flat_map(pids_of).collect();
            let change = Change {
                group,
                add: Vec::new(),
                remove,
            };
            let done = shift(&mut self.groups, node, change);
            self.notify(&done, effects);
        }
    }

    fn forget(&mut self, node: &NodeName, effects: &mut Vec<Effect>) {
        self.clear(node, effects);
        self.peers.remove(node);
    }

    fn ended(&mut self, pid: &Raw, effects: &mut Vec<Effect>) {
        let Some(local) = self.locals.remove(pid) else {
            return;
        };
        for reference in &local.monitors {
            self.demonitor(reference, effects);
        }
        let leave = |(group, times): (Raw, u32)| Change {
            group,
            add: Vec::new(),
            remove: vec![pid.clone(); times as usize],
        };
        self.publish(local.groups.into_iter().map(leave).collect(), effects);
    }

    /// Changes of our own: into the groups, to our monitors and to the peers.
    fn publish(&mut self, changes: Vec<Change>, effects: &mut Vec<Effect>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            let done = shift(&mut self.groups, &self.node, change.clone());
            let count = |pids: &[Raw]| -> usize {
                pids.iter().map(|pid| terms::cost(&done.group, pid)).sum()
            };
            self.local_cost =
                (self.local_cost + count(&done.add)).saturating_sub(count(&done.remove));
            self.notify(&done, effects);
        }
        let mut written: HashMap<u8, Vec<Raw>> = HashMap::new();
        for (node, peer) in self.peers.iter().filter(|(_, peer)| peer.told) {
            let messages = written
                .entry(peer.version)
                .or_insert_with(|| terms::changes(&self.pid, peer.version, &changes));
            effects.extend(messages.iter().map(|message| Effect::Send {
                node: node.clone(),
                to: peer.pid.clone(),
                message: message.clone(),
            }));
        }
    }

    fn notify(&self, done: &Change, effects: &mut Vec<Effect>) {
        for key in [None, Some(done.group.clone())] {
            for reference in self.monitored.get(&key).into_iter().flatten() {
                let Some(monitor) = self.monitors.get(reference) else {
                    continue;
                };
                for (what, pids) in [("leave", &done.remove), ("join", &done.add)] {
                    if !pids.is_empty() {
                        effects.push(Effect::Deliver {
                            to: monitor.owner.clone(),
                            message: terms::notice(reference, what, &done.group, pids),
                        });
                    }
                }
            }
        }
    }

    fn add_monitor(
        &mut self,
        owner: &Raw,
        reference: Raw,
        group: Option<Raw>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refused> {
        let owner = self.own(owner)?;
        if self.monitors.len() >= self.limits.monitors {
            return Err(Refused::TooManyMonitors);
        }
        self.local(&owner, effects)
            .monitors
            .insert(reference.clone());
        let references = self.monitored.entry(group.clone()).or_default();
        references.insert(reference.clone());
        self.monitors.insert(reference, Monitor { owner, group });
        Ok(())
    }

    fn own_members(&self) -> Vec<(Raw, Vec<Raw>)> {
        let groups = self.groups.iter();
        let own = groups.filter_map(|(group, nodes)| Some((group, nodes.get(&self.node)?)));
        own.map(|(group, bag)| (group.clone(), pids_of(bag).collect()))
            .collect()
    }

    fn settled(&self, groups: &[Raw], pids: &[Raw]) -> Result<(Vec<Raw>, Vec<Raw>), Refused> {
        let pids = pids
            .iter()
            .map(|pid| self.own(pid))
            .collect::<Result<_, _>>()?;
        Ok((
            groups
                .iter()
                .map(|group| terms::settled(group.view()))
                .collect(),
            pids,
        ))
    }

    fn own(&self, pid: &Raw) -> Result<Raw, Refused> {
        terms::pid_of(pid.view(), &self.node).ok_or_else(|| Refused::NotLocal(pid.clone()))
    }

    fn local(&mut self, pid: &Raw, effects: &mut Vec<Effect>) -> &mut Local {
        self.locals.entry(pid.clone()).or_insert_with(|| {
            effects.push(Effect::Watch(pid.clone()));
            Local::default()
        })
    }

    /// Looks at a process no more when it is no member and monitors nothing.
    fn unwatch_idle(&mut self, pid: &Raw, effects: &mut Vec<Effect>) {
        let idle = |local: &Local| local.groups.is_empty() && local.monitors.is_empty();
        if self.locals.get(pid).is_some_and(idle) {
            self.locals.remove(pid);
            effects.push(Effect::Unwatch(pid.clone()));
        }
    }
}

/// Takes one out; whether there was one.
fn take(bag: &mut HashMap<Raw, u32>, key: &Raw) -> bool {
    let Some(times) = bag.get_mut(key) else {
        return false;
    };
    *times -= 1;
    if *times == 0 {
        bag.remove(key);
    }
    true
}

/// Does a change of this node's members, and says what of it was so: who was not in does not leave.
fn shift(
    groups: &mut HashMap<Raw, HashMap<NodeName, Bag>>,
    node: &NodeName,
    mut change: Change,
) -> Change {
    let nodes = groups.entry(change.group.clone()).or_default();
    let bag = nodes.entry(node.clone()).or_default();
    change.remove.retain(|pid| take(bag, pid));
    for pid in &change.add {
        *bag.entry(pid.clone()).or_default() += 1;
    }
    if bag.is_empty() {
        nodes.remove(node);
    }
    if nodes.is_empty() {
        groups.remove(&change.group);
    }
    change
}

/// What `this` has more of than `that`.
fn beyond(this: &Bag, that: &Bag) -> Vec<Raw> {
    let more = |(pid, times): (&Raw, &u32)| {
        let more = times.saturating_sub(that.get(pid).copied().unwrap_or(0));
        std::iter::repeat_n(pid.clone(), more as usize)
    };
    this.iter().flat_map(more).collect()
}

/// Each pid as often as it is in.
fn pids_of(bag: &Bag) -> impl Iterator<Item = Raw> {
    bag.iter()
        .flat_map(|(pid, times)| std::iter::repeat_n(pid.clone(), *times as usize))
}
