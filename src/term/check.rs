//! The check that every term from a wire passes first, and the layout of the external format.
//!
//! [`scan`] walks the bytes with a small stack of its own, so neither deep nesting nor a count that promises more
//! than there is can end the process:
//!
//! * an announced count must fit into the bytes that are there (a term is at least one byte) before anything
//!   is allocated for it, and nesting is bounded;
//! * atoms must be text of at most 255 characters, floats finite, references at most five words, integers at
//!   most as wide as Erlang's own;
//! * tag 82 (an entry of the frame's header) stands for an atom only where a header with that entry came along, and
//!   what the term has when such atoms are written out is bounded too; 68 and every tag this file does not know are
//!   refused.
//!
//! Tags: 70 99 floats · 97 98 110 111 integers · 100 115 118 119 atoms · 88 103 pids · 89 102 120 ports ·
//! 90 101 114 references · 104 105 tuples · 106 107 108 lists · 116 maps · 109 77 binaries · 112 113 funs ·
//! 67 records (OTP 29: `67 N:32 Flags:8 Module Name FieldName*N Value*N`).

use super::TermError;
use super::atoms::{AtomTable, written_len};

pub(super) const CACHED_ATOM: u8 = 82;
pub(super) const FLOAT: u8 = 70;
pub(super) const FLOAT_TEXT: u8 = 99;
pub(super) const BIT_BINARY: u8 = 77;
pub(super) const RECORD: u8 = 67;
pub(super) const PID: u8 = 88;
pub(super) const PID_OLD: u8 = 103;
pub(super) const PORT: u8 = 89;
pub(super) const PORT_OLD: u8 = 102;
pub(super) const PORT_64: u8 = 120;
pub(super) const REFERENCE: u8 = 90;
pub(super) const REFERENCE_OLD: u8 = 114;
pub(super) const REFERENCE_OLDEST: u8 = 101;
pub(super) const SMALL_INTEGER: u8 = 97;
pub(super) const INTEGER: u8 = 98;
pub(super) const ATOM_LATIN1: u8 = 100;
pub(super) const SMALL_ATOM_LATIN1: u8 = 115;
pub(super) const ATOM: u8 = 118;
pub(super) const SMALL_ATOM: u8 = 119;
pub(super) const SMALL_TUPLE: u8 = 104;
pub(super) const LARGE_TUPLE: u8 = 105;
pub(super) const NIL: u8 = 106;
pub(super) const STRING: u8 = 107;
pub(super) const LIST: u8 = 108;
pub(super) const BINARY: u8 = 109;
pub(super) const SMALL_BIG: u8 = 110;
pub(super) const LARGE_BIG: u8 = 111;
pub(super) const FUN: u8 = 112;
pub(super) const EXPORT: u8 = 113;
pub(super) const MAP: u8 = 116;

/// Widest integer Erlang has, in bytes of magnitude (65,535 words of 64 bits).
pub(super) const MAX_BIG_BYTES: usize = 524_280;
/// Longest atom, in characters.
pub(super) const MAX_ATOM_CHARS: usize = 255;
/// Most words a reference has.
pub(super) const MAX_REFERENCE_WORDS: usize = 5;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(found.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(found.try_into().ok()?))
}

pub(super) fn f64_at(bytes: &[u8], at: usize) -> Option<f64> {
    let found = bytes.get(at..at.checked_add(8)?)?;
    Some(f64::from_be_bytes(found.try_into().ok()?))
}

/// The float of tag 99: 31 characters of text, filled up with zero bytes.
pub(super) fn float_text_at(bytes: &[u8], at: usize) -> Option<f64> {
    let text = std::str::from_utf8(bytes.get(at..at.checked_add(31)?)?).ok()?;
    let value: f64 = text.trim_end_matches('\0').trim().parse().ok()?;
    value.is_finite().then_some(value)
}

/// Terms still to come inside one container, and where a fun says that it ends.
#[derive(Clone, Copy)]
struct Frame {
    left: usize,
    /// Offset just after a fun's last term, by its own size field; 0 for everything else.
    end: usize,
}

/// The containers around the current one. Most terms are shallow: those cost no allocation.
struct Stack {
    near: [Frame; Stack::NEAR],
    depth: usize,
    far: Vec<Frame>,
}

impl Stack {
    const NEAR: usize = 16;

    fn new() -> Stack {
        Stack {
            near: [Frame { left: 0, end: 0 }; Stack::NEAR],
            depth: 0,
            far: Vec::new(),
        }
    }

    #[inline]
    fn push(&mut self, frame: Frame) {
        match self.near.get_mut(self.depth) {
            Some(slot) => *slot = frame,
            None => self.far.push(frame),
        }
        self.depth += 1;
    }

    #[inline]
    fn pop(&mut self) -> Option<Frame> {
        self.depth = self.depth.checked_sub(1)?;
        match self.near.get(self.depth) {
            Some(frame) => Some(*frame),
            None => self.far.pop(),
        }
    }
}

/// What [`scan`] found.
pub(super) struct Scanned {
    /// How many bytes the term has.
    pub(super) len: usize,
    /// How many it has with the atoms of the header written out.
    pub(super) written_out: usize,
    /// Whether it has any of those.
    pub(super) entries: bool,
    /// Whether it has a record in it.
    pub(super) records: bool,
}

/// Which entries of a header may be named.
#[derive(Clone, Copy)]
enum Header<'a> {
    Of(Option<&'a AtomTable>),
    /// The bytes were checked before.
    Checked,
}

/// Checks the term at the start of `b`, whose frame had a header with these atoms.
pub(super) fn scan(
    b: &[u8],
    max_depth: usize,
    atoms: Option<&AtomTable>,
) -> Result<Scanned, TermError> {
    let mut scanner = Scanner {
        b,
        header: Header::Of(atoms),
        more: 0,
        entries: false,
        records: false,
    };
    let mut at = 0;
    let mut stack = Stack::new();
    let mut top = Frame { left: 1, end: 0 };
    loop {
        while top.left == 0 {
            if top.end != 0 && top.end != at {
                let what = "fun whose size is not the size of its parts";
                return Err(TermError::Malformed { what, at });
            }
            match stack.pop() {
                Some(outer) => top = outer,
                None => {
                    return Ok(Scanned {
                        len: at,
                        written_out: at.saturating_add(scanner.more),
                        entries: scanner.entries,
                        records: scanner.records,
                    });
                }
            }
        }
        top.left -= 1;
        // What most terms are made of is looked at here, without a detour; all else, and all that is wrong, in `one`.
        let (len, children, end) = match b.get(at..).unwrap_or_default() {
            [CACHED_ATOM, index, ..] => match atoms.and_then(|atoms| atoms.get(*index)) {
                Some(name) => {
                    scanner.met_entry(name);
                    at += 2;
                    continue;
                }
                None => scanner.one(at)?,
            },
            [SMALL_INTEGER, _, ..] => {
                at += 2;
                continue;
            }
            [SMALL_TUPLE, arity, ..] => (2, usize::from(*arity), 0),
            [LIST, a, b, c, d, ..] if [*a, *b, *c, *d] != [0; 4] => {
                let count = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                (5, count.saturating_add(1), 0)
            }
            [NIL, ..] => {
                at += 1;
                continue;
            }
            [SMALL_ATOM, len, name @ ..]
                if name.get(..usize::from(*len)).is_some_and(<[u8]>::is_ascii) =>
            {
                at += 2 + usize::from(*len);
                continue;
            }
            [BINARY, a, b, c, d, rest @ ..]
                if rest.len() >= u32::from_be_bytes([*a, *b, *c, *d]) as usize =>
            {
                at += 5 + u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                continue;
            }
            [INTEGER, _, _, _, _, ..] => {
                at += 5;
                continue;
            }
            _ => scanner.one(at)?,
        };
        at += len;
        if children == 0 && end == 0 {
            continue;
        }
        if children > b.len() - at {
            return Err(TermError::Truncated { at });
        }
        if stack.depth >= max_depth {
            return Err(TermError::TooDeep { limit: max_depth });
        }
        stack.push(top);
        top = Frame {
            left: children,
            end,
        };
    }
}

struct Scanner<'a> {
    b: &'a [u8],
    header: Header<'a>,
    /// How many bytes more the term has when the header's atoms are written out.
    more: usize,
    /// Whether it has any of those.
    entries: bool,
    /// Whether it has a record in it.
    records: bool,
}

impl Scanner<'_> {
    /// Checks what stands at `at`, up to the terms inside it: own length, number of terms inside, end of a fun.
    #[inline]
    fn one(&mut self, at: usize) -> Result<(usize, usize, usize), TermError> {
        let b = self.b;
        let short = TermError::Truncated { at };
        let bad = |what| TermError::Malformed { what, at };
        let leaf = |len: usize| {
            if len <= b.len() - at {
                Ok((len, 0, 0))
            } else {
                Err(TermError::Truncated { at })
            }
        };
        let Some(&tag) = b.get(at) else {
            return Err(short);
        };
        let byte = |skip: usize| b.get(at + skip).copied();
        let long = |skip: usize| u32_at(b, at + skip).map(|n| n as usize);
        match tag {
            CACHED_ATOM | SMALL_ATOM | ATOM | ATOM_LATIN1 | SMALL_ATOM_LATIN1 => {
                leaf(self.atom_len(at)?)
            }
            SMALL_INTEGER => leaf(2),
            INTEGER => leaf(5),
            SMALL_TUPLE => Ok((2, byte(1).ok_or(short)? as usize, 0)),
            LARGE_TUPLE => Ok((5, long(1).ok_or(short)?, 0)),
            NIL => Ok((1, 0, 0)),
            STRING => leaf(3 + u16_at(b, at + 1).ok_or(short)? as usize),
            LIST => {
                let count = long(1).ok_or(short)?;
                // Nothing in front of a tail that is not the empty list would be that tail itself.
                if count == 0 && byte(5) != Some(NIL) {
                    return Err(bad("list of no elements with a tail"));
                }
                Ok((5, count.saturating_add(1), 0))
            }
            MAP => Ok((5, long(1).ok_or(short)?.saturating_mul(2), 0)),
            BINARY => leaf(long(1).ok_or(short)?.saturating_add(5)),
            BIT_BINARY => {
                let (len, bits) = (long(1).ok_or(short)?, byte(5));
                match bits {
                    Some(0) if len == 0 => leaf(6),
                    Some(1..=8) if len > 0 => leaf(len.saturating_add(6)),
                    Some(_) => Err(bad("bitstring with a wrong number of bits")),
                    None => Err(TermError::Truncated { at }),
                }
            }
            FLOAT => match f64_at(b, at + 1) {
                Some(value) if value.is_finite() => leaf(9),
                Some(_) => Err(bad("float that is not finite")),
                None => Err(short),
            },
            FLOAT_TEXT => match float_text_at(b, at + 1) {
                Some(_) => leaf(32),
                None => Err(bad("float text that is no number")),
            },
            SMALL_BIG | LARGE_BIG => {
                let (count, head) = if tag == SMALL_BIG {
                    (byte(1).ok_or(short)? as usize, 3)
                } else {
                    (long(1).ok_or(short)?, 6)
                };
                match byte(head - 1) {
                    Some(0 | 1) => {}
                    Some(_) => return Err(bad("integer with a wrong sign byte")),
                    None => return Err(TermError::Truncated { at }),
                }
                if count > MAX_BIG_BYTES {
                    return Err(bad("integer wider than Erlang's widest"));
                }
                leaf(head + count)
            }
            PID => leaf(1 + self.atom_len(at + 1)? + 12),
            PID_OLD => leaf(1 + self.atom_len(at + 1)? + 9),
            PORT => leaf(1 + self.atom_len(at + 1)? + 8),
            PORT_OLD => leaf(1 + self.atom_len(at + 1)? + 5),
            PORT_64 => leaf(1 + self.atom_len(at + 1)? + 12),
            REFERENCE | REFERENCE_OLD => {
                let words = u16_at(b, at + 1).ok_or(short)? as usize;
                if !(1..=MAX_REFERENCE_WORDS).contains(&words) {
                    return Err(bad("reference with a wrong number of words"));
                }
                let creation = if tag == REFERENCE { 4 } else { 1 };
                leaf(3 + self.atom_len(at + 3)? + creation + 4 * words)
            }
            REFERENCE_OLDEST => leaf(1 + self.atom_len(at + 1)? + 5),
            EXPORT => {
                let module = self.atom_len(at + 1)?;
                let function = self.atom_len(at + 1 + module)?;
                let len = 1 + module + function;
                match byte(len) {
                    Some(SMALL_INTEGER) => leaf(len + 2),
                    Some(_) => Err(bad("fun whose arity is no small integer")),
                    None => Err(TermError::Truncated { at }),
                }
            }
            FUN => {
                let head = self.fun_head(at)?;
                Ok((head.len, head.free, head.end))
            }
            RECORD => self.record_head(at).map(|head| (head.len, head.fields, 0)),
            _ => Err(TermError::Tag { tag, at }),
        }
    }

    /// Checks the atom at `at` and says how long it is, tag included.
    #[inline]
    fn atom_len(&mut self, at: usize) -> Result<usize, TermError> {
        let b = self.b;
        let short = TermError::Truncated { at };
        let (head, len, utf8) = match b.get(at) {
            Some(&SMALL_ATOM) => (2, b.get(at + 1).map(|n| *n as usize), true),
            Some(&ATOM) => (3, u16_at(b, at + 1).map(usize::from), true),
            Some(&SMALL_ATOM_LATIN1) => (2, b.get(at + 1).map(|n| *n as usize), false),
            Some(&ATOM_LATIN1) => (3, u16_at(b, at + 1).map(usize::from), false),
            Some(&CACHED_ATOM) => return self.entry(at),
            Some(&tag @ 68) => return Err(TermError::Tag { tag, at }),
            Some(_) => {
                let what = "something else where an atom must stand";
                return Err(TermError::Malformed { what, at });
            }
            None => return Err(short),
        };
        let Some(len) = len else { return Err(short) };
        let Some(name) = b.get(at + head..at + head + len) else {
            return Err(short);
        };
        let chars = if !utf8 || name.is_ascii() {
            len
        } else {
            match std::str::from_utf8(name) {
                Ok(name) => name.chars().count(),
                Err(_) => {
                    let what = "atom that is not UTF-8";
                    return Err(TermError::Malformed { what, at });
                }
            }
        };
        if chars > MAX_ATOM_CHARS {
            let what = "atom of more than 255 characters";
            return Err(TermError::Malformed { what, at });
        }
        Ok(head + len)
    }

    /// Checks that the header has the entry that stands at `at` for an atom.
    #[inline]
    fn entry(&mut self, at: usize) -> Result<usize, TermError> {
        let atoms = match self.header {
            Header::Of(Some(atoms)) => atoms,
            Header::Of(None) => {
                return Err(TermError::Tag {
                    tag: CACHED_ATOM,
                    at,
                });
            }
            Header::Checked => return Ok(2),
        };
        let Some(index) = self.b.get(at + 1) else {
            return Err(TermError::Truncated { at });
        };
        let Some(name) = atoms.get(*index) else {
            let what = "atom that the frame's header does not have";
            return Err(TermError::Malformed { what, at });
        };
        self.met_entry(name);
        Ok(2)
    }

    #[inline]
    fn met_entry(&mut self, name: &str) {
        self.entries = true;
        self.more = self.more.saturating_add(written_len(name) - 2);
    }

    /// `112 Size:32 Arity:8 Uniq:16B Index:32 NumFree:32 Module OldIndex OldUniq Pid Free*`, Size counting itself.
    fn fun_head(&mut self, at: usize) -> Result<FunHead, TermError> {
        let b = self.b;
        let integer_len = |at: usize| match b.get(at) {
            Some(&SMALL_INTEGER) => Ok(2),
            Some(&INTEGER) => Ok(5),
            Some(_) => Err(TermError::Malformed {
                what: "fun whose old index or old uniq is no integer",
                at,
            }),
            None => Err(TermError::Truncated { at }),
        };
        let short = TermError::Truncated { at };
        let (Some(size), Some(free)) = (u32_at(b, at + 1), u32_at(b, at + 26)) else {
            return Err(short);
        };
        let module = at + 30;
        let old_index = module + self.atom_len(module)?;
        let old_uniq = old_index + integer_len(old_index)?;
        let pid = old_uniq + integer_len(old_uniq)?;
        let creation = match b.get(pid) {
            Some(&PID) => 4,
            Some(&PID_OLD) => 1,
            Some(_) => {
                let what = "fun without a pid";
                return Err(TermError::Malformed { what, at: pid });
            }
            None => return Err(short),
        };
        let first = pid + 1 + self.atom_len(pid + 1)? + 8 + creation;
        let end = (at + 1).saturating_add(size as usize);
        if end > b.len() || first > end {
            return Err(short);
        }
        Ok(FunHead {
            len: first - at,
            free: free as usize,
            end,
            module,
            old_index,
            old_uniq,
            pid,
        })
    }

    fn record_head(&mut self, at: usize) -> Result<RecordHead, TermError> {
        let b = self.b;
        let short = TermError::Truncated { at };
        let Some(fields) = u32_at(b, at + 1).map(|n| n as usize) else {
            return Err(short);
        };
        // Each field is at least an empty name (2 bytes) and a value (1 byte).
        if fields > b.len() {
            return Err(short);
        }
        self.records = true;
        let mut len = 6;
        for _ in 0..fields + 2 {
            len += self.atom_len(at + len)?;
        }
        Ok(RecordHead { len, fields })
    }
}

/// The fixed parts of a local fun, tag 112. Offsets are from the start of the bytes.
pub(super) struct FunHead {
    /// Bytes up to the first free variable, tag included.
    pub(super) len: usize,
    /// Free variables, the terms inside.
    pub(super) free: usize,
    /// Where the fun ends, by its own size field.
    pub(super) end: usize,
    /// Where the module stands; old index, old uniq and pid follow it.
    pub(super) module: usize,
    pub(super) old_index: usize,
    pub(super) old_uniq: usize,
    pub(super) pid: usize,
}

/// The fixed parts of a record, tag 67.
pub(super) struct RecordHead {
    /// Bytes up to the first value, tag included.
    pub(super) len: usize,
    /// Number of fields: so many atoms stand in the head, so many terms follow it.
    pub(super) fields: usize,
}

/// How long the term at the start of checked bytes is.
///
/// Needs no stack: it only counts the terms that are still owed.
pub(super) fn skip(b: &[u8]) -> usize {
    let mut at = 0;
    let mut owed = 1usize;
    while owed > 0 {
        let long = |skip: usize| u32_at(b, at + skip).unwrap_or(0) as usize;
        let byte = |skip: usize| b.get(at + skip).copied().unwrap_or(0) as usize;
        let (len, children) = match b.get(at) {
            Some(&SMALL_ATOM | &SMALL_ATOM_LATIN1) => (2 + byte(1), 0),
            Some(&SMALL_INTEGER | &CACHED_ATOM) => (2, 0),
            Some(&INTEGER) => (5, 0),
            Some(&FLOAT) => (9, 0),
            Some(&NIL) => (1, 0),
            Some(&BINARY) => (5 + long(1), 0),
            Some(&SMALL_TUPLE) => (2, byte(1)),
            Some(&LARGE_TUPLE) => (5, long(1)),
            Some(&LIST) => (5, long(1) + 1),
            Some(&MAP) => (5, 2 * long(1)),
            Some(&FUN) => (1 + long(1), 0),
            Some(&PID | &PORT_64) => (13 + atom_skip(b, at + 1), 0),
            Some(&REFERENCE) => {
                let words = usize::from(u16_at(b, at + 1).unwrap_or(0));
                (7 + 4 * words + atom_skip(b, at + 3), 0)
            }
            Some(_) => match checked(b).one(at) {
                Ok((len, children, _)) => (len, children),
                // Cannot be: the bytes were checked. The end of them is a safe answer.
                Err(_) => return b.len(),
            },
            None => return b.len(),
        };
        at += len;
        owed = owed - 1 + children;
    }
    at.min(b.len())
}

/// How long the atom at an offset of checked bytes is.
fn atom_skip(b: &[u8], at: usize) -> usize {
    match b.get(at) {
        Some(&CACHED_ATOM) => 2,
        Some(&SMALL_ATOM | &SMALL_ATOM_LATIN1) => {
            2 + usize::from(b.get(at + 1).copied().unwrap_or(0))
        }
        _ => 3 + usize::from(u16_at(b, at + 1).unwrap_or(0)),
    }
}

/// Where the parts of the local fun at `at` in checked bytes are.
pub(super) fn fun_head(b: &[u8], at: usize) -> Result<FunHead, TermError> {
    checked(b).fun_head(at)
}

fn checked(b: &[u8]) -> Scanner<'_> {
    Scanner {
        b,
        header: Header::Checked,
        more: 0,
        entries: false,
        records: false,
    }
}
