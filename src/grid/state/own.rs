//! Our own registration: proved, written, renewed, withdrawn, deleted.
//!
//! ```text
//!   New ──read own keys──► Proving ──nobody answers──► Joined ──leave──► Leaving
//!                             └──────a node does─────► Refused
//! ```

use super::super::event::{Event, EventKind};
use super::super::meta::Meta;
use super::super::registration::{Fields, Registration, Status};
use super::super::view::ChangeKind;
use super::{
    EXPIRY, Effect, LOOK_ROUND, Level, OwnKeys, RETRY, Renewal, State, Write, more_telling,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the info key is renewed, and the classic one while no classic member is known.
const RENEW: Duration = Duration::from_secs(20);
/// How often the classic key is renewed for classic members.
const RENEW_CLASSIC: Duration = Duration::from_secs(10);
/// `ping`s within this are answered once; more of it in a larger mesh, where each answer goes to everyone.
const PING_ROUND: Duration = Duration::from_millis(200);
const PING_ROUND_PER_MEMBER: Duration = Duration::from_millis(1);
/// A `ping` this soon after our own is our own.
const OWN_PING: Duration = Duration::from_secs(2);

/// How far we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has been read yet.
    New,
    /// Another life is registered under our name: does it live?
    Proving,
    /// We are a member, or are being made one.
    Joined,
    /// Another node has our name.
    Refused,
    /// We have gone.
    Leaving,
}

#[derive(Debug)]
pub(super) struct Own {
    pub(super) registration: Arc<Registration>,
    pub(super) phase: Phase,
    /// A transaction that should be written, and what it tells the others.
    wanted: Option<EventKind>,
    /// Whether it asks the others to register again.
    ping: bool,
    /// What is being written. One at a time: they must not overtake each other.
    writing: Option<(EventKind, bool)>,
    renewing: bool,
    /// Redis refused something of ours: not before this again.
    retry_at: Option<Instant>,
    pub(super) renew_at: Option<Instant>,
    /// The last renewal left out the info key and the index: for classic members, every other one does.
    short_renewal: bool,
    answer_ping_at: Option<Instant>,
    answered_ping_at: Option<Instant>,
    own_ping_at: Option<Instant>,
    /// When Redis last confirmed our registration.
    pub(super) confirmed_at: Option<Instant>,
    /// The time of Redis when we first registered in this life.
    joined_at: Option<i64>,
}

impl Own {
    pub(super) fn new(registration: Registration) -> Self {
        Self {
            registration: Arc::new(registration),
            phase: Phase::New,
            wanted: None,
            ping: false,
            writing: None,
            renewing: false,
            retry_at: None,
            renew_at: None,
            short_renewal: false,
            answer_ping_at: None,
            answered_ping_at: None,
            own_ping_at: None,
            confirmed_at: None,
            joined_at: None,
        }
    }

    fn suspended(&self) -> bool {
        self.registration.status == Status::Suspended
    }

    fn want(&mut self, kind: EventKind) {
        self.wanted = Some(self.wanted.map_or(kind, |other| more_telling(kind, other)));
    }

    /// Redis went away: what was being written may or may not have arrived.
    pub(super) fn lost_answers(&mut self) {
        if let Some((kind, ping)) = self.writing.take() {
            self.want(kind);
            self.ping |= ping;
        }
        self.renewing = false;
        self.retry_at = None;
        if self.phase == Phase::Proving {
            self.phase = Phase::New;
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let mut at = None;
        let mut sooner = |other: Option<Instant>| {
            at = match (at, other) {
                (Some(a), Some(b)) => Some(std::cmp::min::<Instant>(a, b)),
                (a, b) => a.or(b),
            };
        };
        match self.phase {
            Phase::New => sooner(self.retry_at),
            Phase::Joined if self.writing.is_none() && !self.renewing => {
                sooner(self.retry_at.filter(|_| self.wanted.is_some()));
                if self.retry_at.is_none() {
                    sooner(self.answer_ping_at);
                }
                sooner(self.renew_at);
            }
            _ => {}
        }
        at
    }
}

impl State {
    pub(super) fn read_own(&mut self, out: &mut Vec<Effect>) {
        let token = self.token();
        out.push(Effect::ReadOwn(token));
    }

    /// A key under our name that nobody answers for is our earlier life.
    pub(super) fn own_read(&mut self, now: Instant, keys: Option<OwnKeys>, out: &mut Vec<Effect>) {
        let Some(keys) = keys else {
            self.own.retry_at = Some(now + RETRY);
            return;
        };
        self.set_clock(now, keys.now);
        let own = self.own.registration.clone();
        let Some((host, port)) = other_life(&own, &keys.classic, &keys.info) else {
            return self.join(now, out);
        };
        self.own.phase = Phase::Proving;
        let token = self.token();
        out.push(Effect::ProveOwn(token, host, port));
    }

    pub(super) fn own_proved(&mut self, now: Instant, alive: bool, out: &mut Vec<Effect>) {
        if !alive {
            return self.join(now, out);
        }
        self.own.phase = Phase::Refused;
        let node = &self.own.registration.node;
        out.push(Effect::Refuse(format!(
            "another node named {node} runs and answers at the address that is registered for it: stop it, or \
             give this one another name (--name)"
        )));
    }

    /// Registers, asks everybody else to, and looks for them.
    fn join(&mut self, now: Instant, out: &mut Vec<Effect>) {
        self.own.phase = Phase::Joined;
        self.own.joined_at = self.redis_now(now);
        self.own.want(EventKind::Joined);
        self.own.ping = true;
        // The write is on its way before these reads, so that two who join at once find each other.
        self.own_due(now, out);
        self.index_at = Some(now);
        self.scan_at = Some(now + self.random.about(LOOK_ROUND));
        self.scan(false, out);
    }

    pub(super) fn own_due(&mut self, now: Instant, out: &mut Vec<Effect>) {
        if self.own.retry_at.is_some_and(|at| at <= now) {
            self.own.retry_at = None;
            if self.own.phase == Phase::New {
                self.read_own(out);
            }
        }
        if self.own.phase != Phase::Joined || self.own.writing.is_some() || self.own.renewing {
            return;
        }
        if self.own.answer_ping_at.is_some_and(|at| at <= now) {
            self.own.answer_ping_at = None;
            self.own.answered_ping_at = Some(now);
            self.own.want(EventKind::Joined);
        }
        if self.own.wanted.is_some() && self.own.retry_at.is_none() {
            self.write(now, out);
        } else if self.own.renew_at.is_some_and(|at| at <= now) {
            self.renew(now, out);
        }
    }

    fn write(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let Some(kind) = self.own.wanted.take() else {
            return;
        };
        let suspended = self.own.suspended();
        // Asking is for those who are in the mesh.
        let ping = std::mem::take(&mut self.own.ping) && !suspended;
        let token = self.token();
        let own = self.own.registration.clone();
        let write = Write {
            classic: (!suspended).then(|| own.classic_fields()),
            info: Some(own.info_fields()),
            score: self.score(now).filter(|_| !suspended),
            publish_key: !suspended,
            ping,
            event: self.event(now, kind),
        };
        self.own.answer_ping_at = None;
        if ping {
            self.own.own_ping_at = Some(now);
        }
        self.own.writing = Some((kind, ping));
        out.push(Effect::Write(token, Box::new(write)));
    }

    fn event(&self, now: Instant, kind: EventKind) -> bytes::Bytes {
        Event {
            kind,
            registration: Registration::clone(&self.own.registration),
            by: self.own.registration.node.clone(),
            at: self.redis_now(now).unwrap_or(0),
            left_out: None,
        }
        .encode()
    }

    fn score(&self, now: Instant) -> Option<i64> {
        Some(self.redis_now(now)? + EXPIRY.as_millis() as i64)
    }

    pub(super) fn written(&mut self, now: Instant, at: Option<i64>, out: &mut Vec<Effect>) {
        let Some((kind, ping)) = self.own.writing.take() else {
            return;
        };
        if self.own.phase == Phase::Leaving {
            out.push(Effect::Left);
            return;
        }
        match at {
            Some(at) => {
                self.confirmed(now, at);
                self.own.short_renewal = false;
                self.own.renew_at = Some(now + self.period());
            }
            None => {
                self.own.want(kind);
                self.own.ping |= ping;
                self.own.retry_at = Some(now + RETRY);
            }
        }
    }

    fn confirmed(&mut self, now: Instant, at: i64) {
        self.set_clock(now, at);
        // Who waits for the first registration waits for a view that says so.
        self.changed |= self.own.confirmed_at.is_none();
        self.own.confirmed_at = Some(now);
        self.own.retry_at = None;
    }

    /// A little less than promised, so that nodes started together drift apart.
    fn period(&mut self) -> Duration {
        let period = if self.classic_rely_on_us() {
            RENEW_CLASSIC
        } else {
            RENEW
        };
        period - self.random.up_to(period / 16)
    }

    fn classic_rely_on_us(&self) -> bool {
        !self.own.suspended()
            && self
                .members
                .values()
                .any(|known| known.registration.classic)
    }

    fn renew(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let suspended = self.own.suspended();
        let short = self.classic_rely_on_us() && !self.own.short_renewal;
        self.own.short_renewal = short;
        self.own.renew_at = None;
        self.own.renewing = true;
        let renewal = Renewal {
            classic: !suspended,
            info: !short,
            score: self.score(now).filter(|_| !short && !suspended),
        };
        let token = self.token();
        out.push(Effect::Renew(token, renewal));
    }

    pub(super) fn renewed(
        &mut self,
        now: Instant,
        answer: Option<(bool, i64)>,
        out: &mut Vec<Effect>,
    ) {
        self.own.renewing = false;
        let Some((there, at)) = answer else {
            self.own.renew_at = Some(now + RETRY);
            return;
        };
        self.confirmed(now, at);
        self.own.renew_at = Some(now + self.period());
        if !there {
            // Redis was emptied, or the clock of our renewals stood still for a minute.
            out.push(Effect::Tell(
                Level::Info,
                "our registration was gone from Redis: registering again".into(),
            ));
            self.own.want(EventKind::Joined);
            self.own.ping = true;
            self.index_at = Some(now);
            self.scan(false, out);
        }
    }

    /// Someone asks everybody to register again.
    pub(super) fn ping_heard(&mut self, now: Instant) {
        if self
            .own
            .own_ping_at
            .take()
            .is_some_and(|at| now < at + OWN_PING)
        {
            return;
        }
        if self.own.phase != Phase::Joined || self.own.suspended() {
            return;
        }
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let round = PING_ROUND.max(PING_ROUND_PER_MEMBER.saturating_mul(members));
        let mut at = now + self.random.up_to(PING_ROUND / 2);
        if let Some(last) = self.own.answered_ping_at {
            at = at.max(last + round);
        }
        self.own.answer_ping_at.get_or_insert(at);
    }

    /// Our own name on the events channel: an echo, or a program that thinks it is us.
    pub(super) fn own_event(&mut self, event: &Event, out: &mut Vec<Effect>) {
        let other = event.registration.creation;
        let registers = matches!(
            event.kind,
            EventKind::Joined | EventKind::Meta | EventKind::Resumed
        );
        let since = self.own.joined_at.is_some_and(|at| event.at > at);
        if registers && since && other.is_some() && other != self.own.registration.creation {
            let node = self.own.registration.node.clone();
            let what = format!(
                "another program registers as {node} too, with creation {}: one of the two must take another name",
                other.unwrap_or_default()
            );
            self.tell_once(node.as_str(), what, out);
        }
    }

    fn set_own(&mut self, change: impl FnOnce(&mut Registration)) {
        change(Arc::make_mut(&mut self.own.registration));
        self.changed = true;
    }

    pub(super) fn update_meta(&mut self, _now: Instant, meta: Meta, out: &mut Vec<Effect>) {
        if self.own.registration.meta == meta {
            return;
        }
        self.set_own(|own| own.meta = meta);
        self.own_changed(EventKind::Meta, ChangeKind::Meta, out);
    }

    pub(super) fn suspend(&mut self, _now: Instant, out: &mut Vec<Effect>) {
        if !self.own.suspended() {
            self.set_own(|own| own.status = Status::Suspended);
            self.own_changed(EventKind::Suspended, ChangeKind::Suspended, out);
        }
    }

    pub(super) fn resume(&mut self, _now: Instant, out: &mut Vec<Effect>) {
        if self.own.suspended() {
            self.set_own(|own| own.status = Status::Up);
            self.own_changed(EventKind::Resumed, ChangeKind::Resumed, out);
        }
    }

    fn own_changed(&mut self, event: EventKind, change: ChangeKind, out: &mut Vec<Effect>) {
        let node = self.own.registration.node.clone();
        self.change(&node, change, out);
        // Before the first registration there is nothing to be changed: that one will say it all.
        if self.own.phase == Phase::Joined {
            match self.own.wanted {
                // Suspended and resumed before either was written: the last one counts.
                Some(EventKind::Suspended | EventKind::Resumed) if event != EventKind::Meta => {
                    self.own.wanted = Some(event);
                }
                _ => self.own.want(event),
            }
        }
    }

    pub(super) fn leave(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let member = self.own.phase == Phase::Joined;
        self.own.phase = Phase::Leaving;
        if !member || !self.redis {
            out.push(Effect::Left);
            return;
        }
        let write = Write {
            classic: None,
            info: None,
            score: None,
            publish_key: false,
            ping: false,
            event: self.event(now, EventKind::Left),
        };
        // A write under way goes first on the same connection, and only the last one's answer counts.
        self.under_way.clear();
        let token = self.token();
        self.own.writing = Some((EventKind::Left, false));
        out.push(Effect::Write(token, Box::new(write)));
    }
}

/// Where another life of ours might still run: `None` when there is none, or when its address is ours.
fn other_life(
    own: &Registration,
    classic: &Fields,
    info: &Fields,
) -> Option<(String, Option<u16>)> {
    let other = Registration::read(&own.node, classic, info)
        .ok()?
        .registration;
    if other.ip.is_empty() || (other.creation.is_some() && other.creation == own.creation) {
        return None;
    }
    let here = other.ip == own.ip;
    match other.port {
        // We listen there ourselves.
        port @ Some(_) if here && port == own.port => None,
        // epmd here would name ourselves.
        None if here => None,
        port => Some((other.ip, port)),
    }
}
