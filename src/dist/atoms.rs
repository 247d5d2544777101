//! The atom cache of one connection, both directions (ERTS reference manual, "Distribution Header"). Pure.
//!
//! ```text
//!  header:  N:8   Flags: (N + 1) half-bytes, in whole bytes    N times a reference
//!  half-byte of entry i:  bit 3 = new, bits 0-2 = segment      after the last entry: bit 0 = names have 16-bit lengths
//!  reference:  Index:8 when it is old;  Index:8 Length Name when it is new
//! ```
//!
//! Each side has 2048 slots for what it receives, filled by the other: a new entry puts its name into slot
//! `segment * 256 + index`, an old one says which slot is meant. In the terms behind the header an atom is `82 i`, its
//! entry in this very header. So headers must leave in the order in which they were made, and nothing of this outlives
//! the connection.

use crate::term::{AtomTable, is_atom_name};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// How many slots each direction has.
const SLOTS: usize = 2048;

/// The most entries that one header has.
const MAX_ENTRIES: usize = 255;

/// How many different headers of old entries only are remembered as they are.
const REMEMBERED: usize = 4;

/// What is wrong with a header. The cache is lost with it, and so is the connection.
pub(super) type BadHeader = &'static str;

/// What the peer put into our slots.
pub(super) struct Incoming {
    /// The number of each slot's atom in `atoms`, plus 1; 0 is an empty slot.
    slots: Box<[u16; SLOTS]>,
    atoms: Vec<Arc<str>>,
    /// The headers that came last and had no new entry: the same few come again and again.
    remembered: [Option<(Bytes, Arc<AtomTable>)>; REMEMBERED],
    next: usize,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            slots: Box::new([0; SLOTS]),
            atoms: Vec::new(),
            remembered: Default::default(),
            next: 0,
        }
    }

    /// Reads the header at the start of `bytes`; gives its atoms, if it has any, and its length.
    pub(super) fn header(
        &mut self,
        bytes: &[u8],
    ) -> Result<(Option<Arc<AtomTable>>, usize), BadHeader> {
        const SHORT: BadHeader = "a distribution header that is cut off";
        let (&count, rest) = bytes.split_first().ok_or(SHORT)?;
        let count = usize::from(count);
        if count == 0 {
            return Ok((None, 1));
        }
        let (flags, mut rest) = rest.split_at_checked(count / 2 + 1).ok_or(SHORT)?;
        let flag = |entry: usize| flags[entry / 2] >> (4 * (entry % 2)) & 0xf;
        let old = (0..count).all(|entry| flag(entry) & 8 == 0);
        if old {
            let key = bytes.get(1..1 + flags.len() + count).ok_or(SHORT)?;
            if let Some((_, table)) = self.remembered.iter().flatten().find(|(k, _)| k == key) {
                return Ok((Some(table.clone()), 1 + key.len()));
            }
        }
        let long = flag(count) & 1 == 1;
        let mut atoms = Vec::with_capacity(count);
        for entry in 0..count {
            let (&index, after) = rest.split_first().ok_or(SHORT)?;
            rest = after;
            let slot = usize::from(flag(entry) & 7) << 8 | usize::from(index);
            if flag(entry) & 8 == 0 {
                let atom = match self.slots[slot] {
                    0 => return Err("an entry of the atom cache that was never filled"),
                    number => self.atoms[usize::from(number) - 1].clone(),
                };
                atoms.push(atom);
                continue;
            }
            let head = if long { 2 } else { 1 };
            let (length, after) = rest.split_at_checked(head).ok_or(SHORT)?;
            let length = length
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            let (name, after) = after.split_at_checked(length).ok_or(SHORT)?;
            rest = after;
            let name = std::str::from_utf8(name)
                .ok()
                .filter(|name| is_atom_name(name))
                .ok_or("an atom in a distribution header that is none")?;
            let name: Arc<str> = name.into();
            self.fill(slot, name.clone());
            atoms.push(name);
        }
        let table = Arc::new(AtomTable::new(atoms));
        let used = bytes.len() - rest.len();
        if old {
            let key = Bytes::copy_from_slice(&bytes[1..used]);
            self.remembered[self.next] = Some((key, table.clone()));
            self.next = (self.next + 1) % REMEMBERED;
        } else {
            // What was remembered may name a slot that has just got another atom.
            self.remembered = Default::default();
        }
        Ok((Some(table), used))
    }

    fn fill(&mut self, slot: usize, name: Arc<str>) {
        match self.slots[slot] {
            0 => {
                self.atoms.push(name);
                // There are at most as many atoms as slots.
                self.slots[slot] = self.atoms.len() as u16;
            }
            number => self.atoms[usize::from(number) - 1] = name,
        }
    }
}

/// How many slots an atom may have: its set, chosen by its name.
const WAYS: usize = 4;

/// How many sets there are at first. The table grows with the atoms that are sent: most connections use a few dozen.
const FIRST_SETS: usize = 16;

/// A slot of the peer's, as we filled it.
#[derive(Clone, Default)]
struct Slot {
    /// Found by this before the name is compared; 0 is an empty slot.
    hash: u64,
    name: Arc<str>,
    /// The message that used it last, and as which entry.
    message: u32,
    entry: u8,
}

/// The peer's slots, as we fill them.
pub(super) struct Outgoing {
    slots: Vec<Slot>,
    /// The entries of the message that is being written: slot, and whether it is new.
    entries: Vec<(u16, bool)>,
    message: u32,
    /// A set was full.
    crowded: bool,
    /// Which of a set is given up next.
    hand: usize,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::default(); FIRST_SETS * WAYS],
            entries: Vec::new(),
            message: 0,
            crowded: false,
            hand: 0,
        }
    }

    /// Begins the header of the next message. What was begun before must have been sent.
    pub(super) fn begin(&mut self) {
        self.entries.clear();
        self.message = self.message.wrapping_add(1);
        let larger = self.slots.len() * 2;
        if self.crowded && larger <= SLOTS || self.message == 0 {
            // A slot means another atom now; all are sent anew, which the peer takes as it takes any new entry.
            let slots = larger.min(SLOTS).max(self.slots.len());
            self.slots = vec![Slot::default(); slots];
            self.message = 1;
        }
        self.crowded = false;
    }

    /// The entry of this message that stands for an atom; `None` when it has to be written out.
    pub(super) fn entry(&mut self, name: &str) -> Option<u8> {
        // The empty atom is no shorter as an entry.
        match name.is_empty() {
            true => None,
            false => self.place(name),
        }
    }

    fn place(&mut self, name: &str) -> Option<u8> {
        let hash = hash(name);
        // The number of sets is a power of two.
        let sets = self.slots.len() / WAYS;
        let first = ((hash >> 40) as usize & (sets - 1)) * WAYS;
        let set = &mut self.slots[first..first + WAYS];
        let known = set
            .iter()
            .position(|slot| slot.hash == hash && &*slot.name == name);
        if let Some(way) = known
            && set[way].message == self.message
        {
            return Some(set[way].entry);
        }
        if self.entries.len() == MAX_ENTRIES {
            return None;
        }
        let way = match known {
            Some(way) => way,
            None => {
                let free = set.iter().position(|slot| slot.hash == 0);
                self.crowded |= free.is_none();
                // Slots that this message uses already must not change their meaning.
                let way = free.or_else(|| {
                    self.hand = (self.hand + 1) % WAYS;
                    (0..WAYS)
                        .map(|step| (self.hand + step) % WAYS)
                        .find(|way| set[*way].message != self.message)
                })?;
                set[way].hash = hash;
                set[way].name = name.into();
                way
            }
        };
        let entry = self.entries.len() as u8;
        set[way].message = self.message;
        set[way].entry = entry;
        self.entries.push(((first + way) as u16, known.is_none()));
        Some(entry)
    }

    /// Makes the first entries of this message those of a table; `false` when not all of them can be.
    pub(super) fn adopt(&mut self, table: &AtomTable) -> bool {
        table
            .entries()
            .iter()
            .enumerate()
            .all(|(index, name)| self.place(name).map(usize::from) == Some(index))
    }

    /// Writes the header of this message.
    pub(super) fn put_header(&self, out: &mut BytesMut) {
        let count = self.entries.len();
        out.put_u8(count as u8);
        if count == 0 {
            return;
        }
        let name = |slot: u16| &self.slots[usize::from(slot)].name;
        let long = self
            .entries
            .iter()
            .any(|(slot, new)| *new && name(*slot).len() > 255);
        let flags_at = out.len();
        out.put_bytes(0, count / 2 + 1);
        let flags = self
            .entries
            .iter()
            .map(|(slot, new)| u8::from(*new) << 3 | (slot >> 8) as u8)
            .chain([u8::from(long)]);
        for (entry, flag) in flags.enumerate() {
            out[flags_at + entry / 2] |= flag << (4 * (entry % 2));
        }
        for (slot, new) in &self.entries {
            out.put_u8(*slot as u8);
            if *new {
                let name = name(*slot);
                match long {
                    true => out.put_u16(name.len() as u16),
                    false => out.put_u8(name.len() as u8),
                }
                out.put_slice(name.as_bytes());
            }
        }
    }
}

/// Of the length and both ends of a name: what lies between seldom tells atoms apart, and then the names are compared.
fn hash(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let word = |part: &[u8]| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        u64::from_le_bytes(word)
    };
    let end = bytes.len().min(8);
    let ends = word(&bytes[..end]) ^ word(&bytes[bytes.len() - end..]).rotate_left(31);
    // Never 0, which marks an empty slot.
    (ends ^ (bytes.len() as u64) << 3).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1
}
