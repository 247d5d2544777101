//! Whom we know: by a dialogue, or by the word of others until they say it themselves. Pure.
//!
//! ```text
//!   heard of ─► joining ─(up)─► doubted ─(its in_sync)─► known for good
//!                 │ 10 s          │ 20 s
//!                 ▼               ▼
//!              forgotten      disconnected: it is of another life, and knows nothing of us
//! ```
//!
//! Whoever was known and is lost is estranged: see [`Global`].

use super::{
    state::{Effect, Global, Peer},
    terms,
};
use std::time::{Duration, Instant};

/// Most nodes we know.
pub(super) const MAX_KNOWN: usize = 10_000;

/// Most losses of others that are remembered, so that each is acted on once.
const MAX_LOST: usize = 10_000;

/// A node we heard of is given this long to dial us before we dial it: both at once would only race.
const DIAL_AFTER: Duration = Duration::from_millis(1500);

/// A node we heard of and that is not up by then is forgotten.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// A peer that is asked to close its connection and does not is disconnected.
const REMOVE_WITHIN: Duration = Duration::from_secs(5);

/// Somebody we know by others tells us by then that they know us.
const KNOW_US_WITHIN: Duration = Duration::from_secs(20);

/// How long a loss of others is remembered.
const REMEMBER_LOSS: Duration = Duration::from_secs(600);

/// A node that we heard of and that is not up.
#[derive(Debug)]
pub(super) struct Joining {
    dial_at: Option<Instant>,
    until: Instant,
}

impl Joining {
    pub(super) fn wake_at(&self) -> Instant {
        self.dial_at.unwrap_or(self.until)
    }
}

impl Global {
    /// The peer is no part of our cluster any more. Its names and locks go when its connection does.
    pub(super) fn forget(&mut self, peer: &str) {
        let known = self.known.remove(peer).is_some();
        self.joining.remove(peer);
        if known && self.estranged.len() < MAX_KNOWN {
            self.estranged.insert(peer.into());
        }
        if let Some(state) = self.peers.get_mut(peer) {
            state.synced = false;
        }
        self.drop_dialogue(peer);
    }

    /// Others know `node`: so do we, and expect it to be connected soon. True when that is news.
    pub(super) fn learn(&mut self, node: &str, version: i64) -> bool {
        if node == self.me.name {
            return false;
        }
        if let Some(known) = self.known.get_mut(node) {
            if *known == 0 {
                *known = version;
            }
            return false;
        }
        if self.estranged.contains(node) {
            self.expect_up(node);
            return false;
        }
        if self.known.len() >= MAX_KNOWN {
            self.log(node, "too many nodes are known; this one is not added");
            return false;
        }
        self.known.insert(node.into(), version);
        self.doubt(node);
        true
    }

    pub(super) fn doubt(&mut self, peer: &str) {
        let until = self.now + KNOW_US_WITHIN;
        if let Some(state) = self.peers.get_mut(peer)
            && !state.synced
        {
            state.doubted = Some(until);
        }
    }

    pub(super) fn wake_doubted(&mut self) {
        let now = self.now;
        let mut strangers = Vec::new();
        for (peer, state) in &mut self.peers {
            let late = state.doubted.take_if(|until| *until <= now).is_some();
            if late && !state.synced && self.known.contains_key(peer) {
                strangers.push(peer.clone());
            }
        }
        for peer in strangers {
            self.forget(&peer);
            let reason = "others say that it is of our cluster, and it does not know us";
            self.effect(Effect::Disconnect { peer, reason });
        }
    }

    /// Tells `node` that we know it, now or as soon as it is connected.
    pub(super) fn sync_with(&mut self, node: &str) {
        if node == self.me.name {
            return;
        }
        if self.peers.contains_key(node) {
            self.cast(node, terms::in_sync(&self.me.name));
        } else {
            self.expect_up(node);
        }
    }

    /// Expects `node` to come up; what we hold of it goes when it does not.
    pub(super) fn expect_up(&mut self, node: &str) -> bool {
        let full = self.joining.len() >= MAX_KNOWN;
        if node == self.me.name || self.peers.contains_key(node) {
            return true;
        }
        if full && !self.joining.contains_key(node) {
            return false;
        }
        let dial_at = self.now + DIAL_AFTER + self.pause(Duration::from_millis(500));
        let until = self.now + JOIN_WITHIN;
        (self.joining.entry(node.into())).or_insert(Joining {
            dial_at: Some(dial_at),
            until,
        });
        true
    }

    /// Known by the word of others, and not yet by its own.
    pub(super) fn is_unconfirmed(&self, node: &str) -> bool {
        let peer = self.peers.get(node);
        let unconfirmed = peer.is_none_or(|peer| !peer.synced);
        self.joining.contains_key(node) || (unconfirmed && self.known.contains_key(node))
    }

    pub(super) fn wake_joining(&mut self) {
        let now = self.now;
        let mut failed = Vec::new();
        for (node, joining) in &mut self.joining {
            if joining.dial_at.take_if(|at| *at <= now).is_some() {
                self.effects.push(Effect::Connect { peer: node.clone() });
            }
            if joining.until <= now {
                failed.push(node.clone());
            }
        }
        for node in failed {
            self.log(
                &node,
                "it was known to others and could not be connected; it is forgotten",
            );
            self.forget(&node);
            self.drop_resources(&node, false);
        }
    }

    /// `from` lost its connection to `lost`: whoever knows both keeps to the former, as all others do.
    pub(super) fn lost_connection(
        &mut self,
        from: String,
        creation: i64,
        number: i64,
        lost: String,
    ) {
        let key = (from.clone(), lost.clone());
        if let Some((its, last, _)) = self.lost.get(&key)
            && *its == creation
            && number <= *last
        {
            return;
        }
        if self.lost.len() < MAX_LOST || self.lost.contains_key(&key) {
            self.lost
                .insert(key, (creation, number, self.now + REMEMBER_LOSS));
        }
        let remove = if lost == self.me.name { from } else { lost };
        let pending = |peer: &Peer| peer.dialogue.as_ref().is_some_and(|d| d.his.is_some());
        let known =
            self.known.contains_key(&remove) || self.peers.get(&remove).is_some_and(pending);
        if !known {
            return;
        }
        self.log(
            &remove,
            "asked to disconnect, to keep parts of the cluster from overlapping",
        );
        self.tell(&remove, terms::remove_connection(&self.me.name));
        let until = self.now + REMOVE_WITHIN;
        if let Some(state) = self.peers.get_mut(&remove) {
            state.removing = Some(until);
        }
        self.forget(&remove);
    }
}
