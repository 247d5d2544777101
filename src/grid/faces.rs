//! What Erlang callers see of the mesh: the registered process `redgrid` and the functions of the module `redgrid`.
//!
//! Reads are answered from the published view in the task that read the call; changes wait for the owner of the state,
//! never for Redis.

use super::view::{Member, written};
use super::{Command, Grid, GridError, Status, typed};
use crate::dist::{Address, Answer, CallError, DownReason, Located, NodeName, PeerInfo, Service};
use crate::term::{Raw, View as TermView, atom, binary, tuple, write};
use bytes::BytesMut;
use std::time::{Duration, UNIX_EPOCH};

/// The registered name, and the module.
const NAME: &str = "redgrid";
/// How long the process of another member may take to answer, as in the original.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

impl Service for Grid {
    fn names(&self) -> Vec<String> {
        vec![NAME.into()]
    }

    fn call(&self, name: &str, request: &Raw) -> Answer {
        if name != NAME {
            return Answer::Undef;
        }
        let view = request.view();
        let answer = match view.as_atom() {
            Some(function) => self.function(function, &[]),
            None => match view.tuple().map(|items| items.collect::<Vec<_>>()) {
                Some(parts) if parts.len() == 2 => {
                    let argument = request.sub(parts[1]);
                    let function = parts[0].as_atom().unwrap_or_default();
                    // As a message `nodes` takes options only: asking another process is the caller's side.
                    self.function(function, &[argument])
                }
                _ => None,
            },
        };
        match answer {
            // A process answers a request that it cannot serve, it does not fail over it.
            Some(Answer::Error(reason)) => {
                let mut buf = BytesMut::new();
                write::put_tuple(&mut buf, 2);
                write::put_atom(&mut buf, "error");
                write::put_raw(&mut buf, &reason);
                Answer::Reply(written(buf))
            }
            Some(answer) => answer,
            None => Answer::Reply(Raw::encode(&atom("unknown_message"))),
        }
    }

    fn cast(&self, name: &str, message: &Raw) {
        let Some([meta]) = message
            .view()
            .tagged::<1>("update_meta")
            .filter(|_| name == NAME)
        else {
            tracing::debug!("{name} was cast a message it does not know: ignored");
            return;
        };
        let sent = match typed::from_term(&message.sub(meta)) {
            Ok(meta) => self
                .send(Command::UpdateMeta(meta))
                .map(drop)
                .map_err(|why| why.to_string()),
            Err(why) => Err(why.to_string()),
        };
        if let Err(why) = sent {
            tracing::warn!("a cast of update_meta changes nothing: {why}");
        }
    }

    fn apply(&self, module: &str, function: &str, args: &[Raw]) -> Answer {
        if module != NAME {
            return Answer::Undef;
        }
        match (function, args) {
            // With the name or pid of the process in front, as the original.
            ("nodes", [whom]) if whom.view().list().is_none() => match self.is_us(whom.view()) {
                true => self.function("nodes", &[]).unwrap_or(Answer::Undef),
                false => self.nodes_of(whom.clone()),
            },
            ("update_meta", [whom, meta]) => match self.is_us(whom.view()) {
                true => self
                    .function(function, std::slice::from_ref(meta))
                    .unwrap_or(Answer::Undef),
                false => error("noproc"),
            },
            ("nodes" | "suspend" | "resume" | "get_status", [])
            | ("nodes" | "node_info" | "update_meta", [_]) => {
                self.function(function, args).unwrap_or(Answer::Undef)
            }
            _ => Answer::Undef,
        }
    }

    fn exports(&self, module: &str, function: &str, arity: usize) -> bool {
        module == NAME
            && matches!(
                (function, arity),
                ("nodes", 0 | 1)
                    | ("suspend" | "resume" | "get_status", 0)
                    | ("node_info", 1)
                    | ("update_meta", 1 | 2)
            )
    }

    fn peer_up(&self, peer: &PeerInfo) {
        self.peer_is_up(peer);
    }

    fn peer_down(&self, peer: &PeerInfo, reason: &DownReason) {
        self.peer_is_down(peer, reason);
    }

    fn locate(&self, peer: &NodeName) -> Located {
        let view = self.nodes();
        let Some(member) = view.find(peer) else {
            return Located::Unknown;
        };
        let registration = &*member.registration;
        let rules = &self.shared.dialling;
        if let Err(why) = rules.reachable(&self.shared.name, registration) {
            return Located::Never(why);
        }
        match registration.ip.parse() {
            Ok(ip) => Located::At(Address {
                ip,
                port: registration.port,
            }),
            // Only classic members register a name; it is resolved when the mesh dials them.
            Err(_) => Located::Never(format!("its ip {} is no address", registration.ip)),
        }
    }
}

impl Grid {
    /// What all ways of calling share. `None`: there is no such function.
    fn function(&self, function: &str, args: &[Raw]) -> Option<Answer> {
        Some(match (function, args) {
            ("nodes", []) => Answer::Reply(self.nodes().plain_answer()),
            ("nodes", [options]) => self.nodes_with(options.view()),
            ("get_status", []) => Answer::Reply(Raw::encode(&atom(match self.status() {
                Status::Suspended => "suspended",
                Status::Up | Status::Other(_) => "normal",
            }))),
            ("suspend", []) => self.later(Command::Suspend),
            ("resume", []) => self.later(Command::Resume),
            ("update_meta", [meta]) => match typed::from_term(meta) {
                Ok(meta) => self.later(Command::UpdateMeta(meta)),
                Err(why) => Answer::Reply(Raw::encode(&tuple(vec![
                    atom("error"),
                    tuple(vec![atom("bad_meta"), binary(why.to_string())]),
                ]))),
            },
            ("node_info", [node]) => self.node_info(node.view()),
            _ => return None,
        })
    }

    fn nodes_with(&self, options: TermView<'_>) -> Answer {
        let (mut native, mut connected) = (false, false);
        let Some(options) = options.list() else {
            return error("badarg");
        };
        for option in options {
            match option.as_atom() {
                Some("native") => native = true,
                Some("connected") => connected = true,
                _ => return error("badarg"),
            }
        }
        let view = self.nodes();
        Answer::Reply(match (native, connected) {
            (native, true) => view.connected_answer(native),
            (true, false) => view.native_answer(),
            (false, false) => view.plain_answer(),
        })
    }

    /// What the process of another member says, which is asked as the original asks it.
    fn nodes_of(&self, whom: Raw) -> Answer {
        let Some(node) = self.shared.node().clone() else {
            return error("noproc");
        };
        let asked = node.call(whom, Raw::encode(&atom("nodes")), ASK_TIMEOUT);
        Answer::Later(Box::pin(async move {
            match asked.await {
                Ok(nodes) => Answer::Reply(nodes),
                Err(CallError::Exit { reason, .. }) => Answer::Error(reason),
                Err(CallError::Timeout { .. }) => error("timeout"),
                Err(_) => error("noconnection"),
            }
        }))
    }

    /// Answers when our own view shows the change.
    fn later(&self, command: Command) -> Answer {
        let sent = self.send(command);
        Answer::Later(Box::pin(async move {
            let done = match sent {
                Ok(done) => done.await.map_err(|_| GridError::Stopped),
                Err(why) => Err(why),
            };
            Answer::Reply(Raw::encode(&match done {
                Ok(()) => atom("ok"),
                Err(GridError::Busy) => tuple(vec![atom("error"), atom("busy")]),
                Err(_) => tuple(vec![atom("error"), atom("stopped")]),
            }))
        }))
    }

    fn node_info(&self, node: TermView<'_>) -> Answer {
        let view = self.nodes();
        let name = node.name().and_then(|name| name.parse().ok());
        let Some(member) = name.and_then(|name: NodeName| view.find(&name)) else {
            return Answer::Reply(Raw::encode(&tuple(vec![atom("error"), atom("not_found")])));
        };
        let mut buf = BytesMut::new();
        write::put_tuple(&mut buf, 2);
        write::put_atom(&mut buf, "ok");
        put_info(&mut buf, member, member.name() == view.own().name());
        Answer::Reply(written(buf))
    }

    /// `redgrid`, `{redgrid, OurNode}`, or a pid of ours.
    fn is_us(&self, whom: TermView<'_>) -> bool {
        let own = self.shared.name.as_str();
        match whom.tuple_n::<2>() {
            Some([name, node]) => name.is_atom(NAME) && node.is_atom(own),
            None => {
                whom.is_atom(NAME) || (whom.is_pid() && whom.node().is_some_and(|node| node == own))
            }
        }
    }
}

fn error(reason: &str) -> Answer {
    Answer::Error(Raw::encode(&atom(reason)))
}

/// The map of `node_info`.
fn put_info(buf: &mut BytesMut, member: &Member, own: bool) {
    let registration = &*member.registration;
    let key = |buf: &mut BytesMut, name: &str| write::put_atom(buf, name);
    let text = |buf: &mut BytesMut, text: &str| write::put_binary(buf, text.as_bytes());
    let since = member
        .connected
        .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_millis()).ok());
    let age = if own { 0 } else { member.age().as_millis() };

    // Keys, types and what stands for the unknown are those of the Erlang library.
    write::put_map(buf, 13);
    key(buf, "node");
    text(buf, member.name().as_str());
    key(buf, "address");
    text(buf, &registration.ip);
    key(buf, "port");
    match registration.port {
        Some(port) => write::put_int(buf, i64::from(port)),
        None => write::put_atom(buf, "unknown"),
    }
    key(buf, "proto");
    text(buf, registration.proto());
    key(buf, "impl");
    text(buf, &registration.implementation);
    key(buf, "creation");
    write::put_int(buf, registration.creation.map_or(0, i64::from));
    key(buf, "started_at");
    write::put_int(buf, registration.started_at.unwrap_or(0));
    key(buf, "hidden");
    write::put_bool(buf, registration.hidden);
    key(buf, "status");
    text(buf, registration.status.as_str());
    key(buf, "connected");
    write::put_bool(buf, own || member.connected.is_some());
    key(buf, "since");
    match since {
        Some(since) => write::put_int(buf, since),
        None => write::put_atom(buf, "undefined"),
    }
    key(buf, "age_ms");
    write::put_int(buf, i64::try_from(age).unwrap_or(i64::MAX));
    key(buf, "meta");
    write::put_list(buf, registration.meta.len());
    for (name, value) in registration.meta.iter() {
        typed::put_plain(buf, name, value);
    }
    write::put_nil(buf);
}
