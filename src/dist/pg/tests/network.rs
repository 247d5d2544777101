//! Several scopes over a network that can be cut: whatever is joined, left, lost and mended, in the end all agree.
//!
//! Messages cross as bytes and keep their order between two nodes, and nothing else. One node begins as OTP 29 does, with a
//! version; one is watched for what would crash the scope process of OTP 25.

use crate::dist::NodeName;
use crate::dist::pg::*;
use crate::term::{Limits as TermLimits, Raw, write::put_pid};
use bytes::BytesMut;
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};

const NODES: usize = 4;
/// Says its version, as OTP 29.
const NEW: usize = 0;
/// Is as strict as OTP 25.
const OLD: usize = 1;

#[derive(Debug, Clone)]
enum Op {
    Join(usize, u32, usize),
    JoinMany(usize, usize),
    Leave(usize, u32, usize),
    End(usize, u32),
    Restart(usize),
    Cut(usize, usize, usize),
    Mend(usize, usize),
    Deliver(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let node = || 0..NODES;
    let pid = || 1..4u32;
    let op = prop_oneof![
        4 => (node(), pid(), 0..3usize).prop_map(|(n, p, g)| Op::Join(n, p, g)),
        1 => (node(), 0..3usize).prop_map(|(n, g)| Op::JoinMany(n, g)),
        3 => (node(), pid(), 0..3usize).prop_map(|(n, p, g)| Op::Leave(n, p, g)),
        1 => (node(), pid()).prop_map(|(n, p)| Op::End(n, p)),
        1 => node().prop_map(Op::Restart),
        2 => (node(), node(), 0..9usize).prop_map(|(a, b, lost)| Op::Cut(a, b, lost)),
        3 => (node(), node()).prop_map(|(a, b)| Op::Mend(a, b)),
        9 => (0..999usize).prop_map(Op::Deliver),
    ];
    proptest::collection::vec(op, 0..120)
}

#[derive(Debug)]
enum Event {
    Up(u64),
    /// Over which connection, to which scope process if not to the name, and what.
    Message(u64, Option<Raw>, bytes::Bytes),
    ScopeDown(Raw),
    Down,
}

fn name(node: usize) -> NodeName {
    format!("n{node}@h").parse().unwrap()
}

fn pid(node: usize, id: u32) -> Raw {
    let mut out = BytesMut::new();
    put_pid(&mut out, name(node).as_str(), id, 0, 7);
    Raw::own(out)
}

fn group(number: usize) -> Raw {
    use crate::term::{atom, int, map, tuple};
    Raw::encode(&match number {
        0 => atom("a"),
        1 => tuple([atom("b"), int(300)]),
        _ => map([(atom("y"), int(1)), (atom("x"), int(2))]),
    })
}

struct Network {
    scopes: Vec<Scope>,
    /// Pids of scopes are counted up from here, since they are restarted.
    lives: Vec<u32>,
    queues: HashMap<(usize, usize), VecDeque<Event>>,
    /// The connection between two, by its number, and the one that each end has heard of.
    live: HashMap<(usize, usize), u64>,
    heard: HashMap<(usize, usize), u64>,
    connections: u64,
    /// What each node's own processes have joined.
    truth: Vec<Vec<(usize, Raw)>>,
    /// What OTP 25 has in its map of remote scopes.
    old: HashMap<Raw, HashMap<Raw, Vec<Raw>>>,
}

impl Network {
    fn new() -> Self {
        let scope = |n| Scope::new(name(n), pid(n, 100), Limits::default());
        Self {
            scopes: (0..NODES).map(scope).collect(),
            lives: vec![100; NODES],
            queues: HashMap::new(),
            live: HashMap::new(),
            heard: HashMap::new(),
            connections: 0,
            truth: vec![Vec::new(); NODES],
            old: HashMap::new(),
        }
    }

    fn run(&mut self, op: Op) {
        let mut effects = Vec::new();
        match op {
            Op::Join(n, id, g) => {
                self.truth[n].push((g, pid(n, id)));
                let (groups, pids) = ([group(g)], [pid(n, id)]);
                self.scopes[n].join(&groups, &pids, &mut effects).unwrap();
                self.perform(n, effects);
            }
            Op::JoinMany(n, g) => {
                let pids = [pid(n, 1), pid(n, 2), pid(n, 1)];
                self.truth[n].extend(pids.iter().map(|pid| (g, pid.clone())));
                self.scopes[n]
                    .join(&[group(g)], &pids, &mut effects)
                    .unwrap();
                self.perform(n, effects);
            }
            Op::Leave(n, id, g) => {
                let entry = (g, pid(n, id));
                let at = self.truth[n].iter().position(|other| *other == entry);
                let (groups, pids) = ([group(g)], [entry.1]);
                let left = self.scopes[n].leave(&groups, &pids, &mut effects);
                assert_eq!(left, Ok(at.is_some()));
                at.map(|at| self.truth[n].swap_remove(at));
                self.perform(n, effects);
            }
            Op::End(n, id) => {
                self.truth[n].retain(|(_, other)| *other != pid(n, id));
                self.scopes[n].handle(Input::LocalEnded(pid(n, id)), &mut effects);
                self.perform(n, effects);
            }
            Op::Restart(n) => self.restart(n),
            Op::Cut(a, b, lost) => self.cut(a, b, lost),
            Op::Mend(a, b) => self.mend(a, b),
            Op::Deliver(which) => {
                let mut waiting: Vec<_> =
                    self.queues.iter().filter(|(_, q)| !q.is_empty()).collect();
                waiting.sort_by_key(|(pair, _)| **pair);
                if !waiting.is_empty() {
                    let (from, to) = *waiting[which % waiting.len()].0;
                    self.deliver(from, to);
                }
            }
        }
    }

    /// The scope process ends and another takes its name; the processes that it knew stay, and join anew.
    fn restart(&mut self, n: usize) {
        let before = pid(n, self.lives[n]);
        self.lives[n] += 1;
        self.truth[n].clear();
        self.scopes[n] = Scope::new(name(n), pid(n, self.lives[n]), Limits::default());
        if n == OLD {
            self.old.clear();
        }
        for peer in (0..NODES).filter(|peer| *peer != n) {
            if self.connected(n, peer) {
                self.queue(n, peer)
                    .push_back(Event::ScopeDown(before.clone()));
                let mut effects = Vec::new();
                self.scopes[n].handle(Input::PeerUp(name(peer)), &mut effects);
                self.perform(n, effects);
            }
        }
    }

    fn cut(&mut self, a: usize, b: usize, lost: usize) {
        if a == b || self.live.remove(&(a.min(b), a.max(b))).is_none() {
            return;
        }
        for (from, to) in [(a, b), (b, a)] {
            let queue = self.queue(from, to);
            for _ in 0..lost {
                // What is lost is the end of what was sent.
                match queue.back() {
                    Some(Event::Message(..)) => queue.pop_back(),
                    _ => break,
                };
            }
            queue.push_back(Event::Down);
        }
    }

    fn mend(&mut self, a: usize, b: usize) {
        let pair = (a.min(b), a.max(b));
        if a != b && !self.live.contains_key(&pair) {
            self.connections += 1;
            self.live.insert(pair, self.connections);
            let number = self.connections;
            self.queue(a, b).push_back(Event::Up(number));
            self.queue(b, a).push_back(Event::Up(number));
        }
    }

    fn queue(&mut self, from: usize, to: usize) -> &mut VecDeque<Event> {
        self.queues.entry((from, to)).or_default()
    }

    /// Whether `at` has heard of the connection that there is to `peer`.
    fn connected(&self, at: usize, peer: usize) -> bool {
        let live = self.live.get(&(at.min(peer), at.max(peer)));
        live.is_some() && live == self.heard.get(&(at, peer))
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let Some(event) = self.queue(from, to).pop_front() else {
            return;
        };
        let mut effects = Vec::new();
        let input = match event {
            Event::Up(number) => {
                self.heard.insert((to, from), number);
                Input::PeerUp(name(from))
            }
            // What was sent to the scope process of an earlier life falls on the floor.
            Event::Message(_, Some(scope), _) if scope != pid(to, self.lives[to]) => return,
            Event::Message(number, _, bytes) => {
                assert_eq!(self.heard.get(&(to, from)), Some(&number));
                let message = Raw::check(bytes, &TermLimits::default()).unwrap();
                if to == OLD {
                    self.survives_25(&message);
                }
                Input::Message {
                    from: name(from),
                    message,
                }
            }
            Event::ScopeDown(pid) => {
                if to == OLD {
                    self.old.remove(&pid);
                }
                Input::ScopeDown(pid)
            }
            Event::Down => {
                self.heard.remove(&(to, from));
                if to == OLD {
                    self.old
                        .retain(|pid, _| pid.view().node().unwrap() != name(from).as_str());
                }
                Input::PeerDown(name(from))
            }
        };
        self.scopes[to].handle(input, &mut effects);
        self.perform(to, effects);
    }

    fn perform(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            let (node, to, message) = match effect {
                // It would not say so to the old one, which a version crashes.
                Effect::SendName { node, .. } if n == NEW && node != name(OLD) => {
                    (node, None, terms::discover(&pid(n, self.lives[n]), 1))
                }
                Effect::SendName { node, message } => (node, None, message),
                Effect::Send { node, to, message } => (node, Some(to), message),
                Effect::Log { .. } => panic!("scopes do not send rubbish: {effect:?}"),
                _ => continue,
            };
            let peer = (0..NODES).find(|peer| name(*peer) == node).unwrap();
            // OTP 25 would crash on a version, so no node may hear of one from us without having said its own.
            let versioned = message.view().tagged::<2>("discover").is_some();
            if versioned && peer == OLD && n == NEW {
                continue;
            }
            if self.connected(n, peer) {
                let number = self.heard[&(n, peer)];
                self.queue(n, peer)
                    .push_back(Event::Message(number, to, message.to_bytes()));
            }
        }
    }

    /// Does what `pg.erl` of OTP 25 does with its map of remote scopes, and fails where that crashes.
    fn survives_25(&mut self, message: &Raw) {
        let copy = |view: crate::term::View<'_>| terms::settled(view);
        let list = |view: crate::term::View<'_>| view.list().unwrap().map(copy).collect::<Vec<_>>();
        let view = message.view();
        if let Some([cast]) = view.tagged::<1>("$gen_cast") {
            let [peer, groups] = cast
                .tagged::<2>("sync")
                .expect("the one cast that it knows");
            let groups = groups.list().unwrap().map(|entry| {
                let [group, pids] = entry.tuple_n::<2>().unwrap();
                (copy(group), list(pids))
            });
            self.old.insert(copy(peer), groups.collect());
        } else if let Some([peer]) = view.tagged::<1>("discover") {
            self.old.entry(copy(peer)).or_default();
        } else if let Some([peer, group, pids]) = view.tagged::<3>("join") {
            if let Some(groups) = self.old.get_mut(&copy(peer)) {
                groups.entry(copy(group)).or_default().extend(list(pids));
            }
        } else if let Some([peer, pids, left]) = view.tagged::<3>("leave") {
            if let Some(groups) = self.old.get_mut(&copy(peer)) {
                for group in list(left) {
                    let members = groups.get_mut(&group).expect("a group that it was told of");
                    for pid in list(pids) {
                        if let Some(at) = members.iter().position(|other| *other == pid) {
                            members.remove(at);
                        }
                    }
                    if members.is_empty() {
                        groups.remove(&group);
                    }
                }
            }
        } else {
            panic!("OTP 25 crashes on {message:?}");
        }
    }

    fn settle(&mut self) {
        while let Some(pair) = self
            .queues
            .iter()
            .find(|(_, q)| !q.is_empty())
            .map(|(pair, _)| *pair)
        {
            self.deliver(pair.0, pair.1);
        }
    }

    fn members_at(&self, n: usize, g: usize) -> Vec<bytes::Bytes> {
        sorted(self.scopes[n].members(&group(g)))
    }

    fn joined(&self, nodes: impl Iterator<Item = usize>, g: usize) -> Vec<bytes::Bytes> {
        let all = nodes.flat_map(|n| self.truth[n].iter());
        sorted(
            all.filter(|(group, _)| *group == g)
                .map(|(_, pid)| pid.clone()),
        )
    }
}

fn sorted(pids: impl IntoIterator<Item = Raw>) -> Vec<bytes::Bytes> {
    let mut pids: Vec<_> = pids.into_iter().map(|pid| pid.to_bytes()).collect();
    pids.sort();
    pids
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn scopes_come_to_rest_with_equal_views(ops in ops()) {
        let mut network = Network::new();
        for op in ops {
            network.run(op);
        }
        for a in 0..NODES {
            for b in 0..a {
                network.mend(a, b);
            }
        }
        network.settle();
        for n in 0..NODES {
            for g in 0..3 {
                prop_assert_eq!(network.members_at(n, g), network.joined(0..NODES, g), "at {}", n);
            }
            prop_assert_eq!(network.scopes[n].peers().count(), NODES - 1);
        }
        // Alone again, each has its own and no more.
        for a in 0..NODES {
            for b in 0..a {
                network.cut(a, b, 0);
            }
        }
        network.settle();
        for n in 0..NODES {
            for g in 0..3 {
                prop_assert_eq!(network.members_at(n, g), network.joined(n..n + 1, g));
            }
            (1..4).for_each(|id| network.run(Op::End(n, id)));
            prop_assert!(network.scopes[n].is_empty(), "something is left at {}", n);
        }
    }
}
