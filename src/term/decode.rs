//! Checked bytes to an owned [`Term`], with a stack of its own.
//!
//! The counts in checked bytes are true, so room is made for exactly what comes. A term costs about 40 bytes here
//! and as little as one byte on the wire: whoever decodes bounds the bytes.

use std::collections::HashMap;

use num_bigint::{BigInt, Sign};

use super::atoms::AtomTable;
use super::check::{self, FunHead, skip, u16_at, u32_at};
use super::view::View;
use super::{
    Atom, Binary, BitBinary, ByteList, ExternalFun, FixInteger, Float, ImproperList, InternalFun,
    List, Map, Term, TermError, Tuple,
};

/// A container whose inside is being read.
struct Open {
    kind: Kind,
    items: Vec<Term>,
    left: usize,
}

enum Kind {
    Tuple,
    /// Its tail follows its last item.
    List,
    /// A list whose tail is a term of its own: this, or the last item.
    Improper {
        last: Option<Box<Term>>,
    },
    /// Key, value, key, value.
    Map,
    /// A local fun; its head stands at this offset.
    Fun {
        at: usize,
    },
}

impl Open {
    fn new(kind: Kind, left: usize, most: usize) -> Open {
        let items = Vec::with_capacity(left.min(most));
        Open { kind, items, left }
    }

    /// Makes a term in the place where it stays. A finished one would be put together on our stack and copied, which for the
    /// 56 bytes of a term takes longer than making it.
    #[inline(always)]
    fn put(&mut self, item: impl FnOnce() -> Term) {
        self.items.extend(std::iter::once_with(item));
        self.left -= 1;
    }

    /// Puts a container whose terms are all there.
    #[inline(always)]
    fn close(&mut self, full: Open, input: Input<'_>) -> Result<(), TermError> {
        match full.kind {
            Kind::Tuple => {
                let elements = full.items;
                self.put(|| Term::Tuple(Tuple { elements }));
            }
            Kind::List
                if full
                    .items
                    .first()
                    .is_some_and(|first| super::byte(first).is_none()) =>
            {
                let elements = full.items;
                self.put(|| Term::List(List { elements }));
            }
            Kind::Improper { last: Some(last) } => {
                let elements = full.items;
                self.put(|| Term::ImproperList(ImproperList { elements, last }));
            }
            _ => {
                let full = close(full, input)?;
                self.put(|| full);
            }
        }
        Ok(())
    }
}

/// What is decoded, and the atoms of the frame that brought it.
#[derive(Clone, Copy)]
struct Input<'a> {
    b: &'a [u8],
    atoms: Option<&'a AtomTable>,
}

/// Decodes a checked term.
pub(super) fn decode(term: View<'_>, max_depth: usize) -> Result<Term, TermError> {
    let input = Input {
        b: term.framed(),
        atoms: term.atoms(),
    };
    let too_deep = TermError::TooDeep { limit: max_depth };
    let mut at = 0;
    let mut whole = Open::new(Kind::Tuple, 1, 0);
    let mut top = match input.leaves(&mut whole, &mut at)? {
        None => return whole.items.pop().ok_or(unchecked(at)),
        Some(_) if max_depth == 0 => return Err(too_deep),
        Some(open) => open,
    };
    // What is around `top`, which itself is one level more.
    let mut stack: Vec<Open> = Vec::new();
    loop {
        while let Some(mut inner) = input.leaves(&mut top, &mut at)? {
            if stack.len() + 2 > max_depth {
                return Err(too_deep);
            }
            let innermost = input.leaves(&mut inner, &mut at)?;
            // Most containers hold nothing but leaves, and never go onto the stack.
            if innermost.is_none() && input.ends(&inner, &mut at) {
                top.close(inner, input)?;
                continue;
            }
            stack.push(std::mem::replace(&mut top, inner));
            if let Some(innermost) = innermost {
                if stack.len() + 2 > max_depth {
                    return Err(too_deep);
                }
                stack.push(std::mem::replace(&mut top, innermost));
            }
        }
        if !input.ends(&top, &mut at) && !input.tail(&mut top, &mut at)? {
            continue;
        }
        let Some(outer) = stack.pop() else {
            return close(top, input);
        };
        let full = std::mem::replace(&mut top, outer);
        top.close(full, input)?;
    }
}

/// Bytes that the check let through never lead here; if they do, it is an error and not a panic.
fn unchecked(at: usize) -> TermError {
    let what = "bytes that were not checked";
    TermError::Malformed { what, at }
}

impl Input<'_> {
    /// Reads what is in a container until that is complete, or another one opens inside.
    #[inline(always)]
    fn leaves(self, top: &mut Open, at: &mut usize) -> Result<Option<Open>, TermError> {
        let b = self.b;
        let count = |at: usize| u32_at(b, at + 1).map(|n| n as usize).ok_or(unchecked(at));
        while top.left > 0 {
            let rest = b.get(*at..).unwrap_or_default();
            *at += match *rest {
                [check::SMALL_INTEGER, n, ..] => {
                    let value = i32::from(n);
                    top.put(|| Term::FixInteger(FixInteger { value }));
                    2
                }
                [check::INTEGER, a, b, c, d, ..] => {
                    let value = i32::from_be_bytes([a, b, c, d]);
                    top.put(|| Term::FixInteger(FixInteger { value }));
                    5
                }
                [check::SMALL_ATOM, len, ..] => {
                    let len = 2 + usize::from(len);
                    let name = rest.get(2..len).and_then(|name| str::from_utf8(name).ok());
                    let name = name.ok_or(unchecked(*at))?.to_owned();
                    top.put(|| Term::Atom(Atom { name }));
                    len
                }
                [check::SMALL_BIG, len @ 0..=8, sign, ..] => {
                    let magnitude = rest.get(3..3 + usize::from(len)).ok_or(unchecked(*at))?;
                    top.put(|| small_big(sign, magnitude));
                    3 + usize::from(len)
                }
                [check::BINARY, a, b, c, d, ..] => {
                    let len = 5 + u32::from_be_bytes([a, b, c, d]) as usize;
                    let bytes = rest.get(5..len).ok_or(unchecked(*at))?.to_vec();
                    top.put(|| Term::Binary(Binary { bytes }));
                    len
                }
                [check::FLOAT, a, b, c, d, e, f, g, h, ..] => {
                    let value = f64::from_be_bytes([a, b, c, d, e, f, g, h]);
                    top.put(|| Term::Float(Float { value }));
                    9
                }
                [check::NIL, ..] => {
                    let elements = Vec::new();
                    top.put(|| Term::List(List { elements }));
                    1
                }
                [check::SMALL_TUPLE, arity, ..] => {
                    *at += 2;
                    return Ok(Some(Open::new(Kind::Tuple, arity.into(), b.len())));
                }
                [check::LIST, ..] => {
                    let count = count(*at)?;
                    *at += 5;
                    return Ok(Some(Open::new(Kind::List, count, b.len())));
                }
                [check::MAP, ..] => {
                    let count = 2 * count(*at)?;
                    *at += 5;
                    return Ok(Some(Open::new(Kind::Map, count, b.len())));
                }
                [check::LARGE_TUPLE, ..] => {
                    let count = count(*at)?;
                    *at += 5;
                    return Ok(Some(Open::new(Kind::Tuple, count, b.len())));
                }
                [check::FUN, ..] => {
                    let head = check::fun_head(b, *at)?;
                    let kind = Kind::Fun { at: *at };
                    *at += head.len;
                    return Ok(Some(Open::new(kind, head.free, b.len())));
                }
                [check::RECORD, ..] => {
                    return Err(TermError::NotRepresentable { what: "record" });
                }
                [check::STRING, ..] => {
                    let bytes = string_at(b, at)?.to_vec();
                    top.put(|| match bytes.is_empty() {
                        true => Term::List(List::nil()),
                        false => Term::ByteList(ByteList { bytes }),
                    });
                    0
                }
                [check::PID, ..] => {
                    let view = View::over(rest, self.atoms);
                    let pid = view.pid().ok_or(unchecked(*at))?;
                    top.put(|| Term::Pid(pid));
                    skip(rest)
                }
                [check::REFERENCE, ..] => {
                    let view = View::over(rest, self.atoms);
                    let reference = view.reference().ok_or(unchecked(*at))?;
                    top.put(|| Term::Reference(Box::new(reference)));
                    skip(rest)
                }
                [tag, ..] => {
                    let len = skip(rest);
                    let leaf = rest.get(..len).and_then(|leaf| self.leaf(tag, leaf));
                    let leaf = leaf.ok_or(unchecked(*at))?;
                    top.put(|| leaf);
                    len
                }
                [] => return Err(unchecked(*at)),
            };
        }
        Ok(None)
    }

    /// Whether a container whose items are all there is complete: a list still has its tail, which is mostly the
    /// empty list.
    #[inline]
    fn ends(self, full: &Open, at: &mut usize) -> bool {
        if !matches!(full.kind, Kind::List) {
            return true;
        }
        let nil = self.b.get(*at) == Some(&check::NIL);
        *at += usize::from(nil);
        nil
    }

    /// Reads the tail of a list that is not the empty list; `false`: there is more of it. The tail may be the next list
    /// on the wire, whose elements belong to the same list.
    fn tail(self, top: &mut Open, at: &mut usize) -> Result<bool, TermError> {
        let rest = self.b.get(*at..).unwrap_or_default();
        match *rest.first().ok_or(unchecked(*at))? {
            check::LIST => {
                top.left = u32_at(rest, 1).ok_or(unchecked(*at))? as usize;
                top.items.reserve(top.left.min(rest.len()));
                *at += 5;
                Ok(false)
            }
            check::STRING => {
                let string = string_at(self.b, at)?;
                let items = string.iter().map(|n| super::int(i64::from(*n)));
                top.items.extend(items);
                Ok(true)
            }
            check::SMALL_TUPLE | check::LARGE_TUPLE | check::MAP | check::FUN | check::RECORD => {
                top.kind = Kind::Improper { last: None };
                top.left = 1;
                Ok(false)
            }
            tag => {
                let len = skip(rest);
                let last = rest.get(..len).and_then(|last| self.leaf(tag, last));
                let last = Some(Box::new(last.ok_or(unchecked(*at))?));
                top.kind = Kind::Improper { last };
                *at += len;
                Ok(true)
            }
        }
    }

    fn leaf(self, tag: u8, leaf: &[u8]) -> Option<Term> {
        let view = View::over(leaf, self.atoms);
        Some(match tag {
            check::SMALL_INTEGER | check::INTEGER => super::int(view.as_i64()?),
            check::SMALL_BIG => big(*leaf.get(2)?, leaf.get(3..)?),
            check::LARGE_BIG => big(*leaf.get(5)?, leaf.get(6..)?),
            check::FLOAT | check::FLOAT_TEXT => Term::Float(Float {
                value: view.as_f64()?,
            }),
            check::NIL => Term::List(List::nil()),
            check::BINARY => super::binary(leaf.get(5..)?),
            check::BIT_BINARY => bits(*leaf.get(5)?, leaf.get(6..)?)?,
            check::PID | check::PID_OLD => Term::Pid(view.pid()?),
            check::REFERENCE | check::REFERENCE_OLD | check::REFERENCE_OLDEST => {
                Term::from(view.reference()?)
            }
            check::PORT | check::PORT_64 | check::PORT_OLD => Term::Port(view.port()?),
            check::EXPORT => {
                let (module, rest) = leaf.get(1..)?.split_at_checked(skip(leaf.get(1..)?))?;
                let (function, arity) = rest.split_at_checked(skip(rest))?;
                Term::from(ExternalFun {
                    module: self.atom(module)?,
                    function: self.atom(function)?,
                    arity: *arity.get(1)?,
                })
            }
            _ => Term::Atom(self.atom(leaf)?),
        })
    }

    fn atom(self, bytes: &[u8]) -> Option<Atom> {
        let name = View::over(bytes, self.atoms).atom_name()?;
        Some(Atom::from(name.into_owned()))
    }
}

/// The bytes of the STRING_EXT at `at`, which is moved behind it.
fn string_at<'b>(b: &'b [u8], at: &mut usize) -> Result<&'b [u8], TermError> {
    let len = u16_at(b, *at + 1).ok_or(unchecked(*at))? as usize;
    let string = b.get(*at + 3..*at + 3 + len).ok_or(unchecked(*at))?;
    *at += 3 + len;
    Ok(string)
}

/// An integer of at most 8 bytes, which needs no arithmetic of any length.
fn small_big(sign: u8, magnitude: &[u8]) -> Term {
    let mut wide = [0; 8];
    wide[..magnitude.len()].copy_from_slice(magnitude);
    let value = i128::from(u64::from_le_bytes(wide));
    let value = if sign == 0 { value } else { -value };
    match i64::try_from(value) {
        Ok(value) => super::int(value),
        Err(_) => super::bigint(value.into()),
    }
}

fn big(sign: u8, magnitude: &[u8]) -> Term {
    let sign = if sign == 0 { Sign::Plus } else { Sign::Minus };
    super::bigint(BigInt::from_bytes_le(sign, magnitude))
}

/// The wire has the bits of the last byte highest first, `eetf` lowest first. The unused ones say nothing and are gone with
/// that, so that equal bitstrings are equal terms.
fn bits(used: u8, bytes: &[u8]) -> Option<Term> {
    if let 0 | 8 = used {
        return Some(super::binary(bytes));
    }
    let mut bytes = bytes.to_vec();
    *bytes.last_mut()? >>= 8 - used;
    Some(Term::BitBinary(BitBinary {
        bytes,
        tail_bits_size: used,
    }))
}

/// All terms inside are there: makes the container.
fn close(full: Open, input: Input<'_>) -> Result<Term, TermError> {
    let Open {
        kind, mut items, ..
    } = full;
    match kind {
        Kind::Tuple => Ok(Term::Tuple(Tuple { elements: items })),
        Kind::List => Ok(super::list(items)),
        Kind::Improper { last } => match last.or_else(|| items.pop().map(Box::new)) {
            Some(last) => Ok(Term::ImproperList(ImproperList {
                elements: items,
                last,
            })),
            None => Err(unchecked(0)),
        },
        Kind::Map => map(items),
        Kind::Fun { at } => fun(input, at, items),
    }
}

/// `Term` keeps maps in a hash map, where `0.0` and `-0.0` are one key, and where a map inside a key has a hash
/// that changes from one moment to the next. Such maps are refused rather than changed.
fn map(items: Vec<Term>) -> Result<Term, TermError> {
    let mut map = HashMap::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        if holds_map(&key) {
            let what = "map with a map inside a key";
            return Err(TermError::NotRepresentable { what });
        }
        if map.insert(key, value).is_some() {
            let what = "map with keys that are equal as numbers, or twice the same key";
            return Err(TermError::NotRepresentable { what });
        }
    }
    Ok(Term::Map(Map { map }))
}

/// Whether a map that is not empty is part of a term. Recurses no deeper than the hash of the same key does a moment later.
pub(super) fn holds_map(term: &Term) -> bool {
    match term {
        Term::Map(map) => !map.map.is_empty(),
        Term::Tuple(tuple) => tuple.elements.iter().any(holds_map),
        Term::List(list) => list.elements.iter().any(holds_map),
        Term::ImproperList(list) => list.elements.iter().any(holds_map) || holds_map(&list.last),
        Term::InternalFun(fun) => match &**fun {
            InternalFun::New { free_vars, .. } | InternalFun::Old { free_vars, .. } => {
                free_vars.iter().any(holds_map)
            }
        },
        _ => false,
    }
}

fn fun(input: Input<'_>, at: usize, free_vars: Vec<Term>) -> Result<Term, TermError> {
    let head = check::fun_head(input.b, at)?;
    fun_of(input, at, &head, free_vars).ok_or(unchecked(at))
}

fn fun_of(input: Input<'_>, at: usize, head: &FunHead, free_vars: Vec<Term>) -> Option<Term> {
    let b = input.b;
    let part = |at: usize| {
        let rest = b.get(at..)?;
        Some(View::over(rest.get(..skip(rest))?, input.atoms))
    };
    Some(Term::from(InternalFun::New {
        module: Atom::from(part(head.module)?.atom_name()?.into_owned()),
        arity: *b.get(at + 5)?,
        pid: part(head.pid)?.pid()?,
        free_vars,
        index: u32_at(b, at + 22)?,
        uniq: b.get(at + 6..at + 22)?.try_into().ok()?,
        old_index: i32::try_from(part(head.old_index)?.as_i64()?).ok()?,
        old_uniq: i32::try_from(part(head.old_uniq)?.as_i64()?).ok()?,
    }))
}
