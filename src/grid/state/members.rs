//! The other members: heard of, looked up, listed, connected, lost and forgotten.

use super::super::dial::Undialled;
use super::super::event::{Event, EventKind};
use super::super::registration::{Reading, Refusal, Registration, node_name, shown};
use super::super::typed;
use super::super::view::{ChangeKind, Member, Standing, standing_of};
use super::own::Phase;
use super::{
    BATCH, BATCHES, COALESCE, EXPIRY, Effect, Found, LOOK_ROUND, RETRY, State, Timer, listed,
};
use crate::dist::{DownReason, NodeName, PeerInfo};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// The most dials at a time.
const DIALS: usize = 64;
/// The first pause before a failed or lost member is dialled again; it doubles up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that held this long was a good one: the pauses begin anew.
const HELD: Duration = Duration::from_secs(10);
/// Who has just registered dials everybody: the others give it this much of a start.
const HEAD_START: Duration = Duration::from_millis(100);
/// An event from further back than this, or from the future, only says whom to look up.
const EVENT_AGE: i64 = 10_000;
/// How long it is remembered that someone left, and of how many.
const GRAVE_KEPT: Duration = Duration::from_secs(120);
const MAX_GRAVES: usize = 4096;
/// A classic member that was heard on the channel within this tells the others itself.
const SPEAKS: Duration = Duration::from_secs(35);
/// The expiry of a key grows by two seconds with every renewal at the least; less is the measuring.
const GROWTH: i64 = 500;
/// The most atoms that are made out of text in Redis, in the life of this node.
const MAX_ATOMS: usize = 10_000;

/// A member, as far as we know.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) registration: Arc<Registration>,
    pub(super) standing: Place,
    /// When its registration ends, in the time of Redis.
    ends: i64,
    /// When it is looked whether it has: the one timer for it that counts.
    looked_at: Option<Instant>,
    confirmed: Instant,
    /// The time of the last event of its own that counted.
    heard: i64,
    /// When it last published its key on the classic channel.
    spoke: Option<Instant>,
    /// Its creation changed while the connection to its earlier life still stood.
    replaced: bool,
    dial: Dial,
    note: Option<Arc<str>>,
    speakable: bool,
    /// Whether a connection to it ever passed the cookie in this life of it.
    trusted: bool,
    atoms: bool,
}

/// How a member stands, with what is needed to tell that it is back.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Listed,
    Suspended,
    Lost {
        /// The time of Redis at the break.
        at: i64,
        /// What Redis had right after the break.
        then: Option<Evidence>,
        /// Its key was published after the break.
        published: bool,
    },
}

impl Place {
    pub(super) fn standing(&self) -> Standing {
        match self {
            Self::Listed => Standing::Listed,
            Self::Suspended => Standing::Suspended,
            Self::Lost { .. } => Standing::Lost,
        }
    }
}

/// What tells a renewal from none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evidence {
    score: Option<i64>,
    /// When the classic key ends.
    expires: Option<i64>,
}

impl Evidence {
    fn newer_than(self, then: Self) -> bool {
        let grown = |now: Option<i64>, then: Option<i64>, by| match (now, then) {
            (Some(now), Some(then)) => now > then + by,
            (Some(_), None) => true,
            (None, _) => false,
        };
        grown(self.score, then.score, 0) || grown(self.expires, then.expires, GROWTH)
    }
}

/// Where news of a registration came from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// An event of the member itself, at this time of Redis.
    Event(i64),
    /// A look-up.
    LookUp(Evidence),
}

#[derive(Debug, Default)]
struct Dial {
    /// Failures, or connections that did not hold, in a row.
    attempt: u32,
    due: Option<Instant>,
    in_flight: bool,
    queued: bool,
    up_since: Option<Instant>,
}

/// Someone who has left.
#[derive(Debug)]
pub(super) struct Grave {
    /// The time of Redis at which it said so.
    at: i64,
    dug: Instant,
}

/// Why someone is looked up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Want {
    /// A scan of ours found it: when it is a classic member, the others are told.
    announce: bool,
}

impl Known {
    pub(super) fn member(&self, connected: Option<SystemTime>) -> Arc<Member> {
        Arc::new(Member {
            registration: self.registration.clone(),
            standing: self.standing.standing(),
            connected,
            confirmed: self.confirmed,
            note: self.note.clone(),
            speakable: self.speakable,
            atoms: self.atoms,
        })
    }
}

impl State {
    fn is_own(&self, node: &NodeName) -> bool {
        *node == self.own.registration.node
    }

    /// A message on the classic channel: `ping`, or the key of a node that has just registered.
    pub(super) fn key_heard(&mut self, now: Instant, message: &Bytes, out: &mut Vec<Effect>) {
        if message.as_ref() == b"ping" {
            return self.ping_heard(now);
        }
        let channel = self.scope.channel();
        let node = match self.scope.node_of(message) {
            Some(Ok(node)) => node,
            Some(Err(why)) => {
                let key = shown(message);
                let what = format!(
                    "{channel}: {key} was published, but names no node: {why}; ignored (keys end in NAME@HOST)"
                );
                return self.tell_once(&key, what, out);
            }
            None => {
                // Once per channel: rubbish is different every time.
                if !self.told.contains_key(&channel) {
                    let what = shown(message);
                    let what = format!(
                        "{channel}: {what} was published, which is neither `ping` nor a key of this mesh; \
                         ignored, and further such messages are not told"
                    );
                    self.tell_once(&channel, what, out);
                }
                return;
            }
        };
        if self.is_own(&node) {
            return;
        }
        if let Some(known) = self.members.get_mut(&node) {
            known.spoke = Some(now);
            // Who writes events as well is told by their time: a bare key may have been on its way at the break.
            if let Place::Lost { published, .. } = &mut known.standing {
                *published = known.registration.classic;
            }
        }
        self.want(now, node, Want::default(), out);
    }

    /// A message on the events channel.
    pub(super) fn event_heard(&mut self, now: Instant, message: &Bytes, out: &mut Vec<Effect>) {
        let event = match Event::decode(message) {
            Ok(Some(event)) => event,
            Ok(None) => return,
            Err(why) => {
                let channel = self.scope.events();
                if !self.told.contains_key(&channel) {
                    let what = shown(message);
                    let what = format!(
                        "{channel}: {what} was published, which is no event: {why}; ignored, and further such \
                         messages are not told"
                    );
                    self.tell_once(&channel, what, out);
                }
                return;
            }
        };
        let node = event.registration.node.clone();
        if self.is_own(&node) {
            return self.own_event(&event, out);
        }
        let age = self.redis_now(now).map(|now| now - event.at);
        let fresh = age.is_some_and(|age| (-EVENT_AGE..=EVENT_AGE).contains(&age));
        if event.by != node || !fresh {
            return self.hint(now, node, out);
        }
        if let Some(known) = self.members.get(&node) {
            if event.at < known.heard {
                return;
            }
        } else if self
            .graves
            .get(&node)
            .is_some_and(|grave| event.at <= grave.at)
        {
            return;
        }
        match event.kind {
            EventKind::Left => self.left(now, &event, out),
            _ if event.registration.ip.is_empty() => self.want(now, node, Want::default(), out),
            _ => {
                // All that a look-up would find is here; one that is under way may have read what was before.
                self.want.remove(&node);
                let looking = self.looking.remove(&node);
                if let Some(left_out) = event.left_out {
                    self.tell_once(&format!("{node} meta"), format!("{node}: {left_out}"), out);
                }
                let ends = event.at + EXPIRY.as_millis() as i64;
                self.registered(now, event.registration, ends, Source::Event(event.at), out);
                // What Redis had at the break is still to be read.
                if looking.is_some() && self.needs_evidence(&node) {
                    self.want(now, node, Want::default(), out);
                }
            }
        }
    }

    fn needs_evidence(&self, node: &NodeName) -> bool {
        let standing = self.members.get(node).map(|known| &known.standing);
        matches!(standing, Some(Place::Lost { then: None, .. }))
    }

    /// Someone else says that this node is there.
    fn hint(&mut self, now: Instant, node: NodeName, out: &mut Vec<Effect>) {
        let soon = self.redis_now(now).unwrap_or(0) + LOOK_ROUND.as_millis() as i64;
        let known = self.members.get(&node);
        if known.is_none_or(|known| !listed(known) || known.ends < soon) {
            self.want(now, node, Want::default(), out);
        }
    }

    fn left(&mut self, now: Instant, event: &Event, out: &mut Vec<Effect>) {
        let node = &event.registration.node;
        let other_life = |known: &Known| {
            let known = known.registration.creation;
            known.is_some()
                && event.registration.creation.is_some()
                && known != event.registration.creation
        };
        if self.members.get(node).is_some_and(other_life) {
            return;
        }
        self.want.remove(node);
        self.looking.remove(node);
        if self.graves.len() >= MAX_GRAVES {
            self.graves.retain(|_, grave| now < grave.dug + GRAVE_KEPT);
        }
        if self.graves.len() < MAX_GRAVES {
            let at = event.at;
            self.graves.insert(node.clone(), Grave { at, dug: now });
        }
        if self.members.remove(node).is_some() {
            self.change(node, ChangeKind::Left, out);
        }
    }

    /// The names and scores of the index. A greater score than known is a renewal.
    pub(super) fn index_read(
        &mut self,
        now: Instant,
        entries: Vec<(Vec<u8>, i64)>,
        out: &mut Vec<Effect>,
    ) {
        let redis_now = self.redis_now(now).unwrap_or(0);
        for (name, score) in entries {
            let node = match node_name(&name) {
                Ok(node) => node,
                Err(why) => {
                    let name = shown(&name);
                    let index = self.scope.index();
                    self.tell_once(
                        &name,
                        format!(
                            "{index}: {name} is no node name: {why}; ignored (remove it with ZREM)"
                        ),
                        out,
                    );
                    continue;
                }
            };
            if self.is_own(&node) || score <= redis_now {
                continue;
            }
            match self.members.get_mut(&node) {
                Some(known) if listed(known) && !known.registration.classic => {
                    if score > known.ends {
                        known.ends = score;
                        known.confirmed = now;
                    }
                }
                _ => self.want(now, node, Want::default(), out),
            }
        }
    }

    /// The classic keys. Who is known needs nothing; classic members that do not publish are told to the others.
    pub(super) fn scanned(&mut self, now: Instant, keys: Vec<Vec<u8>>, out: &mut Vec<Effect>) {
        let announce = self.scan_locked;
        for key in keys {
            let node = match self.scope.node_of(&key) {
                Some(Ok(node)) => node,
                Some(Err(why)) => {
                    let key = shown(&key);
                    self.tell_once(
                        &key,
                        format!("the key {key} names no node: {why}; ignored (keys end in NAME@HOST: delete this one)"),
                        out,
                    );
                    continue;
                }
                None => continue,
            };
            if self.is_own(&node) {
                continue;
            }
            match self.members.get(&node) {
                Some(known) if listed(known) => {
                    if announce && self.is_silent(now, &node) {
                        self.announce(now, &node, out);
                    }
                }
                _ => self.want(now, node, Want { announce }, out),
            }
        }
    }

    /// Whether it is a classic member that nobody hears of by itself.
    fn is_silent(&self, now: Instant, node: &NodeName) -> bool {
        self.members.get(node).is_some_and(|known| {
            known.registration.classic && known.spoke.is_none_or(|at| now > at + SPEAKS)
        })
    }

    fn announce(&mut self, now: Instant, node: &NodeName, out: &mut Vec<Effect>) {
        let (Some(known), Some(at)) = (self.members.get(node), self.redis_now(now)) else {
            return;
        };
        let event = Event {
            kind: EventKind::Joined,
            registration: Registration::clone(&known.registration),
            by: self.own.registration.node.clone(),
            at,
            left_out: None,
        };
        out.push(Effect::Announce(event.encode()));
    }

    /// Looks everybody up again: what was published meanwhile was not heard.
    pub(super) fn refresh(&mut self, now: Instant) {
        for node in self.members.keys() {
            self.want.entry(node.clone()).or_default();
        }
        // A thousand nodes come back in the same moment: their reads should not.
        let pause = self.random.up_to(Duration::from_millis(500));
        self.want_at.get_or_insert(now + pause);
        self.index_at = Some(self.index_at.map_or(now + pause, |at| at.min(now + pause)));
    }

    fn want(&mut self, now: Instant, node: NodeName, want: Want, out: &mut Vec<Effect>) {
        if self.want.len() > self.max_members && !self.want.contains_key(&node) {
            let what = format!(
                "more than {} names wait to be looked up in Redis: further ones are left for the next scan",
                self.max_members
            );
            return self.tell_once("(look-ups)", what, out);
        }
        self.want.entry(node).or_default().announce |= want.announce;
        self.want_at.get_or_insert(now + COALESCE);
    }

    pub(super) fn looking_room(&self) -> bool {
        self.looking.len() < BATCH * BATCHES
    }

    pub(super) fn look_ups_due(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.want_at.is_none_or(|at| now < at) {
            return;
        }
        while self.looking_room() {
            let looking = &self.looking;
            let free = |node: &&NodeName| !looking.contains_key(*node);
            let nodes: Vec<NodeName> = self.want.keys().filter(free).take(BATCH).cloned().collect();
            if nodes.is_empty() {
                break;
            }
            let token = self.token();
            for node in &nodes {
                let want = self.want.remove(node).unwrap_or_default();
                self.looking.insert(node.clone(), (token, want));
            }
            out.push(Effect::LookUp(token, nodes));
        }
        self.want_at = match self.want.is_empty() {
            true => None,
            false => Some(now + COALESCE),
        };
    }

    pub(super) fn looked_up(
        &mut self,
        now: Instant,
        token: u64,
        answer: Option<(i64, Vec<Found>)>,
        out: &mut Vec<Effect>,
    ) {
        let Some((redis_now, founds)) = answer else {
            let failed = self.looking.extract_if(|_, (of, _)| *of == token);
            for (node, (_, want)) in failed.collect::<Vec<_>>() {
                self.want.entry(node).or_insert(want);
            }
            self.want_at = Some(now + RETRY);
            return;
        };
        // A late answer would set the clock back; only renewals may.
        if self.redis_now(now) < Some(redis_now) {
            self.set_clock(now, redis_now);
        }
        for found in founds {
            match self.looking.get(&found.node) {
                Some((of, _)) if *of == token => {}
                // Something newer was heard meanwhile.
                _ => continue,
            }
            let want = self.looking.remove(&found.node).map(|(_, want)| want);
            self.found(now, redis_now, found, want.unwrap_or_default(), out);
        }
        // A node that the answer left out is not waited for.
        self.looking.retain(|_, (of, _)| *of != token);
    }

    fn found(
        &mut self,
        now: Instant,
        redis_now: i64,
        found: Found,
        want: Want,
        out: &mut Vec<Effect>,
    ) {
        let Found {
            node,
            classic,
            info,
            left_ms,
            score,
        } = found;
        let key = self.scope.key(&node);
        let reading = match (&classic, info.unwrap_or_default()) {
            (None, _) => Err(Refusal::NotAHash),
            (Some(classic), info) => Registration::read(&node, classic, &info),
        };
        match reading {
            Ok(Reading {
                registration,
                left_out,
            }) => {
                match left_out {
                    Some(left_out) => {
                        self.tell_once(&format!("{node} meta"), format!("{node}: {left_out}"), out)
                    }
                    None => {
                        self.told.remove(&key);
                        self.told.remove(&format!("{node} meta"));
                    }
                }
                let evidence = Evidence {
                    score,
                    expires: left_ms.map(|left| redis_now.saturating_add(left)),
                };
                // The later one; a key without an end is looked at again when others would have ended.
                let ends = evidence
                    .expires
                    .max(score.filter(|_| !registration.classic));
                let ends = ends.unwrap_or(redis_now + EXPIRY.as_millis() as i64);
                self.registered(now, registration, ends, Source::LookUp(evidence), out);
                if want.announce && self.is_silent(now, &node) {
                    self.announce(now, &node, out);
                }
            }
            Err(Refusal::Missing) => self.ended(&node, out),
            Err(refusal) => {
                self.tell_once(&key, format!("{key}: {refusal}; {node} is left out"), out);
                self.ended(&node, out);
            }
        }
    }

    /// News of a registration that is to be believed.
    fn registered(
        &mut self,
        now: Instant,
        mut registration: Registration,
        ends: i64,
        source: Source,
        out: &mut Vec<Effect>,
    ) {
        let node = registration.node.clone();
        let Some(mut known) = self.members.remove(&node) else {
            return self.admit(now, registration, ends, source, out);
        };
        let place = standing_of(&registration.status);
        let new_life = known.registration.creation.is_some()
            && registration.creation.is_some()
            && known.registration.creation != registration.creation;
        if let Place::Lost {
            at,
            then,
            published,
        } = &mut known.standing
        {
            let back = new_life
                || *published
                || match (source, &then) {
                    (Source::Event(heard), _) => heard > *at,
                    (Source::LookUp(now), Some(then)) => now.newer_than(*then),
                    (Source::LookUp(now), None) => {
                        *then = Some(now);
                        false
                    }
                };
            // Only a look-up shows that the key, and not just its name, is there.
            let back = back || place == Standing::Suspended;
            if !back {
                known.ends = ends;
                self.members.insert(node, known);
                return;
            }
        }
        if let Source::Event(at) = source {
            known.heard = at;
            // What an event does not carry.
            registration.ip6 = registration.ip6.or(known.registration.ip6);
        }
        if place == Standing::Suspended && registration.ip.is_empty() {
            registration.ip = known.registration.ip.clone();
        }
        known.confirmed = now;
        known.ends = ends;
        let was = known.standing.standing();
        let meta_changed = known.registration.meta != registration.meta;
        if *known.registration != registration {
            known.registration = Arc::new(registration);
            self.changed = true;
        }
        known.standing = match place {
            Standing::Suspended => Place::Suspended,
            _ => Place::Listed,
        };
        if new_life {
            let creation = known.registration.creation;
            let of_this_life = self.peers.get(&node).map(|p| Some(p.creation) == creation);
            known.replaced = of_this_life == Some(false);
            known.trusted = of_this_life == Some(true);
            known.dial.attempt = 0;
        }
        if meta_changed || new_life {
            known.atoms = known.trusted && self.afford(&known.registration);
        }
        self.members.insert(node.clone(), known);
        match (was, place) {
            (Standing::Lost, Standing::Listed) => self.change(&node, ChangeKind::Joined, out),
            (Standing::Suspended, Standing::Listed) => self.change(&node, ChangeKind::Resumed, out),
            (Standing::Listed | Standing::Lost, Standing::Suspended) => {
                self.change(&node, ChangeKind::Suspended, out);
            }
            _ if new_life => self.change(&node, ChangeKind::Replaced, out),
            _ => {}
        }
        if meta_changed {
            self.change(&node, ChangeKind::Meta, out);
        }
        self.dial_later(now, &node, Duration::ZERO, out);
    }

    /// A member that was not known before.
    fn admit(
        &mut self,
        now: Instant,
        registration: Registration,
        ends: i64,
        source: Source,
        out: &mut Vec<Effect>,
    ) {
        let node = registration.node.clone();
        if self.members.len() >= self.max_members {
            let most = self.max_members;
            let what = format!(
                "the view is full with {most} members: {node} and others are left out (--max-members)"
            );
            // One line for as long as it is full, whoever comes.
            if !self.told.contains_key("(full)") {
                self.tell_once("(full)", what, out);
            }
            return;
        }
        self.told.remove("(full)");
        self.graves.remove(&node);
        let trusted = self.peers.contains_key(&node);
        let room = self.named.len() < self.max_members;
        let speakable = trusted || self.named.contains(&node) || room;
        if speakable && !trusted {
            self.named.insert(node.clone());
        }
        let place = match standing_of(&registration.status) {
            Standing::Suspended => Place::Suspended,
            _ => Place::Listed,
        };
        let joined = matches!(place, Place::Listed);
        let known = Known {
            standing: place,
            ends,
            looked_at: None,
            confirmed: now,
            heard: match source {
                Source::Event(at) => at,
                Source::LookUp(_) => 0,
            },
            spoke: None,
            replaced: false,
            dial: Dial {
                up_since: trusted.then_some(now),
                ..Dial::default()
            },
            note: None,
            speakable,
            trusted,
            atoms: trusted && self.afford(&registration),
            registration: Arc::new(registration),
        };
        self.members.insert(node.clone(), known);
        self.changed = true;
        if joined {
            self.change(&node, ChangeKind::Joined, out);
        }
        let end = self.instant_of(now, ends) + COALESCE;
        self.look_at_end(node.clone(), end);
        let pause = match source {
            Source::Event(_) => HEAD_START + self.random.up_to(HEAD_START),
            Source::LookUp(_) => Duration::ZERO,
        };
        self.dial_later(now, &node, pause, out);
    }

    /// Whether the meta may become atoms at our callers: there is room for that many in their tables.
    fn afford(&mut self, registration: &Registration) -> bool {
        let new: Vec<Box<str>> = typed::atoms(&registration.meta)
            .filter(|text| !self.atoms.contains(*text))
            .map(Box::from)
            .collect();
        if self.atoms.len() + new.len() > MAX_ATOMS {
            return false;
        }
        self.atoms.extend(new);
        true
    }

    /// Redis has no registration of this node.
    fn ended(&mut self, node: &NodeName, out: &mut Vec<Effect>) {
        // A connection says more than Redis does: keys get lost with a Redis that is emptied.
        if self.peers.contains_key(node) {
            return;
        }
        if let Some(known) = self.members.remove(node) {
            self.changed = true;
            // That a lost member is lost was told at the break.
            if !matches!(known.standing, Place::Lost { .. }) {
                self.change(node, ChangeKind::Expired, out);
            }
        }
    }

    pub(super) fn up(&mut self, now: Instant, peer: PeerInfo, out: &mut Vec<Effect>) {
        let node = peer.name.clone();
        if self
            .peers
            .get(&node)
            .is_some_and(|up| up.connection == peer.connection)
        {
            return;
        }
        self.peers.insert(node.clone(), peer);
        let Some(mut known) = self.members.remove(&node) else {
            // Connected before it was heard of, or no member at all.
            return self.want(now, node, Want::default(), out);
        };
        known.trusted = true;
        known.replaced = false;
        known.speakable = true;
        known.note = None;
        known.dial.due = None;
        known.dial.up_since = Some(now);
        known.atoms = self.afford(&known.registration);
        if matches!(known.standing, Place::Lost { .. }) {
            known.standing = Place::Listed;
        }
        self.members.insert(node.clone(), known);
        self.told.remove(node.as_str());
        self.change(&node, ChangeKind::Up, out);
    }

    pub(super) fn down(
        &mut self,
        now: Instant,
        peer: &PeerInfo,
        reason: DownReason,
        out: &mut Vec<Effect>,
    ) {
        let node = &peer.name;
        // Of two connections the newer counts, in whatever order their ends are told.
        if self
            .peers
            .get(node)
            .is_none_or(|up| up.connection != peer.connection)
        {
            return;
        }
        // Nothing breaks for anyone: the connection that took its place is told next.
        if reason == DownReason::Replaced {
            return;
        }
        self.peers.remove(node);
        let at = self.redis_now(now).unwrap_or(0);
        let Some(known) = self.members.get_mut(node) else {
            return;
        };
        let held = known
            .dial
            .up_since
            .take()
            .is_some_and(|since| now >= since + HELD);
        known.dial.attempt = if held { 0 } else { known.dial.attempt + 1 };
        let replaced = std::mem::take(&mut known.replaced);
        if matches!(known.standing, Place::Listed) && !replaced {
            known.standing = Place::Lost {
                at,
                then: None,
                published: false,
            };
        }
        let pause = pause(known.dial.attempt.saturating_sub(1));
        let pause = self.random.about(pause);
        self.change(node, ChangeKind::Down(reason), out);
        self.dial_later(now, node, pause, out);
        self.want(now, node.clone(), Want::default(), out);
        // What Redis has now must be what it had at the break: this look-up does not wait for others, and one that
        // is under way does not count.
        self.looking.remove(node);
        self.want_at = Some(now);
    }

    /// Ups and downs were lost: makes them up.
    pub(super) fn peers(&mut self, now: Instant, peers: Vec<PeerInfo>, out: &mut Vec<Effect>) {
        let now_up: HashSet<u64> = peers.iter().map(|peer| peer.connection).collect();
        let gone = |peer: &&PeerInfo| !now_up.contains(&peer.connection);
        let gone: Vec<_> = self.peers.values().filter(gone).cloned().collect();
        for peer in gone {
            self.down(now, &peer, DownReason::Closed, out);
        }
        for peer in peers {
            self.up(now, peer, out);
        }
    }

    /// Plans to dial a member, when that is what we do with members like it.
    fn dial_later(
        &mut self,
        now: Instant,
        node: &NodeName,
        pause: Duration,
        out: &mut Vec<Effect>,
    ) {
        let own = self.own.registration.node.clone();
        let Some(known) = self.members.get_mut(node) else {
            return;
        };
        let idle = known.dial.due.is_none() && !known.dial.in_flight && !known.dial.queued;
        if self.peers.contains_key(node) || !idle {
            return;
        }
        match self.dialling.check(&own, &known.registration) {
            Ok(()) => {
                let at = now + pause;
                known.dial.due = Some(at);
                self.timers.push(Reverse((at, node.clone(), Timer::Dial)));
                if pause.is_zero() {
                    self.dial_due(now, node, out);
                }
            }
            Err(Undialled::NotWanted) => {}
            Err(Undialled::Never(why)) => {
                if known.note.as_deref() != Some(&why) {
                    known.note = Some(why.as_str().into());
                    self.changed = true;
                }
                self.tell_once(
                    node.as_str(),
                    format!("{node} is not connected to: {why}"),
                    out,
                );
            }
        }
    }

    fn dial_due(&mut self, now: Instant, node: &NodeName, out: &mut Vec<Effect>) {
        let Some(known) = self.members.get_mut(node) else {
            return;
        };
        if known.dial.due.is_none_or(|at| now < at) || self.own.phase != Phase::Joined {
            return;
        }
        known.dial.due = None;
        // Things may have changed since it was planned.
        let allowed = self
            .dialling
            .check(&self.own.registration.node, &known.registration)
            .is_ok();
        if !allowed || self.peers.contains_key(node) {
            return;
        }
        if self.dials >= DIALS {
            known.dial.queued = true;
            self.dial_queue.push_back(node.clone());
            return;
        }
        known.dial.in_flight = true;
        self.dials += 1;
        let Registration { ip, port, .. } = &*known.registration;
        out.push(Effect::Connect(node.clone(), ip.clone(), *port));
    }

    /// A dial has ended. That it was a success is told by [`State::up`].
    pub(super) fn connected(
        &mut self,
        now: Instant,
        node: &NodeName,
        result: Result<(), String>,
        out: &mut Vec<Effect>,
    ) {
        self.dials = self.dials.saturating_sub(1);
        while self.dials < DIALS {
            let Some(next) = self.dial_queue.pop_front() else {
                break;
            };
            if let Some(known) = self.members.get_mut(&next) {
                known.dial.queued = false;
                known.dial.due = Some(now);
                self.dial_due(now, &next, out);
            }
        }
        let Some(known) = self.members.get_mut(node) else {
            return;
        };
        known.dial.in_flight = false;
        let Err(why) = result else {
            return;
        };
        let pause = pause(known.dial.attempt);
        known.dial.attempt = known.dial.attempt.saturating_add(1);
        known.note = Some(why.as_str().into());
        let lost = matches!(known.standing, Place::Lost { .. });
        self.changed = true;
        let pause = self.random.about(pause);
        // That nobody answers where a node was lost is no news.
        if !lost {
            self.tell_once(node.as_str(), why, out);
        }
        self.dial_later(now, node, pause, out);
    }

    pub(super) fn timer(
        &mut self,
        now: Instant,
        at: Instant,
        node: NodeName,
        timer: Timer,
        out: &mut Vec<Effect>,
    ) {
        match timer {
            Timer::Dial => self.dial_due(now, &node, out),
            Timer::Ends => {
                let Some(known) = self.members.get(&node) else {
                    return;
                };
                if known.looked_at != Some(at) {
                    return;
                }
                let ends = known.ends;
                let next = if self.redis_now(now).is_some_and(|now| now < ends) {
                    self.instant_of(now, ends) + COALESCE
                } else {
                    // The look-up finds a later end, or nothing. Without Redis nothing ends.
                    if self.redis && !self.peers.contains_key(&node) {
                        self.want(now, node.clone(), Want::default(), out);
                    }
                    now + LOOK_ROUND / 6
                };
                self.look_at_end(node, next);
            }
        }
    }

    fn look_at_end(&mut self, node: NodeName, at: Instant) {
        if let Some(known) = self.members.get_mut(&node) {
            known.looked_at = Some(at);
            self.timers.push(Reverse((at, node, Timer::Ends)));
        }
    }
}

fn pause(attempt: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << attempt.min(10))
        .min(LAST_PAUSE)
}
