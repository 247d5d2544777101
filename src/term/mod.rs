//! Erlang terms: bytes, values and text.
//!
//! * [`Raw`] is a checked term as bytes; [`View`] reads it in place. What comes from a peer stays one of these
//!   for as long as it is only looked at or passed on.
//! * [`Term`] is the owned value, of the `eetf` crate. Its own coding and printing are not used: they abort on
//!   hostile bytes and change some values. Everything here keeps one form per value: a non-empty list of integers
//!   0..=255 is a `ByteList`, every other list a `List`, an integer that fits 32 bits a `FixInteger`, and the
//!   bits of the last byte of a `BitBinary` are its lowest. Make terms with the functions below and they compare as
//!   Erlang would.
//! * [`mod@write`] puts terms straight into a buffer; [`mod@text`] reads and prints Erlang's syntax; [`json`] is
//!   the one mapping to JSON.
//!
//! Nothing in this module does IO, and no input can make it panic, recurse or allocate out of proportion.

use std::borrow::Cow;

pub use eetf::{
    Atom, BigInteger, Binary, BitBinary, ByteList, ExternalFun, FixInteger, Float, ImproperList,
    InternalFun, List, Map, Pid, Port, Reference, Term, Tuple,
};
use num_bigint::BigInt;

pub(crate) use atoms::{AtomTable, Met, walk};
use decode::holds_map;

pub use codec::{Limits, MAX_DECODE_DEPTH, Raw, VERSION};
pub use json::to_json;
pub use order::compare_keys;
pub use text::{
    ParseError, Printed, float_text, is_plain_atom, parse, print, print_short, print_wrapped,
};
pub use view::{Items, ListItems, Pairs, PidView, ReferenceView, View};
pub use write::is_atom_name;

mod atoms;
mod check;
mod codec;
mod decode;
pub mod json;
mod order;
pub mod text;
mod view;
pub mod write;

#[cfg(test)]
mod tests;

/// Why bytes are no term, or a term is no bytes. Offsets count from the first byte looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TermError {
    /// The bytes end, or a count promises more terms than there are bytes. The sender is at fault, or the
    /// transport lost something.
    #[error("the term at offset {at} is cut off")]
    Truncated {
        /// Where the term that is not complete starts.
        at: usize,
    },
    /// A tag that may not stand in a term.
    #[error("tag {tag} at offset {at} is none that may stand in a term")]
    Tag {
        /// The tag.
        tag: u8,
        /// Where it stands.
        at: usize,
    },
    /// A tag that is known, with contents Erlang has no value for.
    #[error("{what} at offset {at}")]
    Malformed {
        /// What is wrong.
        what: &'static str,
        /// Where the term stands.
        at: usize,
    },
    /// More containers inside each other than the limit.
    #[error("a term nested more than {limit} deep")]
    TooDeep {
        /// The limit that was reached.
        limit: usize,
    },
    /// Bytes follow the term.
    #[error("{extra} bytes follow the term")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The first byte is not 131.
    #[error("no external term: it must start with 131, not with {found:?}")]
    Version {
        /// The first byte, when there is one.
        found: Option<u8>,
    },
    /// A term that unfolds to more than the limit: a compressed one, or one whose atoms stand in the header.
    #[error("a term that unfolds to more than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// A good term that [`Term`] cannot hold as it is. It can still be passed on as [`Raw`].
    #[error("a {what} cannot be taken apart here; it can only be passed on")]
    NotRepresentable {
        /// What it is.
        what: &'static str,
    },
    /// A value that somebody made and Erlang does not have. The maker is at fault.
    #[error("{what} is no Erlang value")]
    NotErlang {
        /// What it is.
        what: &'static str,
    },
}

/// An atom. Names over 255 characters are no atoms: see [`is_atom_name`].
pub fn atom(name: impl Into<String>) -> Term {
    Term::Atom(Atom { name: name.into() })
}

/// An integer.
pub fn int(value: i64) -> Term {
    match i32::try_from(value) {
        Ok(value) => Term::FixInteger(FixInteger { value }),
        Err(_) => Term::BigInteger(BigInteger::from(value)),
    }
}

/// An integer of any size.
pub fn bigint(value: BigInt) -> Term {
    match i32::try_from(&value) {
        Ok(value) => Term::FixInteger(FixInteger { value }),
        Err(_) => Term::BigInteger(BigInteger { value }),
    }
}

/// A float, which must be finite to be a term of Erlang's.
pub fn float(value: f64) -> Term {
    Term::Float(Float { value })
}

/// A binary.
pub fn binary(bytes: impl Into<Vec<u8>>) -> Term {
    Term::Binary(Binary {
        bytes: bytes.into(),
    })
}

/// A string as Erlang writes it, `"..."`: the list of its code points.
pub fn string(text: &str) -> Term {
    list(
        text.chars()
            .map(|c| int(i64::from(u32::from(c))))
            .collect::<Vec<_>>(),
    )
}

/// A tuple.
pub fn tuple(elements: impl Into<Vec<Term>>) -> Term {
    Term::Tuple(Tuple {
        elements: elements.into(),
    })
}

/// A proper list.
pub fn list(elements: impl Into<Vec<Term>>) -> Term {
    let elements = elements.into();
    let bytes: Option<Vec<u8>> = elements.iter().map(byte).collect();
    match bytes {
        Some(bytes) if !bytes.is_empty() => Term::ByteList(ByteList { bytes }),
        _ => Term::List(List { elements }),
    }
}

/// The empty list.
pub fn nil() -> Term {
    Term::List(List::nil())
}

/// A list that ends in something else than the empty list; without elements it is that tail.
pub fn improper(elements: impl Into<Vec<Term>>, last: Term) -> Term {
    let mut elements = elements.into();
    match last {
        last if elements.is_empty() => last,
        Term::List(_) | Term::ByteList(_) => {
            elements.extend(elements_of(&last).into_iter().flat_map(Cow::into_owned));
            list(elements)
        }
        Term::ImproperList(rest) => {
            elements.extend(rest.elements);
            improper(elements, *rest.last)
        }
        last => Term::ImproperList(ImproperList {
            elements,
            last: Box::new(last),
        }),
    }
}

/// A map; of a key given twice the last value counts.
pub fn map(pairs: impl IntoIterator<Item = (Term, Term)>) -> Term {
    Term::Map(Map {
        map: pairs.into_iter().collect(),
    })
}

/// `fun Module:Function/Arity`.
pub fn export(module: &str, function: &str, arity: u8) -> Term {
    Term::from(ExternalFun::from((module, function, arity)))
}

/// `true` or `false`.
pub fn boolean(value: bool) -> Term {
    atom(if value { "true" } else { "false" })
}

/// The name of an atom.
pub fn atom_name(term: &Term) -> Option<&str> {
    match term {
        Term::Atom(atom) => Some(&atom.name),
        _ => None,
    }
}

/// An integer that fits 64 bits.
pub fn as_i64(term: &Term) -> Option<i64> {
    match term {
        Term::FixInteger(n) => Some(i64::from(n.value)),
        Term::BigInteger(n) => i64::try_from(&n.value).ok(),
        _ => None,
    }
}

/// The elements of a proper list, whichever way it is kept.
pub fn elements_of(term: &Term) -> Option<Cow<'_, [Term]>> {
    match term {
        Term::List(list) => Some(Cow::Borrowed(&list.elements)),
        Term::ByteList(list) => Some(list.bytes.iter().map(|n| int(i64::from(*n))).collect()),
        _ => None,
    }
}

/// Text that is a binary (UTF-8), a string or a list of code points. Atoms are not text: see [`name()`].
pub fn text(term: &Term) -> Option<String> {
    match term {
        Term::Binary(binary) => std::str::from_utf8(&binary.bytes).ok().map(str::to_owned),
        Term::ByteList(list) => Some(list.bytes.iter().copied().map(char::from).collect()),
        Term::List(list) => list
            .elements
            .iter()
            .map(|c| char::from_u32(u32::try_from(as_i64(c)?).ok()?))
            .collect(),
        _ => None,
    }
}

/// An atom's name, or [`text()`].
pub fn name(term: &Term) -> Option<String> {
    match term {
        Term::Atom(atom) => Some(atom.name.clone()),
        _ => text(term),
    }
}

/// An element of a list of bytes.
fn byte(term: &Term) -> Option<u8> {
    match term {
        Term::FixInteger(n) => u8::try_from(n.value).ok(),
        Term::BigInteger(n) => u8::try_from(&n.value).ok(),
        _ => None,
    }
}
