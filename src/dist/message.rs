//! What crosses a connection: a control message and, for most, a payload (ERTS reference manual, "Protocol between
//! Connected Nodes"). Pure.
//!
//! ```text
//!  frame:  length:32  112  131 Control  [131 Payload]        length 0: a tick
//! ```
//!
//! `Control` is a tuple whose first element is the operation. Operations that differ only in where the reason stands or
//! in a trace token are one [`Message`] here; a peer reads every form whatever it announced, so we write one form each.

use crate::term::{
    Limits, Raw, TermError, View,
    write::{put_atom, put_int, put_tuple},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{collections::VecDeque, io::IoSlice};

/// One message. `P` is the payload: [`Raw`] when it was read, [`Body`] when it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message<P> {
    /// A message to a pid.
    Send {
        to: Raw,
        message: P,
    },
    /// A message to a registered name.
    RegSend {
        from: Raw,
        to: Raw,
        message: P,
    },
    /// A message to an alias.
    AliasSend {
        from: Raw,
        alias: Raw,
        message: P,
    },
    Link {
        from: Raw,
        to: Raw,
    },
    /// The protocol of `UNLINK_ID`: the id is echoed in the acknowledgement.
    Unlink {
        id: Raw,
        from: Raw,
        to: Raw,
    },
    UnlinkAck {
        id: Raw,
        from: Raw,
        to: Raw,
    },
    /// A link broke.
    Exit {
        from: Raw,
        to: Raw,
        reason: P,
    },
    /// `exit/2`.
    Exit2 {
        from: Raw,
        to: Raw,
        reason: P,
    },
    /// `target`: a pid or a name.
    Monitor {
        watcher: Raw,
        target: Raw,
        reference: Raw,
    },
    Demonitor {
        watcher: Raw,
        target: Raw,
        reference: Raw,
    },
    MonitorExit {
        target: Raw,
        watcher: Raw,
        reference: Raw,
        reason: P,
    },
    GroupLeader {
        leader: Raw,
        pid: Raw,
    },
    SpawnRequest {
        id: Raw,
        from: Raw,
        leader: Raw,
        mfa: Raw,
        options: Raw,
        args: P,
    },
    SpawnReply {
        id: Raw,
        to: Raw,
        flags: i64,
        result: Raw,
    },
}

/// One term in two pieces, so that a large value at its end is passed on without being copied.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    head: Bytes,
    tail: Bytes,
}

impl Body {
    /// The pair `{First, Second}`, which is what most answers are.
    pub fn pair(first: &Raw, second: &Raw) -> Self {
        let mut head = BytesMut::with_capacity(first.as_bytes().len() + 2);
        put_tuple(&mut head, 2);
        head.extend_from_slice(first.as_bytes());
        Self {
            head: head.freeze(),
            tail: second.as_bytes().clone(),
        }
    }

    /// A term whose beginning was written by hand, and that ends with `tail`.
    pub(crate) fn written(head: BytesMut, tail: &Raw) -> Self {
        Self {
            head: head.freeze(),
            tail: tail.as_bytes().clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn term(&self) -> Raw {
        let bytes = [&self.head[..], &self.tail[..]].concat();
        Raw::check(bytes.into(), &Limits::default()).expect("we write well-formed terms")
    }
}

impl From<Raw> for Body {
    fn from(term: Raw) -> Self {
        Self {
            head: Bytes::new(),
            tail: term.as_bytes().clone(),
        }
    }
}

/// Why a frame was not understood. The connection stays: one message is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame that begins with {0}, which was not agreed upon")]
    Kind(u8),
    #[error("a control message that is no term: {0}")]
    Control(TermError),
    #[error("operation {op}, whose payload is no term: {why}")]
    Payload { op: i64, why: TermError },
    #[error("operation {op} with {arity} fields, which we do not know")]
    Unknown { op: i64, arity: usize },
    #[error("operation {0} without its payload")]
    NoPayload(i64),
}

const PASS_THROUGH: u8 = 112;
const VERSION: u8 = 131;

/// Reads one frame, without its length, which is not 0.
pub(crate) fn decode(frame: &Bytes, limits: &Limits) -> Result<Message<Raw>, FrameError> {
    match frame.as_ref() {
        [PASS_THROUGH, VERSION, ..] => {}
        [PASS_THROUGH, other, ..] | [other, ..] => return Err(FrameError::Kind(*other)),
        [] => return Err(FrameError::Kind(0)),
    }
    let (control, length) =
        Raw::check_prefix(&frame.slice(2..), limits).map_err(FrameError::Control)?;
    let rest = frame.slice(2 + length..);
    let mut fields = Fields::of(&control)?;
    let op = fields.op;

    // A payload may be followed by bytes that mean nothing; OTP tolerates them too.
    let payload = || match rest.first() {
        Some(&VERSION) => Raw::check_prefix(&rest.slice(1..), limits)
            .map(|(term, _)| term)
            .map_err(|why| FrameError::Payload { op, why }),
        _ => Err(FrameError::NoPayload(op)),
    };

    Ok(match op {
        1 => Message::Link {
            from: fields.next()?,
            to: fields.next()?,
        },
        2 | 12 | 22 | 23 => {
            // 2 and 12 have an unused atom where 22 and 23 have the sender.
            fields.next()?;
            Message::Send {
                to: fields.next()?,
                message: payload()?,
            }
        }
        6 | 16 => {
            let from = fields.next()?;
            fields.next()?;
            Message::RegSend {
                from,
                to: fields.next()?,
                message: payload()?,
            }
        }
        33 | 34 => Message::AliasSend {
            from: fields.next()?,
            alias: fields.next()?,
            message: payload()?,
        },
        3 => Message::Exit {
            from: fields.next()?,
            to: fields.next()?,
            reason: fields.next()?,
        },
        13 => {
            let (from, to, _token) = (fields.next()?, fields.next()?, fields.next()?);
            Message::Exit {
                from,
                to,
                reason: fields.next()?,
            }
        }
        24 | 25 => Message::Exit {
            from: fields.next()?,
            to: fields.next()?,
            reason: payload()?,
        },
        8 => Message::Exit2 {
            from: fields.next()?,
            to: fields.next()?,
            reason: fields.next()?,
        },
        18 => {
            let (from, to, _token) = (fields.next()?, fields.next()?, fields.next()?);
            Message::Exit2 {
                from,
                to,
                reason: fields.next()?,
            }
        }
        26 | 27 => Message::Exit2 {
            from: fields.next()?,
            to: fields.next()?,
            reason: payload()?,
        },
        7 => Message::GroupLeader {
            leader: fields.next()?,
            pid: fields.next()?,
        },
        19 => Message::Monitor {
            watcher: fields.next()?,
            target: fields.next()?,
            reference: fields.next()?,
        },
        20 => Message::Demonitor {
            watcher: fields.next()?,
            target: fields.next()?,
            reference: fields.next()?,
        },
        21 => {
            let (target, watcher, reference) = (fields.next()?, fields.next()?, fields.next()?);
            Message::MonitorExit {
                target,
                watcher,
                reference,
                reason: fields.next()?,
            }
        }
        28 => {
            let (target, watcher, reference) = (fields.next()?, fields.next()?, fields.next()?);
            Message::MonitorExit {
                target,
                watcher,
                reference,
                reason: payload()?,
            }
        }
        29 | 30 => {
            let (id, from, leader) = (fields.next()?, fields.next()?, fields.next()?);
            Message::SpawnRequest {
                id,
                from,
                leader,
                mfa: fields.next()?,
                options: fields.next()?,
                // Without its reply the caller would wait for ever: what is no list is answered as bad arguments.
                args: payload().unwrap_or_else(|_| unreadable()),
            }
        }
        31 | 32 => {
            let (id, to, flags) = (fields.next()?, fields.next()?, fields.next()?);
            Message::SpawnReply {
                id,
                to,
                flags: flags.view().as_i64().unwrap_or(0),
                result: fields.next()?,
            }
        }
        35 => Message::Unlink {
            id: fields.next()?,
            from: fields.next()?,
            to: fields.next()?,
        },
        36 => Message::UnlinkAck {
            id: fields.next()?,
            from: fields.next()?,
            to: fields.next()?,
        },
        _ => {
            return Err(FrameError::Unknown {
                op,
                arity: fields.arity,
            });
        }
    })
}

/// Stands where a payload could not be read.
fn unreadable() -> Raw {
    let mut out = BytesMut::new();
    put_atom(&mut out, "unreadable");
    Raw::own(out)
}

/// The fields of a control tuple, in order.
struct Fields<'a> {
    op: i64,
    arity: usize,
    control: &'a Raw,
    rest: crate::term::Items<'a>,
}

impl<'a> Fields<'a> {
    fn of(control: &'a Raw) -> Result<Self, FrameError> {
        let unknown = FrameError::Unknown { op: 0, arity: 0 };
        let Some(mut rest) = control.view().tuple() else {
            return Err(unknown);
        };
        let arity = rest.len();
        let Some(op) = rest.next().and_then(View::as_i64) else {
            return Err(unknown);
        };
        Ok(Self {
            op,
            arity,
            control,
            rest,
        })
    }

    fn next(&mut self) -> Result<Raw, FrameError> {
        match self.rest.next() {
            Some(view) => Ok(self.control.sub(view)),
            None => Err(FrameError::Unknown {
                op: self.op,
                arity: self.arity,
            }),
        }
    }
}

/// What waits to be written on one connection: small frames run together, large values stand by themselves.
#[derive(Default)]
pub(crate) struct Outbox {
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    length: usize,
    /// The longest `tail` since it was empty: its capacity does not tell, advancing takes away from it.
    peak: usize,
}

/// Values longer than this are not copied into the outbox.
const COPY_UP_TO: usize = 16 * 1024;

/// What an idle connection keeps of its write buffer.
const KEEP: usize = 64 * 1024;

impl Outbox {
    /// How many bytes wait.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a tick.
    pub(crate) fn tick(&mut self) {
        self.tail.extend_from_slice(&[0; 4]);
        self.length += 4;
    }

    /// Adds a message.
    pub(crate) fn push(&mut self, message: &Message<Body>) {
        let start = self.tail.len();
        self.tail
            .extend_from_slice(&[0, 0, 0, 0, PASS_THROUGH, VERSION]);
        let payload = encode_control(&mut self.tail, message);
        let control = self.tail.len() - start - 4;
        let (head, tail) = match payload {
            Some(body) => (&body.head[..], &body.tail),
            None => (&[][..], &Bytes::new()),
        };
        let version = usize::from(payload.is_some());
        let length = control + version + head.len() + tail.len();
        self.tail[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
        self.length += length + 4;
        if payload.is_some() {
            self.tail.extend_from_slice(&[VERSION]);
        }
        self.tail.extend_from_slice(head);
        if tail.len() <= COPY_UP_TO {
            self.tail.extend_from_slice(tail);
        } else {
            self.chunks.push_back(self.tail.split().freeze());
            self.chunks.push_back(tail.clone());
        }
        self.peak = self.peak.max(self.tail.len());
    }
}

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.chunks.front().map_or(&self.tail, |chunk| chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let chunks = self
            .chunks
            .iter()
            .map(|chunk| &chunk[..])
            .chain(std::iter::once(&self.tail[..]));
        let mut filled = 0;
        for (slice, chunk) in slices
            .iter_mut()
            .zip(chunks.filter(|chunk| !chunk.is_empty()))
        {
            *slice = IoSlice::new(chunk);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while let Some(front) = self.chunks.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.chunks.pop_front();
        }
        self.tail.advance(count);
        if self.tail.is_empty() {
            if self.peak > KEEP {
                self.tail = BytesMut::new();
            }
            self.peak = 0;
        }
    }
}

/// Writes the control tuple and returns the payload that goes after it.
fn encode_control<'a>(out: &mut BytesMut, message: &'a Message<Body>) -> Option<&'a Body> {
    let mut control = |op: i64, fields: &[&Raw]| {
        put_tuple(out, fields.len() + 1);
        put_int(out, op);
        for field in fields {
            out.extend_from_slice(field.as_bytes());
        }
    };
    match message {
        Message::Send { to, message } => {
            // Operation 2 has an atom that nobody reads between the operation and the pid.
            put_tuple(out, 3);
            put_int(out, 2);
            put_atom(out, "");
            out.extend_from_slice(to.as_bytes());
            Some(message)
        }
        Message::RegSend { from, to, message } => {
            put_tuple(out, 4);
            put_int(out, 6);
            out.extend_from_slice(from.as_bytes());
            put_atom(out, "");
            out.extend_from_slice(to.as_bytes());
            Some(message)
        }
        Message::AliasSend {
            from,
            alias,
            message,
        } => {
            control(33, &[from, alias]);
            Some(message)
        }
        Message::Link { from, to } => {
            control(1, &[from, to]);
            None
        }
        Message::Unlink { id, from, to } => {
            control(35, &[id, from, to]);
            None
        }
        Message::UnlinkAck { id, from, to } => {
            control(36, &[id, from, to]);
            None
        }
        Message::Exit { from, to, reason } => {
            control(24, &[from, to]);
            Some(reason)
        }
        Message::Exit2 { from, to, reason } => {
            control(26, &[from, to]);
            Some(reason)
        }
        Message::Monitor {
            watcher,
            target,
            reference,
        } => {
            control(19, &[watcher, target, reference]);
            None
        }
        Message::Demonitor {
            watcher,
            target,
            reference,
        } => {
            control(20, &[watcher, target, reference]);
            None
        }
        Message::MonitorExit {
            target,
            watcher,
            reference,
            reason,
        } => {
            control(28, &[target, watcher, reference]);
            Some(reason)
        }
        Message::GroupLeader { leader, pid } => {
            control(7, &[leader, pid]);
            None
        }
        Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            args,
        } => {
            control(29, &[id, from, leader, mfa, options]);
            Some(args)
        }
        Message::SpawnReply {
            id,
            to,
            flags,
            result,
        } => {
            put_tuple(out, 5);
            put_int(out, 31);
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(to.as_bytes());
            put_int(out, *flags);
            out.extend_from_slice(result.as_bytes());
            None
        }
    }
}

#[cfg(test)]
mod tests;
