//! Meta as Erlang terms: how callers give it, how callers see it, and how its types travel.
//!
//! In Redis the typed meta is a list of `{Key, Type, Text}`, all binaries, so that reading it never needs an atom.

use super::meta::{BadMeta, MAX_ENTRIES, MAX_KEY, MAX_VALUE, Meta, MetaValue};
use super::registration::{Leaving, LeftOut, collect};
use crate::term::{Limits, Raw, Term, View, write};
use bytes::{Bytes, BytesMut};

/// The most bytes of Redis that are looked at as one term: 64 entries of the longest keys and values fit twice.
pub(crate) const MAX_TERM: usize = 2 * MAX_ENTRIES * (MAX_KEY + MAX_VALUE + 32);

/// Limits for terms out of Redis: flat, and never compressed.
pub(crate) fn limits() -> Limits {
    Limits {
        max_depth: 16,
        max_decode_depth: 16,
        max_inflated: 0,
        ..Limits::default()
    }
}

/// Why a term is no meta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// It has the right form, but something in it is out of bounds.
    #[error(transparent)]
    Bad(#[from] BadMeta),
    /// It is neither a proplist nor a map.
    #[error("meta must be a proplist or a map")]
    NoProplist,
    /// A key is neither atom, binary nor string.
    #[error("a meta key must be an atom, a binary or a string")]
    Key,
    /// A value has a type that has no text; holds the key.
    #[error(
        "the value of meta key {0:?} must be an atom, a binary, a string, an integer or a float"
    )]
    Value(String),
}

/// Meta from a proplist or a map, as Erlang callers give it. A bare atom is `{Atom, true}`.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn from_term(raw: &Raw) -> Result<Meta, MetaError> {
    let view = raw.view();
    let mut entries = Vec::new();
    if let Some(pairs) = view.map() {
        if pairs.len() > MAX_ENTRIES {
            return Err(BadMeta::TooMany.into());
        }
        for (key, value) in pairs {
            entries.push(entry(raw, key, value)?);
        }
    } else {
        for item in view.list().ok_or(MetaError::NoProplist)? {
            // Repeats do not count, but they are no way to make us work for ever either.
            if entries.len() > 4 * MAX_ENTRIES {
                return Err(BadMeta::TooMany.into());
            }
            entries.push(match (item.atom_name(), item.tuple_n::<2>()) {
                (Some(name), _) => (name.into_owned(), MetaValue::Atom("true".into())),
                (None, Some([key, value])) => entry(raw, key, value)?,
                (None, None) => return Err(MetaError::NoProplist),
            });
        }
    }
    Ok(Meta::new(entries)?)
}

fn entry(raw: &Raw, key: View<'_>, value: View<'_>) -> Result<(String, MetaValue), MetaError> {
    let key = key.name().ok_or(MetaError::Key)?;
    match value_of(raw, value) {
        Some(value) => Ok((key, value)),
        None => Err(MetaError::Value(key)),
    }
}

fn value_of(raw: &Raw, view: View<'_>) -> Option<MetaValue> {
    if let Some(name) = view.atom_name() {
        return Some(MetaValue::Atom(name.into_owned()));
    }
    if let Some(bytes) = view.as_binary() {
        return Some(MetaValue::Binary(bytes.to_vec()));
    }
    if let Some(value) = view.as_i64() {
        return Some(MetaValue::Integer(value));
    }
    if view.is_integer() {
        // Digits cost the square of the length: what cannot fit the bound is not even counted.
        return match raw.sub(view).decode() {
            Ok(Term::BigInteger(big)) if big.value.bits() < 4 * MAX_VALUE as u64 => {
                MetaValue::integer(&big.value.to_string())
            }
            _ => None,
        };
    }
    if let Some(value) = view.as_f64() {
        return Some(MetaValue::Float(value));
    }
    view.text().map(MetaValue::String)
}

/// The typed meta as `term_to_binary` writes it.
pub(crate) fn to_binary(meta: &Meta) -> Bytes {
    let mut buf = BytesMut::new();
    write::put_version(&mut buf);
    put_typed(&mut buf, meta);
    buf.freeze()
}

/// Writes the list of `{Key, Type, Text}`.
pub(crate) fn put_typed(buf: &mut BytesMut, meta: &Meta) {
    write::put_list(buf, meta.len());
    for (key, value) in meta.iter() {
        write::put_tuple(buf, 3);
        write::put_binary(buf, key.as_bytes());
        write::put_binary(buf, value.letter().as_bytes());
        write::put_binary(buf, &value.text());
    }
    write::put_nil(buf);
}

/// Reads what [`to_binary`] wrote, or a stranger made look like it.
///
/// # Errors
/// Why the bytes are no typed meta.
pub(crate) fn from_binary(bytes: &[u8]) -> Result<(Meta, Option<LeftOut>), String> {
    if bytes.len() > MAX_TERM {
        return Err(format!("{} bytes are too many for a meta", bytes.len()));
    }
    let raw = Raw::from_versioned(&Bytes::copy_from_slice(bytes), &limits())
        .map_err(|why| why.to_string())?;
    from_typed(raw.view()).ok_or_else(|| "it is no list of entries".to_owned())
}

/// Reads the list of `{Key, Type, Text}`. Entries of another shape are left out, a value that is not of its type
/// stays a binary.
pub(crate) fn from_typed(view: View<'_>) -> Option<(Meta, Option<LeftOut>)> {
    let mut left_out = Leaving::default();
    let mut entries = Vec::new();
    for item in view.list()? {
        let parts = item
            .tuple_n::<3>()
            .and_then(|[key, letter, text]| {
                Some((key.as_binary()?, letter.as_binary()?, text.as_binary()?))
            })
            .filter(|(key, _, text)| key.len() <= MAX_KEY && text.len() <= MAX_VALUE);
        let Some((key, letter, text)) = parts.filter(|_| entries.len() < MAX_ENTRIES) else {
            left_out.more(parts.map_or(b"(no entry)".as_slice(), |(key, ..)| key));
            continue;
        };
        let letter = std::str::from_utf8(letter).unwrap_or_default();
        let value =
            MetaValue::from_typed(letter, text).unwrap_or_else(|| MetaValue::Binary(text.to_vec()));
        entries.push((String::from_utf8_lossy(key).into_owned(), value));
    }
    Some(collect(entries, left_out))
}

/// Writes one entry the way the original gives it: `{<<"weight">>, <<"0">>}`.
pub(crate) fn put_plain(buf: &mut BytesMut, key: &str, value: &MetaValue) {
    write::put_tuple(buf, 2);
    write::put_binary(buf, key.as_bytes());
    write::put_binary(buf, &value.text());
}

/// Writes one entry with the types that were given: `{weight, 0}`. Without `atoms`, what would become one stays a
/// binary: the reader keeps every atom it ever sees.
pub(crate) fn put_native(buf: &mut BytesMut, key: &str, value: &MetaValue, atoms: bool) {
    write::put_tuple(buf, 2);
    if atoms && write::is_atom_name(key) {
        write::put_atom(buf, key);
    } else {
        write::put_binary(buf, key.as_bytes());
    }
    match value {
        MetaValue::Atom(name) if atoms && write::is_atom_name(name) => write::put_atom(buf, name),
        MetaValue::String(text) => write::put_string(buf, text),
        MetaValue::Integer(value) => write::put_int(buf, *value),
        MetaValue::BigInteger(digits) => match digits.parse() {
            Ok(value) => write::put_bigint(buf, &value),
            Err(_) => write::put_binary(buf, digits.as_bytes()),
        },
        MetaValue::Float(value) if value.is_finite() => write::put_f64(buf, *value),
        value => write::put_binary(buf, &value.text()),
    }
}

/// The texts that [`put_native`] would make atoms of.
pub(crate) fn atoms(meta: &Meta) -> impl Iterator<Item = &str> {
    meta.iter().flat_map(|(key, value)| {
        let value = match value {
            MetaValue::Atom(name) => Some(name.as_str()),
            _ => None,
        };
        std::iter::once(key).chain(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::term::{atom, binary, float, int, list, map, string, tuple};
    use proptest::prelude::*;

    fn read(term: Term) -> Result<Vec<(String, MetaValue)>, MetaError> {
        from_term(&Raw::encode(&term)).map(|meta| meta.into_iter().collect())
    }

    #[test]
    fn a_proplist_and_a_map_give_the_same_meta() {
        let pairs = vec![
            (atom("weight"), int(0)),
            (binary("zone"), string("b")),
            (string("lang"), atom("rust")),
        ];
        let proplist = list(
            pairs
                .iter()
                .map(|(k, v)| tuple(vec![k.clone(), v.clone()]))
                .collect::<Vec<_>>(),
        );
        let mut expected = vec![
            ("weight".to_owned(), MetaValue::Integer(0)),
            ("zone".to_owned(), MetaValue::String("b".into())),
            ("lang".to_owned(), MetaValue::Atom("rust".into())),
        ];
        assert_eq!(read(proplist).unwrap(), expected);
        let mut of_map = read(map(pairs)).unwrap();
        of_map.sort_by(|a, b| a.0.cmp(&b.0));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(of_map, expected);
    }

    #[test]
    fn a_bare_atom_is_true_and_an_empty_list_is_an_empty_string() {
        let meta = read(list(vec![
            atom("ready"),
            tuple(vec![atom("note"), list(vec![])]),
            tuple(vec![atom("load"), float(0.5)]),
        ]));
        assert_eq!(
            meta.unwrap(),
            [
                ("ready".to_owned(), MetaValue::Atom("true".into())),
                ("note".to_owned(), MetaValue::String(String::new())),
                ("load".to_owned(), MetaValue::Float(0.5)),
            ]
        );
    }

    #[test]
    fn what_is_no_meta_is_refused_with_what_is_wrong() {
        assert_eq!(read(atom("weight")), Err(MetaError::NoProplist));
        assert_eq!(read(list(vec![int(1)])), Err(MetaError::NoProplist));
        assert_eq!(read(string("weight")), Err(MetaError::NoProplist));
        let one = |k: Term, v: Term| read(list(vec![tuple(vec![k, v])]));
        assert_eq!(one(int(1), int(1)), Err(MetaError::Key));
        assert_eq!(
            one(atom("k"), tuple(vec![])),
            Err(MetaError::Value("k".into()))
        );
        assert_eq!(
            one(atom("ip"), string("10.0.0.1")),
            Err(BadMeta::Reserved.into())
        );
        let many: Vec<_> = (0..65)
            .map(|n| tuple(vec![binary(format!("k{n}")), int(n)]))
            .collect();
        assert_eq!(read(list(many)), Err(BadMeta::TooMany.into()));
    }

    #[test]
    fn without_atoms_names_stay_binaries() {
        let native = |atoms| {
            let mut buf = BytesMut::new();
            put_native(&mut buf, "lang", &MetaValue::Atom("rust".into()), atoms);
            Raw::written(buf).unwrap()
        };
        let pair = |k, v| Raw::encode(&tuple(vec![k, v]));
        assert_eq!(native(true), pair(atom("lang"), atom("rust")));
        assert_eq!(native(false), pair(binary("lang"), binary("rust")));
    }

    #[test]
    fn entries_of_another_shape_are_left_out_and_the_rest_is_kept() {
        let good = tuple(vec![binary("zone"), binary("s"), binary("b")]);
        let term = list(vec![
            atom("x"),
            good,
            tuple(vec![binary("ip"), binary("s"), binary("6.6.6.6")]),
            tuple(vec![binary("port"), binary("i"), binary("many")]),
        ]);
        let (meta, left_out) = from_typed(Raw::encode(&term).view()).unwrap();
        assert_eq!(meta.get("zone"), Some(&MetaValue::String("b".into())));
        assert_eq!(meta.get("port"), Some(&MetaValue::Binary("many".into())));
        assert_eq!(meta.get("ip"), None);
        assert_eq!(left_out.unwrap().count, 2);
    }

    proptest! {
        #[test]
        fn typed_meta_reads_back(entries in proptest::collection::vec(("[a-h]{1,3}", prop_oneof![
            any::<i64>().prop_map(MetaValue::Integer),
            "[1-9][0-9]{30}".prop_map(|text| MetaValue::integer(&text).unwrap()),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(MetaValue::Float),
            "\\PC{0,20}".prop_map(MetaValue::String),
            "\\PC{0,20}".prop_map(MetaValue::Atom),
            any::<Vec<u8>>().prop_map(MetaValue::Binary),
        ]), 0..8)) {
            let meta = Meta::new(entries).unwrap();
            prop_assert_eq!(from_binary(&to_binary(&meta)), Ok((meta, None)));
        }

        #[test]
        fn rubbish_is_an_error_or_a_bounded_meta(bytes in any::<Vec<u8>>()) {
            let _ = from_binary(&bytes);
        }
    }
}
