//! The frames of a connection: what is understood can be said again, and what we say is understood.

use super::made::Made;
use crate::dist::Body;
use crate::dist::frame::{Agreed, Decoder};
use crate::dist::message::Message;
use crate::dist::outbox::{Outbox, Unfit};
use crate::term::{self, Limits, Raw};
use bytes::{Buf, Bytes};

/// The longest fragmented message.
const MAX: usize = 1 << 20;

/// What the two nodes agreed on, and the frames of a peer: each with a byte of length before it; a last one of which less
/// came is as long as it is. And messages made of the same bytes.
pub fn frame(input: &[u8]) {
    let Some((agreed, frames)) = input.split_first() else {
        return;
    };
    let agreed = Agreed {
        cache: agreed & 1 != 0,
        fragments: agreed & 2 != 0,
        altact: agreed & 4 != 0,
        records: agreed & 8 != 0,
    };
    heard(agreed, frames);
    let mut made = Made::of(frames);
    let count = 1 + made.byte() % 4;
    let messages = (0..count).map(|_| message(&mut made)).collect();
    Line::new(agreed).said(messages);
}

/// A peer's frames, until one breaks the connection; every message of them is passed on.
fn heard(agreed: Agreed, frames: &[u8]) {
    let mut decoder = Decoder::new(agreed, Limits::default(), MAX);
    let mut line = Line::new(agreed);
    let mut made = Made::of(frames);
    loop {
        let length = made.byte();
        let frame = Bytes::copy_from_slice(made.bytes(length));
        if frame.is_empty() {
            return;
        }
        assert!(!decoder.is_next(&frame) || agreed.fragments);
        match decoder.decode(&frame) {
            Ok(Some(message)) => {
                // An atom that came as latin1 may go on as UTF-8: the same message, of other bytes. But then no more.
                let text = format!("{message:?}");
                for passed_on in line.passes_on(vec![message]) {
                    // What cannot be taken apart is shown by its length, which may change with the entries.
                    assert!(text.contains("#Term<") || format!("{passed_on:?}") == text);
                    line.said(vec![passed_on]);
                }
            }
            Ok(None) => assert!(decoder.incomplete()),
            Err(why) if why.ends_the_connection() => return,
            Err(_) => {}
        }
    }
}

/// Both ends of a connection on which everything is understood.
struct Line {
    agreed: Agreed,
    out: Outbox,
    decoder: Decoder,
}

impl Line {
    fn new(agreed: Agreed) -> Self {
        Self {
            agreed,
            out: Outbox::new(agreed),
            decoder: Decoder::new(agreed, Limits::default(), MAX),
        }
    }

    /// Messages arrive as they are.
    fn said(&mut self, messages: Vec<Message<Raw>>) {
        let read = self.passes_on(messages.clone());
        assert_eq!(read, messages);
    }

    /// What arrives when these messages are sent, in their order: those to different receivers may overtake each other.
    fn passes_on(&mut self, mut messages: Vec<Message<Raw>>) -> Vec<Message<Raw>> {
        messages.retain(|message| {
            let pushed = self.out.push(with(message.clone(), Body::from));
            // None is made here: it came in a frame.
            assert!(matches!(pushed, Ok(()) | Err(Unfit::Record)));
            assert!(pushed.is_ok() || !self.agreed.records);
            pushed.is_ok()
        });
        let mut arrived = Vec::new();
        while !self.out.is_empty() {
            let _ = self.out.refill();
            let mut bytes = self.out.copy_to_bytes(self.out.remaining());
            while bytes.has_remaining() {
                let length = bytes.get_u32() as usize;
                let read = self.decoder.decode(&bytes.split_to(length));
                assert!(read.is_ok(), "{read:?} of {messages:?}");
                arrived.extend(read.into_iter().flatten());
            }
        }
        assert!(!self.decoder.incomplete());
        assert_eq!(arrived.len(), messages.len());
        // A single one is itself; among several, the next of those to the same receiver.
        let mut in_order = Vec::new();
        for message in &messages {
            let to = |read: &Message<Raw>| read.receiver() == message.receiver();
            let found = arrived.iter().position(to).unwrap_or(0);
            in_order.push(arrived.remove(found));
        }
        in_order
    }
}

/// Any message, with any terms where a peer would send pids and references.
fn message(made: &mut Made<'_>) -> Message<Raw> {
    let kind = made.byte();
    // Now and then one that does not fit one fragment.
    let large = kind >= 240;
    let mut raw = || match large {
        true => Raw::encode(&term::tuple([made.term(), term::binary(vec![7; 70_000])])),
        false => Raw::encode(&made.term()),
    };
    let kind = kind % 14;
    match kind {
        0 => Message::Send {
            to: raw(),
            message: raw(),
        },
        1 => Message::RegSend {
            from: raw(),
            to: raw(),
            message: raw(),
        },
        2 => Message::AliasSend {
            from: raw(),
            alias: raw(),
            owner: None,
            message: raw(),
        },
        3 => Message::Link {
            from: raw(),
            to: raw(),
        },
        4 => Message::Unlink {
            id: raw(),
            from: raw(),
            to: raw(),
        },
        5 => Message::UnlinkAck {
            id: raw(),
            from: raw(),
            to: raw(),
        },
        6 => Message::Exit {
            from: raw(),
            to: raw(),
            reason: raw(),
        },
        7 => Message::Exit2 {
            from: raw(),
            to: raw(),
            reason: raw(),
        },
        8 => Message::Monitor {
            watcher: raw(),
            target: raw(),
            reference: raw(),
        },
        9 => Message::Demonitor {
            watcher: raw(),
            target: raw(),
            reference: raw(),
        },
        10 => Message::MonitorExit {
            target: raw(),
            watcher: raw(),
            reference: raw(),
            reason: raw(),
        },
        11 => Message::GroupLeader {
            leader: raw(),
            pid: raw(),
        },
        12 => Message::SpawnRequest {
            id: raw(),
            from: raw(),
            leader: raw(),
            mfa: raw(),
            options: raw(),
            args: raw(),
        },
        _ => Message::SpawnReply {
            id: raw(),
            to: raw(),
            result: raw(),
            flags: made.i64(),
        },
    }
}

/// The same message with another kind of payload.
fn with<P, Q>(message: Message<P>, payload: impl FnOnce(P) -> Q) -> Message<Q> {
    match message {
        Message::Send { to, message } => Message::Send {
            to,
            message: payload(message),
        },
        Message::RegSend { from, to, message } => Message::RegSend {
            from,
            to,
            message: payload(message),
        },
        Message::AliasSend {
            from,
            alias,
            owner,
            message,
        } => Message::AliasSend {
            from,
            alias,
            owner,
            message: payload(message),
        },
        Message::Link { from, to } => Message::Link { from, to },
        Message::Unlink { id, from, to } => Message::Unlink { id, from, to },
        Message::UnlinkAck { id, from, to } => Message::UnlinkAck { id, from, to },
        Message::Exit { from, to, reason } => Message::Exit {
            from,
            to,
            reason: payload(reason),
        },
        Message::Exit2 { from, to, reason } => Message::Exit2 {
            from,
            to,
            reason: payload(reason),
        },
        Message::Monitor {
            watcher,
            target,
            reference,
        } => Message::Monitor {
            watcher,
            target,
            reference,
        },
        Message::Demonitor {
            watcher,
            target,
            reference,
        } => Message::Demonitor {
            watcher,
            target,
            reference,
        },
        Message::MonitorExit {
            target,
            watcher,
            reference,
            reason,
        } => Message::MonitorExit {
            target,
            watcher,
            reference,
            reason: payload(reason),
        },
        Message::GroupLeader { leader, pid } => Message::GroupLeader { leader, pid },
        Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            args,
        } => Message::SpawnRequest {
            id,
            from,
            leader,
            mfa,
            options,
            args: payload(args),
        },
        Message::SpawnReply {
            id,
            to,
            flags,
            result,
        } => Message::SpawnReply {
            id,
            to,
            flags,
            result,
        },
    }
}
