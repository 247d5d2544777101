//! The mesh as a pure machine: what is known of the members, what we announce ourselves, and when.
//!
//! It is fed inputs and the time, and answers with effects; it never waits, reads a clock or touches a socket.
//!
//! **Joining.** With the subscription standing, read what is registered under our own name; when that is another life
//! with an address of its own, have it proved that nobody answers there under our name; then register (one
//! transaction that publishes our key, an event and a `ping`), read the index and scan. After that renew by expiry
//! alone. When Redis has lost our keys, join again.
//!
//! **Finding.** Members are heard of by events (the whole registration inside), by classic keys on the channel, by the
//! index and by the scan. What is only a name is looked up; look-ups wait a moment, so that many become one pipeline,
//! and so that the event that follows a classic key makes its look-up unnecessary.
//!
//! **Standing of a member.**
//!
//! ```text
//!                registered                        connection lost
//!   (unknown) ───────────────► Listed ────────────────────────────────► Lost
//!       ▲                       │  ▲  ◄──────────────────────────────── │ │
//!       │  left, or expired     │  │     connected, or renewed after    │ │
//!       ├───────────────────────┘  │                                    │ │
//!       │               suspended  │  resumed                           │ │
//!       ├──────────────────────  Suspended  ◄───────────────────────────┘ │
//!       └─────────────────────────────────────────────────────────────────┘ expired
//! ```
//!
//! "Renewed after the break" is told by what Redis had when we looked right after the break: a greater index score
//! or a longer life of the classic key, or an event with a later time, or a key on the channel. A renewal that was
//! on its way while the node died would otherwise bring back the dead.
//!
//! A connected member stays listed whatever happens to Redis; any other leaves when its registration has ended and a
//! look-up after that has found nothing, never because Redis did not answer.

mod members;
mod own;
#[cfg(test)]
mod tests;

use super::dial::Dialling;
use super::event::EventKind;
use super::meta::Meta;
use super::registration::{Fields, Registration, Scope};
use super::view::{Change, ChangeKind, Member, Standing, View};
use crate::dist::{DownReason, NodeName, PeerInfo};
use bytes::Bytes;
use members::{Grave, Known, Want};
use own::{Own, Phase};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a registration lives without being renewed.
pub(crate) const EXPIRY: Duration = Duration::from_secs(60);
/// How often the index is read, and how often someone scans.
const LOOK_ROUND: Duration = Duration::from_secs(30);
/// How long look-ups wait for each other.
const COALESCE: Duration = Duration::from_millis(30);
/// The most nodes in one look-up, and the most look-ups at a time.
const BATCH: usize = 256;
const BATCHES: usize = 4;
/// After this a step that Redis refused is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// The most different troubles that are remembered as told.
const MAX_TOLD: usize = 1024;

/// What happens to the machine.
#[derive(Debug)]
pub(crate) enum Input {
    /// Redis answers and the subscription stands. Nothing that was published before is heard.
    RedisUp,
    /// Redis is away. Answers to what is under way will not come.
    RedisDown,
    /// Messages of the subscription were lost.
    Missed,
    /// Answer to [`Effect::ReadOwn`]; without a value it failed.
    OwnRead(u64, Option<OwnKeys>),
    /// Answer to [`Effect::ProveOwn`]: whether a node of our name answers there.
    OwnProved(u64, bool),
    /// Answer to [`Effect::Write`]: the time of Redis, in unix ms.
    Written(u64, Option<i64>),
    /// Answer to [`Effect::Renew`]: whether our keys were still there, and the time.
    Renewed(u64, Option<(bool, i64)>),
    /// Answer to [`Effect::LookUp`]: the time, and one entry per node.
    LookedUp(u64, Option<(i64, Vec<Found>)>),
    /// Answer to [`Effect::ReadIndex`]: names and scores.
    IndexRead(u64, Option<Vec<(Vec<u8>, i64)>>),
    /// Answer to [`Effect::Scan`]: the keys, none when someone else has the lock.
    Scanned(u64, Option<Vec<Vec<u8>>>),
    /// A message on the classic channel.
    Key(Bytes),
    /// A message on the events channel.
    Event(Bytes),
    /// A peer is connected.
    Up(PeerInfo),
    /// A peer is not connected any more.
    Down(PeerInfo, DownReason),
    /// All peers that are connected now: ups and downs were lost.
    Peers(Vec<PeerInfo>),
    /// Answer to [`Effect::Connect`]; the error says what went wrong, with the node's name.
    Connected(NodeName, Result<(), String>),
    /// The program replaces our meta.
    UpdateMeta(Meta),
    /// Withdraw.
    Suspend,
    /// Come back.
    Resume,
    /// Delete our keys and say so.
    Leave,
}

/// What is registered under our own name.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnKeys {
    pub(crate) classic: Fields,
    pub(crate) info: Fields,
    /// The time of Redis, in unix ms.
    pub(crate) now: i64,
}

/// What a look-up found of one node.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) node: NodeName,
    /// The classic hash, empty when there is none; `None` when the key is no hash.
    pub(crate) classic: Option<Fields>,
    /// The info hash likewise.
    pub(crate) info: Option<Fields>,
    /// What the classic key has left to live, in ms; `None` when it has no end, or is not there.
    pub(crate) left_ms: Option<i64>,
    /// Its score in the index.
    pub(crate) score: Option<i64>,
}

/// What the machine wants done. Answers come back as inputs with the same token.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Read both keys under our own name, and the time.
    ReadOwn(u64),
    /// Find out whether a node of our name answers at this host and port.
    ProveOwn(u64, String, Option<u16>),
    /// Write our own keys in one transaction.
    Write(u64, Box<Write>),
    /// Extend the expiry of our own keys.
    Renew(u64, Renewal),
    /// Read everything about these nodes in one pipeline.
    LookUp(u64, Vec<NodeName>),
    /// Read the index from this score on, at most so many entries.
    ReadIndex(u64, i64, usize),
    /// Find all classic keys, so many at the most; with the lock only when nobody else does it.
    Scan { token: u64, lock: bool, most: usize },
    /// Publish a message on the events channel.
    Announce(Bytes),
    /// Connect to a node at this host and port.
    Connect(NodeName, String, Option<u16>),
    /// The view has changed.
    Publish,
    /// Watchers want to know this.
    Change(Change),
    /// One line for the log.
    Tell(Level, String),
    /// Another node of our name answers: this one must not run.
    Refuse(String),
    /// Our keys are deleted, or cannot be.
    Left,
}

/// How much a line of the log matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The course of things.
    Info,
    /// Someone should do something.
    Warn,
}

/// One transaction on our own keys. What is `None` is deleted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Write {
    pub(crate) classic: Option<Fields>,
    pub(crate) info: Option<Fields>,
    /// Our score in the index.
    pub(crate) score: Option<i64>,
    /// Publish our key on the classic channel.
    pub(crate) publish_key: bool,
    /// Publish `ping` there.
    pub(crate) ping: bool,
    /// For the events channel.
    pub(crate) event: Bytes,
}

/// Which of our keys are renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) classic: bool,
    pub(crate) info: bool,
    /// The new score in the index.
    pub(crate) score: Option<i64>,
}

/// What the machine is started with.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) scope: Scope,
    /// What we announce; its creation is this life's.
    pub(crate) own: Registration,
    pub(crate) dialling: Dialling,
    /// The most members that a view holds.
    pub(crate) max_members: usize,
    /// Any number; two nodes should not share one.
    pub(crate) seed: u64,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct State {
    scope: Scope,
    dialling: Dialling,
    max_members: usize,
    random: Random,
    last_token: u64,
    /// Tokens of what is under way; answers with any other are stale.
    under_way: HashSet<u64>,
    redis: bool,
    clock: Option<Clock>,
    own: Own,
    members: BTreeMap<NodeName, Known>,
    /// All connected peers, members or not.
    peers: HashMap<NodeName, PeerInfo>,
    /// Who has left, so that a late message does not bring them back.
    graves: HashMap<NodeName, Grave>,
    /// Who is to be looked up, and when that is sent off.
    want: HashMap<NodeName, Want>,
    want_at: Option<Instant>,
    /// Who is being looked up, with the token of the look-up whose answer counts.
    looking: HashMap<NodeName, (u64, Want)>,
    index_at: Option<Instant>,
    scan_at: Option<Instant>,
    /// Whether the scan under way is ours to tell the others about.
    scan_locked: bool,
    timers: BinaryHeap<Reverse<(Instant, NodeName, Timer)>>,
    /// How many dials are under way, and who waits for one to end.
    dials: usize,
    dial_queue: VecDeque<NodeName>,
    told: HashMap<String, String>,
    /// Names of members that were told to Erlang callers without ever being connected.
    named: HashSet<NodeName>,
    /// Texts out of Redis that became atoms.
    atoms: HashSet<Box<str>>,
    changed: bool,
}

/// Timers of a member. A timer that finds nothing due is stale and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// Its registration should have ended.
    Ends,
    /// It is to be dialled.
    Dial,
}

/// A moment at which the time of Redis was known.
#[derive(Debug, Clone, Copy)]
struct Clock {
    at: Instant,
    unix_ms: i64,
}

impl State {
    /// A node that has not heard of Redis yet.
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            scope: settings.scope,
            dialling: settings.dialling,
            max_members: settings.max_members,
            random: Random(settings.seed | 1),
            last_token: 0,
            under_way: HashSet::new(),
            redis: false,
            clock: None,
            own: Own::new(settings.own),
            members: BTreeMap::new(),
            peers: HashMap::new(),
            graves: HashMap::new(),
            want: HashMap::new(),
            want_at: None,
            looking: HashMap::new(),
            index_at: None,
            scan_at: None,
            scan_locked: false,
            timers: BinaryHeap::new(),
            dials: 0,
            dial_queue: VecDeque::new(),
            told: HashMap::new(),
            named: HashSet::new(),
            atoms: HashSet::new(),
            changed: true,
        }
    }

    /// Takes one input.
    pub(crate) fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::RedisUp => self.redis_up(now, out),
            Input::RedisDown => self.redis_down(),
            Input::Missed => self.refresh(now),
            Input::OwnRead(token, keys) if self.take(token) => self.own_read(now, keys, out),
            Input::OwnProved(token, alive) if self.take(token) => self.own_proved(now, alive, out),
            Input::Written(token, at) if self.take(token) => self.written(now, at, out),
            Input::Renewed(token, answer) if self.take(token) => self.renewed(now, answer, out),
            Input::LookedUp(token, answer) if self.take(token) => {
                self.looked_up(now, token, answer, out);
            }
            Input::IndexRead(token, entries) if self.take(token) => {
                self.index_read(now, entries.unwrap_or_default(), out);
            }
            Input::Scanned(token, keys) if self.take(token) => {
                self.scanned(now, keys.unwrap_or_default(), out);
            }
            // An answer that was given up, for example when Redis went away in between.
            Input::OwnRead(..)
            | Input::OwnProved(..)
            | Input::Written(..)
            | Input::Renewed(..)
            | Input::LookedUp(..)
            | Input::IndexRead(..)
            | Input::Scanned(..) => {}
            Input::Key(message) => self.key_heard(now, &message, out),
            Input::Event(message) => self.event_heard(now, &message, out),
            Input::Up(peer) => self.up(now, peer, out),
            Input::Down(peer, reason) => self.down(now, &peer, reason, out),
            Input::Peers(peers) => self.peers(now, peers, out),
            Input::Connected(node, result) => self.connected(now, &node, result, out),
            Input::UpdateMeta(meta) => self.update_meta(now, meta, out),
            Input::Suspend => self.suspend(now, out),
            Input::Resume => self.resume(now, out),
            Input::Leave => self.leave(now, out),
        }
        self.settle(now, out);
    }

    /// When [`State::wake`] wants to be called.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let mut at = self.timers.peek().map(|Reverse((at, ..))| *at);
        let mut sooner = |other: Option<Instant>| {
            at = match (at, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        if self.redis {
            sooner(self.own.wake_at());
        }
        if self.redis && self.own.phase == Phase::Joined {
            sooner(self.index_at);
            sooner(self.scan_at);
            // With all look-ups under way the next answer sends off the rest.
            if self.looking_room() {
                sooner(self.want_at);
            }
        }
        at
    }

    /// Does what is due.
    pub(crate) fn wake(&mut self, now: Instant, out: &mut Vec<Effect>) {
        while self
            .timers
            .peek()
            .is_some_and(|Reverse((at, ..))| *at <= now)
        {
            if let Some(Reverse((at, node, timer))) = self.timers.pop() {
                self.timer(now, at, node, timer, out);
            }
        }
        self.settle(now, out);
    }

    /// Sends off whatever is due, and says whether the view has changed.
    fn settle(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.redis {
            self.own_due(now, out);
            if self.own.phase == Phase::Joined {
                self.rounds_due(now, out);
                self.look_ups_due(now, out);
            }
        }
        if std::mem::take(&mut self.changed) {
            out.push(Effect::Publish);
        }
    }

    fn rounds_due(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.index_at.is_some_and(|at| at <= now) {
            self.index_at = Some(now + self.random.about(LOOK_ROUND));
            let token = self.token();
            let since = self.redis_now(now).unwrap_or(0);
            out.push(Effect::ReadIndex(token, since, self.max_members + 1));
        }
        if self.scan_at.is_some_and(|at| at <= now) {
            self.scan_at = Some(now + self.random.about(LOOK_ROUND));
            // Only one's own scan tells in which version a member's key stands, so then everybody looks.
            let lock = !self.scope.takes_any_version();
            self.scan(lock, out);
        }
    }

    fn scan(&mut self, lock: bool, out: &mut Vec<Effect>) {
        self.scan_locked = lock;
        let token = self.token();
        // Twice the members: keys of those that are refused must not crowd out the others.
        let most = 2 * self.max_members;
        out.push(Effect::Scan { token, lock, most });
    }

    fn redis_up(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.redis = true;
        self.changed = true;
        match self.own.phase {
            Phase::New => self.read_own(out),
            Phase::Joined => {
                self.own.renew_at = Some(now);
                self.scan_at = Some(now + self.random.up_to(RETRY / 4));
                self.refresh(now);
            }
            Phase::Proving | Phase::Refused | Phase::Leaving => {}
        }
    }

    fn redis_down(&mut self) {
        self.redis = false;
        self.changed = true;
        self.under_way.clear();
        self.own.lost_answers();
        for (node, (_, want)) in std::mem::take(&mut self.looking) {
            self.want.entry(node).or_insert(want);
        }
    }

    /// Our own registration and the view that readers get.
    pub(crate) fn view(&self, now: Instant) -> View {
        let own = Arc::new(Member {
            registration: self.own.registration.clone(),
            standing: super::view::standing_of(&self.own.registration.status),
            connected: None,
            confirmed: now,
            note: None,
            speakable: true,
            atoms: true,
        });
        let members = self.members.values().map(|known| {
            let peer = self.peers.get(&known.registration.node);
            known.member(peer.map(|peer| peer.since))
        });
        let as_of = self.own.confirmed_at;
        View::new(own, members.collect(), self.redis, as_of)
    }

    /// The time of Redis, in unix ms; `None` before it was first asked.
    fn redis_now(&self, now: Instant) -> Option<i64> {
        let clock = self.clock?;
        let passed = now.saturating_duration_since(clock.at).as_millis();
        Some(
            clock
                .unix_ms
                .saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)),
        )
    }

    fn set_clock(&mut self, now: Instant, unix_ms: i64) {
        self.clock = Some(Clock { at: now, unix_ms });
    }

    /// When a moment in the time of Redis will be here.
    fn instant_of(&self, now: Instant, unix_ms: i64) -> Instant {
        let left = unix_ms.saturating_sub(self.redis_now(now).unwrap_or(unix_ms));
        // Nothing in Redis may set a timer further than a registration can last.
        let left = u64::try_from(left).unwrap_or(0).min(10 * 60_000);
        now + Duration::from_millis(left)
    }

    fn token(&mut self) -> u64 {
        self.last_token += 1;
        self.under_way.insert(self.last_token);
        self.last_token
    }

    fn take(&mut self, token: u64) -> bool {
        self.under_way.remove(&token)
    }

    fn change(&mut self, node: &NodeName, kind: ChangeKind, out: &mut Vec<Effect>) {
        self.changed = true;
        let node = node.clone();
        out.push(Effect::Change(Change { node, kind }));
    }

    /// Warns once per member and cause. `whom` is a node's name, or whatever else the trouble is with.
    fn tell_once(&mut self, whom: &str, what: String, out: &mut Vec<Effect>) {
        if self.told.get(whom) == Some(&what) {
            return;
        }
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(whom) {
            let full = "(told)";
            if self.told.insert(full.into(), String::new()).is_none() {
                out.push(Effect::Tell(
                    Level::Warn,
                    "too many different troubles with what is in Redis: further ones are not told"
                        .into(),
                ));
            }
            return;
        }
        out.push(Effect::Tell(Level::Warn, what.clone()));
        self.told.insert(whom.to_owned(), what);
    }
}

/// Random enough to spread things in time. Xorshift, so that a seed gives the same run again.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        most.mul_f64((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// Three quarters to five quarters of it.
    fn about(&mut self, what: Duration) -> Duration {
        what.mul_f64(0.75) + self.up_to(what.mul_f64(0.5))
    }
}

/// Whether a member is in the views now.
fn listed(known: &Known) -> bool {
    known.standing.standing() == Standing::Listed
}

/// What a write of ours is about, the most telling first.
fn more_telling(a: EventKind, b: EventKind) -> EventKind {
    let rank = |kind| match kind {
        EventKind::Left => 0,
        EventKind::Suspended | EventKind::Resumed => 1,
        EventKind::Joined => 2,
        EventKind::Meta => 3,
    };
    if rank(a) < rank(b) { a } else { b }
}
