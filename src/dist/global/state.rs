//! The front of the machine: what comes in, what goes out, who is up and known, and the clock. Pure.
//!
//! ```text
//!   peer:  up ─► (dialogue, or new_nodes of others) ─► known ─► down
//!                                                        ▲
//!   heard of in a list of others ─► joining ─(up)────────┘   not up within a few seconds: forgotten
//! ```
//!
//! Every table is bounded, and what does not fit is refused and logged; a peer can fill its own share and no more than
//! makes others go without.

use super::{
    dialogue::Dialogue,
    known::Joining,
    locker::Locker,
    locks::{Locks, Take},
    names::Names,
    registrar::{Registrar, User},
    terms::{self, Entry, LockId, Message, Request},
};
use crate::{
    dist::call::{From, atom, integer, list, nil},
    term::Raw,
};
use bytes::Bytes;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Most questions to peers that wait for an answer. Beyond it no lock is taken, so nothing more is asked.
pub(super) const MAX_CALLS: usize = 100_000;

/// A question to a peer is given up after this long.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Who we are.
#[derive(Debug, Clone)]
pub(crate) struct Me {
    pub(crate) name: String,
    /// The process in whose name parts of the cluster are locked. Always alive.
    pub(crate) locker: Raw,
    /// The process in whose name names are registered. Always alive.
    pub(crate) registrar: Raw,
    /// Anything that differs between nodes: pauses are drawn from it.
    pub(crate) seed: u64,
}

/// What happened.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A connection to a visible peer is up.
    PeerUp { peer: String },
    /// It is down; nothing more comes from it.
    PeerDown { peer: String },
    /// A message to our `global_name_server`.
    Message { peer: String, message: Raw },
    /// The answer to [`Effect::Ask`] or [`Effect::Rpc`]; `None` when the other end is gone.
    Answered { number: u64, value: Option<Raw> },
    /// A watched process is gone.
    Gone { number: u64 },
    /// A program here asks for something; the answer bears the number.
    Local { number: u64, local: Local },
    /// A peer asks us to settle a clash by `global:resolve_it(Method, Name, Pid1, Pid2)`.
    Resolve {
        number: u64,
        method: Raw,
        name: Raw,
        pids: [Raw; 2],
    },
}

/// What programs here ask for.
#[derive(Debug, Clone)]
pub(crate) enum Local {
    /// `global:register_name/3`, or `re_register_name/3`.
    Register {
        entry: Entry,
        again: bool,
    },
    Unregister(Raw),
    Whereis(Raw),
    Names,
    /// `global:set_lock/3`: all peers and we when no nodes are given, tried again without end when no retries are.
    SetLock {
        id: LockId,
        holder: Raw,
        nodes: Option<Vec<String>>,
        retries: Option<u32>,
    },
    DelLock {
        id: LockId,
        holder: Raw,
        nodes: Option<Vec<String>>,
    },
    /// Whoever asked under the number of this input waits no more.
    GiveUp,
}

/// What to do about it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// A gen cast to the peer's `global_name_server`.
    Cast {
        peer: String,
        message: Raw,
    },
    /// A plain message to it.
    Tell {
        peer: String,
        message: Raw,
    },
    /// A gen call to it from one of our pids. With a number the answer is wanted.
    Ask {
        peer: String,
        from: Raw,
        request: Raw,
        number: Option<u64>,
    },
    /// `global:resolve_it(Method, Name, Pid1, Pid2)` on the peer.
    Rpc {
        peer: String,
        number: u64,
        args: [Raw; 4],
    },
    /// The answer to a gen call.
    Reply {
        peer: String,
        from: From,
        value: Raw,
    },
    Watch {
        number: u64,
        pid: Raw,
    },
    Unwatch {
        number: u64,
        pid: Raw,
    },
    Kill {
        pid: Raw,
    },
    Send {
        pid: Raw,
        message: Raw,
    },
    Answer {
        number: u64,
        answer: Answer,
    },
    Connect {
        peer: String,
    },
    Disconnect {
        peer: String,
        reason: &'static str,
    },
    Log {
        peer: String,
        text: &'static str,
    },
}

/// The answer to a local request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    /// It is done: `yes`, `ok` or `true` in Erlang.
    Done,
    /// It is not, and nothing has changed: `no` or `false`.
    No,
    Pid(Option<Raw>),
    Names(Vec<Raw>),
    /// Which pid gets the name; `None` for neither.
    Resolved(Option<Raw>),
    /// It could not be tried, or not to the end.
    Failed(&'static str),
}

/// A peer whose connection is up.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) dialogue: Option<Dialogue>,
    /// It told us that it knows us, or a dialogue came to its end.
    pub(super) synced: bool,
    /// Dialogues that came to nothing, one after the other.
    pub(super) failures: u32,
    /// When it is disconnected because it did not close as it was asked to.
    pub(super) removing: Option<Instant>,
    /// It is known to us by the word of others, which may be of its life before. When it has not said by then that it
    /// knows us too, it is disconnected: only a new connection makes both begin anew.
    pub(super) doubted: Option<Instant>,
}

/// What an answer is for.
#[derive(Debug)]
pub(super) enum Then {
    /// A lock that is being taken.
    Take(u64),
    /// A change to the names that the registrar tells all.
    Told,
    /// A clash of names in the dialogue with this peer.
    Clash(String),
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) peer: String,
    pub(super) then: Then,
    until: Instant,
}

/// What a watched process holds.
#[derive(Debug)]
pub(super) enum Held {
    Name(Bytes),
    Lock(Bytes),
}

/// The whole of `global` on this node.
#[derive(Debug)]
pub(crate) struct Global {
    pub(super) me: Me,
    pub(super) now: Instant,
    pub(super) effects: Vec<Effect>,
    random: u64,
    number: u64,
    pub(super) peers: BTreeMap<String, Peer>,
    /// The cluster as we know it, without ourselves.
    pub(super) known: BTreeMap<String, i64>,
    pub(super) joining: BTreeMap<String, Joining>,
    /// Those we knew and lost, while others may know both: names have been dropped on both sides, so the word of others
    /// is not enough to know them again. It takes a dialogue, or their own word.
    pub(super) estranged: BTreeSet<String>,
    pub(super) lost: BTreeMap<(String, String), (i64, i64, Instant)>,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) held: BTreeMap<u64, Held>,
    pub(super) names: Names,
    pub(super) locks: Locks,
    pub(super) takes: BTreeMap<u64, Take>,
    pub(super) locker: Locker,
    pub(super) registrar: Registrar,
    pub(super) users: BTreeMap<u64, User>,
}

impl Global {
    pub(crate) fn new(now: Instant, me: Me) -> Self {
        Self {
            random: me.seed,
            me,
            now,
            effects: Vec::new(),
            number: 0,
            peers: BTreeMap::new(),
            known: BTreeMap::new(),
            joining: BTreeMap::new(),
            estranged: BTreeSet::new(),
            lost: BTreeMap::new(),
            calls: BTreeMap::new(),
            held: BTreeMap::new(),
            names: Names::default(),
            locks: Locks::default(),
            takes: BTreeMap::new(),
            locker: Locker::default(),
            registrar: Registrar::default(),
            users: BTreeMap::new(),
        }
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input, effects: &mut Vec<Effect>) {
        self.now = now;
        match input {
            Input::PeerUp { peer } => self.peer_up(peer),
            Input::PeerDown { peer } => self.peer_down(&peer),
            Input::Message { peer, message } => self.message(&peer, message),
            Input::Answered { number, value } => self.answered(number, value.as_ref()),
            Input::Gone { number } => self.gone(number),
            Input::Local { number, local } => self.local(number, local),
            Input::Resolve {
                number,
                method,
                name,
                pids,
            } => {
                let [first, second] = &pids;
                let answer = match self.resolve_here(&method, &name, first, second) {
                    Some(winner) => Answer::Resolved(winner),
                    None => Answer::Failed("the method is a fun, which cannot run here"),
                };
                self.effect(Effect::Answer { number, answer });
            }
        }
        self.settle(effects);
    }

    /// When [`Global::wake`] has something to do.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let joining = self.joining.values().map(Joining::wake_at);
        let calls = self.calls.values().map(|call| call.until);
        let removing = self.peers.values().filter_map(|peer| peer.removing);
        let doubted = self.peers.values().filter_map(|peer| peer.doubted);
        let dialogues = self
            .peers
            .values()
            .filter_map(|peer| Some(peer.dialogue.as_ref()?.until));
        let users = self.users.values().filter_map(|user| user.again_at);
        let lost = self.lost.values().map(|(_, _, until)| *until);
        let own = [self.locker.wake_at(), self.registrar.wake_at()];
        (joining
            .chain(calls)
            .chain(removing)
            .chain(doubted)
            .chain(dialogues)
            .chain(users)
            .chain(lost))
        .chain(own.into_iter().flatten())
        .min()
    }

    pub(crate) fn wake(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.now = now;
        let late = |until: &Instant| *until <= now;
        let calls: Vec<u64> = (self.calls.iter())
            .filter(|(_, call)| late(&call.until))
            .map(|(number, _)| *number)
            .collect();
        for number in calls {
            self.unanswered(number);
        }
        self.wake_joining();
        for (peer, state) in &mut self.peers {
            if state.removing.take_if(|until| late(until)).is_some() {
                self.effects.push(Effect::Disconnect {
                    peer: peer.clone(),
                    reason: "it did not close the connection when it was asked to",
                });
            }
        }
        self.wake_doubted();
        self.lost.retain(|_, (_, _, until)| !late(until));
        self.wake_dialogues();
        self.wake_locker();
        self.wake_registrar();
        self.wake_users();
        self.settle(effects);
    }

    /// The registered names with their processes.
    pub(crate) fn names(&self) -> impl Iterator<Item = &Entry> {
        self.names.entries()
    }

    fn settle(&mut self, effects: &mut Vec<Effect>) {
        self.run_locker();
        effects.append(&mut self.effects);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn log(&mut self, peer: &str, text: &'static str) {
        self.effect(Effect::Log {
            peer: peer.into(),
            text,
        });
    }

    pub(super) fn cast(&mut self, peer: &str, message: Raw) {
        if self.peers.contains_key(peer) {
            self.effect(Effect::Cast {
                peer: peer.into(),
                message,
            });
        }
    }

    pub(super) fn tell(&mut self, peer: &str, message: Raw) {
        if self.peers.contains_key(peer) {
            self.effect(Effect::Tell {
                peer: peer.into(),
                message,
            });
        }
    }

    /// Asks a peer something and remembers what for.
    pub(super) fn ask(&mut self, peer: &str, from: Raw, request: Raw, then: Then) {
        let number = self.fresh();
        self.remember(number, peer, then);
        self.effect(Effect::Ask {
            peer: peer.into(),
            from,
            request,
            number: Some(number),
        });
    }

    pub(super) fn remember(&mut self, number: u64, peer: &str, then: Then) {
        let until = self.now + ANSWER_WITHIN;
        self.calls.insert(
            number,
            Call {
                peer: peer.into(),
                then,
                until,
            },
        );
    }

    pub(super) fn fresh(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A pause of up to `most`, never none.
    pub(super) fn pause(&mut self, most: Duration) -> Duration {
        // SplitMix64: pauses need to differ between nodes, not to be secret.
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(1 + (z ^ (z >> 31)) % millis)
    }

    /// OTP's pause before another try: up to a quarter of a second, doubled each time up to eight.
    pub(super) fn pause_after(&mut self, times: u32) -> Duration {
        self.pause(Duration::from_millis(250 << times.min(5)))
    }

    fn peer_up(&mut self, peer: String) {
        if peer == self.me.name {
            return;
        }
        if self.peers.contains_key(&peer) {
            // The wiring lost a "down"; what we knew was of the connection before.
            self.peer_down(&peer);
        }
        self.peers.insert(peer.clone(), Peer::default());
        let joined = self.joining.remove(&peer).is_some();
        if self.known.contains_key(&peer) {
            self.doubt(&peer);
            self.cast(&peer, terms::in_sync(&self.me.name));
        } else {
            self.greet(&peer);
        }
        if joined {
            self.watch_names_of(&peer);
        }
    }

    fn peer_down(&mut self, peer: &str) {
        if self.peers.remove(peer).is_none() {
            return;
        }
        self.forget(peer);
        self.drop_resources(peer, false);
        let calls: Vec<u64> = (self.calls.iter())
            .filter(|(_, call)| call.peer == peer)
            .map(|(number, _)| *number)
            .collect();
        for number in calls {
            self.answered(number, None);
        }
        self.locker_lost(peer);
    }

    fn message(&mut self, peer: &str, message: Raw) {
        if !self.peers.contains_key(peer) {
            return;
        }
        let Some(message) = terms::read(message, peer) else {
            self.log(peer, "a message to global_name_server was not understood");
            return;
        };
        match message {
            Message::InSync => self.in_sync(peer),
            Message::NewNodes { ops, nodes, lock } => self.new_nodes(peer, ops, nodes, lock),
            Message::RemoveConnection => {
                self.forget(peer);
                let reason = "it asked for it, to keep parts of the cluster from overlapping";
                self.effect(Effect::Disconnect {
                    peer: peer.into(),
                    reason,
                });
            }
            Message::LostConnection {
                from,
                creation,
                number,
                lost,
            } => {
                self.lost_connection(from, creation, number, lost);
            }
            Message::Call { from, request } => self.request(peer, from, request),
            other => self.dialogue(peer, other),
        }
    }

    fn request(&mut self, peer: &str, from: From, request: Request) {
        // A process can only call for itself; a lock of another node's process would never be freed with the peer.
        if terms::pid_node(&from.pid) != peer {
            self.log(
                peer,
                "a call to global_name_server in the name of another node's process",
            );
            return;
        }
        let value = match request {
            Request::SetLock(id) => {
                let set = self.set_lock(&id, &from.pid);
                atom(if set { "true" } else { "false" })
            }
            Request::DelLock(id) => {
                self.del_lock(&id, &from.pid, false);
                atom("true")
            }
            Request::Register(entry) => {
                let fine = self.holds_global_lock(&from.pid);
                self.insert_name(entry, fine);
                atom("yes")
            }
            Request::Unregister(name) => {
                self.delete_name(&name);
                atom("ok")
            }
            Request::Known => terms::nodes_list(self.known.iter(), 0),
            Request::Synced => {
                let synced = self.peers.iter().filter(|(_, state)| state.synced);
                list(&synced.map(|(peer, _)| atom(peer)).collect::<Vec<_>>())
            }
            Request::NamesExt => nil(),
            Request::Version => integer(terms::VERSION),
        };
        self.effect(Effect::Reply {
            peer: peer.into(),
            from,
            value,
        });
    }

    pub(super) fn answered(&mut self, number: u64, value: Option<&Raw>) {
        let Some(call) = self.calls.remove(&number) else {
            return;
        };
        match call.then {
            Then::Take(take) => {
                let refused = value.is_some_and(|value| !value.view().is_atom("true"));
                self.take_answered(take, &call.peer, refused);
            }
            Then::Told => self.told(number),
            Then::Clash(peer) => self.clash_settled(&peer, number, value),
        }
    }

    fn unanswered(&mut self, number: u64) {
        let Some(call) = self.calls.get(&number) else {
            return;
        };
        let (peer, take) = (call.peer.clone(), matches!(call.then, Then::Take(_)));
        self.log(&peer, "its global_name_server does not answer");
        // A lock that nobody confirmed is not held; everything else goes on as if the peer were gone.
        let refusal = take.then(|| atom("false"));
        self.answered(number, refusal.as_ref());
    }

    fn gone(&mut self, number: u64) {
        match self.held.remove(&number) {
            Some(Held::Name(name)) => self.name_gone(&name, number),
            Some(Held::Lock(resource)) => self.holder_gone(&resource, number),
            None => {}
        }
    }
}
