//! Atoms that stand in the header of a distribution frame and not in its terms.
//!
//! Between nodes that agreed on the atom cache an atom in a term is `82 Index`: the entry of that number in the
//! header of the same frame (ERTS reference manual, "Distribution Header"). A term that came so is kept as it came,
//! together with the [`AtomTable`] of its frame: most terms are looked at or passed on and never need their atoms
//! written out. [`walk`] finds every atom in a term; [`write_out`] writes the atoms where they belong.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use super::check::{self, skip, u16_at, u32_at};
use super::write::put_atom;

/// The atoms that the header of one frame names, at most 255.
#[derive(Debug, Default)]
pub(crate) struct AtomTable(Vec<Arc<str>>);

impl AtomTable {
    pub(crate) fn new(atoms: Vec<Arc<str>>) -> AtomTable {
        AtomTable(atoms)
    }

    /// The atom of an entry.
    pub(crate) fn get(&self, index: u8) -> Option<&Arc<str>> {
        self.0.get(usize::from(index))
    }

    /// All of them, in the order of their entries.
    pub(crate) fn entries(&self) -> &[Arc<str>] {
        &self.0
    }
}

/// How many bytes an atom of this name has when it is written out.
pub(super) fn written_len(name: &str) -> usize {
    name.len() + if name.len() <= 255 { 2 } else { 3 }
}

/// What [`walk`] meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// An atom, written out or as an entry of the header; also those inside pids, references, ports and funs.
    Atom { at: usize, len: usize },
    /// A local fun as a whole, when one is not to be walked into.
    Fun { at: usize, len: usize },
    /// A local fun begins; its size stands behind the tag, and is wrong when atoms inside change their length.
    FunOpen { at: usize },
    /// The innermost fun that is open ends before this offset.
    FunClose { at: usize },
    /// A record of OTP 29 begins; its atoms and values follow.
    Record,
}

/// Tells of every atom in a checked term, in the order in which they stand there.
pub(crate) fn walk(b: &[u8], into_funs: bool, mut met: impl FnMut(Met)) {
    let mut at = 0;
    let mut owed = 1usize;
    // For each fun that is open, how many terms are owed when it ends.
    let mut funs: Vec<usize> = Vec::new();
    while owed > 0 && at < b.len() {
        let mut atom = |at: usize| {
            let len = skip(b.get(at..).unwrap_or_default());
            met(Met::Atom { at, len });
            len
        };
        let long = |offset: usize| u32_at(b, at + offset).unwrap_or(0) as usize;
        let (len, children) = match b[at] {
            check::CACHED_ATOM
            | check::SMALL_ATOM
            | check::ATOM
            | check::SMALL_ATOM_LATIN1
            | check::ATOM_LATIN1 => (atom(at), 0),
            check::SMALL_INTEGER => (2, 0),
            check::SMALL_TUPLE => (2, usize::from(b.get(at + 1).copied().unwrap_or(0))),
            check::LARGE_TUPLE => (5, long(1)),
            check::LIST => (5, long(1) + 1),
            check::MAP => (5, 2 * long(1)),
            check::PID | check::PORT_64 => (1 + atom(at + 1) + 12, 0),
            check::PORT => (1 + atom(at + 1) + 8, 0),
            check::PID_OLD => (1 + atom(at + 1) + 9, 0),
            check::PORT_OLD | check::REFERENCE_OLDEST => (1 + atom(at + 1) + 5, 0),
            tag @ (check::REFERENCE | check::REFERENCE_OLD) => {
                let words = usize::from(u16_at(b, at + 1).unwrap_or(0));
                let creation = if tag == check::REFERENCE { 4 } else { 1 };
                (3 + atom(at + 3) + creation + 4 * words, 0)
            }
            check::EXPORT => {
                let module = atom(at + 1);
                (1 + module + atom(at + 1 + module) + 2, 0)
            }
            check::FUN if into_funs => {
                met(Met::FunOpen { at });
                funs.push(owed - 1);
                // Module, old index, old uniq and pid are terms like the free variables behind them.
                (30, 4 + long(26))
            }
            check::FUN => {
                let len = 1 + long(1);
                met(Met::Fun { at, len });
                (len, 0)
            }
            // Module, name and field names are atoms, that is terms, like the values behind them.
            check::RECORD => {
                met(Met::Record);
                (6, 2 + 2 * long(1))
            }
            _ => (skip(b.get(at..).unwrap_or_default()), 0),
        };
        at += len;
        owed = owed - 1 + children;
        while funs.last() == Some(&owed) {
            funs.pop();
            met(Met::FunClose { at });
        }
    }
}

/// Writes a checked term with its atoms where they belong, instead of as entries of a header.
pub(super) fn write_out(buf: &mut BytesMut, b: &[u8], atoms: &AtomTable) {
    let mut copied = 0;
    // Where the sizes of the funs that are open stand in what is written.
    let mut funs = Vec::new();
    walk(b, true, |met| match met {
        Met::Atom { at, .. } if b[at] == check::CACHED_ATOM => {
            buf.put_slice(&b[copied..at]);
            let index = b.get(at + 1).copied().unwrap_or(0);
            put_atom(buf, atoms.get(index).map_or("", |name| name));
            copied = at + 2;
        }
        Met::Atom { .. } | Met::Fun { .. } | Met::Record => {}
        Met::FunOpen { at } => {
            buf.put_slice(&b[copied..=at]);
            copied = at + 1;
            funs.push(buf.len());
        }
        Met::FunClose { at } => {
            buf.put_slice(&b[copied..at]);
            copied = at;
            if let Some(size_at) = funs.pop() {
                let size = (buf.len() - size_at) as u32;
                buf[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
            }
        }
    });
    buf.put_slice(&b[copied..]);
}
