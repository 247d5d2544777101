//! The messages between `global_name_server` processes as values, read from hostile terms and written to good ones. Pure.
//!
//! Whatever is read is checked to the last field that OTP itself would match on, and every message that names its sender
//! must name the peer whose connection brought it. What is written is what OTP 25 to 29 write: a malformed
//! `init_connect` or `lock_set` would end the peer's whole VM.

use super::super::call::{self, Envelope, From, atom, integer, list, nil, tuple};
use crate::{
    dist::NodeName,
    term::{
        Raw, View,
        write::{put_atom, put_int, put_map},
    },
};
use bytes::BytesMut;
use std::{cmp::Ordering, collections::BTreeMap};

/// The version of `global`'s protocol that OTP 25 to 29 speak.
pub(crate) const VERSION: i64 = 8;

/// Versions before this one spoke another dialogue.
const OLDEST: i64 = 5;

/// From this version on lists of nodes carry their versions.
const NODES_WITH_VERSIONS: i64 = 7;

/// From this version on a dialogue is acknowledged and can be cancelled, and its locks carry the tag.
pub(super) const ACKNOWLEDGED: i64 = 8;

/// A larger name, method or lock is not kept: none of them is a place for data.
const MAX_TERM: usize = 16 * 1024;

/// Most elements of a list of names or nodes in one message.
const MAX_LIST: usize = 100_000;

/// A registered name with its process and the method that settles a clash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Raw,
    pub(crate) pid: Raw,
    pub(crate) method: Raw,
}

/// A change to the table of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    Insert(Entry),
    Delete(Raw),
}

/// What is locked, and in whose name. Several processes may hold the same lock for the same requester.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockId {
    pub(crate) resource: Raw,
    pub(crate) requester: Raw,
}

/// A node and the version of `global` it speaks; 0 when nobody said.
pub(super) type Nodes = Vec<(String, i64)>;

/// A message from the `global_name_server` of a peer.
#[derive(Debug, PartialEq)]
pub(super) enum Message {
    InitConnect {
        version: i64,
        tag: Raw,
        locker: Raw,
    },
    InitConnectAck {
        my_tag: i64,
        his_tag: Raw,
    },
    LockSet {
        set: bool,
        tag: Option<i64>,
    },
    Exchange {
        names: Vec<Entry>,
        tag: i64,
    },
    Resolved {
        ops: Vec<Op>,
        known: Nodes,
        tag: i64,
    },
    NewNodes {
        ops: Vec<Op>,
        nodes: Nodes,
        lock: Option<LockId>,
    },
    InSync,
    CancelConnect {
        tag: i64,
    },
    LostConnection {
        from: String,
        creation: i64,
        number: i64,
        lost: String,
    },
    RemoveConnection,
    Call {
        from: From,
        request: Request,
    },
}

/// What a gen call asks for.
#[derive(Debug, PartialEq)]
pub(super) enum Request {
    SetLock(LockId),
    DelLock(LockId),
    Register(Entry),
    Unregister(Raw),
    Known,
    Synced,
    NamesExt,
    Version,
}

/// Reads a message; `None` when it is none of `global`'s, or one that would not be good for us.
pub(super) fn read(message: Raw, peer: &str) -> Option<Message> {
    match call::open(message) {
        Envelope::Call { from, request } => {
            let request = read_request(&request)?;
            Some(Message::Call {
                from: from.compact(),
                request,
            })
        }
        Envelope::Cast(cast) => read_cast(&cast, peer),
        Envelope::Bare(bare) => read_bare(&bare, peer),
    }
}

fn read_request(raw: &Raw) -> Option<Request> {
    let view = raw.view();
    if let Some([id]) = view.tagged::<1>("set_lock") {
        return Some(Request::SetLock(read_lock(raw, id)?));
    }
    if let Some([id]) = view.tagged::<1>("del_lock") {
        return Some(Request::DelLock(read_lock(raw, id)?));
    }
    if let Some([name, pid, method]) = view.tagged::<3>("register") {
        return Some(Request::Register(entry_of(raw, name, pid, method)?));
    }
    if let Some([name, pid, method, _node]) = view.tagged::<4>("register_ext") {
        return Some(Request::Register(entry_of(raw, name, pid, method)?));
    }
    if let Some([name]) = view.tagged::<1>("unregister") {
        return Some(Request::Unregister(keep(raw, name)?));
    }
    match view.as_atom()? {
        "get_known" => Some(Request::Known),
        "get_synced" => Some(Request::Synced),
        "get_names_ext" => Some(Request::NamesExt),
        "get_protocol_version" => Some(Request::Version),
        _ => None,
    }
}

fn read_cast(raw: &Raw, peer: &str) -> Option<Message> {
    let view = raw.view();
    if let Some([version, node, locker]) = view.tagged::<3>("init_connect") {
        let mut version = version.tuple()?;
        let (number, tag) = (version.next()?.as_i64()?, version.next()?);
        let [_, _, locker] = locker.tagged::<3>("locker")?;
        let fine = node.is_atom(peer) && number >= OLDEST && of_node(locker, peer);
        return fine.then_some(Message::InitConnect {
            version: number.min(VERSION),
            tag: keep(raw, tag)?,
            locker: keep(raw, locker)?,
        });
    }
    if let Some([locker, set, _known, tag]) = view.tagged::<4>("lock_set") {
        return of_node(locker, peer).then_some(Message::LockSet {
            set: boolean(set)?,
            tag: Some(tag.as_i64()?),
        });
    }
    if let Some([locker, set, _known]) = view.tagged::<3>("lock_set") {
        return of_node(locker, peer).then_some(Message::LockSet {
            set: boolean(set)?,
            tag: None,
        });
    }
    if let Some([node, names, _ext, tag]) = view.tagged::<4>("exchange") {
        let names = all(names, |entry| read_entry(raw, entry))?;
        return node.is_atom(peer).then_some(Message::Exchange {
            names,
            tag: tag.as_i64()?,
        });
    }
    if let Some([node, ops, known, _, _ext, tag]) = view.tagged::<6>("resolved") {
        let (ops, known) = (all(ops, |op| read_op(raw, op))?, all(known, read_node)?);
        return node.is_atom(peer).then_some(Message::Resolved {
            ops,
            known,
            tag: tag.as_i64()?,
        });
    }
    if let Some([node, ops, _ext, nodes, extra]) = view.tagged::<5>("new_nodes") {
        let (ops, nodes) = (all(ops, |op| read_op(raw, op))?, all(nodes, read_node)?);
        let lock = extra.list()?.find_map(|pair| {
            let [lock] = pair.tagged::<1>("lock")?;
            read_lock(raw, lock)
        });
        return (node.is_atom(peer)).then_some(Message::NewNodes { ops, nodes, lock });
    }
    let [node, _known] = view.tagged::<2>("in_sync")?;
    node.is_atom(peer).then_some(Message::InSync)
}

fn read_bare(raw: &Raw, peer: &str) -> Option<Message> {
    let view = raw.view();
    if let Some([node, mine, his]) = view.tagged::<3>("init_connect_ack") {
        return node.is_atom(peer).then_some(Message::InitConnectAck {
            my_tag: mine.as_i64()?,
            his_tag: keep(raw, his)?,
        });
    }
    if let Some([node, tag]) = view.tagged::<2>("cancel_connect") {
        let tag = tag.as_i64()?;
        return (node.is_atom(peer)).then_some(Message::CancelConnect { tag });
    }
    if let Some([from, creation, number, lost]) = view.tagged::<4>("lost_connection") {
        return Some(Message::LostConnection {
            from: node_name(from)?,
            creation: creation.as_i64()?,
            number: number.as_i64()?,
            lost: node_name(lost)?,
        });
    }
    let [node] = view.tagged::<1>("remove_connection")?;
    node.is_atom(peer).then_some(Message::RemoveConnection)
}

fn all<'a, T>(list: View<'a>, read: impl Fn(View<'a>) -> Option<T>) -> Option<Vec<T>> {
    let items = list.list()?;
    if items.len() > MAX_LIST {
        return None;
    }
    items.map(read).collect()
}

/// A part of a message in memory of its own; `None` when it is too large to be kept.
fn keep(raw: &Raw, view: View<'_>) -> Option<Raw> {
    let part = raw.sub(view);
    (part.len() <= MAX_TERM).then(|| part.compact())
}

fn read_lock(raw: &Raw, id: View<'_>) -> Option<LockId> {
    let [resource, requester] = id.tuple_n::<2>()?;
    Some(LockId {
        resource: keep(raw, resource)?,
        requester: keep(raw, requester)?,
    })
}

fn read_entry(raw: &Raw, entry: View<'_>) -> Option<Entry> {
    let [name, pid, method] = entry.tuple_n::<3>()?;
    entry_of(raw, name, pid, method)
}

fn entry_of(raw: &Raw, name: View<'_>, pid: View<'_>, method: View<'_>) -> Option<Entry> {
    if !pid.is_pid() {
        return None;
    }
    Some(Entry {
        name: keep(raw, name)?,
        pid: keep(raw, pid)?,
        method: keep(raw, method)?,
    })
}

fn read_op(raw: &Raw, op: View<'_>) -> Option<Op> {
    if let Some([entry]) = op.tagged::<1>("insert") {
        return Some(Op::Insert(read_entry(raw, entry)?));
    }
    let [name] = op.tagged::<1>("delete")?;
    Some(Op::Delete(keep(raw, name)?))
}

/// A node in a list: its name, or `{Name, Version}`.
fn read_node(node: View<'_>) -> Option<(String, i64)> {
    match node.tuple_n::<2>() {
        Some([name, version]) => Some((node_name(name)?, version.as_i64()?)),
        None => Some((node_name(node)?, 0)),
    }
}

fn node_name(name: View<'_>) -> Option<String> {
    let name = name.atom_name()?.into_owned();
    name.parse::<NodeName>().is_ok().then_some(name)
}

fn boolean(view: View<'_>) -> Option<bool> {
    match view.as_atom()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn of_node(pid: View<'_>, node: &str) -> bool {
    pid.is_pid() && pid.node().is_some_and(|name| name == node)
}

/// The node a pid belongs to.
pub(super) fn pid_node(pid: &Raw) -> String {
    pid.view().node().unwrap_or_default().into_owned()
}

/// The lock that two lockers share: `{global, [P1, P2]}`, in Erlang's order of pids.
pub(super) fn lockers_lock(a: &Raw, b: &Raw) -> LockId {
    let mut pids = [a.clone(), b.clone()];
    pids.sort_by(pid_order);
    LockId {
        resource: atom("global"),
        requester: list(&pids),
    }
}

fn pid_order(a: &Raw, b: &Raw) -> Ordering {
    let order = |a: &Raw, b: &Raw| {
        let (a, b) = (a.view().as_pid()?, b.view().as_pid()?);
        let key = |p: &crate::term::PidView<'_>| (p.serial, p.id, p.node.to_string(), p.creation);
        Some(key(&a).cmp(&key(&b)))
    };
    order(a, b).unwrap_or(Ordering::Equal)
}

// What we send. ---------------------------------------------------------------------------------------------------

fn truth(value: bool) -> Raw {
    atom(if value { "true" } else { "false" })
}

pub(super) fn init_connect(tag: i64, me: &str, known: &BTreeMap<String, i64>, locker: &Raw) -> Raw {
    let mut map = BytesMut::new();
    put_map(&mut map, known.len());
    for (node, version) in known {
        put_atom(&mut map, node);
        put_int(&mut map, *version);
    }
    let version = tuple(&[&integer(VERSION), &integer(tag)]);
    let locker = tuple(&[
        &atom("locker"),
        &atom("no_longer_a_pid"),
        &Raw::own(map),
        locker,
    ]);
    tuple(&[&atom("init_connect"), &version, &atom(me), &locker])
}

pub(super) fn init_connect_ack(me: &str, his_tag: &Raw, my_tag: i64) -> Raw {
    let tag = integer(my_tag);
    tuple(&[&atom("init_connect_ack"), &atom(me), his_tag, &tag])
}

pub(super) fn lock_set(
    locker: &Raw,
    set: bool,
    known: &BTreeMap<String, i64>,
    tag: Option<&Raw>,
) -> Raw {
    let known: Vec<Raw> = known.keys().map(|node| atom(node)).collect();
    let (head, set, known) = (atom("lock_set"), truth(set), list(&known));
    match tag {
        Some(tag) => tuple(&[&head, locker, &set, &known, tag]),
        None => tuple(&[&head, locker, &set, &known]),
    }
}

fn entry(entry: &Entry) -> Raw {
    tuple(&[&entry.name, &entry.pid, &entry.method])
}

fn ops_list(ops: &[Op]) -> Raw {
    let op = |op: &Op| match op {
        Op::Insert(inserted) => tuple(&[&atom("insert"), &entry(inserted)]),
        Op::Delete(name) => tuple(&[&atom("delete"), name]),
    };
    list(&ops.iter().map(op).collect::<Vec<_>>())
}

/// A list of nodes in the form that the receiver's version reads.
pub(super) fn nodes_list<'a>(
    nodes: impl Iterator<Item = (&'a String, &'a i64)>,
    version: i64,
) -> Raw {
    let one = |(node, its): (&String, &i64)| {
        if version >= NODES_WITH_VERSIONS {
            tuple(&[&atom(node), &integer(*its)])
        } else {
            atom(node)
        }
    };
    list(&nodes.map(one).collect::<Vec<_>>())
}

pub(super) fn exchange<'a>(me: &str, names: impl Iterator<Item = &'a Entry>, tag: &Raw) -> Raw {
    let names: Vec<Raw> = names.map(entry).collect();
    tuple(&[&atom("exchange"), &atom(me), &list(&names), &nil(), tag])
}

pub(super) fn resolved(me: &str, ops: &[Op], known: &Raw, tag: &Raw) -> Raw {
    let (head, unused) = (atom("resolved"), atom("unused"));
    tuple(&[
        &head,
        &atom(me),
        &ops_list(ops),
        known,
        &unused,
        &nil(),
        tag,
    ])
}

pub(super) fn new_nodes(me: &str, ops: &[Op], nodes: &Raw, version: i64, lock: &LockId) -> Raw {
    let extra = [
        tuple(&[&atom("vsn"), &integer(version)]),
        // The whole id: OTP matches on it, and a term of another shape would end its VM.
        tuple(&[&atom("lock"), &tuple(&[&lock.resource, &lock.requester])]),
    ];
    let (head, ops) = (atom("new_nodes"), ops_list(ops));
    tuple(&[&head, &atom(me), &ops, &nil(), nodes, &list(&extra)])
}

pub(super) fn in_sync(me: &str) -> Raw {
    tuple(&[&atom("in_sync"), &atom(me), &atom("true")])
}

pub(super) fn cancel_connect(me: &str, his_tag: &Raw) -> Raw {
    tuple(&[&atom("cancel_connect"), &atom(me), his_tag])
}

pub(super) fn remove_connection(me: &str) -> Raw {
    tuple(&[&atom("remove_connection"), &atom(me)])
}

/// `{set_lock, Id}` or `{del_lock, Id}`.
pub(super) fn lock_request(what: &str, id: &LockId) -> Raw {
    tuple(&[&atom(what), &tuple(&[&id.resource, &id.requester])])
}

pub(super) fn register(entry: &Entry) -> Raw {
    tuple(&[&atom("register"), &entry.name, &entry.pid, &entry.method])
}

pub(super) fn unregister(name: &Raw) -> Raw {
    tuple(&[&atom("unregister"), name])
}
