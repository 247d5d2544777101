//! What crosses a connection: a control message and, for most, a payload (ERTS reference manual, "Protocol between
//! Connected Nodes"). Pure. How the two become frames is told in `frame.rs` and `outbox.rs`.
//!
//! The control message is a tuple whose first element is the operation. Operations that differ only in where the reason
//! stands or in a trace token are one [`Message`] here; a peer reads every form whatever it announced, so we write one
//! form each. The one exception is the message to an alias: operation 33 is to go with OTP 30, and 37 is known from OTP
//! 28 on.

use crate::term::{
    Raw, TermError, View,
    write::{put_atom, put_int, put_raw, put_tuple},
};
use bytes::{Bytes, BytesMut};

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
        /// Whose alias it is, when we know: never so in what is read.
        owner: Option<Raw>,
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
    tail: Raw,
}

impl Body {
    /// The pair `{First, Second}`, which is what most answers are.
    pub fn pair(first: &Raw, second: &Raw) -> Self {
        let mut head = BytesMut::with_capacity(first.len() + 64);
        put_tuple(&mut head, 2);
        put_raw(&mut head, first);
        Self::written(head, second)
    }

    /// A term whose beginning was written by hand, and that ends with `tail`.
    pub(crate) fn written(head: BytesMut, tail: &Raw) -> Self {
        Self {
            head: head.freeze(),
            tail: tail.clone(),
        }
    }

    /// The bytes of its beginning, in which no atom is an entry of a header, and the term at its end.
    pub(super) fn parts(&self) -> (&Bytes, &Raw) {
        (&self.head, &self.tail)
    }

    /// The same in one piece.
    pub(crate) fn into_raw(self) -> Raw {
        if self.head.is_empty() {
            return self.tail;
        }
        let mut whole = BytesMut::from(&self.head[..]);
        put_raw(&mut whole, &self.tail);
        Raw::own(whole)
    }

    #[cfg(test)]
    pub(crate) fn term(&self) -> Raw {
        let bytes = [&self.head[..], &self.tail.to_bytes()[..]].concat();
        Raw::check(bytes.into(), &crate::term::Limits::default())
            .expect("we write well-formed terms")
    }
}

impl From<Raw> for Body {
    fn from(term: Raw) -> Self {
        Self {
            head: Bytes::new(),
            tail: term,
        }
    }
}

/// Why a message was not understood. The connection stays: one message is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a control message that is no term: {0}")]
    Control(TermError),
    #[error("operation {op}, whose payload is no term: {why}")]
    Payload { op: i64, why: TermError },
    #[error("operation {op} with {arity} fields, which we do not know")]
    Unknown { op: i64, arity: usize },
    #[error("operation {0} without its payload")]
    NoPayload(i64),
}

/// What a flag of operation 37 says about the receiver and the signal.
const ALTACT_ALIAS: i64 = 1 << 2;
const ALTACT_NAME: i64 = 1 << 3;
const ALTACT_EXIT: i64 = 1 << 4;

/// Reads a message. `payload` reads what stands behind the control message, `None` when nothing does; it is asked only
/// where the operation has one.
pub(crate) fn decode(
    control: &Raw,
    payload: impl FnOnce() -> Option<Result<Raw, TermError>>,
) -> Result<Message<Raw>, MessageError> {
    let mut fields = Fields::of(control)?;
    let op = fields.op;

    let payload = || match payload() {
        Some(term) => term.map_err(|why| MessageError::Payload { op, why }),
        None => Err(MessageError::NoPayload(op)),
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
            owner: None,
            message: payload()?,
        },
        37 => {
            // The flags may grow beyond any width; the lowest bits are those that mean something.
            let flags = fields.next()?.view().as_i64().unwrap_or(0);
            let (from, to) = (fields.next()?, fields.next()?);
            if flags & ALTACT_EXIT != 0 {
                let reason = payload()?;
                Message::Exit2 { from, to, reason }
            } else if flags & ALTACT_ALIAS != 0 {
                Message::AliasSend {
                    from,
                    alias: to,
                    owner: None,
                    message: payload()?,
                }
            } else if flags & ALTACT_NAME != 0 {
                let message = payload()?;
                Message::RegSend { from, to, message }
            } else {
                let message = payload()?;
                Message::Send { to, message }
            }
        }
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
            return Err(MessageError::Unknown {
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
    fn of(control: &'a Raw) -> Result<Self, MessageError> {
        let unknown = MessageError::Unknown { op: 0, arity: 0 };
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

    fn next(&mut self) -> Result<Raw, MessageError> {
        match self.rest.next() {
            Some(view) => Ok(self.control.sub(view)),
            None => Err(MessageError::Unknown {
                op: self.op,
                arity: self.arity,
            }),
        }
    }
}

impl Message<Body> {
    /// The payload, of those messages that have one.
    pub(super) fn body(&self) -> Option<&Body> {
        match self {
            Self::Send { message, .. }
            | Self::RegSend { message, .. }
            | Self::AliasSend { message, .. } => Some(message),
            Self::Exit { reason, .. }
            | Self::Exit2 { reason, .. }
            | Self::MonitorExit { reason, .. } => Some(reason),
            Self::SpawnRequest { args, .. } => Some(args),
            Self::Link { .. }
            | Self::Unlink { .. }
            | Self::UnlinkAck { .. }
            | Self::Monitor { .. }
            | Self::Demonitor { .. }
            | Self::GroupLeader { .. }
            | Self::SpawnReply { .. } => None,
        }
    }
}

impl<P> Message<P> {
    /// Whom it is for: a pid or a name, and the id of the request where a process is still to be made. Two messages to
    /// different receivers may overtake each other, two to one may not.
    pub(crate) fn receiver(&self) -> &Raw {
        match self {
            Self::Send { to, .. }
            | Self::RegSend { to, .. }
            | Self::Link { to, .. }
            | Self::Unlink { to, .. }
            | Self::UnlinkAck { to, .. }
            | Self::Exit { to, .. }
            | Self::Exit2 { to, .. }
            | Self::SpawnReply { to, .. } => to,
            Self::AliasSend { alias, owner, .. } => owner.as_ref().unwrap_or(alias),
            Self::Monitor { target, .. } | Self::Demonitor { target, .. } => target,
            Self::MonitorExit { watcher, .. } => watcher,
            Self::GroupLeader { pid, .. } => pid,
            Self::SpawnRequest { id, .. } => id,
        }
    }
}

/// Writes control messages for one peer. What is a term already goes through `term`, which knows the peer's atom cache.
pub(super) trait Control {
    /// Where the rest is written.
    fn buffer(&mut self) -> &mut BytesMut;
    /// A field that is a term.
    fn term(&mut self, term: &Raw);
    /// Whether the peer knows operation 37.
    fn altact(&self) -> bool;
}

/// Writes the control tuple.
pub(super) fn encode(message: &Message<Body>, out: &mut impl Control) {
    fn control(out: &mut impl Control, op: i64, fields: &[&Raw]) {
        put_tuple(out.buffer(), fields.len() + 1);
        put_int(out.buffer(), op);
        for field in fields {
            out.term(field);
        }
    }
    match message {
        Message::Send { to, .. } => {
            // Operation 2 has an atom that nobody reads between the operation and the pid.
            put_tuple(out.buffer(), 3);
            put_int(out.buffer(), 2);
            put_atom(out.buffer(), "");
            out.term(to);
        }
        Message::RegSend { from, to, .. } => {
            put_tuple(out.buffer(), 4);
            put_int(out.buffer(), 6);
            out.term(from);
            put_atom(out.buffer(), "");
            out.term(to);
        }
        Message::AliasSend { from, alias, .. } => {
            if out.altact() {
                put_tuple(out.buffer(), 4);
                put_int(out.buffer(), 37);
                put_int(out.buffer(), ALTACT_ALIAS);
                out.term(from);
                out.term(alias);
            } else {
                control(out, 33, &[from, alias]);
            }
        }
        Message::Link { from, to } => {
            control(out, 1, &[from, to]);
        }
        Message::Unlink { id, from, to } => {
            control(out, 35, &[id, from, to]);
        }
        Message::UnlinkAck { id, from, to } => {
            control(out, 36, &[id, from, to]);
        }
        Message::Exit { from, to, .. } => {
            control(out, 24, &[from, to]);
        }
        Message::Exit2 { from, to, .. } => {
            control(out, 26, &[from, to]);
        }
        Message::Monitor {
            watcher,
            target,
            reference,
        } => {
            control(out, 19, &[watcher, target, reference]);
        }
        Message::Demonitor {
            watcher,
            target,
            reference,
        } => {
            control(out, 20, &[watcher, target, reference]);
        }
        Message::MonitorExit {
            target,
            watcher,
            reference,
            ..
        } => {
            control(out, 28, &[target, watcher, reference]);
        }
        Message::GroupLeader { leader, pid } => {
            control(out, 7, &[leader, pid]);
        }
        Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            ..
        } => {
            control(out, 29, &[id, from, leader, mfa, options]);
        }
        Message::SpawnReply {
            id,
            to,
            flags,
            result,
        } => {
            put_tuple(out.buffer(), 5);
            put_int(out.buffer(), 31);
            out.term(id);
            out.term(to);
            put_int(out.buffer(), *flags);
            out.term(result);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
