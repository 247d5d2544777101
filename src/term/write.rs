//! Writing terms straight into a buffer, for those who know what they want to say.
//!
//! Every function appends to the buffer: leaves a whole term, `put_tuple`, `put_list` and `put_map` the head after
//! which the caller writes the elements. Only forms that every OTP from 25 on reads are written: atoms as UTF-8,
//! pids as 88, references as 90, lists of bytes as STRING_EXT while they fit it.
//!
//! Erlang has no value for some of ours (NaN, a name of 300 characters as an atom). A peer drops the connection
//! over such bytes, so the atom `badarg` is written in their place.

use bytes::{BufMut, BytesMut};
use num_bigint::{BigInt, Sign};

use super::check::{self, MAX_ATOM_CHARS, MAX_BIG_BYTES, MAX_REFERENCE_WORDS};
use super::codec::{Raw, VERSION};
use super::order;
use super::view::View;
use super::{Atom, BitBinary, InternalFun, Pid, Reference, Term};

/// Longest STRING_EXT.
const MAX_STRING: usize = u16::MAX as usize;
/// Ports below this were always sent as tag 89; every release reads that.
const SMALL_PORT: u64 = 1 << 28;

/// The byte 131, in front of a term that stands on its own.
pub fn put_version(buf: &mut impl BufMut) {
    buf.put_u8(VERSION);
}

/// An atom of at most 255 characters.
#[inline]
pub fn put_atom(buf: &mut impl BufMut, name: &str) {
    match u8::try_from(name.len()) {
        Ok(len) => {
            buf.put_slice(&[check::SMALL_ATOM, len]);
            buf.put_slice(name.as_bytes());
        }
        Err(_) => put_long_atom(buf, name),
    }
}

fn put_long_atom(buf: &mut impl BufMut, name: &str) {
    if is_atom_name(name) {
        buf.put_u8(check::ATOM);
        buf.put_u16(name.len() as u16);
        buf.put_slice(name.as_bytes());
    } else {
        put_atom(buf, "badarg");
    }
}

/// Whether this can be the name of an atom: at most 255 characters.
pub fn is_atom_name(name: &str) -> bool {
    name.len() <= MAX_ATOM_CHARS || name.chars().count() <= MAX_ATOM_CHARS
}

/// `true` or `false`.
pub fn put_bool(buf: &mut impl BufMut, value: bool) {
    put_atom(buf, if value { "true" } else { "false" });
}

/// An integer, in its shortest form.
pub fn put_int(buf: &mut impl BufMut, value: i64) {
    if let Ok(byte) = u8::try_from(value) {
        buf.put_slice(&[check::SMALL_INTEGER, byte]);
    } else if let Ok(value) = i32::try_from(value) {
        put_tagged(buf, check::INTEGER, value as u32);
    } else {
        put_magnitude(buf, value < 0, &value.unsigned_abs().to_le_bytes());
    }
}

/// A number from 0, in its shortest form.
pub fn put_uint(buf: &mut impl BufMut, value: u64) {
    match i64::try_from(value) {
        Ok(value) => put_int(buf, value),
        Err(_) => put_magnitude(buf, false, &value.to_le_bytes()),
    }
}

/// An integer of any size, in its shortest form.
pub fn put_bigint(buf: &mut impl BufMut, value: &BigInt) {
    match i64::try_from(value) {
        Ok(value) => put_int(buf, value),
        Err(_) => {
            let (sign, magnitude) = value.to_bytes_le();
            put_magnitude(buf, sign == Sign::Minus, &magnitude);
        }
    }
}

fn put_magnitude(buf: &mut impl BufMut, negative: bool, magnitude: &[u8]) {
    let used = magnitude.iter().rposition(|b| *b != 0).map_or(0, |n| n + 1);
    match used {
        0..=255 => buf.put_slice(&[check::SMALL_BIG, used as u8]),
        256..=MAX_BIG_BYTES => {
            buf.put_u8(check::LARGE_BIG);
            buf.put_u32(used as u32);
        }
        _ => return put_atom(buf, "badarg"),
    }
    buf.put_u8(u8::from(negative));
    buf.put_slice(&magnitude[..used]);
}

/// A float; there is no NaN and no infinity in Erlang.
pub fn put_f64(buf: &mut impl BufMut, value: f64) {
    if value.is_finite() {
        buf.put_u8(check::FLOAT);
        buf.put_f64(value);
    } else {
        put_atom(buf, "badarg");
    }
}

/// A binary of less than 4 GiB.
pub fn put_binary(buf: &mut impl BufMut, bytes: &[u8]) {
    match u32::try_from(bytes.len()) {
        Ok(len) => {
            put_tagged(buf, check::BINARY, len);
            buf.put_slice(bytes);
        }
        Err(_) => put_atom(buf, "badarg"),
    }
}

/// Head of a tuple: `arity` terms must follow.
pub fn put_tuple(buf: &mut impl BufMut, arity: usize) {
    match u8::try_from(arity) {
        Ok(arity) => buf.put_slice(&[check::SMALL_TUPLE, arity]),
        Err(_) => put_head(buf, check::LARGE_TUPLE, arity),
    }
}

/// Head of a list: `len` terms and then the tail must follow, which is [`put_nil`] in a proper list. Of an empty
/// list nothing but the tail is written.
pub fn put_list(buf: &mut impl BufMut, len: usize) {
    if len > 0 {
        put_head(buf, check::LIST, len);
    }
}

/// The empty list, and the tail of every proper one.
pub fn put_nil(buf: &mut impl BufMut) {
    buf.put_u8(check::NIL);
}

/// Head of a map: `pairs` times a key and its value must follow, no key twice.
pub fn put_map(buf: &mut impl BufMut, pairs: usize) {
    put_head(buf, check::MAP, pairs);
}

fn put_head(buf: &mut impl BufMut, tag: u8, count: usize) {
    // More terms than 32 bits count do not fit any frame; the peer's check refuses the count.
    put_tagged(buf, tag, u32::try_from(count).unwrap_or(u32::MAX));
}

/// A tag and a number behind it, at one go.
fn put_tagged(buf: &mut impl BufMut, tag: u8, number: u32) {
    let [a, b, c, d] = number.to_be_bytes();
    buf.put_slice(&[tag, a, b, c, d]);
}

/// A string: the list of its code points.
pub fn put_string(buf: &mut impl BufMut, text: &str) {
    if text.is_ascii() {
        return put_bytes(buf, text.as_bytes());
    }
    let latin1: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
    if let Some(latin1) = latin1 {
        return put_bytes(buf, &latin1);
    }
    put_list(buf, text.chars().count());
    for c in text.chars() {
        put_int(buf, i64::from(u32::from(c)));
    }
    put_nil(buf);
}

/// A list of bytes.
pub fn put_bytes(buf: &mut impl BufMut, bytes: &[u8]) {
    match bytes.len() {
        0 => put_nil(buf),
        1..=MAX_STRING => {
            buf.put_u8(check::STRING);
            buf.put_u16(bytes.len() as u16);
            buf.put_slice(bytes);
        }
        _ => {
            put_list(buf, bytes.len());
            for byte in bytes {
                buf.put_slice(&[check::SMALL_INTEGER, *byte]);
            }
            put_nil(buf);
        }
    }
}

/// A pid.
pub fn put_pid(buf: &mut impl BufMut, node: &str, id: u32, serial: u32, creation: u32) {
    buf.put_u8(check::PID);
    put_atom(buf, node);
    buf.put_u32(id);
    buf.put_u32(serial);
    buf.put_u32(creation);
}

/// A port.
pub fn put_port(buf: &mut impl BufMut, node: &str, id: u64, creation: u32) {
    if id < SMALL_PORT {
        buf.put_u8(check::PORT);
        put_atom(buf, node);
        buf.put_u32(id as u32);
    } else {
        buf.put_u8(check::PORT_64);
        put_atom(buf, node);
        buf.put_u64(id);
    }
    buf.put_u32(creation);
}

/// A reference of one to five words.
pub fn put_reference(buf: &mut impl BufMut, node: &str, creation: u32, words: &[u32]) {
    if !(1..=MAX_REFERENCE_WORDS).contains(&words.len()) {
        return put_atom(buf, "badarg");
    }
    buf.put_u8(check::REFERENCE);
    buf.put_u16(words.len() as u16);
    put_atom(buf, node);
    buf.put_u32(creation);
    for word in words {
        buf.put_u32(*word);
    }
}

/// A term that is there already, byte for byte, its atoms written out.
pub fn put_view(buf: &mut BytesMut, view: View<'_>) {
    view.put(buf);
}

/// A term that is there already, byte for byte, its atoms written out.
pub fn put_raw(buf: &mut BytesMut, raw: &Raw) {
    raw.view().put(buf);
}

/// A whole term. Maps are written in Erlang's order of their keys, so equal terms give equal bytes.
pub fn put_term(buf: &mut (impl BufMut + AsMut<[u8]>), term: &Term) {
    let _ = put_term_noting(buf, term);
}

/// A container whose head is written.
struct Open<'t> {
    /// What comes next inside.
    terms: std::slice::Iter<'t, Term>,
    /// What comes after those.
    then: Then<'t>,
}

enum Then<'t> {
    Nothing,
    /// The empty list, which ends a proper one.
    Nil,
    /// A term that stands alone: the tail of a list.
    Term(&'t Term),
    /// So many pairs of a map, the last ones of the vector of all pairs.
    Pairs(usize),
    /// The value that belongs to the key before it, and then so many pairs.
    Value(&'t Term, usize),
    /// A fun's size field, which counts from itself to here.
    Size {
        at: usize,
    },
}

/// The pairs that are still to be written of all open maps, the next one last, with the [`order::hint`] of each key.
type Pairs<'t> = Vec<(u64, &'t Term, &'t Term)>;

/// Containers inside each other that are written without asking for more memory.
const DEPTH: usize = 16;

/// Writes a whole term and says what in it was no Erlang value, if anything.
pub(super) fn put_term_noting(
    buf: &mut (impl BufMut + AsMut<[u8]>),
    term: &Term,
) -> Option<&'static str> {
    let mut fault = None;
    let mut pairs = Pairs::new();
    let mut outer: Vec<Open<'_>> = Vec::with_capacity(DEPTH);
    let mut top = Open::alone(term, Then::Nothing);
    loop {
        while let Some(mut inner) = put_leaves(buf, &mut top.terms, &mut pairs, &mut fault) {
            let innermost = put_leaves(buf, &mut inner.terms, &mut pairs, &mut fault);
            match (innermost, &inner.then) {
                // Most containers hold nothing but leaves, and never go onto the stack.
                (None, Then::Nothing) => {}
                (None, Then::Nil) => put_nil(buf),
                (None, _) => top.enter(inner, &mut outer),
                (Some(innermost), _) => {
                    top.enter(inner, &mut outer);
                    top.enter(innermost, &mut outer);
                }
            }
        }
        match top.then {
            Then::Pairs(left) if left > 0 => {
                if let Some((_, key, value)) = pairs.pop() {
                    top = Open::alone(key, Then::Value(value, left - 1));
                }
                continue;
            }
            Then::Value(value, left) => {
                top = Open::alone(value, Then::Pairs(left));
                continue;
            }
            Then::Term(term) => {
                top = Open::alone(term, Then::Nothing);
                continue;
            }
            Then::Nil => put_nil(buf),
            Then::Size { at } => {
                let written = buf.as_mut();
                let size = (written.len() - at) as u32;
                written[at..at + 4].copy_from_slice(&size.to_be_bytes());
            }
            Then::Nothing | Then::Pairs(_) => {}
        }
        match outer.pop() {
            Some(open) => top = open,
            None => return fault,
        }
    }
}

impl<'t> Open<'t> {
    fn new(terms: &'t [Term], then: Then<'t>) -> Open<'t> {
        let terms = terms.iter();
        Open { terms, then }
    }

    fn alone(term: &'t Term, then: Then<'t>) -> Open<'t> {
        Open::new(std::slice::from_ref(term), then)
    }

    /// Goes on with what is inside, and comes back to itself unless that was the last of it.
    fn enter(&mut self, inner: Open<'t>, outer: &mut Vec<Open<'t>>) {
        let open = std::mem::replace(self, inner);
        if !open.terms.as_slice().is_empty() || !matches!(open.then, Then::Nothing) {
            outer.push(open);
        }
    }
}

/// Writes terms up to a container, of which it writes the head.
#[inline(always)]
fn put_leaves<'t>(
    buf: &mut (impl BufMut + AsMut<[u8]>),
    terms: &mut std::slice::Iter<'t, Term>,
    pairs: &mut Pairs<'t>,
    fault: &mut Option<&'static str>,
) -> Option<Open<'t>> {
    for term in terms {
        match put_one(buf, term, pairs) {
            Ok(None) => {}
            Ok(open) => return open,
            Err(what) => {
                put_atom(buf, "badarg");
                *fault = fault.or(Some(what));
            }
        }
    }
    None
}

/// Writes a leaf, or a container's head. On an error nothing was written.
#[inline(always)]
fn put_one<'t>(
    buf: &mut (impl BufMut + AsMut<[u8]>),
    term: &'t Term,
    pairs: &mut Pairs<'t>,
) -> Result<Option<Open<'t>>, &'static str> {
    match term {
        Term::Atom(atom) => put_atom(buf, checked(atom)?),
        Term::FixInteger(n) => put_int(buf, i64::from(n.value)),
        Term::BigInteger(n) if n.value.bits() > 8 * MAX_BIG_BYTES as u64 => {
            return Err("an integer wider than Erlang's widest");
        }
        Term::BigInteger(n) => put_bigint(buf, &n.value),
        Term::Float(float) if !float.value.is_finite() => return Err("a float that is not finite"),
        Term::Float(float) => put_f64(buf, float.value),
        Term::Pid(pid) => put_checked_pid(buf, pid)?,
        Term::Port(port) => put_port(buf, checked(&port.node)?, port.id, port.creation),
        Term::Reference(reference) => put_checked_reference(buf, reference)?,
        Term::ExternalFun(fun) => {
            let (module, function) = (checked(&fun.module)?, checked(&fun.function)?);
            buf.put_u8(check::EXPORT);
            put_atom(buf, module);
            put_atom(buf, function);
            put_int(buf, i64::from(fun.arity));
        }
        Term::InternalFun(fun) => return put_fun(buf, fun).map(Some),
        Term::Binary(binary) if u32::try_from(binary.bytes.len()).is_err() => {
            return Err("a binary of 4 GiB or more");
        }
        Term::Binary(binary) => put_binary(buf, &binary.bytes),
        Term::BitBinary(bits) => put_bits(buf, bits)?,
        Term::ByteList(list) => put_bytes(buf, &list.bytes),
        Term::List(list) => match bytes_of(&list.elements) {
            Some(bytes) => put_bytes(buf, &bytes),
            None => {
                put_list(buf, list.elements.len());
                return Ok(Some(Open::new(&list.elements, Then::Nil)));
            }
        },
        Term::ImproperList(list) if list.elements.is_empty() => {
            return Err("a list of no elements with a tail");
        }
        Term::ImproperList(list) => {
            put_list(buf, list.elements.len());
            return Ok(Some(Open::new(&list.elements, Then::Term(&list.last))));
        }
        Term::Tuple(tuple) => {
            put_tuple(buf, tuple.elements.len());
            return Ok(Some(Open::new(&tuple.elements, Then::Nothing)));
        }
        Term::Map(map) => {
            put_map(buf, map.map.len());
            let outer = pairs.len();
            let new = map.map.iter();
            pairs.extend(new.map(|(key, value)| (order::hint(key), key, value)));
            pairs[outer..].sort_unstable_by(|(hint_a, a, _), (hint_b, b, _)| {
                hint_b.cmp(hint_a).then_with(|| order::compare_keys(b, a))
            });
            return Ok(Some(Open::new(&[], Then::Pairs(map.map.len()))));
        }
    }
    Ok(None)
}

fn checked(atom: &Atom) -> Result<&str, &'static str> {
    if is_atom_name(&atom.name) {
        Ok(&atom.name)
    } else {
        Err("an atom of more than 255 characters")
    }
}

fn put_checked_pid(buf: &mut impl BufMut, pid: &Pid) -> Result<(), &'static str> {
    put_pid(buf, checked(&pid.node)?, pid.id, pid.serial, pid.creation);
    Ok(())
}

fn put_checked_reference(buf: &mut impl BufMut, reference: &Reference) -> Result<(), &'static str> {
    if !(1..=MAX_REFERENCE_WORDS).contains(&reference.id.len()) {
        return Err("a reference without words or with more than five");
    }
    let node = checked(&reference.node)?;
    put_reference(buf, node, reference.creation, &reference.id);
    Ok(())
}

fn put_bits(buf: &mut impl BufMut, bits: &BitBinary) -> Result<(), &'static str> {
    let Some((last, whole)) = bits.bytes.split_last() else {
        put_binary(buf, &[]);
        return Ok(());
    };
    let Ok(len) = u32::try_from(bits.bytes.len()) else {
        return Err("a binary of 4 GiB or more");
    };
    match bits.tail_bits_size {
        8 => put_binary(buf, &bits.bytes),
        used @ 1..=7 => {
            buf.put_u8(check::BIT_BINARY);
            buf.put_u32(len);
            buf.put_u8(used);
            buf.put_slice(whole);
            buf.put_u8(*last << (8 - used));
        }
        _ => return Err("a bitstring with a wrong number of bits"),
    }
    Ok(())
}

/// The bytes of a list that fits STRING_EXT.
fn bytes_of(elements: &[Term]) -> Option<Vec<u8>> {
    // Most lists are known by their first element not to be one.
    if elements.len() > MAX_STRING || super::byte(elements.first()?).is_none() {
        return None;
    }
    elements.iter().map(super::byte).collect()
}

fn put_fun<'t>(
    buf: &mut (impl BufMut + AsMut<[u8]>),
    fun: &'t InternalFun,
) -> Result<Open<'t>, &'static str> {
    let InternalFun::New {
        module,
        arity,
        pid,
        free_vars,
        index,
        uniq,
        old_index,
        old_uniq,
    } = fun
    else {
        return Err("a fun in the form that OTP 23 was the last to read");
    };
    let module = checked(module)?;
    checked(&pid.node)?;
    buf.put_u8(check::FUN);
    let size_at = buf.as_mut().len();
    buf.put_u32(0);
    buf.put_u8(*arity);
    buf.put_slice(uniq);
    buf.put_u32(*index);
    buf.put_u32(free_vars.len() as u32);
    put_atom(buf, module);
    put_int(buf, i64::from(*old_index));
    put_int(buf, i64::from(*old_uniq));
    put_checked_pid(buf, pid)?;
    Ok(Open::new(free_vars, Then::Size { at: size_at }))
}
