//! The mesh as this node sees it: what the owner publishes and everybody reads without waiting.

use super::meta::MetaValue;
use super::registration::{Registration, Status};
use super::typed;
use crate::dist::{DownReason, NodeName};
use crate::term::{Raw, write};
use bytes::BytesMut;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// How a member stands in the views.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// In `nodes()`.
    Listed,
    /// Its connection broke, and nothing was heard of it since: in no view until it is back.
    Lost,
    /// It has withdrawn for a while.
    Suspended,
}

/// One member of the mesh, ourselves included.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it announces.
    pub registration: Arc<Registration>,
    /// How it stands.
    pub standing: Standing,
    /// Since when it is connected.
    pub connected: Option<SystemTime>,
    /// When its registration was last seen or heard.
    pub confirmed: Instant,
    /// Why this node never dials it, or could not the last time.
    pub note: Option<Arc<str>>,
    /// Whether its name may be told to Erlang callers, who keep every atom they ever see.
    pub(crate) speakable: bool,
    /// Whether its meta may become atoms at a caller.
    pub(crate) atoms: bool,
}

impl Member {
    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.registration.node
    }

    /// How old the knowledge of its registration is; nought while it is connected.
    pub fn age(&self) -> Duration {
        match self.connected {
            Some(_) => Duration::ZERO,
            None => self.confirmed.elapsed(),
        }
    }
}

/// The mesh at one moment.
#[derive(Debug)]
pub struct View {
    own: Arc<Member>,
    /// All the others, by name, whatever their standing.
    members: Vec<Arc<Member>>,
    /// Whether Redis answers.
    redis: bool,
    /// When this was last known to be the mesh as Redis has it.
    as_of: Option<Instant>,
    plain: OnceLock<Raw>,
    native: OnceLock<Raw>,
}

impl View {
    /// `members` must be ordered by name and without ourselves.
    pub(crate) fn new(
        own: Arc<Member>,
        members: Vec<Arc<Member>>,
        redis: bool,
        as_of: Option<Instant>,
    ) -> Self {
        Self {
            own,
            members,
            redis,
            as_of,
            plain: OnceLock::new(),
            native: OnceLock::new(),
        }
    }

    /// The members that `nodes()` lists: own node first, the rest by name.
    pub fn nodes(&self) -> impl Iterator<Item = &Member> {
        self.all()
            .filter(|member| member.standing == Standing::Listed)
    }

    /// Every member that is known of, the lost and the suspended among them; own node first.
    pub fn all(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.own)
            .chain(&self.members)
            .map(|member| &**member)
    }

    /// Ourselves.
    pub fn own(&self) -> &Member {
        &self.own
    }

    /// A member of whatever standing, ourselves included.
    pub fn find(&self, node: &NodeName) -> Option<&Member> {
        if node == self.own.name() {
            return Some(&self.own);
        }
        let at = self
            .members
            .binary_search_by(|member| member.name().cmp(node))
            .ok()?;
        self.members.get(at).map(|member| &**member)
    }

    /// Whether Redis answers. When it does not, this is the last view.
    pub fn redis(&self) -> bool {
        self.redis
    }

    /// How long ago this was the mesh as Redis has it; `None` before the first time.
    pub fn age(&self) -> Option<Duration> {
        match self.redis {
            true => self.as_of.map(|_| Duration::ZERO),
            false => self.as_of.map(|at| at.elapsed()),
        }
    }

    /// This view with some of the listed members lost.
    pub(crate) fn without(&self, lost: impl Fn(&NodeName) -> bool) -> Self {
        let mark = |member: &Arc<Member>| match member.standing {
            Standing::Listed if lost(member.name()) => Arc::new(Member {
                standing: Standing::Lost,
                connected: None,
                ..Member::clone(member)
            }),
            _ => member.clone(),
        };
        let members = self.members.iter().map(mark).collect();
        Self::new(self.own.clone(), members, self.redis, self.as_of)
    }

    /// What `redgrid:nodes()` answers, encoded once per view.
    pub(crate) fn plain_answer(&self) -> Raw {
        self.plain
            .get_or_init(|| answer(self.nodes(), false))
            .clone()
    }

    /// What `redgrid:nodes([native])` answers, encoded once per view.
    pub(crate) fn native_answer(&self) -> Raw {
        self.native
            .get_or_init(|| answer(self.nodes(), true))
            .clone()
    }

    /// The same of the connected members only.
    pub(crate) fn connected_answer(&self, native: bool) -> Raw {
        let own = self.own.name();
        let connected = |m: &&Member| m.connected.is_some() || m.name() == own;
        answer(self.nodes().filter(connected), native)
    }
}

/// `[{Node, [{<<"ip">>, Ip}, {Key, Value}...]}...]`.
fn answer<'a>(members: impl Iterator<Item = &'a Member>, native: bool) -> Raw {
    let members: Vec<_> = members.filter(|member| member.speakable).collect();
    let mut buf = BytesMut::new();
    write::put_list(&mut buf, members.len());
    for member in members {
        write::put_tuple(&mut buf, 2);
        write::put_atom(&mut buf, member.name().as_str());
        put_meta(&mut buf, member, native);
    }
    write::put_nil(&mut buf);
    written(buf)
}

/// `[{<<"ip">>, Ip}, {Key, Value}...]`, or with the types that were given.
fn put_meta(buf: &mut BytesMut, member: &Member, native: bool) {
    let Registration { ip, meta, .. } = &*member.registration;
    write::put_list(buf, meta.len() + 1);
    let put = |buf: &mut BytesMut, key: &str, value: &MetaValue, atoms| match native {
        true => typed::put_native(buf, key, value, atoms),
        false => typed::put_plain(buf, key, value),
    };
    put(buf, "ip", &MetaValue::String(ip.clone()), true);
    for (key, value) in meta.iter() {
        put(buf, key, value, member.atoms);
    }
    write::put_nil(buf);
}

/// What our own writers wrote, which is always one whole term.
pub(crate) fn written(buf: BytesMut) -> Raw {
    Raw::written(buf).unwrap_or_else(|why| {
        debug_assert!(false, "an answer of our own is no term: {why}");
        Raw::encode(&crate::term::atom("badarg"))
    })
}

/// One change of the mesh, as this node sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Who has changed.
    pub node: NodeName,
    /// What has happened.
    pub kind: ChangeKind,
}

/// What has happened to a member.
#[derive(Debug, Clone, PartialEq)]
pub enum ChangeKind {
    /// It is in the view: registered for the first time, or again after it was lost.
    Joined,
    /// It said that it leaves.
    Left,
    /// Its registration ended, and it was not connected.
    Expired,
    /// The same name registered with another creation: a new life.
    Replaced,
    /// It has withdrawn for a while.
    Suspended,
    /// It is back from that.
    Resumed,
    /// Its meta is another.
    Meta,
    /// It is connected.
    Up,
    /// Its connection is lost, and with it its place in the view.
    Down(DownReason),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, kind } = self;
        match kind {
            ChangeKind::Joined => write!(f, "{node} joined"),
            ChangeKind::Left => write!(f, "{node} left"),
            ChangeKind::Expired => write!(f, "{node} expired: its registration ended"),
            ChangeKind::Replaced => write!(f, "{node} was replaced by a new life of the same name"),
            ChangeKind::Suspended => write!(f, "{node} is suspended"),
            ChangeKind::Resumed => write!(f, "{node} resumed"),
            ChangeKind::Meta => write!(f, "{node} changed its meta"),
            ChangeKind::Up => write!(f, "{node} is up"),
            ChangeKind::Down(reason) => write!(f, "{node} is down: {reason}"),
        }
    }
}

/// The standing of a registration that nothing is held against.
pub(crate) fn standing_of(status: &Status) -> Standing {
    match status {
        Status::Suspended => Standing::Suspended,
        Status::Up | Status::Other(_) => Standing::Listed,
    }
}
