//! The locker: it holds the lock for one dialogue at a time, and chooses whose turn it is. Pure.
//!
//! ```text
//!   idle ─(pause)──► taking the lock ─► awaiting his lock_set ─► holding ─► idle
//!    └─(his lock_set true)─► taking ─────────────────────────────┘
//! ```
//!
//! The lock of a dialogue is that of both lockers: whichever of them takes it first on a node, the other may join.

use super::{
    dialogue::{Dialogue, HOLD_AT_MOST},
    locks::Owner,
    state::Global,
    terms,
    terms::LockId,
};
use std::{
    mem,
    time::{Duration, Instant},
};

#[derive(Debug, Default)]
pub(super) enum Step {
    #[default]
    Idle,
    Taking {
        peer: String,
        id: LockId,
        nodes: Vec<String>,
        knocked: bool,
    },
    Awaiting {
        peer: String,
        id: LockId,
        nodes: Vec<String>,
        until: Instant,
    },
    Holding {
        peer: String,
        id: LockId,
        nodes: Vec<String>,
        until: Instant,
    },
}

/// The part of us that locks for dialogues, one at a time.
#[derive(Debug, Default)]
pub(super) struct Locker {
    pub(super) step: Step,
    /// When an idle locker looks for somebody to lock with.
    at: Option<Instant>,
    pub(super) just_synced: bool,
}

impl Locker {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.step {
            Step::Idle => self.at,
            // The answers have deadlines of their own.
            Step::Taking { .. } => None,
            Step::Awaiting { until, .. } | Step::Holding { until, .. } => Some(*until),
        }
    }

    fn peer(&self) -> Option<&str> {
        match &self.step {
            Step::Idle => None,
            Step::Taking { peer, .. }
            | Step::Awaiting { peer, .. }
            | Step::Holding { peer, .. } => Some(peer),
        }
    }
}

impl Global {
    pub(super) fn locker_lost(&mut self, peer: &str) {
        if self.locker.peer() != Some(peer) {
            return;
        }
        match mem::take(&mut self.locker.step) {
            Step::Idle => {}
            Step::Taking { .. } => self.stop_taking(Owner::Locker),
            Step::Awaiting { id, nodes, .. } | Step::Holding { id, nodes, .. } => {
                let locker = self.me.locker.clone();
                self.release(&id, &locker, &nodes);
            }
        }
    }

    /// What an idle locker does next; after everything that happens.
    pub(super) fn run_locker(&mut self) {
        while matches!(self.locker.step, Step::Idle) {
            let knocks = |d: &Dialogue| d.knocks;
            let who = (self.peers.iter())
                .find(|(_, state)| state.dialogue.as_ref().is_some_and(knocks))
                .map(|(peer, _)| peer.clone());
            let Some(peer) = who else { break };
            if let Some(dialogue) = self.open(&peer) {
                dialogue.knocks = false;
            }
            self.lock_with(peer, true);
        }
        if !matches!(self.locker.step, Step::Idle) {
            return;
        }
        if self.candidates().next().is_none() {
            self.locker.at = None;
        } else if self.locker.at.is_none() {
            let known = u64::try_from(self.known.len()).unwrap_or(u64::MAX);
            // OTP's pauses, and a little of our own: with some time between, others get their turn.
            let most = match known {
                _ if mem::take(&mut self.locker.just_synced) => 0,
                0 => 200,
                known => known.saturating_mul(100).saturating_add(1000).min(3000),
            };
            let pause = self.pause(Duration::from_millis(most / 4 + 1));
            self.locker.at = Some(self.now + Duration::from_millis(most) + pause);
        }
    }

    /// Peers that greeted, and that we do not know.
    fn candidates(&self) -> impl Iterator<Item = &String> {
        (self.peers.iter())
            .filter(|(peer, state)| {
                state.dialogue.as_ref().is_some_and(|d| d.his.is_some())
                    && !self.known.contains_key(*peer)
            })
            .map(|(peer, _)| peer)
    }

    pub(super) fn wake_locker(&mut self) {
        let now = self.now;
        match &self.locker.step {
            Step::Idle if self.locker.at.is_some_and(|at| at <= now) => {
                self.locker.at = None;
                if self.is_global_locked() {
                    return;
                }
                let candidates: Vec<String> = self.candidates().cloned().collect();
                let one = self.pause(Duration::from_secs(3600)).as_millis() as usize;
                if let Some(peer) = candidates.get(one % candidates.len().max(1)) {
                    self.lock_with(peer.clone(), false);
                }
            }
            Step::Awaiting { peer, until, .. } | Step::Holding { peer, until, .. }
                if *until <= now =>
            {
                let peer = peer.clone();
                self.abandon(&peer);
            }
            _ => {}
        }
    }

    /// Takes the lock on our part of the cluster: the boss, we (and he, unless he did), and whoever else is known.
    fn lock_with(&mut self, peer: String, knocked: bool) {
        let Some(his) = self.open(&peer).and_then(|dialogue| dialogue.his.clone()) else {
            return;
        };
        let id = terms::lockers_lock(&self.me.locker, &his.locker);
        let boss = self.boss(self.known.keys());
        let mut nodes = vec![boss.clone(), self.me.name.clone()];
        if !knocked {
            nodes.push(peer.clone());
        }
        nodes.dedup();
        let second: Vec<String> = nodes
            .iter()
            .filter(|node| **node != boss)
            .cloned()
            .collect();
        let third: Vec<String> = (self.known.keys())
            .filter(|node| !nodes.contains(*node))
            .cloned()
            .collect();
        nodes.extend(third.iter().cloned());
        let step = Step::Taking {
            peer,
            id: id.clone(),
            nodes,
            knocked,
        };
        self.locker.step = step;
        let locker = self.me.locker.clone();
        self.take(Owner::Locker, id, locker, [vec![boss], second, third]);
    }

    pub(super) fn locker_took(&mut self, taken: bool) {
        let Step::Taking {
            peer,
            id,
            nodes,
            knocked,
        } = mem::take(&mut self.locker.step)
        else {
            return;
        };
        let whole = self.known.keys().all(|node| nodes.contains(node));
        if taken && !whole {
            // The cluster has grown while we locked it.
            let locker = self.me.locker.clone();
            self.release(&id, &locker, &nodes);
        }
        let set = taken && whole;
        if set {
            let until = self.now + HOLD_AT_MOST;
            self.locker.step = Step::Awaiting {
                peer: peer.clone(),
                id,
                nodes,
                until,
            };
        }
        if set || knocked {
            self.say_lock_set(&peer, set);
        }
        let knocks = self.open(&peer).is_some_and(|d| mem::take(&mut d.knocks));
        if set && (knocked || knocks) {
            self.lock_is_set(&peer);
        } else if knocks && let Some(dialogue) = self.open(&peer) {
            // Ours failed, and he waits: `run_locker` tries again for him.
            dialogue.knocks = true;
        }
    }

    /// Both hold the lock: nobody else changes names now.
    pub(super) fn lock_is_set(&mut self, peer: &str) {
        let Step::Awaiting {
            peer: of,
            id,
            nodes,
            ..
        } = mem::take(&mut self.locker.step)
        else {
            return;
        };
        let until = self.now + HOLD_AT_MOST;
        self.locker.step = Step::Holding {
            peer: of,
            id: id.clone(),
            nodes,
            until,
        };
        let Some(dialogue) = self.open(peer) else {
            return;
        };
        dialogue.lock = Some(id);
        if let Some(his) = dialogue.his.clone() {
            let message = terms::exchange(&self.me.name, self.names.entries(), &his.tag);
            self.cast(peer, message);
        }
        self.exchange(peer);
    }
}
