//! The dialogue of two nodes that do not know each other yet. Pure.
//!
//! ```text
//!   greeted ─(his init_connect)─► pending ─(lock_set both)─► locked ─(exchange)─► resolving ─(resolved)─► known
//!      │                             │                          │
//!      └── 30 s: dropped             └──── 60 s, or 10 s with the lock held: cancelled, greeted anew;
//!                                          the third time, or once our `resolved` is out: disconnected
//! ```

use super::{
    locker::Step,
    names::Resolving,
    state::{Effect, Global},
    terms::{self, ACKNOWLEDGED, Entry, LockId, Message, Nodes, Op},
};
use crate::term::Raw;
use std::{
    mem,
    time::{Duration, Instant},
};

/// A peer that does not greet back by then takes no part in `global`.
const GREET_WITHIN: Duration = Duration::from_secs(30);

/// A dialogue ends by then: many nodes that come at once are led through it one by one.
const END_WITHIN: Duration = Duration::from_secs(60);

/// While a dialogue holds the lock, nobody registers a name.
pub(super) const HOLD_AT_MOST: Duration = Duration::from_secs(10);

/// Dialogues in a row that come to nothing before the peer is disconnected.
const MAX_FAILURES: u32 = 3;

/// The other side of a dialogue, as its `init_connect` told.
#[derive(Debug, Clone)]
pub(super) struct His {
    pub(super) tag: Raw,
    version: i64,
    pub(super) locker: Raw,
}

#[derive(Debug)]
pub(super) struct Dialogue {
    /// Ours; a message with another one is of a dialogue that is over.
    tag: i64,
    pub(super) his: Option<His>,
    /// His locker holds the lock and waits for ours.
    pub(super) knocks: bool,
    /// The lock, once both hold it.
    pub(super) lock: Option<LockId>,
    /// His names, until both hold the lock.
    names: Option<Vec<Entry>>,
    pub(super) resolving: Option<Resolving>,
    /// What we shall do to our table; then our `resolved` is out.
    ops: Option<Vec<Op>>,
    /// His `resolved`, until ours is out.
    resolved: Option<(Vec<Op>, Nodes)>,
    pub(super) until: Instant,
}

#[cfg(test)]
impl Dialogue {
    pub(super) fn tag(&self) -> i64 {
        self.tag
    }
}

impl Global {
    /// Begins a dialogue: we make ourselves known.
    pub(super) fn greet(&mut self, peer: &str) {
        // Differs from dialogue to dialogue, and from those of an earlier life.
        let tag = -(i64::try_from(self.me.seed >> 24).unwrap_or(0) + 1) * (1 << 20)
            + i64::try_from(self.fresh() & 0xF_FFFF).unwrap_or(0);
        let until = self.now + GREET_WITHIN;
        let Some(state) = self.peers.get_mut(peer) else {
            return;
        };
        state.dialogue = Some(Dialogue {
            tag,
            his: None,
            knocks: false,
            lock: None,
            names: None,
            resolving: None,
            ops: None,
            resolved: None,
            until,
        });
        let greeting = terms::init_connect(tag, &self.me.name, &self.known, &self.me.locker);
        self.cast(peer, greeting);
    }

    fn restart(&mut self, peer: &str) {
        self.drop_dialogue(peer);
        // The connection stays, so that no DOWN cleans up what the dialogue has left.
        self.drop_resources(peer, true);
        self.greet(peer);
    }

    /// Forgets the dialogue, and lets go of its lock.
    pub(super) fn drop_dialogue(&mut self, peer: &str) {
        if let Some(state) = self.peers.get_mut(peer) {
            state.dialogue = None;
        }
        self.locker_lost(peer);
    }

    pub(super) fn open(&mut self, peer: &str) -> Option<&mut Dialogue> {
        self.peers.get_mut(peer)?.dialogue.as_mut()
    }

    /// The dialogue that a message with this tag of ours belongs to.
    fn tagged(&mut self, peer: &str, tag: i64) -> Option<&mut Dialogue> {
        self.open(peer).filter(|dialogue| dialogue.tag == tag)
    }

    pub(super) fn dialogue(&mut self, peer: &str, message: Message) {
        match message {
            Message::InitConnect {
                version,
                tag,
                locker,
            } => {
                self.init_connect(
                    peer,
                    His {
                        tag,
                        version,
                        locker,
                    },
                );
            }
            Message::InitConnectAck { my_tag, his_tag } => {
                let Some(dialogue) = self.open(peer) else {
                    return;
                };
                let his = dialogue.his.as_ref().map(|his| &his.tag);
                if dialogue.tag != my_tag || his != Some(&his_tag) {
                    self.tell(peer, terms::cancel_connect(&self.me.name, &his_tag));
                    self.restart(peer);
                }
            }
            Message::LockSet { set, tag } => self.lock_set(peer, set, tag),
            Message::Exchange { names, tag } => {
                if let Some(dialogue) = self.tagged(peer, tag)
                    && dialogue.names.is_none()
                {
                    dialogue.names = Some(names);
                    self.exchange(peer);
                }
            }
            Message::Resolved { ops, known, tag } => {
                if let Some(dialogue) = self.tagged(peer, tag) {
                    dialogue.resolved = Some((ops, known));
                    self.finish(peer);
                }
            }
            Message::CancelConnect { tag } => {
                let ours = self.tagged(peer, tag).is_some();
                if ours {
                    self.restart(peer);
                }
            }
            // The front keeps the rest to itself.
            _ => {}
        }
    }

    fn init_connect(&mut self, peer: &str, his: His) {
        if self
            .peers
            .get(peer)
            .is_none_or(|state| state.removing.is_some())
        {
            return;
        }
        if self.known.contains_key(peer) {
            // Others told us of it, and will tell it of us; or the front ends it.
            return self.cast(peer, terms::in_sync(&self.me.name));
        }
        match self.open(peer) {
            None => self.greet(peer),
            Some(Dialogue { his: Some(_), .. }) => {
                self.tell(peer, terms::cancel_connect(&self.me.name, &his.tag));
                return self.restart(peer);
            }
            Some(_) => {}
        }
        let until = self.now + END_WITHIN;
        let Some(dialogue) = self.open(peer) else {
            return;
        };
        dialogue.until = until;
        dialogue.his = Some(his.clone());
        let tag = dialogue.tag;
        if his.version >= ACKNOWLEDGED {
            self.tell(peer, terms::init_connect_ack(&self.me.name, &his.tag, tag));
        }
    }

    fn lock_set(&mut self, peer: &str, set: bool, tag: Option<i64>) {
        let Some(dialogue) = self.open(peer) else {
            if set {
                // He holds a lock and waits for us: "no", in the form that needs no tag, lets him go on.
                let no = terms::lock_set(&self.me.locker, false, &self.known, None);
                self.cast(peer, no);
            }
            return;
        };
        // With another tag a `cancel_connect` of ours is on its way to him.
        if tag.is_some_and(|tag| tag != dialogue.tag) || dialogue.his.is_none() {
            return;
        }
        let awaited = matches!(&self.locker.step, Step::Awaiting { peer: of, .. } if of == peer);
        match (awaited, set) {
            (true, true) => self.lock_is_set(peer),
            (true, false) => self.locker_lost(peer),
            (false, true) => {
                if let Some(dialogue) = self.open(peer) {
                    dialogue.knocks = dialogue.lock.is_none();
                }
            }
            (false, false) => {}
        }
    }

    /// Tells him whether we hold the lock.
    pub(super) fn say_lock_set(&mut self, peer: &str, set: bool) {
        let Some(his) = self.open(peer).and_then(|dialogue| dialogue.his.clone()) else {
            return;
        };
        let tag = (his.version >= ACKNOWLEDGED).then_some(&his.tag);
        let message = terms::lock_set(&self.me.locker, set, &self.known, tag);
        self.cast(peer, message);
    }

    /// With the lock and his names at hand, the names are compared, once.
    pub(super) fn exchange(&mut self, peer: &str) {
        let Some(dialogue) = self.open(peer) else {
            return;
        };
        if dialogue.lock.is_none() || dialogue.ops.is_some() || dialogue.resolving.is_some() {
            return;
        }
        // What stays is the mark that they came.
        let Some(names) = dialogue.names.as_mut().map(mem::take) else {
            return;
        };
        if let Some((ops, his_ops)) = self.resolve(peer, names) {
            self.exchanged(peer, ops, his_ops);
        }
    }

    /// The names are compared: he hears what he has to do, and whom we know.
    pub(super) fn exchanged(&mut self, peer: &str, ops: Vec<Op>, his_ops: Vec<Op>) {
        let Some(his) = self.open(peer).and_then(|dialogue| dialogue.his.clone()) else {
            return;
        };
        let known = terms::nodes_list(self.known.iter(), his.version);
        self.cast(
            peer,
            terms::resolved(&self.me.name, &his_ops, &known, &his.tag),
        );
        if let Some(dialogue) = self.open(peer) {
            dialogue.ops = Some(ops);
        }
        self.finish(peer);
    }

    /// With both `resolved` at hand the parts become one.
    fn finish(&mut self, peer: &str) {
        let Some(dialogue) = self.open(peer) else {
            return;
        };
        let (Some(_), Some(_), Some(lock), Some(his)) = (
            &dialogue.ops,
            &dialogue.resolved,
            &dialogue.lock,
            &dialogue.his,
        ) else {
            return;
        };
        let (lock, his) = (lock.clone(), his.clone());
        let mut ops = dialogue.ops.take().unwrap_or_default();
        let (his_ops, mut his_known) = dialogue.resolved.take().unwrap_or_default();
        ops.extend(his_ops);
        his_known.retain(|(node, _)| *node != self.me.name && node != peer);
        for (node, version) in &mut his_known {
            if *version == 0 {
                *version = self.known.get(node).copied().unwrap_or(0);
            }
        }
        let before = self.known.clone();
        self.estranged.remove(peer);
        self.learn(peer, his.version);
        for (node, version) in &his_known {
            self.learn(node, *version);
            if self.known.contains_key(node) {
                self.sync_with(node);
                if let Some(state) = self.peers.get_mut(node) {
                    state.dialogue = None;
                }
            }
        }
        let fine = self.is_under_lock(Some(&lock));
        self.apply(ops.clone(), fine);
        let news = std::iter::once((peer.to_owned(), his.version))
            .chain(his_known)
            .collect();
        self.tell_new_nodes(&before, &ops, &news, his.version, &lock);
        if let Some(state) = self.peers.get_mut(peer) {
            state.synced = true;
            state.failures = 0;
        }
        self.locker.just_synced = true;
        // The lock goes behind `new_nodes`.
        self.drop_dialogue(peer);
    }

    fn tell_new_nodes(
        &mut self,
        to: &std::collections::BTreeMap<String, i64>,
        ops: &[Op],
        nodes: &Nodes,
        version: i64,
        lock: &LockId,
    ) {
        for (node, its) in to {
            let list = terms::nodes_list(nodes.iter().map(|(node, v)| (node, v)), *its);
            let message = terms::new_nodes(&self.me.name, ops, &list, version, lock);
            self.cast(node, message);
        }
    }

    pub(super) fn in_sync(&mut self, peer: &str) {
        self.drop_dialogue(peer);
        if let Some(state) = self.peers.get_mut(peer) {
            state.synced = true;
        }
        // It knows us by others, so this is another life of it.
        if self.estranged.remove(peer) && self.learn(peer, 0) {
            self.sync_with(peer);
        }
    }

    /// Somebody of our part has met these nodes.
    pub(super) fn new_nodes(
        &mut self,
        peer: &str,
        ops: Vec<Op>,
        nodes: Nodes,
        lock: Option<LockId>,
    ) {
        for (node, version) in nodes {
            if self.learn(&node, version) {
                self.sync_with(&node);
            }
        }
        let fine = self.is_under_lock(lock.as_ref());
        if !fine && !ops.is_empty() {
            self.log(peer, "names came with new nodes when their lock was gone");
        }
        self.apply(ops, fine);
    }

    pub(super) fn wake_dialogues(&mut self) {
        let now = self.now;
        let late: Vec<String> = (self.peers.iter())
            .filter(|(_, state)| state.dialogue.as_ref().is_some_and(|d| d.until <= now))
            .map(|(peer, _)| peer.clone())
            .collect();
        for peer in late {
            let greeted = self
                .open(&peer)
                .is_some_and(|dialogue| dialogue.his.is_some());
            if self.known.contains_key(&peer) {
                self.drop_dialogue(&peer);
            } else if greeted {
                self.abandon(&peer);
            } else {
                self.drop_dialogue(&peer);
                self.log(&peer, "it takes no part in global: it did not greet");
            }
        }
    }

    /// The dialogue stands still: neither side may hold its lock any longer.
    pub(super) fn abandon(&mut self, peer: &str) {
        let Some(dialogue) = self.open(peer) else {
            return self.locker_lost(peer);
        };
        // Once ours is out he may know us, and `cancel_connect` means nothing to him.
        let resolved = dialogue.ops.is_some();
        let his = dialogue.his.clone();
        let failures = self.peers.get_mut(peer).map_or(0, |state| {
            state.failures += 1;
            state.failures
        });
        match his.filter(|his| his.version >= ACKNOWLEDGED) {
            Some(his) if !resolved && failures < MAX_FAILURES => {
                self.log(peer, "its dialogue of global stood still and is begun anew");
                self.tell(peer, terms::cancel_connect(&self.me.name, &his.tag));
                self.restart(peer);
            }
            _ => {
                self.forget(peer);
                let reason = "its dialogue of global stands still, which blocks the whole cluster";
                self.effect(Effect::Disconnect {
                    peer: peer.into(),
                    reason,
                });
            }
        }
    }
}
