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
    Atom, BitBinary, ByteList, ExternalFun, Float, ImproperList, InternalFun, List, Map, Term,
    TermError, Tuple,
};

/// A container whose inside is being read.
struct Open {
    kind: Kind,
    items: Vec<Term>,
    left: usize,
}

enum Kind {
    Tuple,
    /// Its last item is the tail.
    List,
    /// Key, value, key, value.
    Map,
    /// A local fun; its head stands at this offset.
    Fun {
        at: usize,
    },
}

/// What stands at an offset.
enum Found {
    Leaf(Term),
    Open(Kind, usize),
    /// More elements of the list that is being read.
    More,
}

/// Decodes a checked term.
pub(super) fn decode(term: View<'_>, max_depth: usize) -> Result<Term, TermError> {
    let input = Input {
        b: term.framed(),
        atoms: term.atoms(),
    };
    let mut at = 0;
    let mut stack: Vec<Open> = Vec::new();
    loop {
        let found = match stack.last_mut() {
            Some(top) if matches!(top.kind, Kind::List) && top.left == 1 => {
                input.tail(top, &mut at)?
            }
            _ => input.one(&mut at)?,
        };
        let mut value = match found {
            Found::Leaf(term) => term,
            Found::More => continue,
            Found::Open(..) if stack.len() >= max_depth => {
                return Err(TermError::TooDeep { limit: max_depth });
            }
            Found::Open(kind, left) => {
                let items = Vec::with_capacity(left.min(input.b.len()));
                let open = Open { kind, items, left };
                if left > 0 {
                    stack.push(open);
                    continue;
                }
                close(open, input)?
            }
        };
        loop {
            let Some(top) = stack.last_mut() else {
                return Ok(value);
            };
            top.items.push(value);
            top.left -= 1;
            if top.left > 0 {
                break;
            }
            value = match stack.pop() {
                Some(full) => close(full, input)?,
                None => return Err(unchecked(at)),
            };
        }
    }
}

/// Bytes that the check let through never lead here; if they do, it is an error and not a panic.
fn unchecked(at: usize) -> TermError {
    let what = "bytes that were not checked";
    TermError::Malformed { what, at }
}

/// What is decoded, and the atoms of the frame that brought it.
#[derive(Clone, Copy)]
struct Input<'a> {
    b: &'a [u8],
    atoms: Option<&'a AtomTable>,
}

impl Input<'_> {
    /// Reads the tail of a list. It may be the next list on the wire: its elements belong to the same list.
    fn tail(self, top: &mut Open, at: &mut usize) -> Result<Found, TermError> {
        let b = self.b;
        match b.get(*at) {
            Some(&check::LIST) => {
                top.left = 1 + u32_at(b, *at + 1).ok_or(unchecked(*at))? as usize;
                *at += 5;
                Ok(Found::More)
            }
            Some(&check::STRING) => {
                let string = string_at(b, at)?;
                top.items
                    .extend(string.iter().map(|n| super::int(i64::from(*n))));
                Ok(Found::Leaf(Term::List(List::nil())))
            }
            _ => self.one(at),
        }
    }

    /// Reads a leaf or the head of a container, and moves `at` behind it.
    fn one(self, at: &mut usize) -> Result<Found, TermError> {
        let b = self.b;
        let start = *at;
        let bad = unchecked(start);
        let rest = b.get(start..).unwrap_or_default();
        let Some(&tag) = rest.first() else {
            return Err(bad);
        };
        let open = |kind, count: Option<usize>, head| match count {
            Some(count) => Ok((Found::Open(kind, count), head)),
            None => Err(unchecked(start)),
        };
        let long = || u32_at(rest, 1).map(|n| n as usize);
        let (found, len) = match tag {
            check::SMALL_TUPLE => open(Kind::Tuple, rest.get(1).map(|n| *n as usize), 2)?,
            check::LARGE_TUPLE => open(Kind::Tuple, long(), 5)?,
            check::LIST => open(Kind::List, long().map(|n| n + 1), 5)?,
            check::MAP => open(Kind::Map, long().map(|n| 2 * n), 5)?,
            check::FUN => {
                let head = check::fun_head(b, start)?;
                open(Kind::Fun { at: start }, Some(head.free), head.len)?
            }
            check::RECORD => return Err(TermError::NotRepresentable { what: "record" }),
            check::STRING => {
                let bytes = string_at(b, at)?.to_vec();
                return Ok(Found::Leaf(if bytes.is_empty() {
                    Term::List(List::nil())
                } else {
                    Term::ByteList(ByteList { bytes })
                }));
            }
            _ => {
                let len = skip(rest);
                let leaf = rest.get(..len).and_then(|leaf| self.leaf(tag, leaf));
                (Found::Leaf(leaf.ok_or(bad)?), len)
            }
        };
        *at += len;
        Ok(found)
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

fn big(sign: u8, magnitude: &[u8]) -> Term {
    let sign = if sign == 0 { Sign::Plus } else { Sign::Minus };
    super::bigint(BigInt::from_bytes_le(sign, magnitude))
}

/// The unused bits of the last byte say nothing and are cleared, so that equal bitstrings are equal terms.
fn bits(used: u8, bytes: &[u8]) -> Option<Term> {
    if let 0 | 8 = used {
        return Some(super::binary(bytes));
    }
    let mut bytes = bytes.to_vec();
    *bytes.last_mut()? &= 0xff << (8 - used);
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
        Kind::List => match items.pop() {
            Some(Term::List(nil)) if nil.is_nil() => Ok(super::list(items)),
            Some(last) => Ok(Term::ImproperList(ImproperList {
                elements: items,
                last: Box::new(last),
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
