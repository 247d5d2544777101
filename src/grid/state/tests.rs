//! The machine over an in-memory Redis and network in virtual time: messages are late, doubled and lost, nodes are
//! killed and started again, and at the end all living agree on who lives.

use super::super::event::{Event, EventKind};
use super::super::meta::{Meta, MetaValue};
use super::super::view::ChangeKind;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const NODES: usize = 4;
const POLLER: &str = "poller@10.0.0.99";

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn node(n: usize) -> NodeName {
    name(&format!("n{n}@10.0.0.{}", n + 1))
}

fn registration(n: usize, creation: u32) -> Registration {
    let mut own = Registration::new(node(n), format!("10.0.0.{}", n + 1));
    own.creation = Some(creation);
    own.port = Some(4000 + creation as u16);
    own
}

fn state(n: usize, creation: u32) -> State {
    State::new(Settings {
        scope: Scope::new("t", "1"),
        own: registration(n, creation),
        dialling: Dialling::default(),
        max_members: 20_000,
        seed: 77 + u64::from(creation),
    })
}

fn meta(value: i64) -> Meta {
    Meta::new([("value", value)]).unwrap()
}

/// What Redis holds: hashes with their end, and the index.
#[derive(Default)]
struct Redis {
    classic: HashMap<NodeName, (Fields, i64)>,
    info: HashMap<NodeName, (Fields, i64)>,
    index: HashMap<NodeName, i64>,
    scan_lock: i64,
}

impl Redis {
    fn expire(&mut self, now: i64) {
        self.classic.retain(|_, (_, end)| *end > now);
        self.info.retain(|_, (_, end)| *end > now);
    }
}

enum Action {
    Deliver(Input),
    Perform(Effect),
}

struct Life {
    state: State,
    creation: u32,
}

/// All nodes, their Redis, and what is on its way between them.
struct World {
    start: Instant,
    now: Instant,
    random: Random,
    redis: Redis,
    /// Whether Redis answers.
    redis_up: bool,
    lossy: bool,
    lives: Vec<Option<Life>>,
    creations: u32,
    connections: HashMap<(usize, usize), u64>,
    on_the_way: BTreeMap<(Instant, u64), (usize, u32, Action)>,
    serial: u64,
    poller_until: Option<Instant>,
    poller_next: Instant,
    writes: usize,
    commands: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            random: Random(seed | 1),
            redis: Redis::default(),
            redis_up: true,
            lossy: true,
            lives: (0..NODES).map(|_| None).collect(),
            creations: 0,
            connections: HashMap::new(),
            on_the_way: BTreeMap::new(),
            serial: 0,
            poller_until: None,
            poller_next: start,
            writes: 0,
            commands: 0,
        }
    }

    fn unix(&self) -> i64 {
        1_700_000_000_000 + (self.now - self.start).as_millis() as i64
    }

    fn send(&mut self, n: usize, delay: Duration, action: Action) {
        let Some(life) = &self.lives[n] else { return };
        self.serial += 1;
        let at = self.now + delay;
        self.on_the_way
            .insert((at, self.serial), (n, life.creation, action));
    }

    fn delay(&mut self, most_ms: u64) -> Duration {
        self.random.up_to(Duration::from_millis(most_ms))
    }

    fn start(&mut self, n: usize) {
        if self.lives[n].is_some() {
            return;
        }
        self.creations += 1;
        let creation = self.creations;
        self.lives[n] = Some(Life {
            state: state(n, creation),
            creation,
        });
        if self.redis_up {
            self.send(n, Duration::ZERO, Action::Deliver(Input::RedisUp));
        }
    }

    /// The process is gone; the others notice when their sockets tell.
    fn kill(&mut self, n: usize) {
        if self.lives[n].is_none() {
            return;
        }
        for m in 0..NODES {
            self.cut(n, m);
        }
        self.lives[n] = None;
    }

    fn cut(&mut self, n: usize, m: usize) {
        let Some(connection) = self.connections.remove(&(n.min(m), n.max(m))) else {
            return;
        };
        for (a, b) in [(n, m), (m, n)] {
            let Some(peer) = self.peer(b, connection) else {
                continue;
            };
            let delay = self.delay(200);
            self.send(
                a,
                delay,
                Action::Deliver(Input::Down(peer, DownReason::Closed)),
            );
        }
    }

    fn peer(&self, n: usize, connection: u64) -> Option<PeerInfo> {
        Some(PeerInfo {
            name: node(n),
            creation: self.lives[n].as_ref()?.creation,
            hidden: false,
            connection,
            since: std::time::SystemTime::UNIX_EPOCH,
        })
    }

    fn set_redis(&mut self, up: bool) {
        if self.redis_up == up {
            return;
        }
        self.redis_up = up;
        for n in 0..NODES {
            let delay = self.delay(100);
            let input = if up { Input::RedisUp } else { Input::RedisDown };
            self.send(n, delay, Action::Deliver(input));
        }
    }

    fn input(&mut self, n: usize, input: Input) {
        let mut out = Vec::new();
        let Some(life) = &mut self.lives[n] else {
            return;
        };
        let down = match &input {
            Input::Down(peer, _) => Some(peer.clone()),
            _ => None,
        };
        let was = down
            .as_ref()
            .and_then(|p| life.state.peers.get(&p.name).map(|p| p.connection));
        let replaced = down
            .as_ref()
            .and_then(|p| life.state.members.get(&p.name))
            .is_some_and(|known| known.registration.creation != down.as_ref().map(|p| p.creation));
        life.state.handle(self.now, input, &mut out);
        if let Some(peer) = down.filter(|p| was == Some(p.connection) && !replaced) {
            let view = life.state.view(self.now);
            assert!(
                !view.nodes().any(|m| *m.name() == peer.name),
                "{} is down and listed",
                peer.name
            );
        }
        self.perform(n, out);
    }

    fn perform(&mut self, n: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Publish => {
                    let Some(life) = &self.lives[n] else { return };
                    let view = life.state.view(self.now);
                    let own = view.all().filter(|m| *m.name() == node(n)).count();
                    assert_eq!(own, 1, "a node lists itself once");
                }
                Effect::Refuse(why) => panic!("{why}"),
                Effect::Change(_) | Effect::Tell(..) | Effect::Left => {}
                // Own writes keep their order, everything else takes the time it takes.
                effect @ Effect::Write(..) => {
                    self.send(n, Duration::from_millis(1), Action::Perform(effect))
                }
                effect => {
                    let delay = self.delay(20);
                    self.send(n, delay, Action::Perform(effect));
                }
            }
        }
    }

    fn answer(&mut self, n: usize, input: Input) {
        let delay = self.delay(20);
        self.send(n, delay, Action::Deliver(input));
    }

    fn publish(&mut self, make: impl Fn() -> Input) {
        for n in 0..NODES {
            let luck = if self.lossy {
                self.random.next() % 10
            } else {
                9
            };
            if luck == 0 {
                // Redis loses messages only with the connection, and that is noticed.
                let delay = self.delay(1000);
                self.send(n, delay, Action::Deliver(Input::Missed));
                continue;
            }
            for _ in 0..if luck == 1 { 2 } else { 1 } {
                let delay = self.delay(if self.lossy { 500 } else { 20 });
                self.send(n, delay, Action::Deliver(make()));
            }
        }
    }

    /// What Redis and the network do with an effect.
    fn effect(&mut self, n: usize, effect: Effect) {
        let now = self.unix();
        self.redis.expire(now);
        self.commands += 1;
        if let Effect::Connect(peer, _, port) = effect {
            let m = (0..NODES).find(|m| node(*m) == peer);
            let there = m.filter(|m| {
                self.lives[*m]
                    .as_ref()
                    .is_some_and(|l| port == Some(4000 + l.creation as u16))
            });
            let result = match there {
                Some(m) => {
                    let pair = (n.min(m), n.max(m));
                    if let std::collections::hash_map::Entry::Vacant(slot) =
                        self.connections.entry(pair)
                    {
                        self.serial += 1;
                        let connection = *slot.insert(self.serial);
                        for (a, b) in [(n, m), (m, n)] {
                            if let Some(peer) = self.peer(b, connection) {
                                self.send(
                                    a,
                                    Duration::from_millis(1),
                                    Action::Deliver(Input::Up(peer)),
                                );
                            }
                        }
                    }
                    Ok(())
                }
                None => Err(format!("no connection to {peer}")),
            };
            return self.answer(n, Input::Connected(peer, result));
        }
        let up = self.redis_up;
        let scope = Scope::new("t", "1");
        match effect {
            Effect::ReadOwn(token) => {
                let keys = up.then(|| OwnKeys {
                    classic: self
                        .redis
                        .classic
                        .get(&node(n))
                        .map(|k| k.0.clone())
                        .unwrap_or_default(),
                    info: self
                        .redis
                        .info
                        .get(&node(n))
                        .map(|k| k.0.clone())
                        .unwrap_or_default(),
                    now,
                });
                self.answer(n, Input::OwnRead(token, keys));
            }
            Effect::ProveOwn(token, ..) => self.answer(n, Input::OwnProved(token, false)),
            Effect::Write(token, _) if !up => self.answer(n, Input::Written(token, None)),
            Effect::Write(token, write) => {
                self.writes += 1;
                let put = |keys: &mut HashMap<_, _>, fields: Option<Fields>| match fields {
                    Some(fields) => drop(keys.insert(node(n), (fields, now + 60_000))),
                    None => drop(keys.remove(&node(n))),
                };
                put(&mut self.redis.classic, write.classic);
                put(&mut self.redis.info, write.info);
                match write.score {
                    Some(score) => drop(self.redis.index.insert(node(n), score)),
                    None => drop(self.redis.index.remove(&node(n))),
                }
                let key = Bytes::from(scope.key(&node(n)));
                if write.publish_key {
                    self.publish(|| Input::Key(key.clone()));
                }
                if write.ping {
                    self.publish(|| Input::Key(Bytes::from_static(b"ping")));
                }
                self.publish(|| Input::Event(write.event.clone()));
                self.answer(n, Input::Written(token, Some(now)));
            }
            Effect::Renew(token, renewal) => {
                let mut there = true;
                let mut extend = |keys: &mut HashMap<NodeName, (Fields, i64)>, wanted: bool| {
                    if let (true, key) = (wanted, keys.get_mut(&node(n))) {
                        there &= key.is_some();
                        key.into_iter().for_each(|key| key.1 = now + 60_000);
                    }
                };
                extend(&mut self.redis.classic, up && renewal.classic);
                extend(&mut self.redis.info, up && renewal.info);
                if let Some(score) = renewal.score.filter(|_| up) {
                    self.redis.index.insert(node(n), score);
                }
                self.answer(n, Input::Renewed(token, up.then_some((there, now))));
            }
            Effect::LookUp(token, nodes) => {
                let found = |node: NodeName| Found {
                    classic: Some(
                        self.redis
                            .classic
                            .get(&node)
                            .map(|k| k.0.clone())
                            .unwrap_or_default(),
                    ),
                    info: Some(
                        self.redis
                            .info
                            .get(&node)
                            .map(|k| k.0.clone())
                            .unwrap_or_default(),
                    ),
                    left_ms: self.redis.classic.get(&node).map(|k| k.1 - now),
                    score: self.redis.index.get(&node).copied(),
                    node,
                };
                let found = up.then(|| (now, nodes.into_iter().map(found).collect()));
                self.answer(n, Input::LookedUp(token, found));
            }
            Effect::ReadIndex(token, from, most) => {
                let index = self
                    .redis
                    .index
                    .iter()
                    .filter(|(_, score)| **score >= from)
                    .take(most);
                let entries = index
                    .map(|(name, score)| (name.as_str().into(), *score))
                    .collect();
                self.answer(n, Input::IndexRead(token, up.then_some(entries)));
            }
            Effect::Scan { token, lock, .. } => {
                let free = up && (!lock || self.redis.scan_lock <= now);
                if free && lock {
                    self.redis.scan_lock = now + 30_000;
                }
                let keys = self
                    .redis
                    .classic
                    .keys()
                    .map(|node| scope.key(node).into_bytes());
                let keys = free.then(|| keys.collect());
                self.answer(n, Input::Scanned(token, keys));
            }
            Effect::Announce(message) if up => self.publish(|| Input::Event(message.clone())),
            _ => {}
        }
    }

    /// The poller writes its hash every two seconds and never publishes.
    fn poll(&mut self) {
        self.poller_next = self.now + Duration::from_secs(2);
        if self.poller_until.is_some_and(|until| self.now < until) && self.redis_up {
            let fields = vec![(b"ip".to_vec(), b"10.0.0.99".to_vec())];
            let end = self.unix() + 120_000;
            self.redis.classic.insert(name(POLLER), (fields, end));
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let wake = (0..NODES)
                .filter_map(|n| Some((self.lives[n].as_ref()?.state.wake_at()?, n)))
                .min();
            let arrives = self.on_the_way.first_key_value().map(|(key, _)| *key);
            let next = [
                wake.map(|w| w.0),
                arrives.map(|a| a.0),
                Some(self.poller_next),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            if next > end {
                break;
            }
            self.now = self.now.max(next);
            if self.poller_next <= self.now {
                self.poll();
            } else if arrives.is_some_and(|a| a.0 <= self.now) {
                let Some((_, (n, creation, action))) = self.on_the_way.pop_first() else {
                    break;
                };
                let lives = self.lives[n]
                    .as_ref()
                    .is_some_and(|life| life.creation == creation);
                match action {
                    Action::Deliver(input) if lives => self.input(n, input),
                    Action::Perform(effect) if lives => self.effect(n, effect),
                    _ => {}
                }
            } else if let Some((_, n)) = wake {
                let mut out = Vec::new();
                if let Some(life) = &mut self.lives[n] {
                    life.state.wake(self.now, &mut out);
                    assert!(
                        life.state.wake_at().is_none_or(|at| at > self.now),
                        "what was due is still due"
                    );
                }
                self.perform(n, out);
            }
        }
        self.now = end;
    }

    fn listed(&self, n: usize) -> BTreeSet<NodeName> {
        let Some(life) = &self.lives[n] else {
            return BTreeSet::new();
        };
        life.state
            .view(self.now)
            .nodes()
            .map(|m| m.name().clone())
            .collect()
    }

    fn own(&self, n: usize) -> Option<&Registration> {
        Some(&self.lives[n].as_ref()?.state.own.registration)
    }

    /// Everybody living lists everybody living, with their last meta.
    fn agree(&self) {
        let mut living: BTreeSet<_> = (0..NODES)
            .filter(|n| {
                self.own(*n)
                    .is_some_and(|own| own.status != super::super::registration::Status::Suspended)
            })
            .map(node)
            .collect();
        if self.poller_until.is_some_and(|until| self.now < until) {
            living.insert(name(POLLER));
        }
        for n in (0..NODES).filter(|n| self.lives[*n].is_some()) {
            assert_eq!(self.listed(n), living, "the view of n{n}");
            let Some(life) = &self.lives[n] else { continue };
            for m in 0..NODES {
                let view = life.state.view(self.now);
                let seen = view
                    .find(&node(m))
                    .map(|member| member.registration.meta.clone());
                if living.contains(&node(m)) {
                    assert_eq!(
                        seen,
                        self.own(m).map(|own| own.meta.clone()),
                        "meta of n{m} at n{n}"
                    );
                }
            }
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Start(usize),
    Kill(usize),
    Leave(usize),
    Meta(usize, i64),
    Suspend(usize),
    Resume(usize),
    Cut(usize, usize),
    RedisAway(u64),
    RedisEmptied,
    Poller(u64),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let n = 0..NODES;
    prop_oneof![
        4 => n.clone().prop_map(Op::Start),
        2 => n.clone().prop_map(Op::Kill),
        1 => n.clone().prop_map(Op::Leave),
        2 => (n.clone(), 0..9i64).prop_map(|(n, v)| Op::Meta(n, v)),
        1 => n.clone().prop_map(Op::Suspend),
        1 => n.clone().prop_map(Op::Resume),
        2 => (n.clone(), n).prop_map(|(n, m)| Op::Cut(n, m)),
        1 => (1..90_000u64).prop_map(Op::RedisAway),
        1 => Just(Op::RedisEmptied),
        1 => (1..200_000u64).prop_map(Op::Poller),
        6 => (1..8_000u64).prop_map(Op::Wait),
    ]
}

fn run(world: &mut World, op: Op) {
    match op {
        Op::Start(n) => world.start(n),
        Op::Kill(n) => world.kill(n),
        Op::Leave(n) => {
            world.input(n, Input::Leave);
            world.run(Duration::from_millis(50));
            world.kill(n);
        }
        Op::Meta(n, value) => world.input(n, Input::UpdateMeta(meta(value))),
        Op::Suspend(n) => world.input(n, Input::Suspend),
        Op::Resume(n) => world.input(n, Input::Resume),
        Op::Cut(n, m) => world.cut(n, m),
        Op::RedisAway(ms) => {
            world.set_redis(false);
            world.run(Duration::from_millis(ms));
            world.set_redis(true);
        }
        Op::RedisEmptied => {
            world.set_redis(false);
            world.redis = Redis::default();
            world.run(Duration::from_millis(300));
            world.set_redis(true);
        }
        Op::Poller(ms) => world.poller_until = Some(world.now + Duration::from_millis(ms)),
        Op::Wait(ms) => world.run(Duration::from_millis(ms)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48,
        max_shrink_iters: 500,
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_living_agree_on_who_lives(seed: u64, ops in proptest::collection::vec(op(), 1..24)) {
        let mut world = World::new(seed);
        for op in ops {
            run(&mut world, op);
        }
        world.lossy = false;
        // The longest expiry there is, and the scan and look-up after it; the poller lives on or has ended by then.
        if world.poller_until.is_some_and(|until| world.now < until) {
            world.poller_until = Some(world.now + Duration::from_secs(3600));
        }
        world.run(Duration::from_secs(220));
        world.agree();
    }
}

/// A world of nodes that found each other.
fn settled(nodes: usize) -> World {
    let mut world = World::new(3);
    world.lossy = false;
    (0..nodes).for_each(|n| world.start(n));
    world.run(Duration::from_secs(5));
    world.agree();
    world
}

#[test]
fn a_steady_mesh_sends_few_commands_and_no_writes() {
    let mut world = settled(3);
    world.run(Duration::from_secs(60));
    (world.writes, world.commands) = (0, 0);
    world.run(Duration::from_secs(600));
    assert_eq!(world.writes, 0);
    // Per node and minute: three renewals, two reads of the index, two tries for the scan, and their jitter.
    assert!(world.commands <= 3 * 10 * 9, "{} effects", world.commands);
}

#[test]
fn a_node_killed_and_started_again_at_once_is_in_the_mesh_again() {
    let mut world = settled(3);
    world.kill(0);
    world.run(Duration::from_millis(300));
    assert_eq!(world.listed(1), BTreeSet::from([node(1), node(2)]));
    world.start(0);
    world.run(Duration::from_secs(1));
    world.agree();
}

#[test]
fn the_killed_stay_out_though_redis_still_has_their_keys() {
    let mut world = settled(3);
    world.kill(0);
    world.run(Duration::from_millis(300));
    for _ in 0..90 {
        assert_eq!(world.listed(1), BTreeSet::from([node(1), node(2)]));
        world.run(Duration::from_secs(1));
    }
}

#[test]
fn a_lost_member_that_cannot_be_connected_is_back_with_its_next_renewal() {
    let mut world = settled(2);
    // Nobody dials any more, so only what Redis has can bring it back.
    for life in world.lives.iter_mut().flatten() {
        life.state.dialling.connect = super::super::dial::Connect::None;
    }
    world.cut(0, 1);
    world.run(Duration::from_millis(300));
    assert_eq!(world.listed(0), BTreeSet::from([node(0)]));
    world.run(Duration::from_secs(60));
    world.agree();
}

#[test]
fn a_member_without_connection_leaves_when_its_registration_ends_and_not_while_redis_is_away() {
    let mut world = settled(1);
    world.poller_until = Some(world.now + Duration::from_secs(1));
    world.poll();
    world.run(Duration::from_secs(60));
    assert!(world.listed(0).contains(&name(POLLER)));
    world.set_redis(false);
    world.run(Duration::from_secs(300));
    assert!(world.listed(0).contains(&name(POLLER)));
    world.set_redis(true);
    world.run(Duration::from_secs(10));
    assert!(!world.listed(0).contains(&name(POLLER)));
}

#[test]
fn of_a_storm_of_pings_two_in_a_second_are_answered_at_the_most_each_200_ms() {
    let mut world = settled(1);
    world.run(Duration::from_secs(5));
    world.writes = 0;
    for _ in 0..1000 {
        world.input(0, Input::Key(Bytes::from_static(b"ping")));
        world.run(Duration::from_millis(1));
    }
    world.run(Duration::from_secs(5));
    assert!((1..=6).contains(&world.writes), "{} answers", world.writes);
}

/// One machine that has joined, for single inputs.
struct Lone(State, Instant, Instant);

impl Lone {
    fn unjoined() -> Self {
        let now = Instant::now();
        Self(state(0, 9), now, now)
    }

    fn new() -> Self {
        let mut lone = Self::unjoined();
        let out = lone.input(Input::RedisUp);
        let Some(Effect::ReadOwn(token)) = out.first() else {
            panic!("{out:?}")
        };
        let keys = OwnKeys {
            now: 1_000_000,
            ..OwnKeys::default()
        };
        lone.input(Input::OwnRead(*token, Some(keys)));
        lone
    }

    fn input(&mut self, input: Input) -> Vec<Effect> {
        let mut out = Vec::new();
        self.0.handle(self.1, input, &mut out);
        out
    }

    fn wait(&mut self, ms: u64) -> Vec<Effect> {
        self.1 += Duration::from_millis(ms);
        let mut out = Vec::new();
        self.0.wake(self.1, &mut out);
        out
    }

    fn event(&mut self, kind: EventKind, registration: Registration, at: i64) -> Vec<Effect> {
        let by = registration.node.clone();
        let event = Event {
            kind,
            registration,
            by,
            at,
            left_out: None,
        };
        self.input(Input::Event(event.encode()))
    }

    fn listed(&self) -> Vec<String> {
        self.0
            .view(self.1)
            .nodes()
            .map(|m| m.name().to_string())
            .collect()
    }

    /// Looks a node up and gives what Redis is to have of it.
    fn find(&mut self, found: Found) -> Vec<Effect> {
        let key = Scope::new("t", "1").key(&found.node);
        self.input(Input::Key(key.into()));
        let out = self.wait(100);
        let token = out.iter().find_map(|effect| match effect {
            Effect::LookUp(token, nodes) if nodes.contains(&found.node) => Some(*token),
            _ => None,
        });
        self.input(Input::LookedUp(
            token.unwrap(),
            Some((1_000_100, vec![found])),
        ))
    }
}

fn told(effects: &[Effect]) -> Vec<&str> {
    let told = effects.iter().filter_map(|effect| match effect {
        Effect::Tell(Level::Warn, text) => Some(text.as_str()),
        _ => None,
    });
    told.collect()
}

fn hash(pairs: &[(&str, &str)]) -> Option<Fields> {
    Some(
        pairs
            .iter()
            .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
            .collect(),
    )
}

fn found(classic: Option<Fields>) -> Found {
    Found {
        node: name("x@10.0.0.7"),
        classic,
        info: hash(&[]),
        left_ms: Some(60_000),
        score: None,
    }
}

#[test]
fn hearing_the_same_again_changes_nothing() {
    let mut lone = Lone::new();
    let first = lone.event(EventKind::Joined, registration(1, 5), 1_000_010);
    assert!(
        first
            .iter()
            .any(|e| matches!(e, Effect::Change(c) if c.kind == ChangeKind::Joined))
    );
    let again = lone.event(EventKind::Joined, registration(1, 5), 1_000_010);
    assert!(again.is_empty(), "{again:?}");
}

#[test]
fn an_event_that_was_overtaken_by_a_later_one_counts_no_more() {
    let mut lone = Lone::new();
    lone.event(EventKind::Left, registration(1, 5), 1_000_020);
    lone.event(EventKind::Joined, registration(1, 5), 1_000_010);
    assert_eq!(lone.listed(), ["n0@10.0.0.1"]);
    lone.event(EventKind::Resumed, registration(1, 5), 1_000_040);
    let mut old = registration(1, 5);
    old.status = super::super::registration::Status::Suspended;
    lone.event(EventKind::Suspended, old, 1_000_030);
    assert_eq!(lone.listed(), ["n0@10.0.0.1", "n1@10.0.0.2"]);
}

#[test]
fn the_goodbye_of_an_earlier_life_is_not_that_of_the_present_one() {
    let mut lone = Lone::new();
    lone.event(EventKind::Joined, registration(1, 6), 1_000_010);
    lone.event(EventKind::Left, registration(1, 5), 1_000_020);
    assert_eq!(lone.listed().len(), 2);
}

#[test]
fn our_own_name_is_never_looked_up_nor_listed_twice() {
    let mut lone = Lone::new();
    let own = node(0);
    lone.input(Input::Key(Scope::new("t", "1").key(&own).into()));
    lone.event(EventKind::Joined, registration(0, 9), 1_000_010);
    let out = lone.wait(1000);
    let looks_up = |e: &Effect| matches!(e, Effect::LookUp(_, nodes) if nodes.contains(&own));
    assert!(!out.iter().any(looks_up));
    assert_eq!(lone.listed(), ["n0@10.0.0.1"]);
}

#[test]
fn another_program_under_our_name_is_told_once_and_not_fought() {
    let mut lone = Lone::new();
    let out = lone.event(EventKind::Joined, registration(0, 10), 1_000_010);
    assert_eq!(told(&out).len(), 1, "{out:?}");
    let out = lone.event(EventKind::Joined, registration(0, 10), 1_000_020);
    assert!(out.is_empty(), "{out:?}");
}

#[test]
fn each_trouble_is_told_once_per_member_and_cause_and_not_per_heartbeat() {
    let mut lone = Lone::new();
    let out = lone.find(found(hash(&[("zone", "b")])));
    assert_eq!(told(&out).len(), 1);
    assert!(told(&out)[0].contains("no field `ip`"), "{out:?}");
    assert!(told(&lone.find(found(hash(&[("zone", "c")])))).is_empty());
    let out = lone.find(found(None));
    assert!(told(&out)[0].contains("no hash"), "{out:?}");
    assert!(told(&lone.find(found(None))).is_empty());
    // Mended, it is a member, and the next trouble is news.
    lone.find(found(hash(&[("ip", "10.0.0.7")])));
    assert_eq!(lone.listed().len(), 2);
    assert_eq!(told(&lone.find(found(None))).len(), 1);
    assert_eq!(lone.listed().len(), 1);
}

#[test]
fn rubbish_on_the_channels_is_told_once_and_hurts_nobody() {
    let mut lone = Lone::new();
    let mut lines = Vec::new();
    for n in 0..100u32 {
        let rubbish = Bytes::from(vec![n as u8; 3 + n as usize]);
        lines.extend(lone.input(Input::Key(rubbish.clone())));
        lines.extend(lone.input(Input::Event(rubbish)));
        lines.extend(lone.input(Input::Key(Bytes::from_static(b"redgrid:t:1:no node name"))));
    }
    let lines = told(&lines);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.len() < 300), "{lines:?}");
}

#[test]
fn an_endless_stream_of_names_is_bounded_and_says_so() {
    let mut lone = Lone::new();
    lone.0.max_members = 10;
    let mut lines = Vec::new();
    for n in 0..1000 {
        lines.extend(lone.event(EventKind::Joined, registration(n + 1, 5), 1_000_010));
        let key = format!("redgrid:t:1:y{n}@h");
        lines.extend(lone.input(Input::Key(key.into())));
    }
    assert_eq!(lone.listed().len(), 11);
    assert!(lone.0.want.len() <= 12);
    assert_eq!(told(&lines).len(), 2, "{:?}", told(&lines));
}

#[test]
fn of_members_that_never_connected_only_so_many_names_ever_become_atoms_at_a_caller() {
    let mut lone = Lone::new();
    lone.0.max_members = 5;
    for n in 0..8 {
        lone.event(EventKind::Joined, registration(n + 1, 5), 1_000_010);
        lone.event(EventKind::Left, registration(n + 1, 5), 1_000_020);
    }
    lone.event(EventKind::Joined, registration(9, 5), 1_000_030);
    let speakable = |lone: &Lone| {
        let view = lone.0.view(lone.1);
        view.find(&node(9)).map(|member| member.speakable)
    };
    assert_eq!(speakable(&lone), Some(false));
    lone.input(Input::Up(peer(9, 5)));
    assert_eq!(speakable(&lone), Some(true));
}

#[test]
fn meta_becomes_atoms_only_behind_the_cookie_and_only_so_many() {
    let mut lone = Lone::new();
    let atoms = |lone: &Lone, n| {
        lone.0
            .view(lone.1)
            .find(&node(n))
            .map(|member| member.atoms)
    };
    for n in 0..200usize {
        let mut member = registration(n + 1, 5);
        let keys = (0..64).map(|k| (format!("k{n}_{k}"), MetaValue::Integer(1)));
        member.meta = Meta::new(keys).unwrap();
        lone.event(EventKind::Joined, member, 1_000_010);
        assert_eq!(atoms(&lone, n + 1), Some(false));
        lone.input(Input::Up(peer(n + 1, 5)));
    }
    let with_atoms = (1..=200).filter(|n| atoms(&lone, *n) == Some(true)).count();
    assert_eq!(with_atoms, 10_000 / 64);
}

fn peer(n: usize, creation: u32) -> PeerInfo {
    PeerInfo {
        name: node(n),
        creation,
        hidden: false,
        connection: n as u64,
        since: std::time::SystemTime::UNIX_EPOCH,
    }
}

#[test]
fn the_end_of_the_connection_to_an_earlier_life_is_not_that_of_the_present_one() {
    let mut lone = Lone::new();
    lone.event(EventKind::Joined, registration(1, 5), 1_000_010);
    lone.input(Input::Up(peer(1, 5)));
    // It was killed and is back before its socket tells.
    lone.event(EventKind::Joined, registration(1, 6), 1_000_020);
    lone.input(Input::Down(peer(1, 5), DownReason::Closed));
    assert_eq!(lone.listed().len(), 2);
}

#[test]
fn an_event_sent_before_the_break_does_not_bring_back_the_dead() {
    let mut lone = Lone::new();
    lone.event(EventKind::Joined, registration(1, 5), 1_000_010);
    lone.input(Input::Up(peer(1, 5)));
    lone.wait(100);
    lone.input(Input::Down(peer(1, 5), DownReason::Closed));
    lone.event(EventKind::Joined, registration(1, 5), 1_000_090);
    assert_eq!(lone.listed().len(), 1);
    lone.event(EventKind::Joined, registration(1, 5), 1_000_110);
    assert_eq!(lone.listed().len(), 2);
}

#[test]
fn a_lost_classic_member_is_back_when_its_key_is_published_or_lives_longer_than_at_the_break() {
    let mut lone = Lone::new();
    let x = PeerInfo {
        name: name("x@10.0.0.7"),
        ..peer(7, 5)
    };
    let classic = |left| Found {
        left_ms: Some(left),
        ..found(hash(&[("ip", "10.0.0.7")]))
    };
    let lost = |lone: &mut Lone| {
        lone.find(classic(60_000));
        lone.input(Input::Up(x.clone()));
        let out = lone.input(Input::Down(x.clone(), DownReason::Closed));
        let token = out.iter().find_map(|effect| match effect {
            Effect::LookUp(token, _) => Some(*token),
            _ => None,
        });
        let token = token.expect("what Redis has at the break is read at once");
        lone.input(Input::LookedUp(
            token,
            Some((1_000_100, vec![classic(40_000)])),
        ));
        assert_eq!(lone.listed().len(), 1);
    };
    lost(&mut lone);
    // Asked again, without its key having been published: someone else's word.
    let mut hearsay = registration(3, 1);
    hearsay.node = name("x@10.0.0.7");
    let asked = |lone: &mut Lone, left| {
        let at = 1_000_000 + (lone.1 - lone.2).as_millis() as i64;
        let event = Event {
            kind: EventKind::Joined,
            registration: hearsay.clone(),
            by: node(2),
            at,
            left_out: None,
        };
        lone.input(Input::Event(event.encode()));
        let out = lone.wait(100);
        let token = out.iter().find_map(|effect| match effect {
            Effect::LookUp(token, _) => Some(*token),
            _ => None,
        });
        lone.input(Input::LookedUp(
            token.unwrap(),
            Some((1_000_100, vec![classic(left)])),
        ));
    };
    asked(&mut lone, 39_000);
    assert_eq!(lone.listed().len(), 1, "it only lives on what it had");
    asked(&mut lone, 59_000);
    assert_eq!(lone.listed().len(), 2, "it was renewed");
    let mut lone = Lone::new();
    lost(&mut lone);
    lone.find(classic(39_000));
    assert_eq!(lone.listed().len(), 2, "its key was published");
}

#[test]
fn a_node_that_answers_under_our_name_keeps_us_from_starting() {
    let mut lone = Lone::unjoined();
    let out = lone.input(Input::RedisUp);
    let Some(Effect::ReadOwn(token)) = out.first() else {
        panic!("{out:?}")
    };
    let mut other = registration(0, 5);
    other.ip = "10.9.9.9".into();
    let keys = OwnKeys {
        classic: other.classic_fields(),
        info: other.info_fields(),
        now: 1_000_000,
    };
    let out = lone.input(Input::OwnRead(*token, Some(keys)));
    let Some(Effect::ProveOwn(token, host, port)) = out.first() else {
        panic!("{out:?}")
    };
    assert_eq!((host.as_str(), *port), ("10.9.9.9", other.port));
    let out = lone.input(Input::OwnProved(*token, true));
    assert!(matches!(out.as_slice(), [Effect::Refuse(_)]), "{out:?}");
    assert!(lone.wait(60_000).is_empty());
}

#[test]
fn a_suspended_node_withdraws_and_does_not_bounce_back() {
    let mut world = settled(3);
    world.input(0, Input::Suspend);
    world.run(Duration::from_secs(1));
    assert!(!world.redis.classic.contains_key(&node(0)));
    assert!(!world.redis.index.contains_key(&node(0)));
    for _ in 0..100 {
        world.run(Duration::from_secs(1));
        world.agree();
    }
    assert_eq!(world.listed(1), BTreeSet::from([node(1), node(2)]));
    let life = world.lives[1].as_ref().unwrap();
    let view = life.state.view(world.now);
    assert_eq!(view.find(&node(0)).unwrap().standing, Standing::Suspended);
    world.input(0, Input::Resume);
    world.run(Duration::from_secs(1));
    world.agree();
    assert_eq!(world.listed(1).len(), 3);
}
