//! A network of machines in memory: order per pair is kept, everything else is left to chance. Time is ours.

use super::super::{
    Effect, Global, Input, Me,
    state::{Answer, Local},
    terms::{Entry, LockId},
};
use crate::{
    dist::call::{atom, integer, tuple},
    term::{self, Raw, write::put_pid},
};
use bytes::BytesMut;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// What crosses a connection.
#[derive(Debug, Clone)]
enum Wire {
    Message(Raw),
    Answer(u64, Option<Raw>),
    Monitor(u64, Raw),
    Demonitor(u64),
    Gone(u64),
    Kill(Raw),
    Resolve(u64, [Raw; 4]),
    Down,
}

pub(super) struct Machine {
    pub(super) global: Global,
    alive: BTreeSet<Vec<u8>>,
    /// Who watches which of our processes: machine, number.
    watched: BTreeMap<(usize, u64), Raw>,
    pub(super) answers: BTreeMap<u64, Answer>,
    /// It takes and does nothing any more, and its connections stay.
    pub(super) stopped: bool,
    creation: u32,
}

pub(super) struct Net {
    pub(super) now: Instant,
    pub(super) machines: Vec<Machine>,
    queues: BTreeMap<(usize, usize), VecDeque<Wire>>,
    /// Ends of connections: `(a, b)` says that `a` has `b`.
    up: BTreeSet<(usize, usize)>,
    cut: BTreeSet<(usize, usize)>,
    random: u64,
    number: u64,
    /// The longest that anybody held the lock on `global` without a break.
    pub(super) longest_lock: Duration,
    locked_since: BTreeMap<usize, Instant>,
    pub(super) effects: Vec<(usize, Effect)>,
}

pub(super) fn name_of(machine: usize) -> String {
    format!("n{machine}@h")
}

fn index_of(name: &str) -> Option<usize> {
    name.strip_prefix('n')?.strip_suffix("@h")?.parse().ok()
}

pub(super) fn pid(machine: usize, id: u32, creation: u32) -> Raw {
    let mut out = BytesMut::new();
    put_pid(&mut out, &name_of(machine), id, 0, creation);
    Raw::own(out)
}

pub(super) fn method(function: &str) -> Raw {
    Raw::encode(&term::export("global", function, 3))
}

fn key(pid: &Raw) -> Vec<u8> {
    pid.to_bytes().to_vec()
}

fn machine(now: Instant, index: usize, creation: u32, seed: u64) -> Machine {
    let me = Me {
        name: name_of(index),
        locker: pid(index, 1, creation),
        registrar: pid(index, 2, creation),
        seed: seed
            .wrapping_mul(31)
            .wrapping_add((index as u64) << 32 | u64::from(creation)),
    };
    Machine {
        global: Global::new(now, me),
        alive: [1, 2].map(|id| key(&pid(index, id, creation))).into(),
        watched: BTreeMap::new(),
        answers: BTreeMap::new(),
        stopped: false,
        creation,
    }
}

impl Net {
    pub(super) fn new(count: usize, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            now,
            machines: (0..count)
                .map(|index| machine(now, index, 4, seed))
                .collect(),
            queues: BTreeMap::new(),
            up: BTreeSet::new(),
            cut: BTreeSet::new(),
            random: seed | 1,
            number: 0,
            longest_lock: Duration::ZERO,
            locked_since: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    pub(super) fn chance(&mut self, of: usize) -> usize {
        self.random = self
            .random
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.random >> 33) as usize % of.max(1)
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.machines.len();
        (0..count)
            .flat_map(|a| (a + 1..count).map(move |b| (a, b)))
            .collect()
    }

    pub(super) fn connect(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        let ends = self.up.contains(&(a, b)) || self.up.contains(&(b, a));
        if a == b || ends || self.cut.contains(&pair) {
            return;
        }
        if self.machines[a].stopped || self.machines[b].stopped {
            return;
        }
        self.up.extend([(a, b), (b, a)]);
        self.queues.remove(&(a, b));
        self.queues.remove(&(b, a));
        self.input(a, Input::PeerUp { peer: name_of(b) });
        self.input(b, Input::PeerUp { peer: name_of(a) });
    }

    pub(super) fn connect_all(&mut self) {
        for (a, b) in self.pairs() {
            self.connect(a, b);
        }
    }

    /// Ends a connection: what is on its way is lost, and each end hears of it when its turn comes.
    pub(super) fn disconnect(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            if self.up.contains(&(to, from)) {
                self.queues.insert((from, to), VecDeque::from([Wire::Down]));
            }
        }
    }

    pub(super) fn split(&mut self, a: usize, b: usize) {
        self.cut.insert((a.min(b), a.max(b)));
        self.disconnect(a, b);
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    /// A machine ends and comes again in another life.
    pub(super) fn restart(&mut self, index: usize) {
        let creation = self.machines[index].creation + 1;
        for other in 0..self.machines.len() {
            self.disconnect(index, other);
            self.up.remove(&(index, other));
            self.queues.remove(&(other, index));
        }
        let seed = self.random;
        self.machines[index] = machine(self.now, index, creation, seed);
        self.locked_since.remove(&index);
    }

    pub(super) fn start_process(&mut self, at: usize, id: u32) -> Raw {
        let pid = pid(at, id, self.machines[at].creation);
        self.machines[at].alive.insert(key(&pid));
        pid
    }

    pub(super) fn kill(&mut self, pid: &Raw) {
        let Some(at) = pid.view().node().and_then(|node| index_of(&node)) else {
            return;
        };
        if !self.machines[at].alive.remove(&key(pid)) {
            return;
        }
        let watched = &mut self.machines[at].watched;
        let who: Vec<(usize, u64)> = watched
            .iter()
            .filter(|(_, of)| *of == pid)
            .map(|(who, _)| *who)
            .collect();
        for (watcher, number) in who {
            self.machines[at].watched.remove(&(watcher, number));
            self.send(at, watcher, Wire::Gone(number));
        }
    }

    pub(super) fn ask(&mut self, at: usize, local: Local) -> u64 {
        self.number += 1;
        let number = self.number;
        self.input(at, Input::Local { number, local });
        number
    }

    pub(super) fn register(&mut self, at: usize, name: &str, id: u32, how: &str) -> u64 {
        let pid = self.start_process(at, id);
        let entry = Entry {
            name: atom(name),
            pid,
            method: method(how),
        };
        self.ask(
            at,
            Local::Register {
                entry,
                again: false,
            },
        )
    }

    pub(super) fn set_lock(&mut self, at: usize, holder: Raw, retries: Option<u32>) -> u64 {
        let id = LockId {
            resource: atom("res"),
            requester: holder.clone(),
        };
        self.ask(
            at,
            Local::SetLock {
                id,
                holder,
                nodes: None,
                retries,
            },
        )
    }

    fn send(&mut self, from: usize, to: usize, wire: Wire) {
        if from == to || self.up.contains(&(from, to)) {
            let queue = self.queues.entry((from, to)).or_default();
            // Behind the end of a connection nothing is sent.
            if !matches!(queue.back(), Some(Wire::Down)) {
                queue.push_back(wire);
            }
        }
    }

    pub(super) fn input(&mut self, at: usize, input: Input) {
        if self.machines[at].stopped {
            return;
        }
        let mut effects = Vec::new();
        self.machines[at]
            .global
            .handle(self.now, input, &mut effects);
        self.perform(at, effects);
    }

    fn perform(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            self.effects.push((at, effect.clone()));
            let index = |peer: &String| index_of(peer).unwrap_or(at);
            match effect {
                Effect::Cast { peer, message } => {
                    let cast = tuple(&[&atom("$gen_cast"), &message]);
                    self.send(at, index(&peer), Wire::Message(cast));
                }
                Effect::Tell { peer, message } => {
                    self.send(at, index(&peer), Wire::Message(message))
                }
                Effect::Ask {
                    peer,
                    from,
                    request,
                    number,
                } => {
                    let tag = integer(number.map_or(-1, |number| number as i64));
                    let call = tuple(&[&atom("$gen_call"), &tuple(&[&from, &tag]), &request]);
                    self.send(at, index(&peer), Wire::Message(call));
                }
                Effect::Reply { peer, from, value } => {
                    if let Ok(number) = u64::try_from(from.tag.view().as_i64().unwrap_or(-1)) {
                        self.send(at, index(&peer), Wire::Answer(number, Some(value)));
                    }
                }
                Effect::Rpc { peer, number, args } => {
                    self.send(at, index(&peer), Wire::Resolve(number, args));
                }
                Effect::Watch { number, pid } => {
                    let node = pid.view().node().and_then(|node| index_of(&node));
                    self.send(at, node.unwrap_or(at), Wire::Monitor(number, pid));
                }
                Effect::Unwatch { number, pid } => {
                    let node = pid.view().node().and_then(|node| index_of(&node));
                    self.send(at, node.unwrap_or(at), Wire::Demonitor(number));
                }
                Effect::Kill { pid } => {
                    let node = pid.view().node().and_then(|node| index_of(&node));
                    self.send(at, node.unwrap_or(at), Wire::Kill(pid));
                }
                Effect::Answer { number, answer } => {
                    if number >= 1 << 40 {
                        // A clash that another machine asked us to settle.
                        let (asker, number) =
                            ((number >> 40) as usize - 1, number & ((1 << 40) - 1));
                        let value = match answer {
                            Answer::Resolved(winner) => {
                                Some(winner.unwrap_or_else(|| atom("none")))
                            }
                            _ => None,
                        };
                        self.send(at, asker, Wire::Answer(number, value));
                    } else {
                        self.machines[at].answers.insert(number, answer);
                    }
                }
                Effect::Connect { peer } => {
                    if let Some(other) = index_of(&peer).filter(|n| *n < self.machines.len()) {
                        self.connect(at, other);
                    }
                }
                Effect::Disconnect { peer, .. } => self.disconnect(at, index(&peer)),
                Effect::Send { .. } | Effect::Log { .. } => {}
            }
        }
        self.measure(at);
    }

    fn measure(&mut self, at: usize) {
        if self.machines[at].global.is_global_locked() {
            let since = *self.locked_since.entry(at).or_insert(self.now);
            self.longest_lock = self.longest_lock.max(self.now - since);
        } else {
            self.locked_since.remove(&at);
        }
    }

    /// Delivers one message of some pair; false when none is on its way.
    pub(super) fn step(&mut self) -> bool {
        let ready: Vec<(usize, usize)> = (self.queues.iter())
            .filter(|((_, to), queue)| !queue.is_empty() && !self.machines[*to].stopped)
            .map(|(pair, _)| *pair)
            .collect();
        if ready.is_empty() {
            return false;
        }
        let (from, to) = ready[self.chance(ready.len())];
        if let Some(wire) = self
            .queues
            .get_mut(&(from, to))
            .and_then(VecDeque::pop_front)
        {
            self.deliver(from, to, wire);
        }
        true
    }

    fn deliver(&mut self, from: usize, to: usize, wire: Wire) {
        let peer = name_of(from);
        match wire {
            Wire::Message(message) => self.input(to, Input::Message { peer, message }),
            Wire::Answer(number, value) => self.input(to, Input::Answered { number, value }),
            Wire::Monitor(number, pid) => {
                if self.machines[to].alive.contains(&key(&pid)) {
                    self.machines[to].watched.insert((from, number), pid);
                } else {
                    self.send(to, from, Wire::Gone(number));
                }
            }
            Wire::Demonitor(number) => {
                self.machines[to].watched.remove(&(from, number));
            }
            Wire::Gone(number) => self.input(to, Input::Gone { number }),
            Wire::Kill(pid) => self.kill(&pid),
            Wire::Resolve(number, [method, name, first, second]) => {
                let number = (from as u64 + 1) << 40 | number;
                self.input(
                    to,
                    Input::Resolve {
                        number,
                        method,
                        name,
                        pids: [first, second],
                    },
                );
            }
            Wire::Down => {
                self.up.remove(&(to, from));
                self.machines[to]
                    .watched
                    .retain(|(watcher, _), _| *watcher != from);
                self.input(to, Input::PeerDown { peer });
            }
        }
    }

    /// Lets time pass until `for_` is over, with all that happens in it.
    pub(super) fn run(&mut self, for_: Duration) {
        let until = self.now + for_;
        loop {
            let mut left = 200_000;
            while self.step() {
                left -= 1;
                assert!(left > 0, "the machines never stop talking");
            }
            let next = (self.machines.iter().enumerate())
                .filter(|(_, machine)| !machine.stopped)
                .filter_map(|(index, machine)| Some((machine.global.wake_at()?, index)))
                .min();
            let Some((at, index)) = next.filter(|(at, _)| *at <= until) else {
                break;
            };
            self.now = self.now.max(at);
            let mut effects = Vec::new();
            self.machines[index].global.wake(self.now, &mut effects);
            let again = self.machines[index].global.wake_at();
            assert!(
                again.is_none_or(|at| at > self.now),
                "it wakes at once again"
            );
            self.perform(index, effects);
        }
        self.now = until;
        for index in 0..self.machines.len() {
            self.measure(index);
        }
    }

    /// Time passes, and whoever may be connected is, as the grid does it.
    pub(super) fn rest(&mut self) {
        for _ in 0..40 {
            self.connect_all();
            self.run(Duration::from_secs(5));
        }
    }

    /// Names and their processes, as one machine knows them.
    pub(super) fn table(&self, at: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        (self.machines[at].global.names())
            .map(|entry| (key(&entry.name), key(&entry.pid)))
            .collect()
    }

    pub(super) fn known(&self, at: usize) -> Vec<String> {
        self.machines[at].global.known.keys().cloned().collect()
    }

    /// All know each other, have the same names, and nothing is locked.
    pub(super) fn assert_one_cluster(&self) {
        let count = self.machines.len();
        for at in 0..count {
            let others: Vec<String> = (0..count).filter(|n| *n != at).map(name_of).collect();
            assert_eq!(self.known(at), others, "whom {} knows", name_of(at));
            assert_eq!(
                self.table(at),
                self.table(0),
                "the names of {}",
                name_of(at)
            );
            let global = &self.machines[at].global;
            assert!(
                global.is_lock_free(),
                "{} is locked: {:?}",
                name_of(at),
                global.locks
            );
            for name in self.table(at).values() {
                let alive = self
                    .machines
                    .iter()
                    .any(|machine| machine.alive.contains(name));
                assert!(alive, "a name of a process that is gone");
            }
        }
    }
}
