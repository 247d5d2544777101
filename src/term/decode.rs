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
    Atom, BitBinary, ByteList, ExternalFun, FixInteger, Float, ImproperList, InternalFun, List,
    Map, Term, TermError, Tuple,
};

/// A container whose inside is being read.
struct Open {
    kind: Kind,
    items: Vec<Term>,
    left: usize,
}

enum Kind {
    /// Around the whole term.
    Outermost,
    Tuple,
    /// Its tail follows its last item.
    List,
    /// A list whose tail is a term of its own: the last item.
    Improper,
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
    let most = input.b.len();
    let mut at = 0;
    let mut stack: Vec<Open> = Vec::new();
    let mut top = Open::new(Kind::Outermost, 1, 1);
    loop {
        let opened = input.leaves(&mut top, &mut at)?;
        if let Some(inner) = opened {
            if stack.len() >= max_depth {
                return Err(TermError::TooDeep { limit: max_depth });
            }
            stack.push(std::mem::replace(&mut top, inner));
            continue;
        }
        if matches!(top.kind, Kind::List) && !input.tail(&mut top, &mut at)? {
            top.items.reserve(top.left.min(most));
            continue;
        }
        let Some(outer) = stack.pop() else {
            return top.items.pop().ok_or(unchecked(at));
        };
        let full = std::mem::replace(&mut top, outer);
        top.items.push(close(full, input)?);
        top.left -= 1;
    }
}

/// Bytes that the check let through never lead here; if they do, it is an error and not a panic.
fn unchecked(at: usize) -> TermError {
    let what = "bytes that were not checked";
    TermError::Malformed { what, at }
}

impl Input<'_> {
    /// Reads what is in a container until that is complete, or another one opens inside.
    fn leaves(self, top: &mut Open, at: &mut usize) -> Result<Option<Open>, TermError> {
        let b = self.b;
        let count = |at: usize| u32_at(b, at + 1).map(|n| n as usize).ok_or(unchecked(at));
        while top.left > 0 {
            let rest = b.get(*at..).unwrap_or_default();
            let (leaf, len) = match *rest {
                [check::SMALL_INTEGER, n, ..] => {
                    let value = i32::from(n);
                    (Term::FixInteger(FixInteger { value }), 2)
                }
                [check::INTEGER, a, b, c, d, ..] => {
                    let value = i32::from_be_bytes([a, b, c, d]);
                    (Term::FixInteger(FixInteger { value }), 5)
                }
                [check::SMALL_ATOM, len, ..] => {
                    let len = 2 + usize::from(len);
                    let name = rest.get(2..len).and_then(|name| str::from_utf8(name).ok());
                    let name = name.ok_or(unchecked(*at))?.to_owned();
                    (Term::Atom(Atom { name }), len)
                }
                [check::SMALL_BIG, len @ 0..=8, sign, ..] => {
                    let magnitude = rest.get(3..3 + usize::from(len)).ok_or(unchecked(*at))?;
                    (small_big(sign, magnitude), 3 + usize::from(len))
                }
                [check::NIL, ..] => (
                    Term::List(List {
                        elements: Vec::new(),
                    }),
                    1,
                ),
                [check::SMALL_TUPLE, arity, ..] => {
                    *at += 2;
                    return Ok(Some(Open::new(Kind::Tuple, arity.into(), b.len())));
                }
                [check::LIST, ..] => {
                    let inner = Open::new(Kind::List, count(*at)?, b.len());
                    *at += 5;
                    return Ok(Some(inner));
                }
                [check::MAP, ..] => {
                    let inner = Open::new(Kind::Map, 2 * count(*at)?, b.len());
                    *at += 5;
                    return Ok(Some(inner));
                }
                [check::LARGE_TUPLE, ..] => {
                    let inner = Open::new(Kind::Tuple, count(*at)?, b.len());
                    *at += 5;
                    return Ok(Some(inner));
                }
                [check::FUN, ..] => {
                    let head = check::fun_head(b, *at)?;
                    let inner = Open::new(Kind::Fun { at: *at }, head.free, b.len());
                    *at += head.len;
                    return Ok(Some(inner));
                }
                [check::RECORD, ..] => {
                    return Err(TermError::NotRepresentable { what: "record" });
                }
                [check::STRING, ..] => {
                    let bytes = string_at(b, at)?.to_vec();
                    let leaf = match bytes.is_empty() {
                        true => Term::List(List::nil()),
                        false => Term::ByteList(ByteList { bytes }),
                    };
                    (leaf, 0)
                }
                [tag, ..] => {
                    let len = skip(rest);
                    let leaf = rest.get(..len).and_then(|leaf| self.leaf(tag, leaf));
                    (leaf.ok_or(unchecked(*at))?, len)
                }
                [] => return Err(unchecked(*at)),
            };
            *at += len;
            top.items.push(leaf);
            top.left -= 1;
        }
        Ok(None)
    }

    /// Reads the tail of a list; `false`: there is more of it. The tail may be the next list on the wire, whose elements
    /// belong to the same list.
    fn tail(self, top: &mut Open, at: &mut usize) -> Result<bool, TermError> {
        match self.b.get(*at) {
            Some(&check::NIL) => {
                *at += 1;
                Ok(true)
            }
            Some(&check::LIST) => {
                top.left = u32_at(self.b, *at + 1).ok_or(unchecked(*at))? as usize;
                *at += 5;
                Ok(false)
            }
            Some(&check::STRING) => {
                let string = string_at(self.b, at)?;
                top.items
                    .extend(string.iter().map(|n| super::int(i64::from(*n))));
                Ok(true)
            }
            _ => {
                top.kind = Kind::Improper;
                top.left = 1;
                Ok(false)
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
        Kind::Improper => match items.pop() {
            Some(last) => Ok(Term::ImproperList(ImproperList {
                elements: items,
                last: Box::new(last),
            })),
            None => Err(unchecked(0)),
        },
        Kind::Map => map(items),
        Kind::Fun { at } => fun(input, at, items),
        Kind::Outermost => items.pop().ok_or(unchecked(0)),
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
