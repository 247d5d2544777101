//! The table of locks of this node, and how one lock is taken on many nodes. Pure.
//!
//! A lock is a resource held for a requester by one or more processes; each of them lets go, or dies, for itself.
//!
//! ```text
//!   Take:  stage 1 (the boss alone) ─► stage 2 ─► … ─► taken
//!             └─ anybody refuses ────────┴─► all that were asked are told to let go ─► not taken
//! ```
//!
//! The boss is the greatest name of the cluster. It is locked first and let go last, so that of many who want the same
//! lock all but one fail at once, at one place.

use super::{
    state::{Effect, Global, Held, MAX_CALLS, Then},
    terms::{self, LockId, pid_node},
};
use crate::{dist::call::atom, term::Raw};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Most locks that are set here, and most processes that hold one of them.
const MAX_LOCKS: usize = 10_000;

/// A process that holds a lock, and the number under which it is watched.
#[derive(Debug)]
struct Holder {
    pid: Raw,
    watch: Option<u64>,
}

#[derive(Debug)]
struct Lock {
    requester: Raw,
    holders: Vec<Holder>,
}

#[derive(Debug, Default)]
pub(super) struct Locks {
    table: BTreeMap<Bytes, Lock>,
    /// Whether the last lock on `global` went with its holder: what it protected may then be late, and is not taken.
    global_down: bool,
}

/// Who takes a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Locker,
    Registrar,
    /// A local request, by its number.
    User(u64),
}

/// A lock that is being taken.
#[derive(Debug)]
pub(super) struct Take {
    owner: Owner,
    id: LockId,
    holder: Raw,
    stages: VecDeque<Vec<String>>,
    waiting: BTreeSet<String>,
    asked: Vec<String>,
}

impl Global {
    /// Sets a lock on this node.
    pub(super) fn set_lock(&mut self, id: &LockId, holder: &Raw) -> bool {
        let key = id.resource.to_bytes();
        let full = self.locks.table.len() >= MAX_LOCKS;
        match self.locks.table.get(&key) {
            Some(lock) if lock.requester != id.requester => return false,
            Some(lock) if lock.holders.iter().any(|held| held.pid == *holder) => return true,
            Some(lock) if lock.holders.len() >= MAX_LOCKS => return false,
            None if full => return false,
            _ => {}
        }
        // The locker and the registrar live as long as the node: nothing to watch.
        let watch = (*holder != self.me.locker && *holder != self.me.registrar).then(|| {
            let number = self.fresh();
            self.held.insert(number, Held::Lock(key.clone()));
            self.effect(Effect::Watch {
                number,
                pid: holder.clone(),
            });
            number
        });
        let lock = self.locks.table.entry(key).or_insert_with(|| Lock {
            requester: id.requester.clone(),
            holders: Vec::new(),
        });
        lock.holders.push(Holder {
            pid: holder.clone(),
            watch,
        });
        true
    }

    /// Lets go of a lock on this node. `down` says that the holder is gone.
    pub(super) fn del_lock(&mut self, id: &LockId, holder: &Raw, down: bool) {
        let key = id.resource.to_bytes();
        if self
            .locks
            .table
            .get(&key)
            .is_some_and(|lock| lock.requester == id.requester)
        {
            self.drop_holders(&key, down, |held| held.pid == *holder);
        }
    }

    pub(super) fn holder_gone(&mut self, resource: &Bytes, number: u64) {
        self.drop_holders(resource, true, |held| held.watch == Some(number));
    }

    /// Locks whose holder ran on `node` are free, as they are everywhere when its connection ends.
    pub(super) fn drop_locks_of(&mut self, node: &str) {
        let resources: Vec<Bytes> = self.locks.table.keys().cloned().collect();
        for resource in resources {
            self.drop_holders(&resource, true, |held| pid_node(&held.pid) == node);
        }
    }

    fn drop_holders(&mut self, key: &Bytes, down: bool, gone: impl Fn(&Holder) -> bool) {
        let Some(lock) = self.locks.table.get_mut(key) else {
            return;
        };
        let (gone, stay): (Vec<_>, Vec<_>) = lock.holders.drain(..).partition(gone);
        lock.holders = stay;
        if lock.holders.is_empty() {
            self.locks.table.remove(key);
            if *key == atom("global").to_bytes() {
                self.locks.global_down = down;
            }
        }
        for holder in gone {
            let Some(number) = holder.watch else { continue };
            // What is already gone needs no demonitor; an unknown number is ignored by whoever gets it.
            if self.held.remove(&number).is_some() {
                self.effect(Effect::Unwatch {
                    number,
                    pid: holder.pid,
                });
            }
        }
    }

    fn global_lock(&self) -> Option<&Lock> {
        self.locks.table.get(&atom("global").to_bytes())
    }

    pub(super) fn is_global_locked(&self) -> bool {
        self.global_lock().is_some()
    }

    /// Whether what comes under the lock on `global` of this process may still be taken.
    pub(super) fn holds_global_lock(&self, pid: &Raw) -> bool {
        match self.global_lock() {
            Some(lock) => lock.holders.iter().any(|held| held.pid == *pid),
            None => !self.locks.global_down,
        }
    }

    /// The same for a lock told by its id.
    pub(super) fn is_under_lock(&self, id: Option<&LockId>) -> bool {
        match self.global_lock() {
            Some(lock) => id.is_some_and(|id| id.requester == lock.requester),
            None => !self.locks.global_down,
        }
    }

    /// No lock is set here, and none is being taken.
    #[cfg(test)]
    pub(super) fn is_lock_free(&self) -> bool {
        self.locks.table.is_empty() && self.takes.is_empty()
    }

    fn can_lock_here(&self, id: &LockId) -> bool {
        (self.locks.table.get(&id.resource.to_bytes()))
            .is_none_or(|lock| lock.requester == id.requester)
    }

    /// The greatest of some nodes and us.
    pub(super) fn boss<'a>(&'a self, nodes: impl Iterator<Item = &'a String>) -> String {
        let own = std::iter::once(&self.me.name);
        nodes.chain(own).max().cloned().unwrap_or_default()
    }

    /// Takes a lock on the nodes of each stage, one stage after the other. The owner hears of the end by `taken`.
    pub(super) fn take(
        &mut self,
        owner: Owner,
        id: LockId,
        holder: Raw,
        stages: impl IntoIterator<Item = Vec<String>>,
    ) {
        let take = Take {
            owner,
            id,
            holder,
            stages: stages.into_iter().collect(),
            waiting: BTreeSet::new(),
            asked: Vec::new(),
        };
        // Others have let somebody in whom we lost: until he says so himself we would lock without him.
        let waits = !matches!(owner, Owner::User(_))
            && (self.estranged.iter()).any(|node| self.is_unconfirmed(node));
        let fine = !waits && self.calls.len() < MAX_CALLS && self.can_lock_here(&take.id);
        let number = self.fresh();
        self.takes.insert(number, take);
        if fine {
            self.next_stage(number);
        } else {
            self.refuse(number);
        }
    }

    fn next_stage(&mut self, number: u64) {
        loop {
            let Some(take) = self.takes.get_mut(&number) else {
                return;
            };
            let Some(stage) = take.stages.pop_front() else {
                let take = self.takes.remove(&number);
                if let Some(take) = take {
                    self.taken(take.owner, true);
                }
                return;
            };
            let (id, holder) = (take.id.clone(), take.holder.clone());
            let owner_waits = !matches!(take.owner, Owner::User(_));
            for node in stage {
                if node == self.me.name {
                    if !self.set_lock(&id, &holder) {
                        return self.refuse(number);
                    }
                } else if owner_waits && self.is_unconfirmed(&node) {
                    // It belongs to the cluster by the word of others, and will be here and say so, or be forgotten,
                    // in a moment. Until then nobody is let in, and no name, past it.
                    return self.refuse(number);
                } else if self.peers.contains_key(&node) {
                    let request = terms::lock_request("set_lock", &id);
                    self.ask(&node, holder.clone(), request, Then::Take(number));
                    if let Some(take) = self.takes.get_mut(&number) {
                        take.waiting.insert(node.clone());
                    }
                } else {
                    continue;
                }
                if let Some(take) = self.takes.get_mut(&number) {
                    take.asked.push(node);
                }
            }
            if self
                .takes
                .get(&number)
                .is_none_or(|take| !take.waiting.is_empty())
            {
                return;
            }
        }
    }

    pub(super) fn take_answered(&mut self, number: u64, peer: &str, refused: bool) {
        let Some(take) = self.takes.get_mut(&number) else {
            return;
        };
        take.waiting.remove(peer);
        if refused {
            self.refuse(number);
        } else if take.waiting.is_empty() {
            self.next_stage(number);
        }
    }

    fn refuse(&mut self, number: u64) {
        if let Some(owner) = self.undo(number) {
            self.taken(owner, false);
        }
    }

    /// Stops taking the lock of `owner`, who is not told.
    pub(super) fn stop_taking(&mut self, owner: Owner) {
        let found = self.takes.iter().find(|(_, take)| take.owner == owner);
        if let Some(number) = found.map(|(number, _)| *number) {
            self.undo(number);
        }
    }

    /// Everybody who was asked lets go, whatever they will have answered: that request is behind ours on its way.
    fn undo(&mut self, number: u64) -> Option<Owner> {
        let take = self.takes.remove(&number)?;
        (self.calls).retain(|_, call| !matches!(call.then, Then::Take(of) if of == number));
        self.release(&take.id, &take.holder, &take.asked);
        Some(take.owner)
    }

    /// Lets go of a lock on these nodes, the boss last.
    pub(super) fn release(&mut self, id: &LockId, holder: &Raw, nodes: &[String]) {
        let nodes: BTreeSet<&String> = nodes.iter().collect();
        for node in nodes {
            if *node == self.me.name {
                self.del_lock(id, holder, false);
            } else if self.peers.contains_key(node) {
                self.effect(Effect::Ask {
                    peer: node.clone(),
                    from: holder.clone(),
                    request: terms::lock_request("del_lock", id),
                    number: None,
                });
            }
        }
    }

    fn taken(&mut self, owner: Owner, taken: bool) {
        match owner {
            Owner::Locker => self.locker_took(taken),
            Owner::Registrar => self.registrar_took(taken),
            Owner::User(number) => self.user_took(number, taken),
        }
    }
}
