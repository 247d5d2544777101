//! The task of one connection. It owns the socket in both directions: bytes in, frames cut, the state asked, and
//! everything that came out of it written at once.
//!
//! While more than [`HIGH_WATER`] bytes wait to be written nothing is taken from the mailbox; above [`FULL`], nothing is
//! read either. The room between the two is for answers: were they one, two nodes that flood each other would both stop
//! reading, and neither would ever write again. What is left of large messages counts apart, as it is no copy and others
//! pass it by: it may be as much as one message, and half of that where we would add our own. A peer that takes no bytes
//! at all is cut off after the tick time.

use super::{
    Answer, DownReason, Node, PeerInfo,
    access::{Access, Audit},
    call::{self, Outcome},
    frame::{Agreed, Decoder, FrameError},
    message::{Body, Message},
    otp,
    outbox::{Outbox, Unfit},
    process::Owed,
    state::{Caller, Effect, Failure, Input, MAX_PARKED, Request, State},
};
use crate::term::{Limits, Raw};
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, warn};

/// How many commands may wait for one connection; who sends more waits.
const MAILBOX: usize = 1024;

/// How much may be owed to one peer beside that: one that does not even take so much is cut off.
const MAX_OWED: usize = 200_000;

/// Above so many bytes to be written nothing of our own is added.
pub(crate) const HIGH_WATER: usize = 8 * 1024 * 1024;

/// Above so many bytes to be written nothing is read, as every message may be owed an answer.
const FULL: usize = 64 * 1024 * 1024;

/// How long the end of a connection may take for what was still to be written.
const FLUSH: Duration = Duration::from_millis(200);

/// Room for one read.
const READ: usize = 64 * 1024;

/// What a connection keeps of its read buffer.
const KEEP: usize = 4 * READ;

/// When a read brings so many messages, a moment is waited before the next: see [`Node::moment`].
const MANY: u64 = 8;

/// A frame up to this size gets its room at once; a larger one as it arrives, so that an announced length alone
/// costs nothing.
const TRUSTED: usize = 1024 * 1024;

/// How deep the envelopes of OTP are around a term that somebody sends: the limit is meant for the term.
const ENVELOPE: usize = 8;

/// What the node asks of a connection.
pub(crate) enum Command {
    Call {
        number: u64,
        module: Raw,
        function: Raw,
        args: Raw,
        answer: oneshot::Sender<Result<Raw, Failure>>,
    },
    GenCall {
        number: u64,
        process: Raw,
        request: Raw,
        answer: oneshot::Sender<Result<Raw, Failure>>,
    },
    Abandon(u64),
    Write(Message<Body>),
    /// A function that runs for this connection was ended by somebody else's exit signal.
    Stop(u64, Raw),
}

/// The other end of a connection's mailbox.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) info: PeerInfo,
    commands: mpsc::UnboundedSender<Queued>,
    /// Room in the mailbox.
    room: Arc<Semaphore>,
    /// How many commands are in it that took none of the room.
    owed: Arc<AtomicUsize>,
    close: watch::Sender<Option<DownReason>>,
}

/// A command in the mailbox, and the room that it takes there.
type Queued = (Command, Option<OwnedSemaphorePermit>);

/// What the task needs to run.
pub(crate) struct Start {
    agreed: Agreed,
    commands: Commands,
    close: watch::Receiver<Option<DownReason>>,
}

impl Handle {
    pub(crate) fn new(info: PeerInfo, agreed: Agreed) -> (Self, Start) {
        let (commands, queued) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(MAILBOX));
        let owed = Arc::<AtomicUsize>::default();
        let (close, closing) = watch::channel(None);
        (
            Self {
                info,
                commands,
                room: room.clone(),
                owed: owed.clone(),
                close,
            },
            Start {
                agreed,
                commands: Commands { queued, room, owed },
                close: closing,
            },
        )
    }

    /// Puts a command into the mailbox, waiting while it is full. `false`: the connection is gone.
    pub(crate) async fn send(&self, command: Command) -> bool {
        match self.room.clone().acquire_owned().await {
            Ok(room) => self.commands.send((command, Some(room))).is_ok(),
            Err(_) => false,
        }
    }

    /// Puts a command into the mailbox when there is room.
    pub(crate) fn try_send(&self, command: Command) -> bool {
        match self.room.clone().try_acquire_owned() {
            Ok(room) => self.commands.send((command, Some(room))).is_ok(),
            Err(_) => false,
        }
    }

    /// Puts into the mailbox what the peer is owed, behind all that was put there before, whether there is room or not:
    /// the ends of links and monitors, and what it would never hear of again. A peer that takes nothing for so long that too
    /// much piles up loses the connection.
    pub(crate) fn owe(&self, command: Command) {
        if self.owed.fetch_add(1, Ordering::Relaxed) > MAX_OWED {
            self.close(DownReason::NotReading);
        }
        // The connection is gone: then the peer has heard of all that by itself.
        let _ = self.commands.send((command, None));
    }

    /// Waits until what is owed has left, but for a little: whoever watches or links to many processes in a row goes no faster
    /// than the connection, and does not end it by what it owes.
    pub(crate) async fn until_it_owes_little(&self) {
        while self.owed.load(Ordering::Relaxed) > MAILBOX && !self.commands.is_closed() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Asks the connection to end; the first reason counts.
    pub(crate) fn close(&self, reason: DownReason) {
        self.close.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(reason);
            }
            first
        });
    }

    /// Waits until the task has ended and its end was told to everybody.
    pub(crate) async fn closed(&self) {
        self.close.closed().await;
    }
}

/// The reader's side of the mailbox.
struct Commands {
    queued: mpsc::UnboundedReceiver<Queued>,
    room: Arc<Semaphore>,
    owed: Arc<AtomicUsize>,
}

impl Commands {
    async fn recv(&mut self) -> Option<Command> {
        let queued = self.queued.recv().await?;
        Some(self.taken(queued))
    }

    fn try_recv(&mut self) -> Option<Command> {
        let queued = self.queued.try_recv().ok()?;
        Some(self.taken(queued))
    }

    fn taken(&self, (command, room): Queued) -> Command {
        if room.is_none() {
            self.owed.fetch_sub(1, Ordering::Relaxed);
        }
        command
    }

    /// Takes nothing more in.
    fn close(&mut self) {
        self.queued.close();
        self.room.close();
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs a connection until it ends.
pub(crate) async fn run<S>(node: &Node, peer: &PeerInfo, stream: S, start: &mut Start) -> DownReason
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = connection(node, peer, start.agreed);
    let reason = connection.drive(stream, start).await;
    connection.state.close(&reason, &mut connection.effects);
    connection.perform();
    // What was not cancelled was cast: it runs to its end.
    connection.running.detach_all();
    connection.audit_the_rest(true);
    reason
}

fn connection<'a>(node: &'a Node, peer: &'a PeerInfo, agreed: Agreed) -> Connection<'a> {
    let limits = Limits {
        max_depth: node.max_depth().saturating_add(ENVELOPE),
        max_written_out: node.max_frame(),
        ..Limits::default()
    };
    Connection {
        node,
        peer,
        access: node.access_of(&peer.name),
        audit: Audit::default(),
        state: State::new(node.own(), now()),
        decoder: Decoder::new(agreed, limits, node.max_frame()),
        out: Outbox::new(agreed),
        effects: Vec::new(),
        answers: HashMap::new(),
        running: JoinSet::new(),
        tasks: HashMap::new(),
        aborts: HashMap::new(),
        messages: 0,
        dropped: 0,
        refused: 0,
    }
}

struct Connection<'a> {
    node: &'a Node,
    peer: &'a PeerInfo,
    /// What the peer may reach here.
    access: Access,
    audit: Audit,
    state: State,
    decoder: Decoder,
    out: Outbox,
    effects: Vec<Effect>,
    /// Our own calls that wait, by number.
    answers: HashMap<u64, oneshot::Sender<Result<Raw, Failure>>>,
    /// Functions that answer later, with the number under which their caller is parked.
    running: JoinSet<Answer>,
    tasks: HashMap<tokio::task::Id, u64>,
    aborts: HashMap<u64, AbortHandle>,
    /// How many have come that ask for something or bring something.
    messages: u64,
    dropped: u64,
    refused: u64,
}

impl Connection<'_> {
    async fn drive<S>(&mut self, stream: S, start: &mut Start) -> DownReason
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut input = BytesMut::with_capacity(READ);
        let mut clock = interval((self.node.tick_time() / 8).max(Duration::from_millis(1)));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Whole frames are left in `input`.
        let mut more = false;
        loop {
            let room = self.has_room_for_our_own();
            let reading = self.has_room();
            if more && reading {
                // A full buffer means that more is there already.
                let full = input.len() == input.capacity();
                let before = self.messages;
                match self.frames(&mut input) {
                    Ok(left) => {
                        more = left;
                        if !full
                            && self.messages - before >= MANY
                            && let Err(reason) = self.rest(&mut writer)
                        {
                            return reason;
                        }
                    }
                    Err(reason) => return reason,
                }
                continue;
            }
            self.refill();
            // No branch goes first: a peer that never pauses must starve neither our calls, nor the answers of
            // functions, nor the clock.
            tokio::select! {
                reason = closing(&mut start.close) => {
                    start.commands.close();
                    while let Some(command) = start.commands.try_recv() {
                        self.command(command);
                    }
                    self.flush(&mut reader, &mut writer).await;
                    return reason;
                }
                wrote = writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    if let Err(reason) = self.wrote(wrote) {
                        return reason;
                    }
                }
                read = reader.read_buf(&mut input), if reading => match read {
                    Ok(0) => return DownReason::Closed,
                    Ok(count) => {
                        self.node.kept().read(count);
                        self.state.read(now());
                        more = true;
                    }
                    Err(error) => return io_reason(&error),
                },
                Some(command) = start.commands.recv(), if room => {
                    self.command(command);
                    // What else waits leaves in the same write.
                    for _ in 0..MAILBOX {
                        if !self.has_room_for_our_own() {
                            break;
                        }
                        match start.commands.try_recv() {
                            Some(command) => self.command(command),
                            None => break,
                        }
                    }
                }
                Some(done) = self.running.join_next_with_id(), if reading && !self.running.is_empty() => self.unpark(done),
                _ = clock.tick() => {
                    self.sweep();
                    self.audit_the_rest(false);
                    match self.state.wake(now(), !self.out.is_empty(), reading) {
                        Ok(true) => self.out.tick(),
                        Ok(false) => {}
                        Err(reason) => return reason,
                    }
                }
            }
        }
    }

    /// What was decided before the end is still sent, as long as the socket takes it.
    async fn flush<R, W>(&mut self, reader: &mut R, writer: &mut W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let all = async {
            loop {
                self.refill();
                if self.out.is_empty()
                    || !writer
                        .write_buf(&mut self.out)
                        .await
                        .is_ok_and(|count| count > 0)
                {
                    break;
                }
            }
            let _ = writer.shutdown().await;
            // A socket that is closed with bytes unread resets the connection, and the peer may lose what it was just
            // sent: so they are read until it has closed its side.
            let mut rest = vec![0; READ];
            while reader.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        };
        let _ = tokio::time::timeout(FLUSH, all).await;
    }

    fn wrote(&mut self, count: std::io::Result<usize>) -> Result<(), DownReason> {
        match count {
            Ok(0) => Err(DownReason::Closed),
            Ok(count) => {
                self.node.kept().wrote(count);
                self.state.wrote(now(), !self.out.is_empty());
                Ok(())
            }
            Err(error) => Err(io_reason(&error)),
        }
    }

    /// Much has come: it is answered, and a moment is waited for more. Not when the socket does not take the answers at
    /// once: two nodes that wait for each other to read would wait for ever.
    fn rest<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> Result<(), DownReason> {
        self.refill();
        if !self.out.is_empty()
            && let Some(count) = writer.write_buf(&mut self.out).now_or_never()
        {
            self.wrote(count)?;
        }
        if self.out.is_empty() {
            self.node.moment();
        }
        Ok(())
    }

    /// Whether answers have room, so that something may be read.
    fn has_room(&self) -> bool {
        self.out.len() < FULL && self.out.large() < self.most_large()
    }

    /// Whether something of our own may be added: less than would keep us from reading.
    fn has_room_for_our_own(&self) -> bool {
        self.out.len() < HIGH_WATER && self.out.large() < self.most_large() / 2
    }

    /// How much of large messages may wait.
    fn most_large(&self) -> usize {
        self.node.max_frame().max(FULL)
    }

    /// Calls whose callers are gone without a word, as the mailbox was full, are taken back.
    fn sweep(&mut self) {
        let gone: Vec<u64> = self
            .answers
            .iter()
            .filter(|(_, answer)| answer.is_closed())
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.command(Command::Abandon(number));
        }
    }

    /// Takes the whole frames out of what was read, and makes room for the rest of the next one. `Ok(true)`: more are
    /// there, but their answers have no room.
    fn frames(&mut self, input: &mut BytesMut) -> Result<bool, DownReason> {
        let mut wanted = READ;
        let mut large = false;
        while let Some(head) = input.first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > self.node.max_frame() {
                let max = self.node.max_frame();
                return Err(DownReason::Protocol(format!(
                    "a frame of {length} bytes, and --max-frame is {max}"
                )));
            }
            if input.len() < length + 4 {
                let missing = length + 4 - input.len();
                wanted = if missing <= TRUSTED {
                    missing.max(READ)
                } else {
                    input.len().max(TRUSTED)
                };
                break;
            }
            if !self.has_room() {
                return Ok(true);
            }
            input.advance(4);
            large |= length > KEEP;
            if length == 0 {
                continue;
            }
            // A further fragment is put behind the others anyway, so it need not be a buffer of its own.
            let message = if self.decoder.is_next(&input[..length]) {
                let message = self.decoder.next(&input[..length]);
                input.advance(length);
                message
            } else {
                let frame = input.split_to(length).freeze();
                self.decoder.decode(&frame)
            };
            match message {
                Ok(Some(message)) => {
                    // What only announces something else, as the reply to a spawn request does, is nothing to wait after.
                    let announces = matches!(message, Message::SpawnReply { .. });
                    self.messages += u64::from(!announces);
                    self.received(message);
                }
                Ok(None) => {}
                Err(error) if error.is_overload() => {
                    return Err(DownReason::Overload(error.to_string()));
                }
                Err(error) if error.ends_the_connection() => {
                    return Err(DownReason::Protocol(error.to_string()));
                }
                Err(error) => self.refused(&error),
            }
        }
        if self.decoder.incomplete() {
            wanted = wanted.max(KEEP);
        }
        if large || (input.is_empty() && input.capacity() > KEEP) {
            // The room of a large frame is not kept, neither by us nor for the few bytes behind it.
            *input = BytesMut::from(&input[..]);
        }
        input.reserve(wanted);
        Ok(false)
    }

    fn write(&mut self, message: Message<Body>) {
        if let Err(error) = self.out.push(message) {
            self.unfit(&error);
        }
    }

    fn refill(&mut self) {
        for error in self.out.refill() {
            self.unfit(&error);
        }
    }

    fn unfit(&self, error: &Unfit) {
        warn!(peer = %self.peer.name, "not sent: {error}");
    }

    /// A message that cannot be read. The first is told to the operator, and then each that doubles their number.
    fn refused(&mut self, why: &FrameError) {
        self.refused += 1;
        self.node.count_refused();
        if self.refused.is_power_of_two() {
            warn!(peer = %self.peer.name, count = self.refused, "a message was refused: {why}");
        } else {
            debug!(peer = %self.peer.name, count = self.refused, "a message was refused: {why}");
        }
    }

    fn dropped(&mut self, what: &dyn std::fmt::Display) {
        self.dropped += 1;
        debug!(peer = %self.peer.name, count = self.dropped, "dropped: {what}");
    }

    fn command(&mut self, command: Command) {
        let input = match command {
            Command::Call {
                number,
                module,
                function,
                args,
                answer,
            } => {
                self.answers.insert(number, answer);
                Input::Call {
                    number,
                    module,
                    function,
                    args,
                }
            }
            Command::GenCall {
                number,
                process,
                request,
                answer,
            } => {
                self.answers.insert(number, answer);
                Input::GenCall {
                    number,
                    process,
                    request,
                }
            }
            Command::Abandon(number) => {
                self.answers.remove(&number);
                Input::Abandon(number)
            }
            Command::Stop(number, reason) => Input::Stop(number, reason),
            Command::Write(message) => return self.write(message),
        };
        self.input(input);
    }

    fn input(&mut self, input: Input) {
        self.state.handle(input, &mut self.effects);
        self.perform();
    }

    /// Does what the state decided, in order; answers that are there at once may decide more.
    fn perform(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Write(message) => self.write(message),
                    Effect::Ask(caller, request) => self.ask(caller, request),
                    Effect::Tell(request) => self.tell(request),
                    Effect::Cancel(number) => {
                        if let Some(task) = self.aborts.remove(&number) {
                            task.abort();
                        }
                    }
                    Effect::Finish(number, result) => {
                        if let Some(answer) = self.answers.remove(&number) {
                            // Who does not wait any more has no use for it.
                            let _ = answer.send(result);
                        }
                    }
                    Effect::Process(message) => self.process(message),
                    Effect::Returned(number, reason) => {
                        let owed = self.node.processes().returned(number, &reason);
                        self.owed(owed);
                    }
                    Effect::Broadcast {
                        from,
                        name,
                        message,
                    } => self.broadcast(from, name, message),
                    Effect::Dropped(what) => self.dropped(&what),
                }
            }
            // What the answers above decided; the emptied vector is used again.
            if self.effects.is_empty() {
                self.effects = effects;
                return;
            }
            std::mem::swap(&mut self.effects, &mut effects);
        }
    }

    /// What processes of the program owe to this peer goes out after what was written before it; what they owe to
    /// others, through their connections.
    fn process(&mut self, message: Message<Raw>) {
        let message = match self.node.to_scope(self.peer, message) {
            Ok(()) => return,
            Err(message) => message,
        };
        let connection = self.peer.connection;
        let peer = &self.peer.name;
        let owed = self.node.processes().received(connection, peer, message);
        self.owed(owed);
    }

    fn owed(&mut self, owed: Vec<Owed>) {
        for (to, command) in owed {
            match command {
                Command::Write(message) if to == self.peer.connection => self.write(message),
                command => self.node.signal(to, command),
            }
        }
    }

    fn broadcast(&mut self, from: Raw, name: Raw, message: Raw) {
        let here = (name.view().as_atom()).is_some_and(|name| self.node.whereis(name).is_some());
        let missing = (!here).then_some(&name);
        let answer = self.state.broadcast(from.clone(), missing);
        if here {
            let to = name;
            self.process(Message::RegSend { from, to, message });
        }
        self.write(answer);
    }

    fn ask(&mut self, caller: Caller, request: Request) {
        let answer = if self.refuses(&request) {
            Answer::Undef
        } else if self.report(&caller, &request) {
            Answer::Reply(call::atom("ok"))
        } else {
            self.request(request)
        };
        let outcome = match answer {
            Answer::Reply(value) => Outcome::Reply(value),
            Answer::Error(reason) => Outcome::Error(reason),
            Answer::Exit(reason) => Outcome::Exit(reason),
            Answer::Throw(value) => Outcome::Throw(value),
            Answer::Undef => Outcome::Undef,
            Answer::Later(future) if self.state.has_room() => {
                let lent = caller.is_process();
                let number = self.state.park(caller);
                if lent {
                    let connection = self.peer.connection;
                    self.node.processes().lend(number, connection);
                }
                let task = self.running.spawn(future);
                self.tasks.insert(task.id(), number);
                self.aborts.insert(number, task);
                return;
            }
            Answer::Later(_) => Outcome::Error(call::atom("system_limit")),
        };
        self.state
            .handle(Input::Answered(caller, outcome), &mut self.effects);
    }

    /// Sends what a spawned function of OTP's tools tells by messages, before its end is told. `false`: it is none.
    fn report(&mut self, caller: &Caller, request: &Request) -> bool {
        let (
            Some(own),
            Request::Apply {
                module,
                function,
                args,
            },
        ) = (caller.pid(), request)
        else {
            return false;
        };
        let peer = self.peer.name.as_str();
        let Some((to, messages)) = otp::report(self.node, own, peer, module, function, args) else {
            return false;
        };
        for message in messages {
            let to = to.clone();
            self.write(Message::Send { to, message });
        }
        true
    }

    /// A service that panics loses the one request, not the connection.
    fn request(&self, request: Request) -> Answer {
        catch_unwind(AssertUnwindSafe(|| self.request_of_service(request))).unwrap_or_else(|_| {
            warn!(peer = %self.peer.name, "the service panicked over a request");
            Answer::Error(call::atom("function_panicked"))
        })
    }

    fn request_of_service(&self, request: Request) -> Answer {
        let service = self.node.service();
        match request {
            Request::Call { name, request } => service.call(&name, &request),
            Request::Apply {
                module,
                function,
                args,
            } if (module.as_str(), function.as_str()) == ("erlang", "apply") => {
                // What can be run of it was taken apart before: this is a local fun, whose code is not here.
                match args.first().filter(|fun| fun.view().is_fun()) {
                    Some(fun) => Answer::Error(call::tuple(&[&call::atom("badfun"), fun])),
                    None => Answer::Error(call::atom("badarg")),
                }
            }
            Request::Apply {
                module,
                function,
                args,
            } if module == "pg" => match self.node.apply_pg(&function, &args) {
                Answer::Undef => service.apply(&module, &function, &args),
                answer => answer,
            },
            Request::Apply {
                module,
                function,
                args,
            } => match otp::apply(self.node, &module, &function, &args) {
                Answer::Undef => service.apply(&module, &function, &args),
                answer => answer,
            },
            Request::Cast { name, message } => {
                service.cast(&name, &message);
                Answer::Undef
            }
            Request::Info { .. } => Answer::Undef,
        }
    }

    fn tell(&mut self, request: Request) {
        match request {
            Request::Info { name, message } => {
                let service = self.node.service();
                let answers = catch_unwind(AssertUnwindSafe(|| service.info(&name, &message)));
                if answers.is_err() {
                    warn!(peer = %self.peer.name, name, "the service panicked over a message");
                }
                for (to, message) in answers.unwrap_or_default() {
                    self.write(Message::Send { to, message });
                }
            }
            request if self.refuses(&request) => {}
            request => {
                // The result of a function that was cast is nobody's; it still has to run.
                if let Answer::Later(future) = self.request(request) {
                    if self.running.len() < MAX_PARKED {
                        self.running.spawn(future);
                    } else {
                        warn!(peer = %self.peer.name, "a cast was dropped: too many functions run for this peer");
                    }
                }
            }
        }
    }

    fn unpark(&mut self, done: Result<(tokio::task::Id, Answer), tokio::task::JoinError>) {
        let (id, outcome) = match done {
            Ok((id, Answer::Reply(value))) => (id, Outcome::Reply(value)),
            Ok((id, Answer::Error(reason))) => (id, Outcome::Error(reason)),
            Ok((id, Answer::Exit(reason))) => (id, Outcome::Exit(reason)),
            Ok((id, Answer::Throw(value))) => (id, Outcome::Throw(value)),
            Ok((id, Answer::Undef)) => (id, Outcome::Undef),
            // A future that answers with another future is a mistake of the service's.
            Ok((id, Answer::Later(_))) => (id, Outcome::Error(call::atom("internal_error"))),
            Err(error) => (error.id(), Outcome::Error(call::atom("function_panicked"))),
        };
        if let Some(number) = self.tasks.remove(&id) {
            self.aborts.remove(&number);
            self.input(Input::Unparked(number, outcome));
        }
    }
}

/// The time for the state, by the clock that tests can set.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

async fn closing(close: &mut watch::Receiver<Option<DownReason>>) -> DownReason {
    match close.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or(DownReason::Requested),
        // Nobody holds the connection any more.
        Err(_) => DownReason::Requested,
    }
}

fn io_reason(error: &std::io::Error) -> DownReason {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            DownReason::Closed
        }
        kind => DownReason::Io(kind),
    }
}

mod gate;

#[cfg(test)]
mod tests;
