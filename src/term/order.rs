//! Erlang's order of terms, for what must come out the same every time: the keys of a written or printed map.
//!
//! number < atom < reference < fun < port < pid < tuple < map < list < bitstring. Between the keys of a map an
//! integer comes before every float, and 0.0 after -0.0, so that no two different keys are equal.

use std::borrow::Cow;
use std::cmp::Ordering;

use eetf::{FixInteger, InternalFun, List, Map, Term};
use num_bigint::BigInt;

/// Compares two terms the way the keys of a map are ordered.
///
/// Recurses into the terms, no deeper than comparing them with `==` does.
pub fn compare_keys(a: &Term, b: &Term) -> Ordering {
    let by_rank = rank(a).cmp(&rank(b));
    if by_rank != Ordering::Equal {
        return by_rank;
    }
    match (a, b) {
        (Term::FixInteger(a), Term::FixInteger(b)) => a.value.cmp(&b.value),
        (Term::Float(a), Term::Float(b)) => a.value.total_cmp(&b.value),
        (Term::Atom(a), Term::Atom(b)) => a.name.cmp(&b.name),
        (Term::Reference(a), Term::Reference(b)) => {
            (&a.node.name, a.creation, &a.id).cmp(&(&b.node.name, b.creation, &b.id))
        }
        (Term::Port(a), Term::Port(b)) => {
            (&a.node.name, a.creation, a.id).cmp(&(&b.node.name, b.creation, b.id))
        }
        (Term::Pid(a), Term::Pid(b)) => (a.serial, a.id, &a.node.name, a.creation).cmp(&(
            b.serial,
            b.id,
            &b.node.name,
            b.creation,
        )),
        (Term::Tuple(a), Term::Tuple(b)) => (a.elements.len().cmp(&b.elements.len()))
            .then_with(|| compare_all(a.elements.iter(), b.elements.iter())),
        (Term::Map(a), Term::Map(b)) => compare_maps(a, b),
        (Term::ExternalFun(a), Term::ExternalFun(b)) => (&a.module.name, &a.function.name, a.arity)
            .cmp(&(&b.module.name, &b.function.name, b.arity)),
        _ => match (integer(a), integer(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => match (bits(a), bits(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                _ if is_nil(a) || is_nil(b) => is_nil(b).cmp(&is_nil(a)),
                _ if rank(a) == LIST => compare_lists(a, b),
                _ => compare_funs(a, b),
            },
        },
    }
}

/// A number that orders keys as [`compare_keys`] does as far as it tells them apart: cheaper than looking at both terms
/// again for each comparison.
pub(super) fn hint(term: &Term) -> u64 {
    let beginning = |bytes: &[u8]| {
        if let Some(word) = bytes.first_chunk() {
            return u64::from_be_bytes(*word) >> 8;
        }
        let shift = 8 * (7 - bytes.len());
        let word = bytes
            .iter()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        word << shift
    };
    let rest = match term {
        Term::Atom(atom) => beginning(atom.name.as_bytes()),
        Term::Binary(_) | Term::BitBinary(_) => {
            bits(term).map_or(0, |(bytes, _)| beginning(&bytes))
        }
        _ => 0,
    };
    u64::from(rank(term)) << 56 | rest
}

const LIST: u8 = 9;

fn rank(term: &Term) -> u8 {
    match term {
        Term::FixInteger(_) | Term::BigInteger(_) => 0,
        Term::Float(_) => 1,
        Term::Atom(_) => 2,
        Term::Reference(_) => 3,
        Term::ExternalFun(_) | Term::InternalFun(_) => 4,
        Term::Port(_) => 5,
        Term::Pid(_) => 6,
        Term::Tuple(_) => 7,
        Term::Map(_) => 8,
        Term::List(_) | Term::ByteList(_) | Term::ImproperList(_) => LIST,
        Term::Binary(_) | Term::BitBinary(_) => 10,
    }
}

fn integer(term: &Term) -> Option<BigInt> {
    match term {
        Term::FixInteger(n) => Some(BigInt::from(n.value)),
        Term::BigInteger(n) => Some(n.value.clone()),
        _ => None,
    }
}

/// The bytes of a bitstring as on the wire, the bits of the last one highest first, then how many of those are used: a
/// prefix comes before what it begins.
fn bits(term: &Term) -> Option<(Cow<'_, [u8]>, u8)> {
    match term {
        Term::Binary(binary) => Some((Cow::Borrowed(&binary.bytes), 8)),
        Term::BitBinary(bits) => {
            let mut bytes = bits.bytes.clone();
            if let (1..8, Some(last)) = (bits.tail_bits_size, bytes.last_mut()) {
                *last <<= 8 - bits.tail_bits_size;
            }
            Some((Cow::Owned(bytes), bits.tail_bits_size))
        }
        _ => None,
    }
}

fn compare_all<'t>(
    a: impl Iterator<Item = &'t Term>,
    b: impl Iterator<Item = &'t Term>,
) -> Ordering {
    a.zip(b)
        .map(|(a, b)| compare_keys(a, b))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn compare_maps(a: &Map, b: &Map) -> Ordering {
    fn sorted(map: &Map) -> Vec<(&Term, &Term)> {
        let mut pairs: Vec<_> = map.map.iter().collect();
        pairs.sort_by(|(a, _), (b, _)| compare_keys(a, b));
        pairs
    }
    (a.map.len().cmp(&b.map.len())).then_with(|| {
        let (a, b) = (sorted(a), sorted(b));
        compare_all(a.iter().map(|p| p.0), b.iter().map(|p| p.0))
            .then_with(|| compare_all(a.iter().map(|p| p.1), b.iter().map(|p| p.1)))
    })
}

/// Local funs come before those that name a function.
fn compare_funs(a: &Term, b: &Term) -> Ordering {
    match (a, b) {
        (Term::InternalFun(a), Term::InternalFun(b)) => {
            let ((a, a_free), (b, b_free)) = (fun(a), fun(b));
            a.cmp(&b)
                .then_with(|| a_free.len().cmp(&b_free.len()))
                .then_with(|| compare_all(a_free.iter(), b_free.iter()))
        }
        _ => matches!(a, Term::ExternalFun(_)).cmp(&matches!(b, Term::ExternalFun(_))),
    }
}

/// What tells two local funs apart: first what Erlang compares, then the rest; and their free variables.
fn fun(fun: &InternalFun) -> (impl Ord, &[Term]) {
    match fun {
        InternalFun::New {
            module,
            arity,
            pid,
            free_vars,
            index,
            uniq,
            old_index,
            old_uniq,
        } => {
            let pid = (&pid.node.name, pid.id, pid.serial, pid.creation);
            let numbers = (*old_index, *old_uniq, *index, uniq.as_slice(), *arity);
            ((&module.name, numbers, pid), free_vars)
        }
        InternalFun::Old {
            module,
            pid,
            free_vars,
            index,
            uniq,
        } => {
            let pid = (&pid.node.name, pid.id, pid.serial, pid.creation);
            let numbers = (*index, *uniq, 0, &[][..], 0);
            ((&module.name, numbers, pid), free_vars)
        }
    }
}

fn compare_lists(a: &Term, b: &Term) -> Ordering {
    let ((a, a_tail), (b, b_tail)) = (cells(a), cells(b));
    compare_all(a.iter(), b.iter()).then_with(|| match a.len().cmp(&b.len()) {
        Ordering::Equal => compare_keys(&a_tail, &b_tail),
        // What is left of the longer one is a list that is not empty.
        Ordering::Less if is_nil(&a_tail) => Ordering::Less,
        Ordering::Less => rank(&a_tail).cmp(&LIST),
        Ordering::Greater if is_nil(&b_tail) => Ordering::Greater,
        Ordering::Greater => LIST.cmp(&rank(&b_tail)),
    })
}

/// Elements and tail of any list.
fn cells(term: &Term) -> (Cow<'_, [Term]>, Cow<'_, Term>) {
    let nil = Cow::Owned(Term::List(List::nil()));
    match term {
        Term::List(list) => (Cow::Borrowed(&list.elements), nil),
        Term::ImproperList(list) => (Cow::Borrowed(&list.elements), Cow::Borrowed(&list.last)),
        Term::ByteList(list) => {
            let elements = list.bytes.iter();
            let elements = elements.map(|n| Term::FixInteger(FixInteger::from(*n)));
            (elements.collect(), nil)
        }
        _ => (Cow::Borrowed(&[]), Cow::Borrowed(term)),
    }
}

fn is_nil(term: &Term) -> bool {
    match term {
        Term::List(list) => list.elements.is_empty(),
        Term::ByteList(list) => list.bytes.is_empty(),
        _ => false,
    }
}
