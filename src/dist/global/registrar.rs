//! What programs of this node ask of `global`: names, by one registrar after the other, and locks. Pure.
//!
//! ```text
//!   registrar:  queue ─► lock `global` on the boss, then on all ─► tell all ─► let go, boss last ─► answer
//!                          └─ refused ─► pause, again; after a minute: failed
//! ```

use super::{
    locks::Owner,
    state::{Answer, Effect, Global, Local, Then},
    terms::{self, Entry, LockId},
};
use crate::{dist::call::atom, term::Raw};
use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    time::{Duration, Instant},
};

/// Most local requests that wait their turn, and most locks that are being taken for programs.
const MAX_WAITING: usize = 10_000;

/// A name is registered by then, or not at all.
const REGISTER_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
enum Want {
    Register { entry: Entry, again: bool },
    Unregister(Raw),
}

#[derive(Debug)]
struct Job {
    number: u64,
    want: Want,
    until: Instant,
    times: u32,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Idle,
    Pausing {
        job: Job,
        at: Instant,
    },
    Locking {
        job: Job,
        nodes: Vec<String>,
    },
    Telling {
        job: Job,
        nodes: Vec<String>,
        waiting: BTreeSet<u64>,
    },
}

#[derive(Debug, Default)]
pub(super) struct Registrar {
    queue: VecDeque<Job>,
    step: Step,
}

impl Registrar {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match &self.step {
            Step::Pausing { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// A lock that a program wants.
#[derive(Debug)]
pub(super) struct User {
    id: LockId,
    holder: Raw,
    nodes: Option<Vec<String>>,
    /// Those that are being asked.
    asked: Vec<String>,
    retries: Option<u32>,
    times: u32,
    pub(super) again_at: Option<Instant>,
}

impl Global {
    pub(super) fn local(&mut self, number: u64, local: Local) {
        match local {
            Local::Whereis(name) => {
                let pid = self.names.get(&name).map(|entry| entry.pid.clone());
                self.answer(number, Answer::Pid(pid));
            }
            Local::Names => {
                let names = self
                    .names
                    .entries()
                    .map(|entry| entry.name.clone())
                    .collect();
                self.answer(number, Answer::Names(names));
            }
            Local::Register { entry, again } => {
                let want = Want::Register { entry, again };
                self.queue(number, want);
            }
            Local::Unregister(name) if self.names.get(&name).is_none() => {
                self.answer(number, Answer::Done);
            }
            Local::Unregister(name) => self.queue(number, Want::Unregister(name)),
            Local::SetLock {
                id,
                holder,
                nodes,
                retries,
            } => {
                if self.users.len() >= MAX_WAITING || self.users.contains_key(&number) {
                    return self.answer(number, Answer::Failed("too many locks are waited for"));
                }
                let user = User {
                    id,
                    holder,
                    nodes,
                    asked: Vec::new(),
                    retries,
                    times: 1,
                    again_at: None,
                };
                self.users.insert(number, user);
                self.user_locks(number);
            }
            Local::DelLock { id, holder, nodes } => {
                let nodes = nodes.unwrap_or_else(|| self.everybody());
                self.release(&id, &holder, &nodes);
                self.answer(number, Answer::Done);
            }
            Local::GiveUp => {
                self.stop_taking(Owner::User(number));
                self.users.remove(&number);
            }
        }
    }

    fn answer(&mut self, number: u64, answer: Answer) {
        self.effect(Effect::Answer { number, answer });
    }

    /// `[node() | nodes()]`.
    fn everybody(&self) -> Vec<String> {
        std::iter::once(&self.me.name)
            .chain(self.peers.keys())
            .cloned()
            .collect()
    }

    fn queue(&mut self, number: u64, want: Want) {
        if self.registrar.queue.len() >= MAX_WAITING {
            return self.answer(
                number,
                Answer::Failed("too many names wait to be registered"),
            );
        }
        let until = self.now + REGISTER_WITHIN;
        self.registrar.queue.push_back(Job {
            number,
            want,
            until,
            times: 0,
        });
        self.next_job();
    }

    fn next_job(&mut self) {
        if matches!(self.registrar.step, Step::Idle)
            && let Some(job) = self.registrar.queue.pop_front()
        {
            self.lock_for(job);
        }
    }

    fn lock_for(&mut self, job: Job) {
        let boss = self.boss(self.known.keys());
        let nodes: Vec<String> = std::iter::once(&self.me.name)
            .chain(self.known.keys())
            .cloned()
            .collect();
        let rest = nodes
            .iter()
            .filter(|node| **node != boss)
            .cloned()
            .collect();
        self.registrar.step = Step::Locking { job, nodes };
        let (id, registrar) = (self.registrars_lock(), self.me.registrar.clone());
        self.take(Owner::Registrar, id, registrar, [vec![boss], rest]);
    }

    fn registrars_lock(&self) -> LockId {
        LockId {
            resource: atom("global"),
            requester: self.me.registrar.clone(),
        }
    }

    pub(super) fn registrar_took(&mut self, taken: bool) {
        let Step::Locking { mut job, nodes } = mem::take(&mut self.registrar.step) else {
            return;
        };
        let whole = self.known.keys().all(|node| nodes.contains(node));
        if taken && whole {
            return self.tell_all(job, nodes);
        }
        if taken {
            // The cluster has grown while we locked it.
            self.registrar_releases(&nodes);
        }
        job.times += 1;
        if job.until <= self.now {
            self.answer(
                job.number,
                Answer::Failed("the cluster could not be locked in a minute"),
            );
            return self.next_job();
        }
        let at = self.now + self.pause_after(job.times);
        self.registrar.step = Step::Pausing { job, at };
    }

    fn registrar_releases(&mut self, nodes: &[String]) {
        let (id, registrar) = (self.registrars_lock(), self.me.registrar.clone());
        self.release(&id, &registrar, nodes);
    }

    /// The cluster is locked for us: the change is made everywhere.
    fn tell_all(&mut self, job: Job, nodes: Vec<String>) {
        let request = match &job.want {
            Want::Register { entry, again } => {
                // One process has one name, as OTP wants it too.
                let taken = self.names.get(&entry.name).is_some()
                    || self.names.entries().any(|other| other.pid == entry.pid);
                if taken && !again {
                    self.registrar_releases(&nodes);
                    self.answer(job.number, Answer::No);
                    return self.next_job();
                }
                self.insert_name(entry.clone(), true);
                terms::register(entry)
            }
            Want::Unregister(name) => {
                self.delete_name(name);
                terms::unregister(name)
            }
        };
        let registrar = self.me.registrar.clone();
        let mut waiting = BTreeSet::new();
        for node in &nodes {
            if self.peers.contains_key(node) {
                let number = self.fresh();
                self.remember(number, node, Then::Told);
                waiting.insert(number);
                self.effect(Effect::Ask {
                    peer: node.clone(),
                    from: registrar.clone(),
                    request: request.clone(),
                    number: Some(number),
                });
            }
        }
        self.registrar.step = Step::Telling {
            job,
            nodes,
            waiting,
        };
        self.told(0);
    }

    /// One more has heard of it, or is gone, or does not answer.
    pub(super) fn told(&mut self, number: u64) {
        let Step::Telling { waiting, .. } = &mut self.registrar.step else {
            return;
        };
        waiting.remove(&number);
        if waiting.is_empty()
            && let Step::Telling { job, nodes, .. } = mem::take(&mut self.registrar.step)
        {
            self.registrar_releases(&nodes);
            self.answer(job.number, Answer::Done);
            self.next_job();
        }
    }

    pub(super) fn wake_registrar(&mut self) {
        if self.registrar.wake_at().is_some_and(|at| at <= self.now)
            && let Step::Pausing { job, .. } = mem::take(&mut self.registrar.step)
        {
            self.lock_for(job);
        }
    }

    fn user_locks(&mut self, number: u64) {
        let everybody = self.everybody();
        let Some(user) = self.users.get_mut(&number) else {
            return;
        };
        user.again_at = None;
        user.asked = user.nodes.clone().unwrap_or(everybody);
        let (id, holder, nodes) = (user.id.clone(), user.holder.clone(), user.asked.clone());
        self.take(Owner::User(number), id, holder, [nodes]);
    }

    pub(super) fn user_took(&mut self, number: u64, taken: bool) {
        let Some(user) = self.users.get_mut(&number) else {
            return;
        };
        if taken || user.retries == Some(0) {
            self.users.remove(&number);
            let answer = if taken { Answer::Done } else { Answer::No };
            return self.answer(number, answer);
        }
        user.retries = user.retries.map(|left| left - 1);
        let times = user.times;
        user.times = times.saturating_add(1);
        let again_at = self.now + self.pause_after(times);
        if let Some(user) = self.users.get_mut(&number) {
            user.again_at = Some(again_at);
        }
    }

    pub(super) fn wake_users(&mut self) {
        let now = self.now;
        let due: Vec<u64> = (self.users.iter())
            .filter(|(_, user)| user.again_at.is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            self.user_locks(number);
        }
    }
}
