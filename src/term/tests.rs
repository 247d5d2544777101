use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::*;

/// Terms as a peer may send them, in the one form this module keeps.
pub(super) fn any_term() -> impl Strategy<Value = Term> {
    let name = prop_oneof![
        "[a-z][a-z0-9_]{0,8}",
        "\\PC{0,6}",
        Just("Ω".repeat(255)),
        Just(String::new())
    ];
    let node = "[a-z]{1,5}@[a-z0-9.]{1,8}";
    let leaf = prop_oneof![
        name.prop_map(atom),
        any::<i32>().prop_map(|n| int(i64::from(n))),
        any::<i64>().prop_map(int),
        (
            any::<bool>(),
            proptest::collection::vec(any::<u8>(), 0..300)
        )
            .prop_map(|(plus, le)| {
                let sign = if plus {
                    num_bigint::Sign::Plus
                } else {
                    num_bigint::Sign::Minus
                };
                bigint(BigInt::from_bytes_le(sign, &le))
            }),
        any::<f64>()
            .prop_filter("Erlang has finite floats only", |f| f.is_finite())
            .prop_map(float),
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(binary),
        "\\PC{0,10}".prop_map(|text| string(&text)),
        (proptest::collection::vec(any::<u8>(), 1..5), 1..8u8).prop_map(|(mut bytes, used)| {
            if let Some(last) = bytes.last_mut() {
                *last &= 0xff << (8 - used);
            }
            Term::from(BitBinary::from((bytes, used)))
        }),
        (node, any::<u32>(), any::<u32>(), any::<u32>()).prop_map(
            |(node, id, serial, creation)| Term::from(Pid::new(node, id, serial, creation))
        ),
        (node, any::<u64>(), any::<u32>()).prop_map(|(node, id, creation)| {
            Term::from(Port {
                node: Atom::from(node),
                id,
                creation,
            })
        }),
        (
            node,
            proptest::collection::vec(any::<u32>(), 1..=5),
            any::<u32>()
        )
            .prop_map(|(node, id, creation)| {
                Term::from(Reference {
                    node: Atom::from(node),
                    id,
                    creation,
                })
            }),
        ("[a-z]{1,5}", "[a-z]{1,5}", any::<u8>()).prop_map(|(m, f, a)| export(&m, &f, a)),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        let several = || proptest::collection::vec(inner.clone(), 0..6);
        prop_oneof![
            several().prop_map(tuple),
            several().prop_map(list),
            (several(), inner.clone()).prop_map(|(front, last)| improper(front, last)),
            proptest::collection::vec(("[a-z]{1,4}", inner.clone()), 0..6)
                .prop_map(|pairs| map(pairs.into_iter().map(|(k, v)| (atom(k), v)))),
            (several(), any::<[u8; 16]>(), any::<i32>()).prop_map(|(free_vars, uniq, old)| {
                Term::from(InternalFun::New {
                    module: Atom::from("m"),
                    arity: 2,
                    pid: Pid::new("a@b", 1, 2, 3),
                    free_vars,
                    index: 7,
                    uniq,
                    old_index: 7,
                    old_uniq: old,
                })
            }),
        ]
    })
}

fn raw(bytes: &[u8]) -> Result<Raw, TermError> {
    Raw::check(Bytes::copy_from_slice(bytes), &Limits::default())
}

fn good(bytes: &[u8]) -> Raw {
    raw(bytes).unwrap_or_else(|e| panic!("{bytes:?}: {e}"))
}

/// A term read through views only.
fn through_views(view: View<'_>) -> Term {
    if let Some(items) = view.tuple() {
        return tuple(items.map(through_views).collect::<Vec<_>>());
    }
    if let Some(items) = view.list() {
        assert_eq!(items.len(), items.clone().count());
        return list(items.map(through_views).collect::<Vec<_>>());
    }
    if let Some((items, tail)) = view.improper() {
        let front = items.map(through_views).collect::<Vec<_>>();
        return improper(front, through_views(tail));
    }
    if let Some(pairs) = view.map() {
        return map(pairs.map(|(k, v)| (through_views(k), through_views(v))));
    }
    if let Some(name) = view.as_atom() {
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
    good(view.as_bytes()).decode().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_term_survives_the_round_trip(term in any_term()) {
        let encoded = Raw::try_encode(&term).unwrap();
        let checked = good(encoded.as_bytes());
        prop_assert_eq!(checked.decode().unwrap(), term);
        prop_assert_eq!(Raw::encode(&checked.decode().unwrap()), encoded);
    }

    #[test]
    fn a_view_shows_what_decoding_gives(term in any_term()) {
        let encoded = Raw::encode(&term);
        prop_assert_eq!(through_views(encoded.view()), term);
    }

    #[test]
    fn a_cut_term_is_an_error(term in any_term(), at in any::<prop::sample::Index>()) {
        let bytes = Raw::encode(&term).to_versioned();
        let at = at.index(bytes.len());
        prop_assert!(Raw::from_versioned(&bytes.slice(..at), &Limits::default()).is_err());
    }

    #[test]
    fn changed_bytes_are_an_error_or_another_term_and_never_a_panic(
        term in any_term(), at in any::<prop::sample::Index>(), byte: u8,
    ) {
        let mut bytes = Raw::encode(&term).as_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(raw) = raw(&bytes) {
            through_all_readers(&raw);
        }
    }

    #[test]
    fn garbage_is_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(raw) = raw(&bytes) {
            through_all_readers(&raw);
        }
        let _ = Raw::from_versioned(&bytes.into(), &Limits::default());
    }

    #[test]
    fn garbage_of_known_tags_is_never_a_panic(
        bytes in proptest::collection::vec(
            prop_oneof![
                prop::sample::select(vec![67u8, 70, 77, 88, 90, 97, 98, 99, 100, 101, 102, 103, 104, 105,
                    106, 107, 108, 109, 110, 111, 112, 113, 114, 115, 116, 118, 119, 120]),
                0..4u8,
            ],
            0..60,
        ),
    ) {
        if let Ok((raw, used)) = Raw::check_prefix(&bytes.into(), &Limits::default()) {
            prop_assert_eq!(raw.as_bytes().len(), used);
            through_all_readers(&raw);
        }
    }

    #[test]
    fn both_text_encodings_read_alike(bytes in proptest::collection::vec(any::<u8>(), 1..50)) {
        let mut as_string = BytesMut::new();
        write::put_bytes(&mut as_string, &bytes);
        let mut as_list = BytesMut::new();
        write::put_list(&mut as_list, bytes.len());
        for byte in &bytes {
            write::put_int(&mut as_list, i64::from(*byte));
        }
        write::put_nil(&mut as_list);
        let (a, b) = (Raw::written(as_string).unwrap(), Raw::written(as_list).unwrap());
        prop_assert_ne!(&a, &b);
        prop_assert_eq!(a.decode().unwrap(), b.decode().unwrap());
        prop_assert_eq!(a.view().text(), b.view().text());
        prop_assert_eq!(a.view().bytes(), b.view().bytes());
        prop_assert_eq!(a.view().iodata(50), Some(bytes));
        prop_assert!(a.view().list().unwrap().eq(b.view().list().unwrap()));
    }
}

/// Calls everything that reads; what it gives does not matter.
fn through_all_readers(raw: &Raw) {
    let view = raw.view();
    let _ = raw.decode();
    let _ = (
        view.as_atom(),
        view.atom_name(),
        view.is_atom("a"),
        view.as_i64(),
        view.as_f64(),
    );
    let _ = (
        view.as_pid(),
        view.reference(),
        view.port(),
        view.node(),
        view.cons(),
    );
    let _ = (
        view.text(),
        view.name(),
        view.bytes(),
        view.iodata(1000),
        view.lookup("a"),
    );
    let _ = (
        view.tuple().map(Iterator::count),
        view.list().map(Iterator::count),
    );
    let _ = (
        view.improper().map(|(items, _)| items.count()),
        view.map().map(Iterator::count),
    );
    let _ = (view.tuple_n::<2>(), view.tagged::<2>("a"), view.is_nil());
}

#[test]
fn counts_that_promise_more_than_there_is_are_errors() {
    for bytes in [
        &[108, 255, 255, 255, 255][..],
        &[108, 255, 255, 255, 255, 106],
        &[105, 255, 255, 255, 255, 106, 106],
        &[104, 3, 106, 106],
        &[116, 255, 255, 255, 255, 106],
        &[116, 128, 0, 0, 0, 106],
        &[109, 255, 255, 255, 255, 1],
        &[77, 255, 255, 255, 255, 3, 1],
        &[107, 255, 255, 1],
        &[111, 0, 1, 0, 0, 0, 1],
        &[119, 5, b'a'],
        &[118, 255, 255, b'a'],
        &[67, 255, 255, 255, 255, 0, 119, 1, b'm', 119, 1, b'r'],
        &[90, 0, 5, 119, 1, b'n', 0, 0, 0, 1, 0, 0, 0, 1],
        &[],
    ] {
        let found = raw(bytes);
        assert!(
            matches!(found, Err(TermError::Truncated { .. })),
            "{bytes:?} gave {found:?}"
        );
    }
}

#[test]
fn what_erlang_has_no_value_for_is_refused() {
    let mut long_atom = vec![118, 1, 0];
    long_atom.extend([b'a'; 256]);
    let mut nan = vec![70];
    nan.extend(f64::NAN.to_be_bytes());
    for bytes in [
        &long_atom[..],
        &nan,
        &[119, 2, 0xff, 0xfe],
        &[77, 0, 0, 0, 1, 9, 1],
        &[77, 0, 0, 0, 1, 0, 1],
        &[77, 0, 0, 0, 0, 3],
        &[110, 1, 2, 5],
        &[111, 0, 8, 0, 0, 0],
        &[90, 0, 0, 119, 1, b'n', 0, 0, 0, 1],
        &[90, 0, 6, 119, 1, b'n', 0, 0, 0, 1],
        &[88, 97, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[108, 0, 0, 0, 0, 97, 1],
    ] {
        let found = raw(bytes);
        assert!(
            matches!(found, Err(TermError::Malformed { .. })),
            "{bytes:?} gave {found:?}"
        );
    }
    for tag in [82, 68, 80, 131, 117, 121, 0, 255] {
        assert_eq!(raw(&[tag, 0, 0, 0]), Err(TermError::Tag { tag, at: 0 }));
        assert_eq!(
            raw(&[104, 1, tag, 0, 0, 0]),
            Err(TermError::Tag { tag, at: 2 })
        );
    }
    assert_eq!(raw(&[106, 106]), Err(TermError::Trailing { extra: 1 }));
    let not_versioned = Raw::from_versioned(&Bytes::from_static(&[106]), &Limits::default());
    assert_eq!(not_versioned, Err(TermError::Version { found: Some(106) }));
}

#[test]
fn a_million_nested_tuples_are_an_error() {
    let mut bytes = [104, 1].repeat(1_000_000);
    bytes.push(106);
    assert_eq!(raw(&bytes), Err(TermError::TooDeep { limit: 10_000 }));
    let mut lists = [108, 0, 0, 0, 1].repeat(1_000_000);
    lists.extend([106].repeat(1_000_001));
    assert_eq!(raw(&lists), Err(TermError::TooDeep { limit: 10_000 }));
}

/// One term inside `depth` tuples, as bytes.
fn nested(depth: usize) -> Vec<u8> {
    let mut bytes = [104, 1].repeat(depth);
    bytes.push(106);
    bytes
}

#[test]
fn the_deepest_terms_fit_a_small_stack() {
    let reader = std::thread::Builder::new().stack_size(2 << 20);
    let done = reader.spawn(|| {
        let deepest = good(&nested(10_000));
        through_all_readers(&deepest);
        assert_eq!(
            deepest.decode(),
            Err(TermError::TooDeep {
                limit: MAX_DECODE_DEPTH
            })
        );
        let raw = good(&nested(MAX_DECODE_DEPTH));
        let term = raw.decode().unwrap();
        assert_eq!(term.clone(), term);
        assert_eq!(Raw::encode(&term), raw);
        assert!(format!("{term:?}").contains("Tuple"));
        assert_eq!(compare_keys(&term, &term), std::cmp::Ordering::Equal);
        // As a key it is hashed, as one of two it is compared.
        let map = map([(term.clone(), nil()), (tuple([]), term)]);
        assert_eq!(map.clone(), map);
    });
    done.unwrap().join().unwrap();
}
