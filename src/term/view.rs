//! Reading a checked term in place: no decoding, no allocation for what is only looked at.
//!
//! A [`View`] is a slice that covers exactly one term. The elements of a tuple or list are found by skipping over
//! their predecessors, so walking a container once is linear; its last element is simply the rest of the slice.
//! A list may come as LIST_EXT, STRING_EXT or NIL: [`View::list`] reads all three alike. The elements of a
//! STRING_EXT have no bytes of their own; they are views into a constant table of the 256 small integers.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};

use bytes::BytesMut;

use super::atoms::{AtomTable, write_out};
use super::check::{self, skip, u16_at, u32_at};
use super::codec::MAX_DECODE_DEPTH;
use super::decode;
use super::text::print_short;
use super::{Atom, Pid, Port, Reference};

/// One term inside checked bytes.
///
/// Equality is that of the bytes with all atoms written out. It never takes two different values for one, but a value
/// can be written in more than one form (an atom as UTF-8 or latin1, a list of bytes as string or list).
#[derive(Clone, Copy)]
pub struct View<'a> {
    bytes: &'a [u8],
    /// The atoms of the frame that brought it, when some of its own are entries there.
    atoms: Option<&'a AtomTable>,
}

impl PartialEq for View<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.atoms, other.atoms) {
            (None, None) => self.bytes == other.bytes,
            _ => self.to_bytes() == other.to_bytes(),
        }
    }
}

impl Eq for View<'_> {}

impl Hash for View<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_bytes().hash(state);
    }
}

/// A pid, its node's name borrowed where it can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PidView<'a> {
    /// Name of its node.
    pub node: Cow<'a, str>,
    /// First number.
    pub id: u32,
    /// Second number.
    pub serial: u32,
    /// Which life of the node it belongs to.
    pub creation: u32,
}

/// A reference, its node's name borrowed where it can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ReferenceView<'a> {
    /// Name of its node.
    pub node: Cow<'a, str>,
    /// Which life of the node it belongs to.
    pub creation: u32,
    words: [u32; check::MAX_REFERENCE_WORDS],
    len: usize,
}

impl ReferenceView<'_> {
    /// One to five words, in the order of the wire.
    pub fn words(&self) -> &[u32] {
        &self.words[..self.len]
    }
}

/// The 256 small integers as terms: what the elements of a STRING_EXT look like.
static BYTES: [[u8; 2]; 256] = {
    let mut table = [[check::SMALL_INTEGER, 0]; 256];
    let mut n = 0;
    while n < 256 {
        table[n][1] = n as u8;
        n += 1;
    }
    table
};

/// The empty list, as a term.
static NIL: [u8; 1] = [check::NIL];

impl<'a> View<'a> {
    /// `bytes` must be exactly one checked term, and `atoms` what it was checked with.
    pub(crate) fn over(bytes: &'a [u8], atoms: Option<&'a AtomTable>) -> View<'a> {
        View { bytes, atoms }
    }

    /// A part of this term, or one of the constants of this file.
    fn part(self, bytes: &'a [u8]) -> View<'a> {
        View { bytes, ..self }
    }

    /// The atoms of the header that the bytes refer to.
    pub(super) fn atoms(self) -> Option<&'a AtomTable> {
        self.atoms
    }

    /// The bytes as they came.
    pub(super) fn framed(self) -> &'a [u8] {
        self.bytes
    }

    /// The bytes of the term, without a leading 131. They are copied only where the term came with some of its atoms
    /// in the header of its frame.
    pub fn to_bytes(self) -> Cow<'a, [u8]> {
        match self.atoms {
            None => Cow::Borrowed(self.bytes),
            Some(atoms) => {
                let mut buf = BytesMut::with_capacity(self.bytes.len() + 64);
                write_out(&mut buf, self.bytes, atoms);
                Cow::Owned(buf.into())
            }
        }
    }

    /// Appends the term, its atoms written out.
    pub(crate) fn put(self, buf: &mut BytesMut) {
        match self.atoms {
            None => buf.extend_from_slice(self.bytes),
            Some(atoms) => write_out(buf, self.bytes, atoms),
        }
    }

    /// The atom of the header that stands here.
    fn entry(self) -> Option<&'a str> {
        self.atoms?.get(*self.bytes.get(1)?).map(|name| &**name)
    }

    fn tag(self) -> u8 {
        // A term has at least its tag; 0 is no tag.
        self.bytes.first().copied().unwrap_or(0)
    }

    /// The name of an atom. An atom sent as latin1 with letters beyond ASCII has none that can be borrowed: see
    /// [`View::atom_name`].
    pub fn as_atom(self) -> Option<&'a str> {
        let name = match self.tag() {
            check::CACHED_ATOM => return self.entry(),
            check::SMALL_ATOM => self.bytes.get(2..)?,
            check::ATOM => self.bytes.get(3..)?,
            check::SMALL_ATOM_LATIN1 => self.bytes.get(2..).filter(|name| name.is_ascii())?,
            check::ATOM_LATIN1 => self.bytes.get(3..).filter(|name| name.is_ascii())?,
            _ => return None,
        };
        std::str::from_utf8(name).ok()
    }

    /// The name of an atom, whatever its encoding.
    pub fn atom_name(self) -> Option<Cow<'a, str>> {
        if let Some(name) = self.as_atom() {
            return Some(Cow::Borrowed(name));
        }
        let latin1 = match self.tag() {
            check::SMALL_ATOM_LATIN1 => self.bytes.get(2..)?,
            check::ATOM_LATIN1 => self.bytes.get(3..)?,
            _ => return None,
        };
        Some(Cow::Owned(latin1.iter().copied().map(char::from).collect()))
    }

    /// Whether it is the atom of this name.
    pub fn is_atom(self, name: &str) -> bool {
        match self.tag() {
            check::CACHED_ATOM => self.entry() == Some(name),
            check::SMALL_ATOM => self.bytes.get(2..) == Some(name.as_bytes()),
            check::ATOM => self.bytes.get(3..) == Some(name.as_bytes()),
            check::SMALL_ATOM_LATIN1 | check::ATOM_LATIN1 => {
                self.atom_name().is_some_and(|n| n == name)
            }
            _ => false,
        }
    }

    /// An integer that fits 64 bits, whatever its encoding.
    pub fn as_i64(self) -> Option<i64> {
        match self.tag() {
            check::SMALL_INTEGER => Some(i64::from(*self.bytes.get(1)?)),
            check::INTEGER => Some(i64::from(u32_at(self.bytes, 1)? as i32)),
            check::SMALL_BIG => big_i64(*self.bytes.get(2)?, self.bytes.get(3..)?),
            check::LARGE_BIG => big_i64(*self.bytes.get(5)?, self.bytes.get(6..)?),
            _ => None,
        }
    }

    /// A number from 0 that fits `usize`, for counts and sizes.
    pub fn as_usize(self) -> Option<usize> {
        self.as_i64().and_then(|n| usize::try_from(n).ok())
    }

    /// Whether it is an integer of any size.
    pub fn is_integer(self) -> bool {
        matches!(
            self.tag(),
            check::SMALL_INTEGER | check::INTEGER | check::SMALL_BIG | check::LARGE_BIG
        )
    }

    /// A float. Integers are not floats.
    pub fn as_f64(self) -> Option<f64> {
        match self.tag() {
            check::FLOAT => check::f64_at(self.bytes, 1),
            check::FLOAT_TEXT => check::float_text_at(self.bytes, 1),
            _ => None,
        }
    }

    /// A binary of whole bytes.
    pub fn as_binary(self) -> Option<&'a [u8]> {
        match self.tag() {
            check::BINARY => self.bytes.get(5..),
            check::BIT_BINARY if matches!(self.bytes.get(5), Some(0 | 8)) => self.bytes.get(6..),
            _ => None,
        }
    }

    /// The elements of a tuple.
    pub fn tuple(self) -> Option<Items<'a>> {
        let (rest, left) = match self.tag() {
            check::SMALL_TUPLE => (self.bytes.get(2..)?, *self.bytes.get(1)? as usize),
            check::LARGE_TUPLE => (self.bytes.get(5..)?, u32_at(self.bytes, 1)? as usize),
            _ => return None,
        };
        Some(Items {
            rest,
            left,
            atoms: self.atoms,
        })
    }

    /// The elements of a tuple of exactly `N`.
    pub fn tuple_n<const N: usize>(self) -> Option<[View<'a>; N]> {
        let mut items = self.tuple()?;
        if items.len() != N {
            return None;
        }
        let mut elements = [self; N];
        for element in &mut elements {
            *element = items.next()?;
        }
        Some(elements)
    }

    /// The elements of a tuple whose first is the atom `name`, from the second on.
    pub fn tagged<const N: usize>(self, name: &str) -> Option<[View<'a>; N]> {
        let mut items = self.tuple()?;
        if items.len() != N + 1 || !items.next()?.is_atom(name) {
            return None;
        }
        let mut elements = [self; N];
        for element in &mut elements {
            *element = items.next()?;
        }
        Some(elements)
    }

    /// The elements of a proper list, in whatever form it came.
    ///
    /// Walks the list once to see that it is one, so asking again at every level of lists inside lists adds up:
    /// [`Raw::decode`](super::Raw::decode) and [`View::iodata`] walk once in all.
    pub fn list(self) -> Option<ListItems<'a>> {
        let (items, tail) = self.cells()?;
        (tail.tag() == check::NIL).then_some(items)
    }

    /// Elements and tail of a list that does not end in the empty list, such as `[alias|Ref]`.
    pub fn improper(self) -> Option<(ListItems<'a>, View<'a>)> {
        let (items, tail) = self.cells()?;
        (tail.tag() != check::NIL).then_some((items, tail))
    }

    /// `[Head|Tail]` with exactly one element and a tail that is no list: the shape of an alias tag.
    pub fn cons(self) -> Option<(View<'a>, View<'a>)> {
        if self.tag() != check::LIST || u32_at(self.bytes, 1) != Some(1) {
            return None;
        }
        let rest = self.bytes.get(5..)?;
        let (head, tail) = rest.split_at_checked(skip(rest))?;
        match tail.first()? {
            &check::NIL | &check::LIST | &check::STRING => None,
            _ => Some((self.part(head), self.part(tail))),
        }
    }

    /// Whether it is the empty list.
    pub fn is_nil(self) -> bool {
        match self.tag() {
            check::NIL => true,
            check::STRING => u16_at(self.bytes, 1) == Some(0),
            check::LIST => u32_at(self.bytes, 1) == Some(0),
            _ => false,
        }
    }

    /// All cells of a list and what ends them. The tail of one cell may be the next list on the wire.
    fn cells(self) -> Option<(ListItems<'a>, View<'a>)> {
        let mut items = ListItems {
            run: Run::of(self.bytes)?,
            left: 0,
            atoms: self.atoms,
        };
        let mut run = items.run;
        loop {
            match run {
                Run::End(tail) => return Some((items, self.part(tail))),
                Run::Bytes(string) => {
                    items.left += string.len();
                    run = Run::End(&NIL);
                }
                Run::Terms { mut rest, left } => {
                    for _ in 0..left {
                        rest = rest.get(skip(rest)..)?;
                    }
                    items.left += left;
                    run = Run::of(rest).unwrap_or(Run::End(rest));
                }
            }
        }
    }

    /// The pairs of a map, in the order of the wire. Keys need not be distinct in what a wire brings.
    pub fn map(self) -> Option<Pairs<'a>> {
        if self.tag() != check::MAP {
            return None;
        }
        Some(Pairs(Items {
            rest: self.bytes.get(5..)?,
            left: 2 * u32_at(self.bytes, 1)? as usize,
            atoms: self.atoms,
        }))
    }

    /// Value of the first key that is this atom, in a map, or in a list of pairs (a bare atom is no pair).
    pub fn lookup(self, key: &str) -> Option<View<'a>> {
        if let Some(mut pairs) = self.map() {
            return pairs.find(|(k, _)| k.is_atom(key)).map(|(_, v)| v);
        }
        self.list()?.find_map(|pair| {
            let [k, v] = pair.tuple_n::<2>()?;
            k.is_atom(key).then_some(v)
        })
    }

    /// Whether it is a pid.
    pub fn is_pid(self) -> bool {
        matches!(self.tag(), check::PID | check::PID_OLD)
    }

    /// Whether it is a reference.
    pub fn is_reference(self) -> bool {
        matches!(
            self.tag(),
            check::REFERENCE | check::REFERENCE_OLD | check::REFERENCE_OLDEST
        )
    }

    /// Whether it is a port.
    pub fn is_port(self) -> bool {
        matches!(self.tag(), check::PORT | check::PORT_64 | check::PORT_OLD)
    }

    /// Whether it is a fun, local or exported.
    pub fn is_fun(self) -> bool {
        matches!(self.tag(), check::FUN | check::EXPORT)
    }

    /// Module, function and arity of a fun that names an exported function: `fun M:F/A`.
    pub fn as_export(self) -> Option<(View<'a>, View<'a>, usize)> {
        if self.tag() != check::EXPORT {
            return None;
        }
        let rest = self.bytes.get(1..)?;
        let (module, rest) = rest.split_at_checked(skip(rest))?;
        let (function, arity) = rest.split_at_checked(skip(rest))?;
        let arity = self.part(arity).as_usize()?;
        Some((self.part(module), self.part(function), arity))
    }

    /// A pid, read in place.
    pub fn as_pid(self) -> Option<PidView<'a>> {
        let creation_size = match self.tag() {
            check::PID => 4,
            check::PID_OLD => 1,
            _ => return None,
        };
        let (node, numbers) = self.node_at(1)?;
        Some(PidView {
            node,
            id: u32_at(numbers, 0)?,
            serial: u32_at(numbers, 4)?,
            creation: creation_at(numbers, 8, creation_size)?,
        })
    }

    /// A pid, as an owned value.
    pub fn pid(self) -> Option<Pid> {
        let pid = self.as_pid()?;
        Some(Pid {
            node: Atom::from(pid.node.into_owned()),
            id: pid.id,
            serial: pid.serial,
            creation: pid.creation,
        })
    }

    /// The node a pid, port or reference belongs to.
    pub fn node(self) -> Option<Cow<'a, str>> {
        let at = match self.tag() {
            check::PID | check::PID_OLD => 1,
            check::PORT | check::PORT_64 | check::PORT_OLD | check::REFERENCE_OLDEST => 1,
            check::REFERENCE | check::REFERENCE_OLD => 3,
            _ => return None,
        };
        Some(self.node_at(at)?.0)
    }

    /// A reference, read in place.
    pub fn as_reference(self) -> Option<ReferenceView<'a>> {
        let mut words = [0; check::MAX_REFERENCE_WORDS];
        let (node, creation, len) = match self.tag() {
            tag @ (check::REFERENCE | check::REFERENCE_OLD) => {
                let size = if tag == check::REFERENCE { 4 } else { 1 };
                let len = u16_at(self.bytes, 1)? as usize;
                let (node, numbers) = self.node_at(3)?;
                for (n, word) in words.get_mut(..len)?.iter_mut().enumerate() {
                    *word = u32_at(numbers, size + 4 * n)?;
                }
                (node, creation_at(numbers, 0, size)?, len)
            }
            check::REFERENCE_OLDEST => {
                let (node, numbers) = self.node_at(1)?;
                words[0] = u32_at(numbers, 0)?;
                (node, creation_at(numbers, 4, 1)?, 1)
            }
            _ => return None,
        };
        Some(ReferenceView {
            node,
            creation,
            words,
            len,
        })
    }

    /// A reference, as an owned value.
    pub fn reference(self) -> Option<Reference> {
        let reference = self.as_reference()?;
        Some(Reference {
            id: reference.words().to_vec(),
            node: Atom::from(reference.node.into_owned()),
            creation: reference.creation,
        })
    }

    /// A port, as an owned value.
    pub fn port(self) -> Option<Port> {
        let (node, numbers) = self.node_at(1)?;
        let (id, creation) = match self.tag() {
            check::PORT_64 => {
                let high = u64::from(u32_at(numbers, 0)?);
                let low = u64::from(u32_at(numbers, 4)?);
                (high << 32 | low, u32_at(numbers, 8)?)
            }
            check::PORT => (u64::from(u32_at(numbers, 0)?), u32_at(numbers, 4)?),
            check::PORT_OLD => (u64::from(u32_at(numbers, 0)?), creation_at(numbers, 4, 1)?),
            _ => return None,
        };
        Some(Port {
            node: Atom::from(node.into_owned()),
            id,
            creation,
        })
    }

    /// The atom at an offset, and what follows it.
    fn node_at(self, at: usize) -> Option<(Cow<'a, str>, &'a [u8])> {
        let rest = self.bytes.get(at..)?;
        let (atom, numbers) = rest.split_at_checked(skip(rest))?;
        Some((self.part(atom).atom_name()?, numbers))
    }

    /// Text that came as binary (UTF-8), as string or as list of code points. Atoms are not text: see
    /// [`View::name`].
    pub fn text(self) -> Option<String> {
        if let Some(bytes) = self.as_binary() {
            return std::str::from_utf8(bytes).ok().map(str::to_owned);
        }
        self.list()?
            .map(|c| char::from_u32(u32::try_from(c.as_i64()?).ok()?))
            .collect()
    }

    /// An atom's name, or [`View::text`].
    pub fn name(self) -> Option<String> {
        match self.atom_name() {
            Some(name) => Some(name.into_owned()),
            None => self.text(),
        }
    }

    /// The bytes of a binary, or of a list of bytes.
    pub fn bytes(self) -> Option<Cow<'a, [u8]>> {
        if let Some(bytes) = self.as_binary() {
            return Some(Cow::Borrowed(bytes));
        }
        if self.tag() == check::STRING {
            return self.bytes.get(3..).map(Cow::Borrowed);
        }
        let bytes: Option<Vec<u8>> = self
            .list()?
            .map(|b| u8::try_from(b.as_i64()?).ok())
            .collect();
        bytes.map(Cow::Owned)
    }

    /// The bytes of an `iodata()`: a binary, or a list of bytes, binaries and such lists, at most `limit` bytes.
    /// `None` for anything else and for more than that.
    pub fn iodata(self, limit: usize) -> Option<Vec<u8>> {
        // One walk over the bytes: asking each inner list for its items would walk nested ones again and again.
        let b = self.bytes;
        let mut out = Vec::new();
        // For each list we are in, the elements that still come before its tail.
        let mut open: Vec<usize> = Vec::new();
        let mut at = 0;
        let mut element = false;
        loop {
            let (skip, data) = match *b.get(at)? {
                check::SMALL_INTEGER if element => (1, 1),
                check::NIL => (1, 0),
                check::STRING => (3, u16_at(b, at + 1)? as usize),
                check::BINARY => (5, u32_at(b, at + 1)? as usize),
                // Whole bytes and small integers in forms that nobody has to write, but may.
                check::BIT_BINARY if matches!(b.get(at + 5), Some(0 | 8)) => {
                    (6, u32_at(b, at + 1)? as usize)
                }
                check::INTEGER | check::SMALL_BIG | check::LARGE_BIG if element => {
                    let integer = b.get(at..)?;
                    let integer = integer.get(..skip(integer))?;
                    let byte = u8::try_from(View::over(integer, None).as_i64()?).ok()?;
                    if out.len() == limit {
                        return None;
                    }
                    out.push(byte);
                    (integer.len(), 0)
                }
                check::LIST => {
                    open.push(u32_at(b, at + 1)? as usize);
                    (5, 0)
                }
                _ => return None,
            };
            if data > limit - out.len() {
                return None;
            }
            at += skip;
            out.extend_from_slice(b.get(at..at + data)?);
            at += data;
            match open.last_mut() {
                None => return Some(out),
                Some(0) => {
                    open.pop();
                    element = false;
                }
                Some(left) => {
                    *left -= 1;
                    element = true;
                }
            }
        }
    }
}

/// A term of more bytes than this is not taken apart for a line in a log.
const MAX_DEBUG_BYTES: usize = 1 << 16;

/// As text, cut after 500 characters: what logs and failed tests want to see.
impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.bytes.len() > MAX_DEBUG_BYTES {
            return write!(f, "#Term<{} bytes>", self.bytes.len());
        }
        match decode::decode(*self, MAX_DECODE_DEPTH) {
            Ok(term) => f.write_str(&print_short(&term, 500)),
            Err(why) => write!(f, "#Term<{} bytes, {why}>", self.bytes.len()),
        }
    }
}

fn big_i64(sign: u8, magnitude: &[u8]) -> Option<i64> {
    let used = magnitude.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    let mut wide = [0; 16];
    wide.get_mut(..used)
        .filter(|_| used <= 8)?
        .copy_from_slice(magnitude.get(..used)?);
    let value = i128::from_le_bytes(wide);
    i64::try_from(if sign == 0 { value } else { -value }).ok()
}

/// A creation of four bytes, or of one in the old tags.
fn creation_at(numbers: &[u8], at: usize, size: usize) -> Option<u32> {
    match size {
        4 => u32_at(numbers, at),
        _ => numbers.get(at).map(|n| u32::from(*n)),
    }
}

/// The elements of a tuple.
#[derive(Debug, Clone)]
pub struct Items<'a> {
    rest: &'a [u8],
    left: usize,
    atoms: Option<&'a AtomTable>,
}

impl<'a> Iterator for Items<'a> {
    type Item = View<'a>;

    #[inline]
    fn next(&mut self) -> Option<View<'a>> {
        let len = match self.left {
            0 => return None,
            // Nothing follows the last one, so its end needs no looking for.
            1 => self.rest.len(),
            _ => skip(self.rest),
        };
        self.left -= 1;
        let (item, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(View::over(item, self.atoms))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Items<'_> {}

/// The pairs of a map.
#[derive(Debug, Clone)]
pub struct Pairs<'a>(Items<'a>);

impl<'a> Iterator for Pairs<'a> {
    type Item = (View<'a>, View<'a>);

    fn next(&mut self) -> Option<(View<'a>, View<'a>)> {
        Some((self.0.next()?, self.0.next()?))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.left / 2, Some(self.0.left / 2))
    }
}

impl ExactSizeIterator for Pairs<'_> {}

/// A stretch of list cells that one tag stands for.
#[derive(Debug, Clone, Copy)]
enum Run<'a> {
    Bytes(&'a [u8]),
    Terms {
        rest: &'a [u8],
        left: usize,
    },
    /// No cells any more; this is the tail.
    End(&'a [u8]),
}

impl<'a> Run<'a> {
    /// `None` when the term there is no list.
    fn of(term: &'a [u8]) -> Option<Run<'a>> {
        match *term.first()? {
            check::NIL => Some(Run::End(term)),
            check::STRING => Some(Run::Bytes(term.get(3..)?)),
            check::LIST => Some(Run::Terms {
                rest: term.get(5..)?,
                left: u32_at(term, 1)? as usize,
            }),
            _ => None,
        }
    }
}

/// The elements of a list, without its tail.
#[derive(Debug, Clone)]
pub struct ListItems<'a> {
    run: Run<'a>,
    left: usize,
    atoms: Option<&'a AtomTable>,
}

impl<'a> Iterator for ListItems<'a> {
    type Item = View<'a>;

    fn next(&mut self) -> Option<View<'a>> {
        loop {
            match &mut self.run {
                Run::End(_) => return None,
                Run::Bytes(string) => {
                    let (first, rest) = string.split_first()?;
                    *string = rest;
                    self.left -= 1;
                    return Some(View::over(&BYTES[*first as usize], None));
                }
                Run::Terms { rest, left: 0 } => self.run = Run::of(rest)?,
                Run::Terms { rest, left } => {
                    let (item, after) = rest.split_at_checked(skip(rest))?;
                    *rest = after;
                    *left -= 1;
                    self.left -= 1;
                    return Some(View::over(item, self.atoms));
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ListItems<'_> {}
