//! The messages between scope processes. Pure.
//!
//! Everything read here is copied into terms of its own, in one settled form: the same pid or group is the same key,
//! whichever release wrote it and whatever atoms the header of its frame held.

use crate::dist::NodeName;
use crate::term::{
    Raw, View,
    write::{put_atom, put_int, put_list, put_map, put_nil, put_pid, put_raw, put_tuple},
};
use bytes::BytesMut;

/// The version of the protocol that we speak to those who say that they do: that of OTP 29.
pub(super) const VERSION: u8 = 1;

/// What a membership takes in our tables, beside the bytes of its terms.
const OVERHEAD: usize = 64;

/// A `leave` names pids and groups, and means every pid in every group. OTP sends one of the one or one of the other.
const MOST_LEAVES: usize = 1_000_000;

/// Who joined and who left a group. Those who leave go first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) group: Raw,
    pub(super) add: Vec<Raw>,
    pub(super) remove: Vec<Raw>,
}

/// What a scope process says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Discover {
        peer: Raw,
        version: u8,
    },
    /// All of its members, each group with whoever is in it.
    Replace {
        peer: Raw,
        version: u8,
        members: Vec<(Raw, Vec<Raw>)>,
    },
    Change {
        peer: Raw,
        changes: Vec<Change>,
    },
}

/// Why a message is not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is none of the messages of scope processes.
    Unknown,
    /// It is larger than what a peer may make us keep; from this scope process.
    TooLarge { peer: Raw },
}

/// What one more membership of this pid in this group is counted as.
pub(super) fn cost(group: &Raw, pid: &Raw) -> usize {
    group.len() + pid.len() + OVERHEAD
}

/// Reads a message that came over the connection of this peer, and that may make us keep so many bytes.
pub(super) fn read(message: &Raw, from: &NodeName, room: usize) -> Result<Incoming, Unread> {
    let message = message.view();
    let message = match message.tagged::<1>("$gen_cast") {
        Some([inner]) => inner,
        None => message,
    };
    let mut reader = Reader {
        from,
        room,
        full: false,
    };
    // In all of them the second is who sends.
    let peer = message
        .tuple()
        .and_then(|mut fields| fields.nth(1))
        .and_then(|peer| reader.pid(peer))
        .ok_or(Unread::Unknown)?;
    match reader.message(message, &peer) {
        Some(read) => Ok(read),
        None if reader.full => Err(Unread::TooLarge { peer }),
        None => Err(Unread::Unknown),
    }
}

struct Reader<'a> {
    from: &'a NodeName,
    room: usize,
    /// There was no more room.
    full: bool,
}

impl Reader<'_> {
    fn message(&mut self, message: View<'_>, peer: &Raw) -> Option<Incoming> {
        let peer = peer.clone();
        if message.tagged::<1>("discover").is_some() {
            return Some(Incoming::Discover { peer, version: 0 });
        }
        if let Some([_, version]) = message.tagged::<2>("discover") {
            let version = version_of(version)?;
            return Some(Incoming::Discover { peer, version });
        }
        if let Some([_, groups]) = message.tagged::<2>("sync") {
            let mut members = Vec::new();
            for entry in groups.list()? {
                let [group, pids] = entry.tuple_n::<2>()?;
                members.push((self.group(group)?, self.pids(pids)?));
            }
            return Some(Incoming::Replace {
                peer,
                version: 0,
                members,
            });
        }
        if let Some([_, version, groups]) = message.tagged::<3>("local_data") {
            let version = version_of(version)?;
            let mut members = Vec::new();
            for (group, pids) in groups.map()? {
                members.push((self.group(group)?, self.pids(pids)?));
            }
            return Some(Incoming::Replace {
                peer,
                version,
                members,
            });
        }
        let changes = if let Some([_, group, pids]) = message.tagged::<3>("join") {
            let (group, add) = (self.group(group)?, self.pids(pids)?);
            vec![Change {
                group,
                add,
                remove: Vec::new(),
            }]
        } else if let Some([_, pids, groups]) = message.tagged::<3>("leave") {
            self.leaves(pids, groups)?
        } else if let Some([_, update]) = message.tagged::<2>("update") {
            let mut changes = Vec::new();
            for entry in update.list()? {
                let [group, add, remove] = entry.tuple_n::<3>()?;
                let (group, add) = (self.group(group)?, self.pids(add)?);
                changes.push(Change {
                    group,
                    add,
                    remove: self.pids(remove)?,
                });
            }
            changes
        } else {
            return None;
        };
        Some(Incoming::Change { peer, changes })
    }

    fn leaves(&mut self, pids: View<'_>, groups: View<'_>) -> Option<Vec<Change>> {
        let pids = self.pids(pids)?;
        let groups = groups.list()?;
        let (some, others) = (pids.len(), groups.len());
        if some > 1 && others > 1 && some.saturating_mul(others) > MOST_LEAVES {
            self.full = true;
            return None;
        }
        let leave = |group| {
            let remove = pids.clone();
            Some(Change {
                group: self.group(group)?,
                add: Vec::new(),
                remove,
            })
        };
        groups.map(leave).collect()
    }

    /// One pid, or a list of them.
    fn pids(&mut self, pids: View<'_>) -> Option<Vec<Raw>> {
        if pids.is_pid() {
            return Some(vec![self.pid(pids)?]);
        }
        pids.list()?.map(|pid| self.pid(pid)).collect()
    }

    /// A process of the peer: nobody speaks for the processes of others.
    fn pid(&mut self, pid: View<'_>) -> Option<Raw> {
        let pid = pid_of(pid, self.from)?;
        self.take(pid.len())?;
        Some(pid)
    }

    fn group(&mut self, group: View<'_>) -> Option<Raw> {
        // Before it is copied.
        self.take(0)?;
        let group = settled(group);
        self.take(group.len())?;
        Some(group)
    }

    fn take(&mut self, bytes: usize) -> Option<()> {
        match self.room.checked_sub(bytes + OVERHEAD) {
            Some(left) => self.room = left,
            None => self.full = true,
        }
        (!self.full).then_some(())
    }
}

/// The version we speak to who says this one; a release to come may say a higher one.
fn version_of(version: View<'_>) -> Option<u8> {
    let version = version.as_i64().filter(|version| *version >= 0)?;
    Some(u8::try_from(version).map_or(VERSION, |version| version.min(VERSION)))
}

/// The pid of a process of this node, in the one form it is kept in.
pub(super) fn pid_of(pid: View<'_>, node: &NodeName) -> Option<Raw> {
    let pid = pid.as_pid().filter(|pid| pid.node == node.as_str())?;
    let mut out = BytesMut::new();
    put_pid(&mut out, &pid.node, pid.id, pid.serial, pid.creation);
    Some(Raw::own(out).compact())
}

/// Terms up to this size are brought into one form; a larger one would take many times its size for a moment.
const SETTLED_UP_TO: usize = 64 * 1024;

/// A term in the one form that equal terms share. What is too large, too deep or too strange to be taken apart stays as it
/// came: it is then the same as what the same node writes again.
pub(super) fn settled(term: View<'_>) -> Raw {
    let mut out = BytesMut::new();
    term.put(&mut out);
    let raw = Raw::own(out).compact();
    if term.as_atom().is_some() || term.as_binary().is_some() || raw.len() > SETTLED_UP_TO {
        return raw;
    }
    match raw.decode() {
        Ok(value) => Raw::encode(&value),
        Err(_) => raw,
    }
}

/// `{discover, Own}`, or with the version for who has said one.
pub(super) fn discover(own: &Raw, version: u8) -> Raw {
    let mut out = BytesMut::new();
    put_tuple(&mut out, if version > 0 { 3 } else { 2 });
    put_atom(&mut out, "discover");
    put_raw(&mut out, own);
    if version > 0 {
        put_int(&mut out, i64::from(version));
    }
    Raw::own(out)
}

/// All our members, as `gen_server:cast/2` sends them.
pub(super) fn all(own: &Raw, version: u8, members: &[(Raw, Vec<Raw>)]) -> Raw {
    let mut out = BytesMut::new();
    put_tuple(&mut out, 2);
    put_atom(&mut out, "$gen_cast");
    if version > 0 {
        put_tuple(&mut out, 4);
        put_atom(&mut out, "local_data");
        put_raw(&mut out, own);
        put_int(&mut out, i64::from(version));
        put_map(&mut out, members.len());
        for (group, pids) in members {
            put_raw(&mut out, group);
            put_pids(&mut out, pids);
        }
    } else {
        put_tuple(&mut out, 3);
        put_atom(&mut out, "sync");
        put_raw(&mut out, own);
        put_list(&mut out, members.len());
        for (group, pids) in members {
            put_tuple(&mut out, 2);
            put_raw(&mut out, group);
            put_pids(&mut out, pids);
        }
        // Without elements put_list has written nothing but waits for the end all the same.
        put_nil(&mut out);
    }
    Raw::own(out)
}

/// What we tell of changes, in this version.
pub(super) fn changes(own: &Raw, version: u8, changes: &[Change]) -> Vec<Raw> {
    if version > 0 {
        return vec![update(own, changes)];
    }
    let mut messages = Vec::new();
    for (pids, groups) in leaves(changes) {
        let mut out = BytesMut::new();
        put_tuple(&mut out, 4);
        put_atom(&mut out, "leave");
        put_raw(&mut out, own);
        put_pids(&mut out, pids);
        put_list(&mut out, groups.len());
        for group in groups {
            put_raw(&mut out, group);
        }
        put_nil(&mut out);
        messages.push(Raw::own(out));
    }
    for change in changes.iter().filter(|change| !change.add.is_empty()) {
        let mut out = BytesMut::new();
        put_tuple(&mut out, 4);
        put_atom(&mut out, "join");
        put_raw(&mut out, own);
        put_raw(&mut out, &change.group);
        put_pids(&mut out, &change.add);
        messages.push(Raw::own(out));
    }
    messages
}

fn update(own: &Raw, changes: &[Change]) -> Raw {
    let mut out = BytesMut::new();
    put_tuple(&mut out, 3);
    put_atom(&mut out, "update");
    put_raw(&mut out, own);
    put_list(&mut out, changes.len());
    for change in changes {
        put_tuple(&mut out, 3);
        put_raw(&mut out, &change.group);
        put_pids(&mut out, &change.add);
        put_pids(&mut out, &change.remove);
    }
    put_nil(&mut out);
    Raw::own(out)
}

/// Who leaves which groups. A process that ends leaves all of its groups in one message; a group that it has joined twice is
/// named twice.
fn leaves(changes: &[Change]) -> Vec<(&[Raw], Vec<&Raw>)> {
    let mut leaves: Vec<(&[Raw], Vec<&Raw>)> = Vec::new();
    for Change { group, remove, .. } in changes {
        let Some(first) = remove.first() else {
            continue;
        };
        let (pids, times) = match remove.iter().all(|pid| pid == first) {
            true => (&remove[..1], remove.len()),
            false => (&remove[..], 1),
        };
        if leaves.last().is_none_or(|(others, _)| *others != pids) {
            leaves.push((pids, Vec::new()));
        }
        if let Some((_, groups)) = leaves.last_mut() {
            groups.extend(std::iter::repeat_n(group, times));
        }
    }
    leaves
}

/// `{Ref, join | leave, Group, Pids}`, for who monitors.
pub(super) fn notice(reference: &Raw, what: &str, group: &Raw, pids: &[Raw]) -> Raw {
    let mut out = BytesMut::new();
    put_tuple(&mut out, 4);
    put_raw(&mut out, reference);
    put_atom(&mut out, what);
    put_raw(&mut out, group);
    put_pids(&mut out, pids);
    Raw::own(out)
}

fn put_pids(out: &mut BytesMut, pids: &[Raw]) {
    put_list(out, pids.len());
    for pid in pids {
        put_raw(out, pid);
    }
    put_nil(out);
}
