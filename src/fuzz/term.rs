//! Terms from a wire: the check, the views, decoding and encoding must agree with each other.

use super::made::Made;
use crate::term::{
    AtomTable, Limits, Raw, Term, TermError, View, atom, binary, compare_keys, elements_of, float,
    improper, int, list, map, print_short, to_json, tuple, write,
};
use bytes::{Bytes, BytesMut};
use std::{cmp::Ordering, sync::Arc};

const LIMITS: Limits = Limits {
    max_depth: 10_000,
    max_decode_depth: 256,
    // Small, so that the fuzzer can get beyond it.
    max_inflated: 1 << 16,
    max_written_out: 1 << 16,
};

/// Bytes from a wire: bare, as `term_to_binary` writes them, and with atoms in the header of a frame; and a term made of
/// them.
pub fn term(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(raw) = Raw::from_versioned(&bytes, &LIMITS) {
        assert!(raw.len() <= LIMITS.max_inflated.max(input.len()));
        holds(&raw);
    }
    let whole = Raw::check(bytes.clone(), &LIMITS);
    match Raw::check_prefix(&bytes, &LIMITS) {
        Ok((raw, used)) => {
            assert_eq!(raw.len(), used);
            assert_eq!(whole.is_ok(), used == input.len());
            assert_eq!(Raw::check(raw.to_bytes(), &LIMITS), Ok(raw.clone()));
            holds(&raw);
        }
        Err(why) => assert_eq!(whole, Err(why)),
    }
    framed(&bytes);
    written(&Made::of(input).term());
}

/// A term whose atoms are entries of a header is the one with those atoms written out.
fn framed(bytes: &Bytes) {
    let long = "Ω".repeat(255);
    let atoms = ["", "a", "some_atom", "é", &long].map(Arc::from);
    let atoms = Arc::new(AtomTable::new(atoms.to_vec()));
    let Ok((raw, used)) = Raw::check_framed(bytes, &LIMITS, &atoms) else {
        return;
    };
    assert_eq!(raw.len(), used);
    let plain = raw.to_bytes();
    assert!(plain.len() <= LIMITS.max_written_out.max(bytes.len()));
    let plain = Raw::check(plain, &LIMITS);
    assert_eq!(plain.as_ref(), Ok(&raw));
    assert_eq!(plain.map(|plain| plain.decode()), Ok(raw.decode()));
    assert_eq!(raw.compact(), raw);
    holds(&raw);
}

/// A term of our own has bytes, which are the same term.
fn written(term: &Term) {
    let raw = Raw::try_encode(term);
    assert!(raw.is_ok(), "{term:?}: {raw:?}");
    let raw = Raw::encode(term);
    assert_eq!(raw.decode().as_ref(), Ok(term));
    holds(&raw);
}

/// What is true of every term that passed the check.
fn holds(raw: &Raw) {
    let bytes = raw.to_bytes();
    let cut = Raw::check(bytes.slice(..bytes.len() - 1), &LIMITS);
    assert!(
        cut.is_err(),
        "{bytes:?} is a term also without its last byte"
    );
    let shallow = Limits {
        max_depth: 16,
        ..LIMITS
    };
    match Raw::check(bytes.clone(), &shallow) {
        Ok(_) => {}
        Err(why) => assert_eq!(why, TermError::TooDeep { limit: 16 }),
    }
    skipped(raw);
    read(raw.view());
    assert!(!format!("{raw:?}").is_empty());
    match raw.decode() {
        Ok(term) => decoded(raw, &term),
        Err(TermError::NotRepresentable { .. } | TermError::TooDeep { .. }) => {}
        Err(why) => assert_eq!(format!("{why}"), "", "{bytes:?}"),
    }
}

/// A reader that skips the term ends where the check did.
fn skipped(raw: &Raw) {
    let mut pair = BytesMut::new();
    write::put_tuple(&mut pair, 2);
    write::put_raw(&mut pair, raw);
    write::put_nil(&mut pair);
    let pair = Raw::own(pair);
    let [first, last] = pair.view().tuple_n::<2>().unwrap_or([pair.view(); 2]);
    assert_eq!(first, raw.view());
    assert!(last.is_nil());
}

/// Calls every reader; and whatever claims to be of a kind is of no other.
fn read(view: View<'_>) {
    let kinds = [
        view.atom_name().is_some(),
        view.is_integer(),
        view.as_f64().is_some(),
        view.as_binary().is_some(),
        view.tuple().is_some(),
        view.list().is_some(),
        view.improper().is_some(),
        view.map().is_some(),
        view.is_pid(),
        view.is_reference(),
        view.is_port(),
        view.is_fun(),
    ];
    let kinds = kinds.iter().filter(|is| **is).count();
    assert!(kinds <= 1, "{view:?}");
    // The tags that have no reader of their own: bitstrings, records.
    assert!(kinds == 1 || matches!(view.to_bytes().first(), Some(77 | 67)));

    assert_eq!(view.is_pid(), view.pid().is_some());
    assert_eq!(view.is_reference(), view.reference().is_some());
    assert_eq!(view.is_port(), view.port().is_some());
    assert!(view.as_i64().is_none() || view.is_integer());
    assert!(!view.is_nil() || view.list().is_some_and(|items| items.len() == 0));
    if let Some(name) = view.atom_name() {
        assert!(view.is_atom(&name) && write::is_atom_name(&name));
    }
    let of_a_node = view.is_pid() || view.is_reference() || view.is_port();
    assert_eq!(of_a_node, view.node().is_some());
    let _ = (view.as_usize(), view.cons(), view.name(), view.lookup("a"));
    let _ = (view.tuple_n::<2>(), view.tagged::<2>("a"));

    let items = view.tuple().map(|items| (items.len(), items.count()));
    assert!(items.is_none_or(|(said, found)| said == found));
    let items = view.list().map(|items| (items.len(), items.count()));
    assert!(items.is_none_or(|(said, found)| said == found));
    let items = view.map().map(|pairs| (pairs.len(), pairs.count()));
    assert!(items.is_none_or(|(said, found)| said == found));
    let items = view
        .improper()
        .map(|(items, _)| (items.len(), items.count()));
    assert!(items.is_none_or(|(said, found)| said == found && said > 0));
}

/// A term that could be decoded: no deeper than functions may recurse.
fn decoded(raw: &Raw, term: &Term) {
    let encoded = Raw::encode(term);
    assert_eq!(Raw::try_encode(term).as_ref(), Ok(&encoded));
    let again = encoded.decode();
    assert_eq!(again.as_ref(), Ok(term));
    // Floats of two signs compare as equal: the bytes tell them apart.
    assert_eq!(again.map(|again| Raw::encode(&again)), Ok(encoded));

    let viewed = through_views(raw.view());
    assert_eq!(&viewed, term);
    assert_eq!(compare_keys(&viewed, term), Ordering::Equal);
    assert_eq!(raw.view().iodata(1 << 20), iodata(term));
    assert!(print_short(term, 50).chars().count() <= 53);
    let _ = to_json(term);
}

/// The term as views show it.
fn through_views(view: View<'_>) -> Term {
    if let Some(items) = view.tuple() {
        return tuple(items.map(through_views).collect::<Vec<_>>());
    }
    if let Some(items) = view.list() {
        return list(items.map(through_views).collect::<Vec<_>>());
    }
    if let Some((items, tail)) = view.improper() {
        let front = items.map(through_views).collect::<Vec<_>>();
        return improper(front, through_views(tail));
    }
    if let Some(pairs) = view.map() {
        return map(pairs.map(|(k, v)| (through_views(k), through_views(v))));
    }
    if let Some(name) = view.atom_name() {
        return atom(name);
    }
    if let Some(n) = view.as_i64() {
        return int(n);
    }
    if let Some(f) = view.as_f64() {
        return float(f);
    }
    if let Some(bytes) = view.as_binary() {
        return binary(bytes);
    }
    if let Some(pid) = view.pid() {
        return Term::from(pid);
    }
    if let Some(reference) = view.reference() {
        return Term::from(reference);
    }
    if let Some(port) = view.port() {
        return Term::from(port);
    }
    // Wide integers, bitstrings, funs: they are the same by themselves, too.
    let alone = Raw::check(Bytes::copy_from_slice(&view.to_bytes()), &LIMITS);
    alone.and_then(|raw| raw.decode()).unwrap_or(atom("badarg"))
}

/// The bytes of an `iodata()`, found the plain way.
fn iodata(term: &Term) -> Option<Vec<u8>> {
    if let Term::Binary(binary) = term {
        return Some(binary.bytes.clone());
    }
    let (elements, last) = match term {
        Term::ImproperList(list) => (list.elements.clone(), Some(&*list.last)),
        _ => (elements_of(term)?.into_owned(), None),
    };
    let mut bytes = Vec::new();
    for element in &elements {
        match element {
            Term::FixInteger(n) => bytes.push(u8::try_from(n.value).ok()?),
            other => bytes.extend(iodata(other)?),
        }
    }
    bytes.extend(last.map_or(Some(Vec::new()), iodata)?);
    Some(bytes)
}
