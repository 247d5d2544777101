//! The protocol of one connection: who is owed which answer. Pure: messages in, effects out, the time is an argument.
//!
//! What a peer may never be left without, because a caller somewhere would hang for ever:
//! - every `Monitor` of what is not here is answered `noproc` at once;
//! - every `SpawnRequest` gets exactly one `SpawnReply`, before any other signal about that process;
//! - every `Unlink` gets its `UnlinkAck`;
//! - `net_kernel` answers `is_auth`, `global_name_server` answers `init_connect` with `in_sync`, and no more than that
//!   ("lite": we take no part in `global`, so nobody waits for us; docs/protocol.md says what it means).
//!
//! Processes here are of two kinds: those with a registered name live as long as the node, so nothing has to be kept
//! about who watches them (a lost connection tells the watchers); those spawned by a peer live until their function has
//! answered, and are parked in a table only when that is not at once.

use super::{
    DownReason,
    call::{self, Envelope, Outcome, Task},
    ids::{CALLER, Ids},
    message::{Body, Message},
};
use crate::term::{
    Raw, View,
    write::{put_atom, put_int, put_list, put_nil, put_raw, put_tuple},
};
use bytes::BytesMut;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// At most so many functions run for one peer at the same time; further ones fail with `system_limit`.
pub(crate) const MAX_PARKED: usize = 10_000;

/// At most so many links and so many monitors to one spawned process are kept; who makes more hears `system_limit`.
const MAX_WATCHERS: usize = 1_000;

/// What every connection knows of its own node.
pub(crate) struct Own {
    pub(crate) ids: Ids,
    /// Its name as an atom.
    pub(crate) name: Raw,
    /// Registered names and the numbers of their pids.
    pub(crate) names: HashMap<String, u64>,
    pub(crate) tick_time: Duration,
}

/// What happens to a connection.
#[derive(Debug)]
pub(crate) enum Input {
    /// The peer sent a message.
    Received(Message<Raw>),
    /// A function or process answered.
    Answered(Caller, Outcome),
    /// A function that was parked answered.
    Unparked(u64, Outcome),
    /// We call a function there. `number`: fresh, ours to find the answer by.
    Call {
        number: u64,
        module: Raw,
        function: Raw,
        args: Raw,
    },
    /// We call a process there: a registered name or a pid.
    GenCall {
        number: u64,
        process: Raw,
        request: Raw,
    },
    /// Nobody waits for the answer of this call any more.
    Abandon(u64),
    /// A function that is parked was ended by an exit signal of somebody else.
    Stop(u64, Raw),
}

/// What is to be done about it.
#[derive(Debug)]
pub(crate) enum Effect {
    Write(Message<Body>),
    /// Ask the node; the answer comes back as [`Input::Answered`] with the caller, or the caller is parked.
    Ask(Caller, Request),
    /// A message without an answer.
    Tell(Request),
    /// The function parked under this number is not waited for any more.
    Cancel(u64),
    /// Our own call has its result.
    Finish(u64, Result<Raw, Failure>),
    /// About a process of the program's, which may be here or not.
    Process(Message<Raw>),
    /// A spawned process that was parked has ended with this reason.
    Returned(u64, Raw),
    /// `rpc:sbcast/3` to a name that is a process of the program's or nobody's: its caller waits to hear which.
    Broadcast {
        from: Raw,
        name: Raw,
        message: Raw,
    },
    /// Something arrived that we do not understand; it is dropped.
    Dropped(String),
}

/// What is asked of the node.
#[derive(Debug, PartialEq)]
pub(crate) enum Request {
    Call {
        name: String,
        request: Raw,
    },
    Cast {
        name: String,
        message: Raw,
    },
    Info {
        name: String,
        message: Raw,
    },
    Apply {
        module: String,
        function: String,
        args: Vec<Raw>,
    },
}

/// Who is owed the answer to a [`Request`].
#[derive(Debug)]
pub(crate) enum Caller {
    /// A gen call to a name.
    Gen { name: String, from: call::From },
    /// A call through `rex`.
    Rex { from: call::From, task: Task },
    /// A process that a peer spawned.
    Spawned(Box<Spawned>),
}

#[derive(Debug)]
pub(crate) struct Spawned {
    number: u64,
    pid: Raw,
    request: Raw,
    parent: Raw,
    monitored: bool,
    /// Whom an exit goes to, and under which reference whom a monitor goes to.
    links: Vec<Raw>,
    watchers: Vec<(Raw, Raw)>,
    task: Task,
}

impl Caller {
    /// The reference by which the peer takes its question back.
    fn monitor(&self) -> Option<&Raw> {
        match self {
            Self::Gen { from, .. } | Self::Rex { from, .. } => from.monitor.as_ref(),
            Self::Spawned(spawned) => Some(&spawned.request),
        }
    }

    /// The process that runs the function.
    pub(crate) fn pid(&self) -> Option<&Raw> {
        match self {
            Self::Gen { .. } | Self::Rex { .. } => None,
            Self::Spawned(spawned) => Some(&spawned.pid),
        }
    }

    /// Whether it is a process that others may know of: the caller of a function by `erpc` tells nobody its pid.
    pub(crate) fn is_process(&self) -> bool {
        match self {
            Self::Gen { .. } | Self::Rex { .. } => false,
            Self::Spawned(spawned) => matches!(spawned.task.style, call::Style::Process),
        }
    }

    /// With which reason it ends as a process.
    fn exit_reason(&self, outcome: &Outcome) -> Option<Raw> {
        match self {
            Self::Spawned(spawned) if self.is_process() => {
                Some(spawned.task.exit_reason(outcome).into_raw())
            }
            _ => None,
        }
    }

    /// Moves what is kept of it out of the frame that brought it, which may be large.
    fn compact(&mut self) {
        match self {
            Self::Gen { from, .. } => *from = from.compact(),
            Self::Rex { from, task } => {
                *from = from.compact();
                task.compact();
            }
            Self::Spawned(spawned) => {
                spawned.request = spawned.request.compact();
                spawned.parent = spawned.parent.compact();
                for linked in &mut spawned.links {
                    *linked = linked.compact();
                }
                spawned.task.compact();
            }
        }
    }

    /// Whether nothing is left to do when the connection is gone: the caller waited for the result, or was linked.
    fn ends_with_connection(&self) -> bool {
        match self {
            Self::Gen { .. } | Self::Rex { .. } => true,
            Self::Spawned(spawned) => {
                let call = matches!(spawned.task.style, call::Style::Erpc { .. });
                call && spawned.monitored || !spawned.links.is_empty()
            }
        }
    }
}

/// How a call of ours failed at the peer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Failure {
    /// `error`, `exit` or `throw`, with its reason.
    Exception {
        class: String,
        reason: Raw,
        stack: Raw,
    },
    /// The process called is not there, or ended before it answered.
    Exit(Raw),
    /// The peer would not spawn: `notsup`, `system_limit`...
    Refused(String),
    /// The connection broke.
    NoConnection(DownReason),
}

/// Our own calls that wait.
enum Waiting {
    /// A function: its process is known from the spawn reply on.
    Function {
        process: Option<Raw>,
    },
    /// Nobody waits any more, but the spawn reply is still to come: only then can the monitor be taken back.
    Abandoned,
    Process {
        target: Raw,
    },
}

pub(crate) struct State {
    own: Arc<Own>,
    parked: HashMap<u64, Caller>,
    /// Who is parked, by the reference of the caller's monitor: a demonitor names it by this.
    parked_requests: HashMap<Raw, u64>,
    waiting: HashMap<u64, Waiting>,
    last_read: Instant,
    last_write: Instant,
    /// Since when bytes wait that the socket does not take.
    stuck_since: Option<Instant>,
}

impl State {
    pub(crate) fn new(own: Arc<Own>, now: Instant) -> Self {
        Self {
            own,
            parked: HashMap::new(),
            parked_requests: HashMap::new(),
            waiting: HashMap::new(),
            last_read: now,
            last_write: now,
            stuck_since: None,
        }
    }

    /// Bytes came.
    pub(crate) fn read(&mut self, now: Instant) {
        self.last_read = now;
    }

    /// The socket took bytes; `left`: more wait.
    pub(crate) fn wrote(&mut self, now: Instant, left: bool) {
        self.last_write = now;
        self.stuck_since = left.then_some(now);
    }

    /// Looks at the clock, at least every eighth of the tick time: `Ok(true)` asks for a tick. `waiting`: bytes wait to
    /// be written; `reading`: so few that reading goes on. While it does not, silence says nothing about the peer.
    pub(crate) fn wake(
        &mut self,
        now: Instant,
        waiting: bool,
        reading: bool,
    ) -> Result<bool, DownReason> {
        if !reading {
            self.last_read = now;
        }
        if now.duration_since(self.last_read) >= self.own.tick_time {
            return Err(DownReason::TickTimeout);
        }
        if !waiting {
            self.stuck_since = None;
            return Ok(now.duration_since(self.last_write) >= self.own.tick_time / 8);
        }
        let since = *self.stuck_since.get_or_insert(now);
        if now.duration_since(since) >= self.own.tick_time {
            Err(DownReason::NotReading)
        } else {
            Ok(false)
        }
    }

    /// Whether one more caller may wait for an answer that comes later.
    pub(crate) fn has_room(&self) -> bool {
        self.parked.len() < MAX_PARKED
    }

    /// Keeps a caller whose answer comes later, and returns the number to bring it with.
    pub(crate) fn park(&mut self, mut caller: Caller) -> u64 {
        caller.compact();
        let number = match &caller {
            Caller::Spawned(spawned) => spawned.number,
            Caller::Gen { .. } | Caller::Rex { .. } => self.own.ids.fresh(),
        };
        if let Some(monitor) = caller.monitor() {
            self.parked_requests.insert(monitor.clone(), number);
        }
        self.parked.insert(number, caller);
        number
    }

    /// The connection is over: everyone who waits hears it, and what nobody can hear the result of is cancelled. What
    /// was cast goes on: its caller never meant to wait.
    pub(crate) fn close(&mut self, reason: &DownReason, effects: &mut Vec<Effect>) {
        for (number, _) in self
            .waiting
            .drain()
            .filter(|(_, waiting)| !matches!(waiting, Waiting::Abandoned))
        {
            effects.push(Effect::Finish(
                number,
                Err(Failure::NoConnection(reason.clone())),
            ));
        }
        for (number, caller) in self.parked.drain() {
            if caller.is_process() {
                // Nobody follows it from here on, though what was cast runs to its end.
                effects.push(Effect::Returned(number, call::atom("noconnection")));
            }
            if caller.ends_with_connection() {
                effects.push(Effect::Cancel(number));
            }
        }
        self.parked_requests.clear();
    }

    pub(crate) fn handle(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Received(message) => self.received(message, effects),
            Input::Answered(caller, outcome) => self.answered(caller, &outcome, effects),
            Input::Unparked(number, outcome) => {
                if let Some(caller) = self.unpark(number) {
                    let reason = caller.exit_reason(&outcome);
                    self.answered(caller, &outcome, effects);
                    effects.extend(reason.map(|reason| Effect::Returned(number, reason)));
                }
            }
            Input::Call {
                number,
                module,
                function,
                args,
            } => {
                self.waiting
                    .insert(number, Waiting::Function { process: None });
                effects.push(Effect::Write(
                    self.spawn_request(number, &module, &function, &args),
                ));
            }
            Input::GenCall {
                number,
                process,
                request,
            } => {
                let target = process.clone();
                self.waiting.insert(number, Waiting::Process { target });
                let (caller, reference) =
                    (self.own.ids.pid(CALLER), self.own.ids.reference(number));
                effects.push(Effect::Write(Message::Monitor {
                    watcher: caller.clone(),
                    target: process.clone(),
                    reference: reference.clone(),
                }));
                let message = gen_call(&caller, &reference, &request);
                effects.push(Effect::Write(match process.view().is_pid() {
                    true => Message::Send {
                        to: process,
                        message,
                    },
                    false => Message::RegSend {
                        from: caller,
                        to: process,
                        message,
                    },
                }));
            }
            Input::Stop(number, reason) => self.end_early(number, reason, effects),
            Input::Abandon(number) => {
                if let Some(waiting) = self.waiting.remove(&number) {
                    self.demonitor(number, waiting, effects);
                }
            }
        }
    }

    fn received(&mut self, message: Message<Raw>, effects: &mut Vec<Effect>) {
        match message {
            Message::RegSend { from, to, message } => match to.view().as_atom() {
                Some("global_name_server") => self.global(&message, effects),
                Some(name) if self.own.names.contains_key(name) => {
                    self.deliver(name, message, effects)
                }
                Some(_) => effects.push(Effect::Process(Message::RegSend { from, to, message })),
                None => effects.push(Effect::Dropped(
                    "a message to something that is no name".into(),
                )),
            },
            Message::Send { to, message } => match self.own.ids.own_pid(to.view()) {
                Some(CALLER) => self.message_for_caller(&message, effects),
                Some(number) => {
                    let own = self.own.clone();
                    match own.names.iter().find(|(_, pid)| **pid == number) {
                        Some((name, _)) => self.deliver(name, message, effects),
                        None => effects.push(Effect::Process(Message::Send { to, message })),
                    }
                }
                None => effects.push(Effect::Dropped(
                    "a message to a pid that is not ours".into(),
                )),
            },
            Message::AliasSend {
                from,
                alias,
                owner,
                message,
            } => match self.own.ids.own_reference(alias.view()) {
                Some(number) if self.waiting.contains_key(&number) => {
                    self.gen_reply(number, &message, effects);
                }
                Some(_) => effects.push(Effect::Process(Message::AliasSend {
                    from,
                    alias,
                    owner,
                    message,
                })),
                None => effects.push(Effect::Dropped(
                    "a message to an alias that is not ours".into(),
                )),
            },
            Message::Monitor {
                watcher,
                target,
                reference,
            } => {
                if !self.lives(target.view()) {
                    effects.push(Effect::Process(Message::Monitor {
                        watcher,
                        target,
                        reference,
                    }));
                } else if let Err(reason) = self.watch(&watcher, &target, &reference) {
                    let reason = call::atom(reason).into();
                    effects.push(Effect::Write(monitor_exit(
                        target, watcher, reference, reason,
                    )));
                }
            }
            Message::Demonitor {
                watcher,
                target,
                reference,
            } => {
                if !self.demonitored(&reference, &target, effects) {
                    effects.push(Effect::Process(Message::Demonitor {
                        watcher,
                        target,
                        reference,
                    }));
                }
            }
            Message::SpawnRequest {
                id,
                from,
                mfa,
                options,
                args,
                ..
            } => self.spawn(id, from, &mfa, &options, &args, effects),
            Message::SpawnReply { id, result, .. } => {
                if let Some(number) = self.own.ids.own_reference(id.view()) {
                    self.spawned_there(number, result, effects);
                }
            }
            Message::MonitorExit {
                target,
                watcher,
                reference,
                reason,
            } => {
                let number = self.own.ids.own_reference(reference.view());
                match number.and_then(|number| Some((number, self.waiting.remove(&number)?))) {
                    Some((_, Waiting::Abandoned)) => {}
                    Some((number, waiting)) => effects.push(Effect::Finish(
                        number,
                        self.result(number, &waiting, reason),
                    )),
                    None => effects.push(Effect::Process(Message::MonitorExit {
                        target,
                        watcher,
                        reference,
                        reason,
                    })),
                }
            }
            Message::Link { from, to } if self.lives(to.view()) => {
                if let Err(reason) = self.link(&from, &to) {
                    effects.push(Effect::Write(Message::Exit {
                        from: to,
                        to: from,
                        reason: call::atom(reason).into(),
                    }));
                }
            }
            Message::Unlink { id, from, to } if self.lives(to.view()) => {
                if let Some(spawned) = self.parked_process(&to) {
                    spawned.links.retain(|linked| *linked != from);
                }
                effects.push(Effect::Write(Message::UnlinkAck {
                    id,
                    from: to,
                    to: from,
                }));
            }
            Message::Exit { from, to, reason } if self.lives(to.view()) => {
                self.link_broke(&from, &to, reason, effects);
            }
            Message::Exit2 { to, reason, .. } if self.lives(to.view()) => {
                self.exit(&to, reason, effects);
            }
            about @ (Message::Link { .. }
            | Message::Unlink { .. }
            | Message::UnlinkAck { .. }
            | Message::Exit { .. }
            | Message::Exit2 { .. }
            | Message::GroupLeader { .. }) => effects.push(Effect::Process(about)),
        }
    }

    /// A message to a process that has a name.
    fn deliver(&mut self, name: &str, message: Raw, effects: &mut Vec<Effect>) {
        match (name, call::open(message)) {
            ("net_kernel", Envelope::Call { from, request }) => {
                // Whoever got here has passed the cookie, so the answer is always yes.
                if request.view().tagged::<1>("is_auth").is_some() {
                    self.reply(name, &from, &call::atom("yes"), effects);
                } else {
                    effects.push(Effect::Dropped(
                        "a call to net_kernel that is not is_auth".into(),
                    ));
                }
            }
            ("rex", envelope) => self.rex(envelope, effects),
            ("net_kernel", _) => effects.push(Effect::Dropped("a message to net_kernel".into())),
            (_, Envelope::Call { from, request }) => {
                let caller = Caller::Gen {
                    name: name.into(),
                    from,
                };
                effects.push(Effect::Ask(
                    caller,
                    Request::Call {
                        name: name.into(),
                        request,
                    },
                ));
            }
            (_, Envelope::Cast(message)) => effects.push(Effect::Tell(Request::Cast {
                name: name.into(),
                message,
            })),
            (_, Envelope::Bare(message)) => effects.push(Effect::Tell(Request::Info {
                name: name.into(),
                message,
            })),
        }
    }

    fn rex(&mut self, envelope: Envelope, effects: &mut Vec<Effect>) {
        let task = |request: &Raw, fields: [View<'_>; 4]| {
            let [module, function, args, _group_leader] = fields;
            let mfa = call::tuple(&[&request.sub(module), &request.sub(function), &call::nil()]);
            call::task(&mfa, &request.sub(args))
        };
        match envelope {
            Envelope::Call { from, request } => {
                let fields = request
                    .view()
                    .tagged::<4>("block_call")
                    .or_else(|| request.view().tagged::<4>("call"));
                match fields.and_then(|fields| task(&request, fields)) {
                    Some(task) => effects.push(ask(|task| Caller::Rex { from, task }, task)),
                    None => {
                        effects.push(Effect::Dropped("a call to rex of an unknown kind".into()))
                    }
                }
            }
            Envelope::Cast(request) => match request
                .view()
                .tagged::<4>("cast")
                .and_then(|fields| task(&request, fields))
            {
                Some(Task {
                    module,
                    function,
                    args,
                    ..
                }) => effects.push(Effect::Tell(Request::Apply {
                    module,
                    function,
                    args,
                })),
                None => effects.push(Effect::Dropped("a cast to rex of an unknown kind".into())),
            },
            Envelope::Bare(message) => {
                let unknown = || Effect::Dropped("a message to rex of an unknown kind".into());
                let Some([pid, request]) = message.view().tuple_n::<2>() else {
                    return effects.push(unknown());
                };
                let pid = match pid.is_pid() {
                    true => message.sub(pid),
                    false => return effects.push(unknown()),
                };
                if request.is_atom("features_request") {
                    let features = call::list(&[call::atom("erpc")]);
                    let reply =
                        call::tuple(&[&call::atom("features_reply"), &self.own.name, &features]);
                    effects.push(Effect::Write(Message::Send {
                        to: pid,
                        message: reply.into(),
                    }));
                } else if let Some([name, payload]) = request.tagged::<2>("sbcast") {
                    let (name, payload) = (message.sub(name), message.sub(payload));
                    self.synchronous_cast(pid, &name, payload, effects);
                } else if let Some(task) = request
                    .tagged::<4>("call")
                    .and_then(|fields| task(&message, fields))
                {
                    let from = call::From::bare(pid, "rex");
                    effects.push(ask(|task| Caller::Rex { from, task }, task));
                } else {
                    effects.push(unknown());
                }
            }
        }
    }

    /// `rpc:sbcast/3`, whose caller waits until every node has said whether it has the name.
    fn synchronous_cast(&mut self, from: Raw, name: &Raw, payload: Raw, effects: &mut Vec<Effect>) {
        match name.view().as_atom() {
            // A message to rex inside one to rex could be nested without end; nobody sends it.
            Some("rex") => {}
            Some(here) if self.own.names.contains_key(here) => self.deliver(here, payload, effects),
            _ => {
                let (name, message) = (name.clone(), payload);
                effects.push(Effect::Broadcast {
                    from,
                    name,
                    message,
                });
                return;
            }
        }
        effects.push(Effect::Write(self.broadcast(from, None)));
    }

    /// The answer to `rpc:sbcast/3`; `missing`: the name, where nobody has it.
    pub(crate) fn broadcast(&self, from: Raw, missing: Option<&Raw>) -> Message<Body> {
        let result = match missing {
            None => self.own.name.clone(),
            Some(name) => call::tuple(&[&call::atom("nonexisting_name"), name]),
        };
        let reply = call::tuple(&[&call::atom("rex"), &self.own.name, &result]);
        Message::Send {
            to: from,
            message: reply.into(),
        }
    }

    /// "I know you" is all that `global` needs to hear to wait for us no more.
    fn global(&mut self, message: &Raw, effects: &mut Vec<Effect>) {
        let Some([cast, request]) = message.view().tuple_n::<2>() else {
            return;
        };
        if cast.is_atom("$gen_cast") && request.tagged::<3>("init_connect").is_some() {
            let in_sync =
                call::tuple(&[&call::atom("in_sync"), &self.own.name, &call::atom("true")]);
            effects.push(Effect::Write(Message::RegSend {
                from: self.own.ids.pid(CALLER),
                to: call::atom("global_name_server"),
                message: call::tuple(&[&call::atom("$gen_cast"), &in_sync]).into(),
            }));
        }
    }

    /// A message to the process that our calls are made from: an answer, or output of something that we called.
    fn message_for_caller(&mut self, message: &Raw, effects: &mut Vec<Effect>) {
        if let Some([tag, _]) = message.view().tuple_n::<2>()
            && let Some((_, alias)) = tag.cons()
            && let Some(number) = self.own.ids.own_reference(alias)
        {
            self.gen_reply(number, message, effects);
        } else if let Some([from, id, request]) = message.view().tagged::<3>("io_request")
            && from.is_pid()
        {
            // A called function that prints has us as its group leader: unanswered it would hang for ever.
            let answer = io_answer(request);
            let reply = call::tuple(&[&call::atom("io_reply"), &message.sub(id), &answer]);
            effects.push(Effect::Write(Message::Send {
                to: message.sub(from),
                message: reply.into(),
            }));
        } else {
            effects.push(Effect::Dropped(
                "a message that answers no call of ours".into(),
            ));
        }
    }

    fn gen_reply(&mut self, number: u64, message: &Raw, effects: &mut Vec<Effect>) {
        let Some([_, value]) = message.view().tuple_n::<2>() else {
            return;
        };
        if let Some(Waiting::Process { .. }) = self.waiting.get(&number)
            && let Some(waiting) = self.waiting.remove(&number)
        {
            effects.push(Effect::Finish(number, Ok(message.sub(value))));
            self.demonitor(number, waiting, effects);
        }
    }

    /// The peer spawned the process that we asked for, or would not.
    fn spawned_there(&mut self, number: u64, result: Raw, effects: &mut Vec<Effect>) {
        match (self.waiting.remove(&number), result.view().as_atom()) {
            (Some(Waiting::Function { .. }), Some(refused)) => {
                effects.push(Effect::Finish(
                    number,
                    Err(Failure::Refused(refused.into())),
                ));
            }
            (Some(Waiting::Function { .. }), None) => {
                self.waiting.insert(
                    number,
                    Waiting::Function {
                        process: Some(result.compact()),
                    },
                );
            }
            (Some(Waiting::Abandoned), None) => {
                self.demonitor(
                    number,
                    Waiting::Function {
                        process: Some(result),
                    },
                    effects,
                );
            }
            (Some(waiting @ Waiting::Process { .. }), _) => {
                self.waiting.insert(number, waiting);
            }
            (Some(Waiting::Abandoned), Some(_)) | (None, _) => {}
        }
    }

    fn demonitor(&mut self, number: u64, waiting: Waiting, effects: &mut Vec<Effect>) {
        let target = match waiting {
            Waiting::Process { target }
            | Waiting::Function {
                process: Some(target),
            } => target,
            Waiting::Function { process: None } | Waiting::Abandoned => {
                self.waiting.insert(number, Waiting::Abandoned);
                return;
            }
        };
        effects.push(Effect::Write(Message::Demonitor {
            watcher: self.own.ids.pid(CALLER),
            target,
            reference: self.own.ids.reference(number),
        }));
    }

    fn spawn(
        &mut self,
        id: Raw,
        from: Raw,
        mfa: &Raw,
        options: &Raw,
        args: &Raw,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = call::task(mfa, args) else {
            let result = call::atom("badarg");
            effects.push(Effect::Write(Message::SpawnReply {
                id,
                to: from,
                flags: 0,
                result,
            }));
            return;
        };
        let has = |option: &str| {
            options.view().list().is_some_and(|mut list| {
                list.any(|item| {
                    item.is_atom(option)
                        || item
                            .tuple()
                            .and_then(|mut t| t.next())
                            .is_some_and(|key| key.is_atom(option))
                })
            })
        };
        let (linked, monitored) = (has("link"), has("monitor"));
        let number = self.own.ids.fresh();
        let pid = self.own.ids.pid(number);
        let flags = i64::from(linked) | i64::from(monitored) << 1;
        let reply = Message::SpawnReply {
            id: id.clone(),
            to: from.clone(),
            flags,
            result: pid.clone(),
        };
        effects.push(Effect::Write(reply));
        let links = if linked {
            vec![from.clone()]
        } else {
            Vec::new()
        };
        effects.push(ask(
            |task| {
                let spawned = Spawned {
                    number,
                    pid,
                    request: id,
                    parent: from,
                    monitored,
                    links,
                    watchers: Vec::new(),
                    task,
                };
                Caller::Spawned(Box::new(spawned))
            },
            task,
        ));
    }

    fn answered(&mut self, caller: Caller, outcome: &Outcome, effects: &mut Vec<Effect>) {
        match caller {
            Caller::Gen { name, from } => match outcome {
                Outcome::Reply(value) => self.reply(&name, &from, value, effects),
                // As when a gen_server ends over a request: the caller's monitor tells it.
                Outcome::Error(reason) | Outcome::Exit(reason) | Outcome::Throw(reason) => {
                    self.gen_exit(&name, from, reason.clone(), effects);
                }
                Outcome::Undef => effects.push(Effect::Dropped(format!(
                    "a call to {name} that it does not know"
                ))),
            },
            Caller::Rex { from, task } => {
                let value = task.rex_reply(outcome);
                self.reply("rex", &from, &value, effects);
            }
            Caller::Spawned(spawned) => {
                let reason = spawned.task.exit_reason(outcome);
                end(*spawned, &reason, effects);
            }
        }
    }

    fn reply(&self, name: &str, from: &call::From, value: &Raw, effects: &mut Vec<Effect>) {
        let number = self.own.names.get(name).copied().unwrap_or(CALLER);
        effects.push(Effect::Write(from.reply(self.own.ids.pid(number), value)));
    }

    fn gen_exit(&self, name: &str, from: call::From, reason: Raw, effects: &mut Vec<Effect>) {
        if let Some(reference) = from.monitor {
            effects.push(Effect::Write(monitor_exit(
                call::atom(name),
                from.pid,
                reference,
                reason.into(),
            )));
        }
    }

    /// A linked process there ended, and ends the one here with it; nothing that has a name ends that way.
    fn link_broke(&mut self, from: &Raw, to: &Raw, reason: Raw, effects: &mut Vec<Effect>) {
        let Some(spawned) = self.parked_process(to) else {
            return;
        };
        let before = spawned.links.len();
        // Whoever's link broke knows already.
        spawned.links.retain(|linked| linked != from);
        let was_linked = spawned.links.len() < before;
        let number = spawned.number;
        if was_linked && !reason.view().is_atom("normal") {
            self.end_early(number, reason, effects);
        }
    }

    /// `exit/2`: it ends a spawned process, and nothing that has a name.
    fn exit(&mut self, to: &Raw, reason: Raw, effects: &mut Vec<Effect>) {
        let Some(number) = self.own.ids.own_pid(to.view()) else {
            return;
        };
        if reason.view().is_atom("kill") {
            self.end_early(number, call::atom("killed"), effects);
        } else if !reason.view().is_atom("normal") {
            self.end_early(number, reason, effects);
        }
    }

    fn end_early(&mut self, number: u64, reason: Raw, effects: &mut Vec<Effect>) {
        if matches!(self.parked.get(&number), Some(Caller::Spawned(_)))
            && let Some(Caller::Spawned(spawned)) = self.unpark(number)
        {
            effects.push(Effect::Cancel(number));
            effects.push(Effect::Returned(number, reason.clone()));
            end(*spawned, &reason.into(), effects);
        }
    }

    /// The peer takes a monitor back. The caller of a function or a process waits for nothing else; what was spawned as
    /// a process of its own, or is watched by others too, goes on.
    ///
    /// `false`: it was none of those that are kept here.
    fn demonitored(&mut self, reference: &Raw, target: &Raw, effects: &mut Vec<Effect>) -> bool {
        let Some(number) = self.parked_requests.remove(reference) else {
            let spawned = self.parked_process(target);
            return spawned.is_some_and(|spawned| {
                spawned.watchers.retain(|(_, held)| held != reference);
                true
            });
        };
        if let Some(Caller::Spawned(spawned)) = self.parked.get_mut(&number) {
            spawned.monitored = false;
            let call = matches!(spawned.task.style, call::Style::Erpc { .. });
            if !call || !spawned.links.is_empty() || !spawned.watchers.is_empty() {
                return true;
            }
        }
        self.parked.remove(&number);
        effects.push(Effect::Cancel(number));
        true
    }

    /// Whether a process or name is of those that this file knows: not one of the program's.
    fn lives(&self, target: View<'_>) -> bool {
        if let Some(name) = target.as_atom() {
            return self.own.names.contains_key(name);
        }
        self.own.ids.own_pid(target).is_some_and(|number| {
            number == CALLER
                || self.parked.contains_key(&number)
                || self.own.names.values().any(|pid| *pid == number)
        })
    }

    /// Keeps a monitor of what lives here; the reason with which it fires at once when it cannot be kept.
    fn watch(&mut self, watcher: &Raw, target: &Raw, reference: &Raw) -> Result<(), &'static str> {
        let Some(spawned) = self.parked_process(target) else {
            return Ok(());
        };
        if spawned.watchers.len() >= MAX_WATCHERS {
            return Err("system_limit");
        }
        spawned
            .watchers
            .push((watcher.compact(), reference.compact()));
        Ok(())
    }

    /// Keeps a link to what lives here; the reason with which it breaks at once when it cannot be kept.
    fn link(&mut self, from: &Raw, to: &Raw) -> Result<(), &'static str> {
        let Some(spawned) = self.parked_process(to) else {
            return Ok(());
        };
        if spawned.links.contains(from) {
            return Ok(());
        }
        if spawned.links.len() >= MAX_WATCHERS {
            return Err("system_limit");
        }
        spawned.links.push(from.compact());
        Ok(())
    }

    fn parked_process(&mut self, target: &Raw) -> Option<&mut Spawned> {
        let number = self.own.ids.own_pid(target.view())?;
        match self.parked.get_mut(&number) {
            Some(Caller::Spawned(spawned)) => Some(spawned),
            _ => None,
        }
    }

    fn unpark(&mut self, number: u64) -> Option<Caller> {
        let caller = self.parked.remove(&number)?;
        if let Some(monitor) = caller.monitor() {
            self.parked_requests.remove(monitor);
        }
        Some(caller)
    }

    fn spawn_request(
        &self,
        number: u64,
        module: &Raw,
        function: &Raw,
        args: &Raw,
    ) -> Message<Body> {
        let ids = &self.own.ids;
        let args = [
            ids.reference(number),
            module.clone(),
            function.clone(),
            args.clone(),
        ];
        let options = [call::atom("monitor")];
        erpc_request(ids, number, "execute_call", 4, &options, call::list(&args))
    }

    /// What the exit of a process that we called says.
    fn result(&self, number: u64, waiting: &Waiting, reason: Raw) -> Result<Raw, Failure> {
        if matches!(waiting, Waiting::Process { .. }) {
            return Err(Failure::Exit(reason));
        }
        let view = reason.view();
        let fields = |mut items: crate::term::Items<'_>| -> Option<(String, Raw, Raw)> {
            let ours = self.own.ids.own_reference(items.next()?)? == number;
            let class = items.next()?.as_atom()?.to_owned();
            let value = reason.sub(items.next()?);
            let stack = items
                .next()
                .map_or_else(call::nil, |stack| reason.sub(stack));
            ours.then_some((class, value, stack))
        };
        match view.tuple().and_then(fields) {
            Some((class, value, _)) if class == "return" => Ok(value),
            Some((class, reason, stack)) => Err(Failure::Exception {
                class,
                reason,
                stack,
            }),
            None => Err(Failure::Exit(reason)),
        }
    }
}

/// The request behind `erpc:cast`: nobody watches the process, so its reply is the last that is heard of it.
pub(crate) fn cast_request(
    ids: &Ids,
    number: u64,
    module: &str,
    function: &str,
    args: &Raw,
) -> Message<Body> {
    let args = call::list(&[call::atom(module), call::atom(function), args.clone()]);
    erpc_request(ids, number, "execute_cast", 3, &[], args)
}

fn erpc_request(
    ids: &Ids,
    number: u64,
    function: &str,
    arity: i64,
    options: &[Raw],
    args: Raw,
) -> Message<Body> {
    let mut mfa = BytesMut::new();
    put_tuple(&mut mfa, 3);
    put_atom(&mut mfa, "erpc");
    put_atom(&mut mfa, function);
    put_int(&mut mfa, arity);
    Message::SpawnRequest {
        id: ids.reference(number),
        from: ids.pid(CALLER),
        leader: ids.pid(CALLER),
        mfa: Raw::own(mfa),
        options: call::list(options),
        args: args.into(),
    }
}

fn ask(caller: impl FnOnce(Task) -> Caller, task: Task) -> Effect {
    let Task {
        module,
        function,
        args,
        ..
    } = task.clone();
    Effect::Ask(
        caller(task),
        Request::Apply {
            module,
            function,
            args,
        },
    )
}

fn monitor_exit(target: Raw, watcher: Raw, reference: Raw, reason: Body) -> Message<Body> {
    Message::MonitorExit {
        target,
        watcher,
        reference,
        reason,
    }
}

/// A spawned process is over: its links hear of it first, then its monitors, as on the BEAM.
fn end(spawned: Spawned, reason: &Body, effects: &mut Vec<Effect>) {
    let Spawned {
        pid,
        request,
        parent,
        monitored,
        links,
        watchers,
        ..
    } = spawned;
    for to in links {
        effects.push(Effect::Write(Message::Exit {
            from: pid.clone(),
            to,
            reason: reason.clone(),
        }));
    }
    if monitored {
        effects.push(Effect::Write(monitor_exit(
            pid.clone(),
            parent,
            request,
            reason.clone(),
        )));
    }
    for (watcher, reference) in watchers {
        effects.push(Effect::Write(monitor_exit(
            pid.clone(),
            watcher,
            reference,
            reason.clone(),
        )));
    }
}

/// `{'$gen_call', {Pid, [alias | Ref]}, Request}`
fn gen_call(caller: &Raw, reference: &Raw, request: &Raw) -> Body {
    let mut head = BytesMut::new();
    put_tuple(&mut head, 3);
    put_atom(&mut head, "$gen_call");
    put_tuple(&mut head, 2);
    put_raw(&mut head, caller);
    put_list(&mut head, 1);
    put_atom(&mut head, "alias");
    put_raw(&mut head, reference);
    Body::written(head, request)
}

/// What a group leader that shows nothing says.
fn io_answer(request: View<'_>) -> Raw {
    let kind = request
        .tuple()
        .and_then(|mut items| items.next())
        .and_then(View::as_atom)
        .or(request.as_atom());
    match kind {
        Some("put_chars" | "requests") => call::atom("ok"),
        Some("get_line" | "get_chars" | "get_until" | "get_password") => call::atom("eof"),
        Some("getopts") => {
            let mut out = BytesMut::new();
            put_nil(&mut out);
            Raw::own(out)
        }
        Some("setopts" | "get_geometry") => {
            call::tuple(&[&call::atom("error"), &call::atom("enotsup")])
        }
        _ => call::tuple(&[&call::atom("error"), &call::atom("request")]),
    }
}

#[cfg(test)]
mod tests;
