//! Bytes of a connection to messages: the kinds of frames, the atom cache, fragments (ERTS reference manual,
//! "Distribution Header" and "Fragmented Distribution Messages"). Pure.
//!
//! ```text
//!  every frame:  length:32, then one of           (length 0: a tick)
//!
//!  neither agreed      112  131 Control  [131 Payload]
//!  cache or fragments  131 68           Header  Control  [Payload]           a whole message
//!                      131 69 Seq Frag  Header  Control   Payload...         the first of Frag fragments
//!                      131 70 Seq Frag                    ...Payload         the next, Frag counting down to 1
//! ```
//!
//! The header is told in `atoms.rs`; its atoms serve all fragments of its message. Fragments of different messages come
//! interleaved, those of one in order. What breaks the header or the order ends the connection, since nothing behind it
//! could be trusted; a message that is no term, or one that we do not know, costs itself alone.

use super::{
    atoms::Incoming,
    handshake::{ALTACT_SIG, NATIVE_RECORDS},
    message::{self, Message, MessageError},
    room::Room,
};
use crate::term::{AtomTable, Limits, Raw};
use bytes::Bytes;
use erl_dist::DistributionFlags as Flag;
use std::{collections::HashMap, io, sync::Arc};

pub(super) const PASS_THROUGH: u8 = 112;
pub(super) const VERSION: u8 = 131;
pub(super) const WHOLE: u8 = 68;
pub(super) const FIRST: u8 = 69;
pub(super) const NEXT: u8 = 70;

/// How many fragmented messages of one peer may be incomplete at a time. Erlang has one for each process that is
/// sending something large.
const MAX_SEQUENCES: usize = 16_384;

/// While fewer messages are incomplete than this, those that follow get their room (2 MiB at the most) by what the peer
/// announces; then only as their bytes come.
const TRUSTED: usize = 16;

/// How much the incomplete messages of one peer may have together: so many times of what one may have...
const INCOMPLETE: usize = 8;

/// ...but so many bytes in any case. An Erlang node sends from many processes at once and knows no limit, so this is far
/// above what one sees of a node that means no harm.
const LEAST_INCOMPLETE: usize = 256 * 1024 * 1024;

/// What both nodes announced, as far as it changes frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Agreed {
    /// Atoms may stand in the header.
    pub(crate) cache: bool,
    /// Messages may come in pieces.
    pub(crate) fragments: bool,
    /// The peer knows operation 37.
    pub(crate) altact: bool,
    /// The peer knows records.
    pub(crate) records: bool,
}

impl Agreed {
    /// `flags`: those that both have.
    pub(crate) fn of(flags: u64) -> Self {
        Self {
            cache: flags & Flag::DIST_HDR_ATOM_CACHE.bits() != 0,
            fragments: flags & Flag::FRAGMENTS.bits() != 0,
            altact: flags & ALTACT_SIG != 0,
            records: flags & NATIVE_RECORDS != 0,
        }
    }

    /// Whether frames have headers at all.
    pub(super) fn headers(self) -> bool {
        self.cache || self.fragments
    }
}

/// Why a frame gave no message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// One message is lost; the connection stays.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The same.
    #[error("a frame that begins with {0}, which was not agreed upon")]
    Kind(u8),
    /// The connection has to end.
    #[error("{0}")]
    Broken(&'static str),
    /// The same.
    #[error("a fragmented message of more than {max} bytes, and --max-frame is {max}")]
    TooLong { max: usize },
    /// The same.
    #[error(
        "more than {max} bytes of incomplete messages at a time: a larger --max-frame allows more"
    )]
    TooMuch { max: usize },
    /// The same.
    #[error("no memory for a fragmented message: {0}")]
    NoMemory(io::Error),
}

impl FrameError {
    /// Whether the peer did nothing wrong, and only more than we take.
    pub(crate) fn is_overload(&self) -> bool {
        matches!(self, Self::TooMuch { .. } | Self::NoMemory(_))
    }

    /// Whether nothing that comes after it can be understood.
    pub(crate) fn ends_the_connection(&self) -> bool {
        match self {
            Self::Message(_) | Self::Kind(_) => false,
            Self::Broken(_) | Self::TooLong { .. } | Self::TooMuch { .. } | Self::NoMemory(_) => {
                true
            }
        }
    }
}

/// What is needed to read one peer's frames.
pub(crate) struct Decoder {
    agreed: Agreed,
    limits: Limits,
    /// The longest fragmented message, in bytes.
    max: usize,
    atoms: Incoming,
    sequences: HashMap<u64, Sequence>,
    /// How many bytes the incomplete messages have.
    held: usize,
}

/// A message whose last fragment has not come yet.
struct Sequence {
    /// The number of the fragment that must come next.
    next: u64,
    control: Result<Raw, MessageError>,
    atoms: Option<Arc<AtomTable>>,
    payload: Room,
}

impl Decoder {
    /// `max`: the longest message, in bytes.
    pub(crate) fn new(agreed: Agreed, limits: Limits, max: usize) -> Self {
        Self {
            agreed,
            limits,
            max,
            atoms: Incoming::new(),
            sequences: HashMap::new(),
            held: 0,
        }
    }

    /// Whether fragments are still to come.
    pub(crate) fn incomplete(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// Whether a frame is a further fragment, which [`Decoder::next`] reads without owning it.
    pub(crate) fn is_next(&self, frame: &[u8]) -> bool {
        self.agreed.fragments && frame.starts_with(&[VERSION, NEXT])
    }

    /// Reads a frame, without its length, which is not 0. `Ok(None)`: the message is not complete yet.
    pub(crate) fn decode(&mut self, frame: &Bytes) -> Result<Option<Message<Raw>>, FrameError> {
        let headers = self.agreed.headers();
        match frame.as_ref() {
            [PASS_THROUGH, VERSION, ..] if !headers => self.pass_through(frame).map(Some),
            [VERSION, WHOLE, ..] if headers => self.whole(frame).map(Some),
            [VERSION, FIRST, ..] if self.agreed.fragments => self.first(frame),
            [VERSION, NEXT, ..] if self.agreed.fragments => self.next(frame),
            [VERSION, kind, ..] | [kind, ..] => Err(FrameError::Kind(*kind)),
            [] => Err(FrameError::Kind(0)),
        }
    }

    fn pass_through(&self, frame: &Bytes) -> Result<Message<Raw>, FrameError> {
        let (control, length) =
            Raw::check_prefix(&frame.slice(2..), &self.limits).map_err(MessageError::Control)?;
        let rest = frame.slice(2 + length..);
        // A payload may be followed by bytes that mean nothing; OTP tolerates them too.
        let payload = || match rest.first() {
            Some(&VERSION) => {
                Some(Raw::check_prefix(&rest.slice(1..), &self.limits).map(|(payload, _)| payload))
            }
            _ => None,
        };
        Ok(message::decode(&control, payload)?)
    }

    fn whole(&mut self, frame: &Bytes) -> Result<Message<Raw>, FrameError> {
        let (atoms, rest) = self.header(&frame.slice(2..))?;
        let (control, length) = self.term(&rest, &atoms).map_err(MessageError::Control)?;
        let rest = rest.slice(length..);
        let payload =
            || (!rest.is_empty()).then(|| self.term(&rest, &atoms).map(|(payload, _)| payload));
        Ok(message::decode(&control, payload)?)
    }

    fn first(&mut self, frame: &Bytes) -> Result<Option<Message<Raw>>, FrameError> {
        let (id, count) = numbers(frame)?;
        let (atoms, rest) = self.header(&frame.slice(18..))?;
        let (control, part) = match self.term(&rest, &atoms) {
            Ok((control, length)) => (Ok(control), rest.slice(length..)),
            // Its fragments have to be told from others all the same.
            Err(why) => (Err(MessageError::Control(why)), Bytes::new()),
        };
        if count == 1 {
            return self.complete(control, &atoms, part).map(Some);
        }
        if self.sequences.len() >= MAX_SEQUENCES {
            return Err(FrameError::Broken("too many incomplete messages at a time"));
        }
        // All fragments but the last are of one length, and this one has the control message besides.
        let expected = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .saturating_mul(frame.len())
            .min(self.max);
        let mut sequence = Sequence {
            next: count - 1,
            // What is kept must not keep the whole frame.
            control: control.map(|control| control.compact()),
            atoms,
            payload: Room::new(expected, self.sequences.len() < TRUSTED),
        };
        sequence.payload.push(&part).map_err(FrameError::NoMemory)?;
        self.hold(part.len())?;
        match self.sequences.insert(id, sequence) {
            None => Ok(None),
            Some(_) => Err(FrameError::Broken(
                "a fragmented message that begins before the one of the same number has ended",
            )),
        }
    }

    /// Reads a further fragment.
    pub(crate) fn next(&mut self, frame: &[u8]) -> Result<Option<Message<Raw>>, FrameError> {
        let (id, number) = numbers(frame)?;
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return Err(FrameError::Broken(
                "a fragment of a message that never began",
            ));
        };
        if sequence.next != number {
            return Err(FrameError::Broken("a fragment that is not the next one"));
        }
        sequence.next -= 1;
        // The fragments of what cannot be read are not kept.
        let part = match sequence.control {
            Ok(_) => &frame[18..],
            Err(_) => &[],
        };
        if sequence.payload.len() + part.len() > self.max {
            return Err(FrameError::TooLong { max: self.max });
        }
        sequence.payload.push(part).map_err(FrameError::NoMemory)?;
        if number > 1 {
            self.hold(part.len())?;
            return Ok(None);
        }
        let Some(sequence) = self.sequences.remove(&id) else {
            return Ok(None);
        };
        self.held -= sequence.payload.len() - part.len();
        self.complete(
            sequence.control,
            &sequence.atoms,
            sequence.payload.into_bytes(),
        )
        .map(Some)
    }

    fn complete(
        &self,
        control: Result<Raw, MessageError>,
        atoms: &Option<Arc<AtomTable>>,
        payload: Bytes,
    ) -> Result<Message<Raw>, FrameError> {
        let term = || {
            (!payload.is_empty()).then(|| self.term(&payload, atoms).map(|(payload, _)| payload))
        };
        Ok(message::decode(&control?, term)?)
    }

    fn hold(&mut self, more: usize) -> Result<(), FrameError> {
        self.held += more;
        let max = self.max.saturating_mul(INCOMPLETE).max(LEAST_INCOMPLETE);
        if self.held > max {
            return Err(FrameError::TooMuch { max });
        }
        Ok(())
    }

    fn header(&mut self, bytes: &Bytes) -> Result<(Option<Arc<AtomTable>>, Bytes), FrameError> {
        let (atoms, length) = self.atoms.header(bytes).map_err(FrameError::Broken)?;
        if atoms.is_some() && !self.agreed.cache {
            return Err(FrameError::Broken(
                "atoms in a distribution header, which was not agreed upon",
            ));
        }
        Ok((atoms, bytes.slice(length..)))
    }

    fn term(
        &self,
        bytes: &Bytes,
        atoms: &Option<Arc<AtomTable>>,
    ) -> Result<(Raw, usize), crate::term::TermError> {
        match atoms {
            Some(atoms) => Raw::check_framed(bytes, &self.limits, atoms),
            None => Raw::check_prefix(bytes, &self.limits),
        }
    }
}

/// The number of a fragment's message, and its own.
fn numbers(frame: &[u8]) -> Result<(u64, u64), FrameError> {
    let number = |at: usize| {
        let bytes = frame.get(at..at + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    };
    match (number(2), number(10)) {
        (Some(id), Some(number)) if number > 0 => Ok((id, number)),
        (Some(_), Some(_)) => Err(FrameError::Broken("a fragment of number 0")),
        _ => Err(FrameError::Broken("a fragment that is cut off")),
    }
}

#[cfg(test)]
mod tests;
