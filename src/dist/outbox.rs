//! Messages of one connection to bytes: what waits to be written, and in which order. Pure. The frames are drawn in
//! `frame.rs`.
//!
//! ```text
//!             small                             ┌─► ready: whole frames, in the order of their headers ─► socket
//!  push ──────────────────────────────────────► │
//!    │  large       one fragment at a time      │
//!    ├──────────► streams (in turn) ───────────►┘
//!    │  for the receiver of something that is not ready yet
//!    └──────────► waiting ──► push, when that has left
//! ```
//!
//! A large message is cut into fragments where the peer can put them together: a small one behind it then waits for one
//! or two fragments and not for all of it. Messages to one receiver never overtake each other; receivers are told apart
//! by the pid or the name that a message is addressed to.
//!
//! Values longer than [`COPY_UP_TO`] are not copied: what is written are slices of the value itself.

use super::{
    atoms::Outgoing,
    frame::{Agreed, FIRST, NEXT, PASS_THROUGH, VERSION, WHOLE},
    message::{self, Body, Control, Message},
};
use crate::term::{AtomTable, Met, Raw, View, walk, write::put_raw};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::{
    collections::{HashMap, VecDeque},
    io::IoSlice,
};

/// Values longer than this are not copied into the outbox.
pub(super) const COPY_UP_TO: usize = 16 * 1024;

/// A term of more bytes than this that came with atoms in its header is passed on under the same entries, all of them;
/// of a shorter one each atom is looked up anew, which costs the bytes of fewer entries.
const ADOPT_FROM: usize = 1024;

/// How much of a message goes into one fragment: as much as OTP takes.
const FRAGMENT: usize = 64 * 1024;

/// Fragments are made ready while fewer bytes than this are: a message behind them waits for no more.
const READY: usize = 2 * FRAGMENT;

/// What an idle connection keeps of its write buffer.
const KEEP: usize = 64 * 1024;

/// Why a message was not added.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum Unfit {
    /// The peer cannot put fragments together, and the length of a frame has 32 bits.
    #[error("a message of {0} bytes to a peer that reads 4 GiB at most")]
    TooLong(usize),
    /// It would drop the connection.
    #[error("a record to a peer that does not know records (they came with OTP 29)")]
    Record,
}

/// What waits to be written on one connection.
pub(crate) struct Outbox {
    agreed: Agreed,
    atoms: Outgoing,
    /// Whole frames: `chunks`, then `tail`.
    chunks: VecDeque<Bytes>,
    tail: BytesMut,
    ready: usize,
    /// The longest `tail` since it was empty: its capacity does not tell, advancing takes away from it.
    peak: usize,
    /// Large messages that have begun.
    streams: VecDeque<Stream>,
    streamed: usize,
    sequence: u64,
    /// What must not overtake something in `streams` or before it in here.
    waiting: VecDeque<Message<Body>>,
    waited: usize,
    /// How many of both there are for each receiver.
    receivers: HashMap<Raw, usize>,
    /// The control message, and what of the payload is copied; empty between two messages.
    control: BytesMut,
    payload: BytesMut,
}

/// A message of which at least one fragment is still to be written.
struct Stream {
    receiver: Raw,
    sequence: u64,
    /// The number of the next fragment; the last is 1.
    next: u64,
    rest: Pieces,
}

/// Bytes in pieces.
#[derive(Default)]
struct Pieces {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len();
            self.pieces.push_back(piece);
        }
    }
}

impl Outbox {
    pub(crate) fn new(agreed: Agreed) -> Self {
        Self {
            agreed,
            atoms: Outgoing::new(),
            chunks: VecDeque::new(),
            tail: BytesMut::new(),
            ready: 0,
            peak: 0,
            streams: VecDeque::new(),
            streamed: 0,
            sequence: 0,
            waiting: VecDeque::new(),
            waited: 0,
            receivers: HashMap::new(),
            control: BytesMut::new(),
            payload: BytesMut::new(),
        }
    }

    /// How many bytes wait that are not part of something large.
    pub(crate) fn len(&self) -> usize {
        self.ready + self.waited
    }

    /// How many bytes of large messages wait. They are not copies.
    pub(crate) fn large(&self) -> usize {
        self.streamed
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready == 0 && self.streams.is_empty() && self.waiting.is_empty()
    }

    /// Adds a tick.
    pub(crate) fn tick(&mut self) {
        self.tail.put_u32(0);
        self.ready += 4;
    }

    /// Adds a message.
    ///
    /// # Errors
    /// This peer cannot read it; nothing was added.
    pub(crate) fn push(&mut self, message: Message<Body>) -> Result<(), Unfit> {
        if !self.receivers.is_empty() && self.receivers.contains_key(message.receiver()) {
            self.wait(message);
            return Ok(());
        }
        self.encode(&message)
    }

    /// Makes fragments of large messages ready, as many as are to be written next. To be called before each write. Returned:
    /// why messages that had waited were not added when their turn came.
    pub(crate) fn refill(&mut self) -> Vec<Unfit> {
        let mut unfit = Vec::new();
        while self.ready < READY {
            let Some(mut stream) = self.streams.pop_front() else {
                break;
            };
            let length = match stream.next {
                1 => stream.rest.length,
                _ => FRAGMENT.min(stream.rest.length),
            };
            self.tail.put_u32((length + 18) as u32);
            self.tail.put_slice(&[VERSION, NEXT]);
            self.tail.put_u64(stream.sequence);
            self.tail.put_u64(stream.next);
            self.ready += 4 + 18;
            self.streamed -= length;
            self.take(&mut stream.rest, length);
            stream.next -= 1;
            if stream.next > 0 {
                self.streams.push_back(stream);
            } else {
                self.release(&stream.receiver);
                self.resume(&mut unfit);
            }
        }
        unfit
    }

    /// What waited for a message that has just left is looked at again, in its order.
    fn resume(&mut self, unfit: &mut Vec<Unfit>) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.waited = 0;
        for message in &waiting {
            self.release(message.receiver());
        }
        for message in waiting {
            unfit.extend(self.push(message).err());
        }
    }

    fn wait(&mut self, message: Message<Body>) {
        self.waited += size(&message);
        *self
            .receivers
            .entry(message.receiver().compact())
            .or_default() += 1;
        self.waiting.push_back(message);
    }

    fn release(&mut self, receiver: &Raw) {
        if let Some(count) = self.receivers.get_mut(receiver) {
            *count -= 1;
            if *count == 0 {
                self.receivers.remove(receiver);
            }
        }
    }

    /// Moves bytes of a large message to those that are ready.
    fn take(&mut self, from: &mut Pieces, mut length: usize) {
        from.length -= length;
        self.ready += length;
        while let Some(front) = from.pieces.front_mut().filter(|_| length > 0) {
            let piece = front.split_to(length.min(front.len()));
            if front.is_empty() {
                from.pieces.pop_front();
            }
            length -= piece.len();
            self.append(piece);
        }
    }

    fn append(&mut self, piece: Bytes) {
        if piece.len() <= COPY_UP_TO {
            self.tail.extend_from_slice(&piece);
            self.peak = self.peak.max(self.tail.len());
        } else {
            if !self.tail.is_empty() {
                self.chunks.push_back(self.tail.split().freeze());
            }
            self.chunks.push_back(piece);
        }
    }

    fn encode(&mut self, message: &Message<Body>) -> Result<(), Unfit> {
        self.control.clear();
        self.payload.clear();
        self.atoms.begin();
        let mut writer = Writer {
            atoms: self.agreed.cache.then_some(&mut self.atoms),
            out: &mut self.control,
            agreed: self.agreed,
            records: false,
        };
        // Entries that are to keep their numbers come before all others.
        let adopted = message
            .body()
            .is_some_and(|body| writer.adopt(body.parts().1));
        message::encode(message, &mut writer);
        let mut pieces = Pieces::default();
        let body = message.body();
        if let Some(body) = body {
            let (head, tail) = body.parts();
            let mut writer = Writer {
                out: &mut self.payload,
                ..writer
            };
            writer.rewrite(head, None, None, &mut pieces);
            writer.value(tail, adopted, &mut pieces);
            if writer.records && !self.agreed.records {
                // The peer never hears of the entries that were new in it.
                self.atoms = Outgoing::new();
                return Err(Unfit::Record);
            }
        }
        let rest = pieces.length + self.payload.len();
        if self.agreed.fragments && body.is_some() && self.control.len() + rest > FRAGMENT {
            pieces.push(self.payload.split().freeze());
            self.stream(message.receiver(), pieces);
            return Ok(());
        }

        let start = self.tail.len();
        self.tail.put_u32(0);
        match self.agreed.headers() {
            true => {
                self.tail.put_slice(&[VERSION, WHOLE]);
                self.atoms.put_header(&mut self.tail);
            }
            false => self.tail.put_slice(&[PASS_THROUGH, VERSION]),
        }
        self.tail.extend_from_slice(&self.control);
        if body.is_some() && !self.agreed.headers() {
            self.tail.put_u8(VERSION);
        }
        let begun = self.tail.len() - start;
        let Ok(length) = u32::try_from(begun - 4 + rest) else {
            self.tail.truncate(start);
            // The peer never hears of the entries that were new in it.
            self.atoms = Outgoing::new();
            return Err(Unfit::TooLong(rest));
        };
        self.tail[start..start + 4].copy_from_slice(&length.to_be_bytes());
        self.ready += begun + rest;
        for piece in pieces.pieces {
            self.append(piece);
        }
        self.tail.extend_from_slice(&self.payload);
        self.peak = self.peak.max(self.tail.len());
        Ok(())
    }

    /// Begins a large message; its first fragment is ready at once, as its header must leave in its turn.
    fn stream(&mut self, receiver: &Raw, mut rest: Pieces) {
        self.sequence += 1;
        let count = rest.length.div_ceil(FRAGMENT).max(1) as u64;
        let part = FRAGMENT.min(rest.length);
        let start = self.tail.len();
        self.tail.put_u32(0);
        self.tail.put_slice(&[VERSION, FIRST]);
        self.tail.put_u64(self.sequence);
        self.tail.put_u64(count);
        self.atoms.put_header(&mut self.tail);
        self.tail.extend_from_slice(&self.control);
        let begun = self.tail.len() - start;
        self.tail[start..start + 4].copy_from_slice(&((begun - 4 + part) as u32).to_be_bytes());
        self.ready += begun;
        self.peak = self.peak.max(self.tail.len());
        self.take(&mut rest, part);
        if count > 1 {
            self.streamed += rest.length;
            let receiver = receiver.compact();
            *self.receivers.entry(receiver.clone()).or_default() += 1;
            self.streams.push_back(Stream {
                receiver,
                sequence: self.sequence,
                next: count - 1,
                rest,
            });
        }
    }
}

/// About how many bytes a message takes while it waits.
fn size(message: &Message<Body>) -> usize {
    const CONTROL: usize = 256;
    CONTROL
        + message.body().map_or(0, |body| {
            let (head, tail) = body.parts();
            head.len() + tail.len()
        })
}

/// Writes terms for one peer.
struct Writer<'a> {
    /// `None`: atoms are written out.
    atoms: Option<&'a mut Outgoing>,
    out: &'a mut BytesMut,
    agreed: Agreed,
    /// A record was written.
    records: bool,
}

impl Control for Writer<'_> {
    fn buffer(&mut self) -> &mut BytesMut {
        self.out
    }

    fn term(&mut self, term: &Raw) {
        let (bytes, table) = term.framed();
        self.rewrite(
            bytes,
            table.map(|table| &**table),
            None,
            &mut Pieces::default(),
        );
    }

    fn altact(&self) -> bool {
        self.agreed.altact
    }
}

impl Writer<'_> {
    /// Has a term's entries keep their numbers in this message; `false` when they cannot, or need not.
    fn adopt(&mut self, term: &Raw) -> bool {
        // What may hold a record has to be walked through for a peer that knows none.
        let unchanged = self.agreed.records || !term.may_have_records();
        match (&mut self.atoms, term.framed()) {
            (Some(atoms), (bytes, Some(table))) if unchanged && bytes.len() >= ADOPT_FROM => {
                atoms.adopt(table)
            }
            _ => false,
        }
    }

    /// The value at the end of a message.
    fn value(&mut self, term: &Raw, adopted: bool, pieces: &mut Pieces) {
        let (bytes, table) = term.framed();
        if adopted {
            return self.run(bytes, Some(bytes), pieces);
        }
        if self.atoms.is_none() {
            self.records |= term.may_have_records();
            return match table {
                None => self.run(bytes, Some(bytes), pieces),
                Some(_) => put_raw(self.out, term),
            };
        }
        self.rewrite(bytes, table.map(|table| &**table), Some(bytes), pieces);
    }

    /// Bytes as they are; `shared` is what they can be taken from without copying.
    fn run(&mut self, bytes: &[u8], shared: Option<&Bytes>, pieces: &mut Pieces) {
        match shared {
            Some(shared) if bytes.len() > COPY_UP_TO => {
                pieces.push(self.out.split().freeze());
                pieces.push(shared.slice_ref(bytes));
            }
            _ => self.out.extend_from_slice(bytes),
        }
    }

    /// A term, or the beginning of one, its atoms as entries of this message's header as far as that has room. Funs are
    /// written without entries, since their size stands in them.
    fn rewrite(
        &mut self,
        b: &[u8],
        table: Option<&AtomTable>,
        shared: Option<&Bytes>,
        pieces: &mut Pieces,
    ) {
        let mut copied = 0;
        walk(b, false, |met| {
            let (at, len) = match met {
                Met::Atom { at, len } | Met::Fun { at, len } => (at, len),
                Met::Record => {
                    self.records = true;
                    return;
                }
                Met::FunOpen { .. } | Met::FunClose { .. } => return,
            };
            let part = View::over(&b[at..at + len], table);
            let entry = match &mut self.atoms {
                Some(atoms) => part.as_atom().and_then(|name| atoms.entry(name)),
                None => None,
            };
            if let Some(entry) = entry {
                self.run(&b[copied..at], shared, pieces);
                self.out.put_slice(&[CACHED_ATOM, entry]);
            } else if table.is_some() {
                self.run(&b[copied..at], shared, pieces);
                part.put(self.out);
            } else {
                return;
            }
            copied = at + len;
        });
        self.run(&b[copied..], shared, pieces);
    }
}

/// An atom that is an entry of the header.
const CACHED_ATOM: u8 = 82;

impl Buf for Outbox {
    fn remaining(&self) -> usize {
        self.ready
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
        self.ready -= count;
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
                self.control = BytesMut::new();
                self.payload = BytesMut::new();
            }
            self.peak = 0;
        }
    }
}

#[cfg(test)]
mod tests;
