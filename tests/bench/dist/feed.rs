//! A peer that is fed: frames that were made beforehand, written as fast as the socket takes them. No Erlang node is in
//! the way, so this shows what the peer itself can do.
//!
//! A call is what a caller of OTP sends: monitor, message, demonitor, three frames. Each answer is compared with the
//! first one, which was taken apart; the last one is another, so that no answer can be missing unseen.

use super::{
    ground::Cpu,
    wire::{CREATION, SILENCE, dial, frame, operation, read_frame},
};
use bytes::Bytes;
use redgrid::term::{
    Limits, Pid, Raw, Reference, Term, as_i64, atom, improper, int, list, nil, tuple,
};
use std::{
    io::{self, BufReader, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// So many calls may be without an answer: a peer that is slower than we are is not to drown.
const WINDOW: u64 = 8192;

/// So many calls, or bytes of messages, go into one write.
const CALLS: usize = 64;
const BYTES: usize = 64 * 1024;

const SEND: u8 = 2;
const REG_SEND: i64 = 6;
const MONITOR_P: i64 = 19;
const DEMONITOR_P: i64 = 20;
const MONITOR_P_EXIT: u8 = 21;
const SEND_SENDER: u8 = 22;
const PAYLOAD_MONITOR_P_EXIT: u8 = 28;
const SPAWN_REQUEST: i64 = 29;
const SPAWN_REPLY: u8 = 31;
const ALIAS_SEND: u8 = 33;

/// What a feed gave.
pub(crate) struct Fed {
    pub(crate) count: f64,
    /// From the first byte until the last was counted or answered.
    pub(crate) took: Duration,
    /// Microseconds of CPU time that the feeder spent.
    pub(crate) feeder: f64,
}

/// A connection to what is fed.
pub(crate) struct Feeder {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    name: String,
}

impl Feeder {
    pub(crate) fn connect(epmd: u16, name: &str, peer: &str) -> Result<Self, String> {
        let stream = dial(epmd, name, peer)?;
        let reader = stream.try_clone().map_err(|error| error.to_string())?;
        Ok(Self {
            stream,
            reader: BufReader::with_capacity(256 * 1024, reader),
            name: name.into(),
        })
    }

    /// Messages of so many bytes to the sink, for a time; how many, and in which time they were counted there.
    pub(crate) fn one_way(&mut self, size: usize, time: Duration) -> Result<Fed, String> {
        let data = tuple([atom("data"), redgrid::term::binary(vec![7; size])]);
        let message = frame(&self.to("sink"), Some(&data));
        let copies = (BYTES / message.len()).max(1);
        let batch = message.repeat(copies);
        self.total()?;
        let (begin, before) = (Instant::now(), Cpu::of_this_thread());
        let mut sent = 0;
        while begin.elapsed() < time {
            self.write(&batch)?;
            sent += copies as u64;
        }
        let counted = self.total()?;
        if u64::try_from(counted) == Ok(sent) {
            Ok(Fed {
                count: sent as f64,
                took: begin.elapsed(),
                feeder: (Cpu::of_this_thread() - before) as f64 / 1e3,
            })
        } else {
            Err(format!("{sent} messages were sent, {counted} counted"))
        }
    }

    /// Calls of the echo process for a time; how many, and in which time they were answered.
    pub(crate) fn calls(&mut self, time: Duration) -> Result<Fed, String> {
        let expected = self.call(1)?;
        let last = self.call(2)?;
        let batch = self.triple(1).repeat(CALLS);
        let (answered, over) = (AtomicU64::new(0), AtomicBool::new(false));
        let writer = std::thread::current();
        let final_call = self.triple(2);
        let Self { stream, reader, .. } = self;
        let (begin, before) = (Instant::now(), Cpu::of_this_thread());
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let result = count(reader, &expected, &last, |so_far| {
                    answered.store(so_far, Ordering::Relaxed);
                    writer.unpark();
                });
                over.store(true, Ordering::Relaxed);
                writer.unpark();
                // Nobody can read the time of a thread that is over.
                result.map(|count| (count, Cpu::of_this_thread()))
            });
            let mut sent = 0;
            while begin.elapsed() < time && !over.load(Ordering::Relaxed) {
                if sent - answered.load(Ordering::Relaxed) > WINDOW {
                    std::thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                stream.write_all(&batch).map_err(|e| e.to_string())?;
                sent += CALLS as u64;
            }
            stream.write_all(&final_call).map_err(|e| e.to_string())?;
            let reading = reading.join().expect("the reader does not panic");
            let (counted, readers) = reading?;
            if counted == sent {
                let writers = Cpu::of_this_thread() - before;
                Ok(Fed {
                    count: sent as f64,
                    took: begin.elapsed(),
                    feeder: (writers + readers) as f64 / 1e3,
                })
            } else {
                Err(format!("{sent} calls were sent, {counted} answered"))
            }
        })
    }

    /// Has so many processes started that run `module:function(argument)`; how many the peer says it has started.
    pub(crate) fn spawn(
        &mut self,
        (module, function, argument): (&str, &str, &str),
        processes: u32,
    ) -> Result<u32, String> {
        let (mut started, mut answer) = (0, Vec::new());
        for chunk in 0..processes.div_ceil(500) {
            let numbers = chunk * 500..processes.min((chunk + 1) * 500);
            let mut requests = Vec::new();
            for number in numbers.clone() {
                let function = tuple([atom(module), atom(function), int(1)]);
                let request = tuple([
                    int(SPAWN_REQUEST),
                    self.reference(number),
                    self.pid(),
                    self.pid(),
                    function,
                    nil(),
                ]);
                requests.extend(frame(&request, Some(&list([atom(argument)]))));
            }
            self.write(&requests)?;
            for _ in numbers {
                self.await_one_of(&[SPAWN_REPLY], &mut answer)?;
                let (control, _) = parts(&answer).ok_or("a frame that cannot be read")?;
                let result = control.view().tuple().and_then(|mut t| t.nth(4));
                started += u32::from(result.is_some_and(|result| result.is_pid()));
            }
        }
        Ok(started)
    }

    /// One call; the frame that answers it, which is read and compared.
    fn call(&mut self, number: i64) -> Result<Vec<u8>, String> {
        self.write(&self.triple(number))?;
        let mut answer = Vec::new();
        self.await_one_of(&[SEND, SEND_SENDER, ALIAS_SEND], &mut answer)?;
        let expected = tuple([self.tag(), request(number)]);
        match parts(&answer) {
            Some((_, Some(message))) if message == expected => Ok(answer),
            other => Err(format!("a call was answered with {other:?}")),
        }
    }

    fn total(&mut self) -> Result<i64, String> {
        let total = tuple([atom("total"), self.pid()]);
        self.write(&frame(&self.to("sink"), Some(&total)))?;
        let mut answer = Vec::new();
        self.await_one_of(&[SEND, SEND_SENDER], &mut answer)?;
        match parts(&answer) {
            Some((_, Some(Term::Tuple(message)))) => message.elements.get(1).and_then(as_i64),
            _ => None,
        }
        .ok_or_else(|| "the sink told no total".into())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|e| e.to_string())
    }

    fn await_one_of(&mut self, operations: &[u8], frame: &mut Vec<u8>) -> Result<(), String> {
        // Ticks and what else a node sends of its own accord must not keep us here.
        let end = Instant::now() + SILENCE;
        while Instant::now() < end {
            read_frame(&mut self.reader, frame).map_err(silence)?;
            match operation(frame) {
                found if operations.contains(&found) => return Ok(()),
                MONITOR_P_EXIT | PAYLOAD_MONITOR_P_EXIT => {
                    return Err(format!("it has no such process: {:?}", parts(frame)));
                }
                _ => {}
            }
        }
        Err(silence(io::ErrorKind::WouldBlock.into()))
    }

    /// Monitor, call and demonitor.
    fn triple(&self, number: i64) -> Vec<u8> {
        let about = |op| tuple([int(op), self.pid(), atom("echo"), self.reference(0)]);
        let from = tuple([self.pid(), self.tag()]);
        let call = tuple([atom("$gen_call"), from, request(number)]);
        [
            frame(&about(MONITOR_P), None),
            frame(&self.to("echo"), Some(&call)),
            frame(&about(DEMONITOR_P), None),
        ]
        .concat()
    }

    fn to(&self, name: &str) -> Term {
        tuple([int(REG_SEND), self.pid(), atom(""), atom(name)])
    }

    fn pid(&self) -> Term {
        Term::from(Pid::new(self.name.as_str(), 1, 0, CREATION))
    }

    fn tag(&self) -> Term {
        improper([atom("alias")], self.reference(0))
    }

    fn reference(&self, number: u32) -> Term {
        Term::from(Reference {
            node: self.name.as_str().into(),
            id: vec![number, 1, 1],
            creation: CREATION,
        })
    }
}

/// A blocking socket says that it would block when its time is over.
fn silence(error: io::Error) -> String {
    match error.kind() {
        io::ErrorKind::WouldBlock => format!("no answer in {} s", SILENCE.as_secs()),
        _ => error.to_string(),
    }
}

fn request(number: i64) -> Term {
    tuple([atom("ping"), int(number)])
}

/// Counts the frames that are `expected` until the `last` comes.
fn count(
    reader: &mut BufReader<TcpStream>,
    expected: &[u8],
    last: &[u8],
    tell: impl Fn(u64),
) -> Result<u64, String> {
    let (mut frame, mut answered) = (Vec::new(), 0);
    loop {
        read_frame(reader, &mut frame)
            .map_err(|error| format!("{answered} answers, then {}", silence(error)))?;
        if frame == expected {
            answered += 1;
            if answered % 256 == 0 {
                tell(answered);
            }
        } else if frame == last {
            return Ok(answered);
        } else {
            match operation(&frame) {
                SEND | SEND_SENDER | ALIAS_SEND | MONITOR_P_EXIT | PAYLOAD_MONITOR_P_EXIT => {
                    return Err(format!("a call was answered with {:?}", parts(&frame)));
                }
                _ => {}
            }
        }
    }
}

/// The control message and the message of a frame.
fn parts(frame: &[u8]) -> Option<(Raw, Option<Term>)> {
    let limits = Limits::default();
    let body = Bytes::copy_from_slice(frame.strip_prefix(&[112, 131])?);
    let (control, used) = Raw::check_prefix(&body, &limits).ok()?;
    let rest = body.slice(used..);
    if rest.is_empty() {
        return Some((control, None));
    }
    let message = Raw::from_versioned(&rest, &limits).ok()?;
    Some((control, Some(message.decode().ok()?)))
}
