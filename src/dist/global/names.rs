//! The table of names, and how it is settled who keeps one that both sides of a meeting have. Pure.
//!
//! A name lives as long as its process, which is watched; and as long as the node of that process is connected. OTP's
//! three methods come as `fun global:random_exit_name/3` and so on, from an Erlang node often as a fun of the inside of
//! its module, which only an Erlang node can run.

use super::{
    state::{Effect, Global, Held, Then},
    terms::{Entry, Op, pid_node},
};
use crate::{
    dist::call::{atom, tuple},
    term::Raw,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, VecDeque},
    mem,
};

/// Most names. More are not kept, which is logged.
const MAX_NAMES: usize = 100_000;

#[derive(Debug)]
struct Named {
    entry: Entry,
    /// The number under which the process is watched; none while its node is not connected yet.
    watch: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    table: BTreeMap<Bytes, Named>,
}

impl Names {
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.table.values().map(|named| &named.entry)
    }

    pub(super) fn get(&self, name: &Raw) -> Option<&Entry> {
        self.table.get(&name.to_bytes()).map(|named| &named.entry)
    }
}

/// The names of the other side on their way into our table.
#[derive(Debug, Default)]
pub(super) struct Resolving {
    todo: VecDeque<Entry>,
    /// What we do, and what the other side does.
    ops: Vec<Op>,
    his_ops: Vec<Op>,
    /// A clash that the node of our process settles: the number of the call, his entry and ours.
    clash: Option<(u64, Entry, Entry)>,
}

impl Global {
    /// Puts a name into the table. `fine` is false when the lock under which it comes is gone: the name is then free.
    pub(super) fn insert_name(&mut self, entry: Entry, fine: bool) {
        self.delete_name(&entry.name);
        let node = pid_node(&entry.pid);
        if !fine || self.names.table.len() >= MAX_NAMES || !self.expect_up(&node) {
            self.log(
                &node,
                "a global name was not kept: its lock is gone, or too many are",
            );
            return;
        }
        let here = node == self.me.name || self.peers.contains_key(&node);
        let key = entry.name.to_bytes();
        let watch = here.then(|| self.watch_name(&key, &entry.pid));
        self.names.table.insert(key, Named { entry, watch });
    }

    fn watch_name(&mut self, key: &Bytes, pid: &Raw) -> u64 {
        let number = self.fresh();
        self.held.insert(number, Held::Name(key.clone()));
        self.effect(Effect::Watch {
            number,
            pid: pid.clone(),
        });
        number
    }

    pub(super) fn delete_name(&mut self, name: &Raw) {
        if let Some(named) = self.names.table.remove(&name.to_bytes()) {
            self.unwatch(named);
        }
    }

    fn unwatch(&mut self, named: Named) {
        if let Some(number) = named.watch
            && self.held.remove(&number).is_some()
        {
            self.effect(Effect::Unwatch {
                number,
                pid: named.entry.pid,
            });
        }
    }

    pub(super) fn name_gone(&mut self, name: &Bytes, number: u64) {
        if self
            .names
            .table
            .get(name)
            .is_some_and(|named| named.watch == Some(number))
        {
            self.names.table.remove(name);
        }
    }

    /// The node of names that came before its connection did is here: their processes can be watched.
    pub(super) fn watch_names_of(&mut self, node: &str) {
        let unwatched: Vec<(Bytes, Raw)> = (self.names.table.iter())
            .filter(|(_, named)| named.watch.is_none() && pid_node(&named.entry.pid) == node)
            .map(|(key, named)| (key.clone(), named.entry.pid.clone()))
            .collect();
        for (key, pid) in unwatched {
            let number = self.watch_name(&key, &pid);
            if let Some(named) = self.names.table.get_mut(&key) {
                named.watch = Some(number);
            }
        }
    }

    /// The names and locks of `node` are free. `connected` when its connection stays: then they are unwatched.
    pub(super) fn drop_resources(&mut self, node: &str, connected: bool) {
        let before = self.effects.len();
        self.drop_locks_of(node);
        let of_node = |named: &Named| pid_node(&named.entry.pid) == node;
        let table = mem::take(&mut self.names.table);
        let (gone, stay): (BTreeMap<_, _>, _) =
            table.into_iter().partition(|(_, named)| of_node(named));
        self.names.table = stay;
        for named in gone.into_values() {
            self.unwatch(named);
        }
        if !connected {
            // Watching ended with the connection.
            self.effects.truncate(before);
        }
    }

    pub(super) fn apply(&mut self, ops: Vec<Op>, fine: bool) {
        let (inserts, deletes): (Vec<_>, Vec<_>) =
            ops.into_iter().partition(|op| matches!(op, Op::Insert(_)));
        for op in inserts.into_iter().chain(deletes) {
            match op {
                Op::Insert(entry) => self.insert_name(entry, fine),
                Op::Delete(name) => self.delete_name(&name),
            }
        }
    }

    /// Compares the names of `peer` with ours; `None` while a clash is settled elsewhere, else both lists of changes.
    pub(super) fn resolve(&mut self, peer: &str, names: Vec<Entry>) -> Option<(Vec<Op>, Vec<Op>)> {
        let resolving = Resolving {
            todo: names.into(),
            ..Resolving::default()
        };
        self.go_on_resolving(peer, resolving)
    }

    fn go_on_resolving(&mut self, peer: &str, mut r: Resolving) -> Option<(Vec<Op>, Vec<Op>)> {
        while let Some(his) = r.todo.pop_front() {
            let Some(ours) = self.names.get(&his.name).cloned() else {
                r.ops.push(Op::Insert(his));
                continue;
            };
            // The lesser of both nodes settles, so that each method runs once and all on one side.
            if ours.pid == his.pid || self.me.name.as_str() > peer {
                continue;
            }
            let node = pid_node(&ours.pid);
            if node != self.me.name && self.peers.contains_key(&node) {
                let number = self.fresh();
                self.remember(number, &node, Then::Clash(peer.into()));
                let [method, name] = [ours.method.clone(), ours.name.clone()];
                let args = [method, name, his.pid.clone(), ours.pid.clone()];
                self.effect(Effect::Rpc {
                    peer: node,
                    number,
                    args,
                });
                r.clash = Some((number, his, ours));
                self.keep_resolving(peer, r);
                return None;
            }
            match self.resolve_here(&ours.method, &ours.name, &his.pid, &ours.pid) {
                Some(winner) => r.settle(his, ours, winner.as_ref()),
                None => {
                    self.log(
                        peer,
                        "a clash of names was settled for the peer: our method cannot run here",
                    );
                    r.ops.push(Op::Insert(his));
                }
            }
        }
        Some((r.ops, r.his_ops))
    }

    fn keep_resolving(&mut self, peer: &str, resolving: Resolving) {
        let state = self.peers.get_mut(peer);
        if let Some(dialogue) = state.and_then(|state| state.dialogue.as_mut()) {
            dialogue.resolving = Some(resolving);
        }
    }

    /// The node of our process answered, with one of the pids, with `none`, or not at all.
    pub(super) fn clash_settled(&mut self, peer: &str, number: u64, value: Option<&Raw>) {
        let state = self.peers.get_mut(peer);
        let Some(dialogue) = state.and_then(|state| state.dialogue.as_mut()) else {
            return;
        };
        let waits = |r: &mut Resolving| r.clash.as_ref().is_some_and(|clash| clash.0 == number);
        let Some(mut resolving) = dialogue.resolving.take_if(waits) else {
            return;
        };
        if let Some((_, his, ours)) = resolving.clash.take() {
            match value {
                Some(pid) => {
                    let winner = [&his.pid, &ours.pid]
                        .into_iter()
                        .find(|one| *one == pid)
                        .cloned();
                    resolving.settle(his, ours, winner.as_ref());
                }
                // As OTP does with `badrpc`.
                None => resolving.ops.push(Op::Insert(his)),
            }
        }
        if let Some((ops, his_ops)) = self.go_on_resolving(peer, resolving) {
            self.exchanged(peer, ops, his_ops);
        }
    }

    /// Runs one of OTP's methods: who keeps the name, if anybody. `None` when the method is none of them.
    pub(super) fn resolve_here(
        &mut self,
        method: &Raw,
        name: &Raw,
        first: &Raw,
        second: &Raw,
    ) -> Option<Option<Raw>> {
        let (module, function, arity) = method.view().as_export()?;
        if !module.is_atom("global") || arity != 3 {
            return None;
        }
        let conflict = atom("global_name_conflict");
        let lesser_first = pid_node(first) < pid_node(second);
        let (min, max) = if lesser_first {
            (first, second)
        } else {
            (second, first)
        };
        match function.as_atom()? {
            "random_exit_name" => {
                self.effect(Effect::Kill { pid: max.clone() });
                Some(Some(min.clone()))
            }
            "random_notify_name" => {
                let message = tuple(&[&conflict, name]);
                self.effect(Effect::Send {
                    pid: max.clone(),
                    message,
                });
                Some(Some(min.clone()))
            }
            "notify_all_name" => {
                for (pid, other) in [(first, second), (second, first)] {
                    let message = tuple(&[&conflict, name, other]);
                    self.effect(Effect::Send {
                        pid: pid.clone(),
                        message,
                    });
                }
                Some(None)
            }
            _ => None,
        }
    }
}

impl Resolving {
    fn settle(&mut self, his: Entry, ours: Entry, winner: Option<&Raw>) {
        if winner == Some(&his.pid) {
            self.ops.push(Op::Insert(his));
        } else if winner == Some(&ours.pid) {
            self.his_ops.push(Op::Insert(ours));
        } else {
            self.ops.push(Op::Delete(his.name.clone()));
            self.his_ops.push(Op::Delete(his.name));
        }
    }
}
