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
                *last >>= 8 - used;
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
    good(&view.to_bytes()).decode().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_term_survives_the_round_trip(term in any_term()) {
        let encoded = Raw::try_encode(&term).unwrap();
        let checked = good(&encoded.to_bytes());
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
        let mut bytes = Raw::encode(&term).to_bytes().to_vec();
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
            prop_assert_eq!(raw.to_bytes().len(), used);
            through_all_readers(&raw);
        }
    }

    #[test]
    fn a_hint_never_contradicts_the_order_of_keys(a in any_term(), b in any_term()) {
        let by_hint = order::hint(&a).cmp(&order::hint(&b));
        prop_assert!(by_hint.is_eq() || by_hint == compare_keys(&a, &b));
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

/// An empty list inside `depth` containers, each made of what stands before and behind its inside.
fn nested(before: &[u8], behind: &[u8], depth: usize) -> Vec<u8> {
    [&before.repeat(depth), &[106][..], &behind.repeat(depth)].concat()
}

/// The inside is an element of a tuple or list, the head of an improper list, the last of two, a map's value.
const CONTAINERS: [(&[u8], &[u8]); 5] = [
    (&[104, 1], &[]),
    (&[108, 0, 0, 0, 1], &[106]),
    (&[108, 0, 0, 0, 1], &[97, 1]),
    (&[104, 2, 97, 1], &[]),
    (&[116, 0, 0, 0, 1, 97, 1], &[]),
];

#[test]
fn the_deepest_terms_fit_a_small_stack() {
    // A worker thread has 2 MiB; half of it is left to whoever called.
    let reader = std::thread::Builder::new().stack_size(1 << 20);
    let done = reader.spawn(|| {
        for (before, behind) in CONTAINERS {
            let deepest = good(&nested(before, behind, 10_000));
            through_all_readers(&deepest);
            let limit = MAX_DECODE_DEPTH;
            assert_eq!(deepest.decode(), Err(TermError::TooDeep { limit }));
            assert_eq!(
                good(&nested(before, behind, limit + 1)).decode(),
                Err(TermError::TooDeep { limit })
            );

            let raw = good(&nested(before, behind, limit));
            let term = raw.decode().unwrap();
            assert_eq!(term.clone(), term);
            assert_eq!(Raw::encode(&term), raw);
            assert!(!format!("{term:?}{term}").is_empty());
            assert_eq!(compare_keys(&term, &term), std::cmp::Ordering::Equal);
            // As a key it is hashed, as one of two it is compared.
            let map = map([(term.clone(), nil()), (tuple([]), term)]);
            assert_eq!(map.clone(), map);
        }
    });
    done.unwrap().join().unwrap();
}

#[test]
fn integers_have_their_shortest_form_on_the_wire() {
    for (n, bytes) in [
        (0, &[97, 0][..]),
        (255, &[97, 255]),
        (256, &[98, 0, 0, 1, 0]),
        (-1, &[98, 255, 255, 255, 255]),
        (i64::from(i32::MAX), &[98, 127, 255, 255, 255]),
        (i64::from(i32::MAX) + 1, &[110, 4, 0, 0, 0, 0, 128]),
        (i64::from(i32::MIN) - 1, &[110, 4, 1, 1, 0, 0, 128]),
        (i64::MIN, &[110, 8, 1, 0, 0, 0, 0, 0, 0, 0, 128]),
    ] {
        let raw = Raw::encode(&int(n));
        assert_eq!(&raw.to_bytes()[..], bytes);
        assert_eq!(raw.view().as_i64(), Some(n));
        assert_eq!(raw.decode(), Ok(int(n)));
        let same = Raw::encode(&Term::from(BigInteger::from(n)));
        assert_eq!(same, raw);
    }
    let mut buf = BytesMut::new();
    write::put_uint(&mut buf, u64::MAX);
    let wide = Raw::written(buf).unwrap();
    assert_eq!(wide.view().as_i64(), None);
    assert_eq!(wide.decode(), Ok(bigint(BigInt::from(u64::MAX))));
    // Leading zeros make no other number.
    let padded = good(&[110, 6, 1, 5, 0, 0, 0, 0, 0]);
    assert_eq!(padded.view().as_i64(), Some(-5));
    assert_eq!(padded.decode(), Ok(int(-5)));
}

#[test]
fn lists_of_bytes_are_strings_on_the_wire_and_no_other_lists_are() {
    let encoded = |term: &Term| Raw::encode(term).to_bytes().to_vec();
    assert_eq!(encoded(&list([int(1), int(255)])), [107, 0, 2, 1, 255]);
    let hand_made = Term::from(List::from(vec![int(1), int(255)]));
    assert_eq!(encoded(&hand_made), [107, 0, 2, 1, 255]);
    let negative = list([int(-1), int(2)]);
    assert_eq!(encoded(&negative)[0], 108);
    assert_eq!(Raw::encode(&negative).decode(), Ok(negative));
    assert_eq!(encoded(&nil()), [106]);
    assert_eq!(encoded(&Term::from(ByteList::from(vec![]))), [106]);

    let longest = binary_list(65_535);
    assert_eq!(encoded(&longest)[..3], [107, 255, 255]);
    let longer = binary_list(65_536);
    assert_eq!(encoded(&longer)[..5], [108, 0, 1, 0, 0]);
    assert_eq!(Raw::encode(&longer).decode(), Ok(longer));
}

fn binary_list(len: usize) -> Term {
    Term::from(ByteList::from(vec![7; len]))
}

#[test]
fn a_list_may_go_on_in_its_tail() {
    // [1 | [2, 3 | "ab"]]
    let chained = [
        108, 0, 0, 0, 1, 97, 1, 108, 0, 0, 0, 2, 97, 2, 97, 3, 107, 0, 2, b'a', b'b',
    ];
    let raw = good(&chained);
    let expected = list([int(1), int(2), int(3), int(97), int(98)]);
    assert_eq!(raw.decode(), Ok(expected.clone()));
    assert_eq!(raw.view().list().unwrap().len(), 5);
    assert_eq!(through_views(raw.view()), expected);
    // [1 | [x | 2]]
    let improper_chain = [108, 0, 0, 0, 1, 97, 1, 108, 0, 0, 0, 1, 119, 1, b'x', 97, 2];
    let raw = good(&improper_chain);
    let expected = improper([int(1), atom("x")], int(2));
    assert_eq!(raw.decode(), Ok(expected.clone()));
    assert!(raw.view().list().is_none());
    assert_eq!(through_views(raw.view()), expected);
    // No elements and then the empty list, in both forms.
    for empty in [&[108, 0, 0, 0, 0, 106][..], &[107, 0, 0], &[106]] {
        assert!(good(empty).view().is_nil());
        assert_eq!(good(empty).view().list().unwrap().count(), 0);
        assert_eq!(good(empty).decode(), Ok(nil()));
    }
}

#[test]
fn a_hundred_thousand_cells_in_a_chain_are_read_once() {
    let depth = 5_000;
    let mut bytes = [108, 0, 0, 0, 1, 97, 1].repeat(depth);
    bytes.extend([108, 0, 1, 134, 160]);
    bytes.extend([97, 2].repeat(100_000));
    bytes.push(106);
    let raw = good(&bytes);
    assert_eq!(raw.view().list().unwrap().len(), depth + 100_000);
    let Ok(Term::ByteList(list)) = raw.decode() else {
        panic!("not a list of bytes");
    };
    assert_eq!(list.bytes.len(), depth + 100_000);
}

#[test]
fn atoms_of_every_tag_are_read() {
    for bytes in [
        &[119, 2, b'o', b'k'][..],
        &[118, 0, 2, b'o', b'k'],
        &[115, 2, b'o', b'k'],
        &[100, 0, 2, b'o', b'k'],
    ] {
        let raw = good(bytes);
        assert_eq!(raw.view().as_atom(), Some("ok"));
        assert!(raw.view().is_atom("ok") && !raw.view().is_atom("o"));
        assert_eq!(raw.decode(), Ok(atom("ok")));
    }
    let latin1 = good(&[115, 1, 0xe9]);
    assert_eq!(latin1.view().as_atom(), None);
    assert_eq!(latin1.view().atom_name().as_deref(), Some("é"));
    assert!(latin1.view().is_atom("é"));
    assert_eq!(latin1.decode(), Ok(atom("é")));
    // 255 characters of four bytes are still an atom, one more is not.
    let long = "𝄞".repeat(255);
    assert_eq!(Raw::encode(&atom(&*long)).view().as_atom(), Some(&*long));
}

#[test]
fn old_pids_references_and_ports_are_read() {
    let node = [119, 3, b'a', b'@', b'b'];
    let with = |before: &[u8], behind: &[u8]| good(&[before, &node, behind].concat());
    let pid = with(&[103], &[0, 0, 0, 9, 0, 0, 0, 1, 3]);
    assert_eq!(pid.view().pid(), Some(Pid::new("a@b", 9, 1, 3)));
    assert_eq!(pid.view().node().as_deref(), Some("a@b"));
    let new = with(&[114, 0, 2], &[3, 0, 0, 0, 1, 0, 0, 0, 2]);
    let reference = new.view().as_reference().unwrap();
    assert_eq!((reference.creation, reference.words()), (3, &[1, 2][..]));
    let oldest = with(&[101], &[0, 0, 0, 7, 2]);
    let reference = oldest.view().as_reference().unwrap();
    assert_eq!((reference.creation, reference.words()), (2, &[7][..]));
    let port = with(&[102], &[0, 0, 0, 5, 1]);
    assert_eq!(port.view().port().map(|p| (p.id, p.creation)), Some((5, 1)));
}

#[test]
fn an_alias_tag_is_taken_apart() {
    let mut buf = BytesMut::new();
    write::put_list(&mut buf, 1);
    write::put_atom(&mut buf, "alias");
    write::put_reference(&mut buf, "a@b", 3, &[1, 2, 3, 4, 5]);
    let tag = Raw::written(buf).unwrap();
    let (head, tail) = tag.view().cons().unwrap();
    assert!(head.is_atom("alias"));
    let alias = tag.sub(tail);
    assert_eq!(alias.view().reference().unwrap().id, [1, 2, 3, 4, 5]);
    assert_eq!(tag.view().list().map(Iterator::count), None);
    assert!(Raw::encode(&list([atom("alias")])).view().cons().is_none());
}

#[test]
fn a_part_shares_memory_unless_it_has_none() {
    let whole = Raw::encode(&tuple([atom("a"), binary("long enough"), string("x")]));
    let [_, middle, last] = whole.view().tuple_n::<3>().unwrap();
    let part = whole.sub(middle);
    assert_eq!(part.to_bytes().as_ptr(), middle.to_bytes().as_ptr());
    let x = last.list().unwrap().next().unwrap();
    assert_eq!(whole.sub(x).view().as_i64(), Some(120));
}

#[test]
fn tuples_are_matched_by_size_and_tag() {
    let raw = Raw::encode(&tuple([atom("call"), int(1), binary("two")]));
    let [n, b] = raw.view().tagged::<2>("call").unwrap();
    assert_eq!((n.as_i64(), b.as_binary()), (Some(1), Some(&b"two"[..])));
    assert!(raw.view().tagged::<2>("cast").is_none());
    assert!(raw.view().tagged::<1>("call").is_none());
    assert!(raw.view().tuple_n::<2>().is_none());
    let wide = Raw::encode(&tuple(vec![nil(); 300]));
    assert_eq!(wide.to_bytes()[0], 105);
    assert_eq!(wide.view().tuple().unwrap().len(), 300);
}

#[test]
fn what_a_term_cannot_hold_is_named_and_can_be_passed_on() {
    let record = [
        67, 0, 0, 0, 1, 0, 119, 1, b'm', 119, 1, b'r', 119, 1, b'f', 97, 1,
    ];
    let raw = good(&record);
    assert_eq!(
        raw.decode(),
        Err(TermError::NotRepresentable { what: "record" })
    );
    assert_eq!(raw.to_versioned()[1..], record);
    assert_eq!(raw.view().tuple().map(Iterator::count), None);
    // Inside something else it is skipped over.
    let pair = good(&[&[104, 2][..], &record, &[97, 7]].concat());
    assert_eq!(pair.view().tuple_n::<2>().unwrap()[1].as_i64(), Some(7));

    let zero = [70, 0, 0, 0, 0, 0, 0, 0, 0, 106];
    let minus_zero = [70, 128, 0, 0, 0, 0, 0, 0, 0, 106];
    let zeros = good(&[&[116, 0, 0, 0, 2][..], &zero, &minus_zero].concat());
    let map_in_key = good(&[116, 0, 0, 0, 1, 116, 0, 0, 0, 1, 97, 1, 106, 106]);
    let twice = good(&[116, 0, 0, 0, 2, 97, 1, 106, 97, 1, 106]);
    for raw in [zeros, map_in_key, twice] {
        let found = raw.decode();
        assert!(
            matches!(found, Err(TermError::NotRepresentable { .. })),
            "{found:?}"
        );
        assert!(raw.view().map().is_some());
    }
}

#[test]
fn minus_zero_keeps_its_sign() {
    let raw = Raw::encode(&float(-0.0));
    assert!(raw.view().as_f64().unwrap().is_sign_negative());
    let Ok(Term::Float(back)) = raw.decode() else {
        panic!("no float");
    };
    assert!(back.value.is_sign_negative());
}

#[test]
fn a_local_fun_must_have_the_size_it_announces() {
    let fun = Term::from(InternalFun::New {
        module: Atom::from("m"),
        arity: 1,
        pid: Pid::new("a@b", 1, 2, 3),
        free_vars: vec![int(1), nil()],
        index: 1,
        uniq: [9; 16],
        old_index: 1,
        old_uniq: -5,
    });
    let encoded = Raw::encode(&fun);
    let bytes = encoded.to_bytes();
    assert_eq!(codec_size(&bytes), bytes.len() - 1);
    for wrong in [0, 4, codec_size(&bytes) - 1, codec_size(&bytes) + 1] {
        let mut changed = bytes.to_vec();
        changed[1..5].copy_from_slice(&(wrong as u32).to_be_bytes());
        changed.push(106);
        assert!(
            Raw::check_prefix(&changed.into(), &Limits::default()).is_err(),
            "{wrong}"
        );
    }
}

fn codec_size(fun: &[u8]) -> usize {
    u32::from_be_bytes(fun[1..5].try_into().unwrap()) as usize
}

#[test]
fn maps_are_written_in_erlangs_order() {
    let pairs = [
        (int(2), nil()),
        (float(1.5), nil()),
        (atom("b"), nil()),
        (atom("a"), nil()),
        (tuple([int(1)]), nil()),
        (string("x"), nil()),
        (binary("x"), nil()),
    ];
    let raw = Raw::encode(&map(pairs));
    let keys: Vec<_> = raw
        .view()
        .map()
        .unwrap()
        .map(|(k, _)| k.to_bytes()[0])
        .collect();
    assert_eq!(keys, [97, 70, 119, 119, 104, 107, 109]);
    assert!(raw.view().lookup("b").is_some_and(View::is_nil));
    assert!(raw.view().lookup("c").is_none());
}

/// Found by the fuzzer: the text of a map, by which funs were ordered once, is another at each look.
#[test]
fn funs_that_hold_equal_maps_are_equal_in_order() {
    let fun = |uniq: u8| {
        let pairs = (0..20).map(|n| (int(n), nil()));
        Term::from(InternalFun::New {
            module: Atom::from("m"),
            arity: 1,
            pid: Pid::new("a@b", 1, 2, 3),
            free_vars: vec![map(pairs)],
            index: 1,
            uniq: [uniq; 16],
            old_index: 1,
            old_uniq: 5,
        })
    };
    assert_eq!(compare_keys(&fun(1), &fun(1)), std::cmp::Ordering::Equal);
    assert_eq!(compare_keys(&fun(1), &fun(2)), std::cmp::Ordering::Less);
    let named = export("a", "b", 1);
    assert_eq!(compare_keys(&fun(1), &named), std::cmp::Ordering::Less);
    assert_eq!(
        compare_keys(&named, &export("a", "b", 2)),
        std::cmp::Ordering::Less
    );
}

#[test]
fn a_value_erlang_does_not_have_is_refused_or_written_as_badarg() {
    for bad in [
        atom("a".repeat(256)),
        float(f64::INFINITY),
        Term::from(Reference {
            node: Atom::from("a@b"),
            id: vec![0; 6],
            creation: 1,
        }),
        Term::from(BitBinary::from((vec![1], 9))),
        bigint(BigInt::from(1) << 4_194_241),
    ] {
        let inside = tuple([int(1), bad, int(2)]);
        let refused = Raw::try_encode(&inside);
        assert!(
            matches!(refused, Err(TermError::NotErlang { .. })),
            "{refused:?}"
        );
        let written = Raw::encode(&inside).decode();
        assert_eq!(written, Ok(tuple([int(1), atom("badarg"), int(2)])));
    }
}

#[test]
fn text_is_read_from_binaries_strings_and_lists() {
    for term in [binary("héλ"), string("héλ")] {
        let raw = Raw::encode(&term);
        assert_eq!(raw.view().text().as_deref(), Some("héλ"));
        assert_eq!(raw.view().name().as_deref(), Some("héλ"));
        assert_eq!(text(&term).as_deref(), Some("héλ"));
    }
    let abc = Raw::encode(&atom("abc"));
    assert_eq!(abc.view().text(), None);
    assert_eq!(abc.view().name().as_deref(), Some("abc"));
    assert_eq!(text(&binary([0xff])), None);
    assert_eq!(text(&list([int(-1)])), None);
    assert_eq!(text(&list([int(0xd800)])), None);
    assert_eq!(text(&nil()).as_deref(), Some(""));
}

#[test]
fn iodata_is_flattened_up_to_its_limit() {
    let nested = improper(
        [
            int(1),
            binary([2, 3]),
            list([int(4), list([int(5)]), nil()]),
        ],
        binary([6]),
    );
    let raw = Raw::encode(&nested);
    assert_eq!(raw.view().iodata(6), Some(vec![1, 2, 3, 4, 5, 6]));
    assert_eq!(raw.view().iodata(5), None);
    for no_iodata in [int(1), atom("a"), list([int(256)]), list([atom("a")])] {
        assert_eq!(Raw::encode(&no_iodata).view().iodata(9), None);
    }
    // Found by the fuzzer: the same values in other forms.
    for (bytes, data) in [
        (&[77, 0, 0, 0, 0, 0][..], &[][..]),
        (&[77, 0, 0, 0, 2, 8, 5, 6], &[5, 6]),
        (
            &[108, 0, 0, 0, 2, 98, 0, 0, 0, 7, 110, 1, 0, 9, 106],
            &[7, 9],
        ),
    ] {
        assert_eq!(good(bytes).view().iodata(9).as_deref(), Some(data));
        assert_eq!(good(bytes).view().bytes().as_deref(), Some(data));
    }
    assert_eq!(good(&[77, 0, 0, 0, 1, 3, 160]).view().iodata(9), None);
    let improper_byte = Raw::encode(&improper([int(1)], int(2)));
    assert_eq!(improper_byte.view().iodata(9), None);
}

#[test]
fn compressed_terms_unfold_within_the_limit() {
    let term = binary(vec![7; 100_000]);
    let inner = Raw::encode(&term);
    let packed = |announced: u32| {
        let mut bytes = vec![131, 80];
        bytes.extend(announced.to_be_bytes());
        let mut zlib = flate2::write::ZlibEncoder::new(bytes, flate2::Compression::default());
        std::io::Write::write_all(&mut zlib, &inner.to_bytes()).unwrap();
        Bytes::from(zlib.finish().unwrap())
    };
    let len = inner.to_bytes().len() as u32;
    let limits = Limits::default();
    let unfolded = Raw::from_versioned(&packed(len), &limits).unwrap();
    assert_eq!(unfolded.decode(), Ok(term));
    for wrong in [0, len - 1, len + 1] {
        assert!(Raw::from_versioned(&packed(wrong), &limits).is_err());
    }
    let small = Limits {
        max_inflated: 99_999,
        ..limits
    };
    assert_eq!(
        Raw::from_versioned(&packed(len), &small),
        Err(TermError::TooLarge { limit: 99_999 })
    );
}

#[test]
fn bytes_are_those_that_erl_writes() {
    // From `term_to_binary(T, [{minor_version, 2}])` of OTP 25.
    let written: [(&[u8], Term); 14] = [
        (&[119, 2, 111, 107], atom("ok")),
        (&[106], nil()),
        (&[107, 0, 3, 97, 98, 99], string("abc")),
        (
            &[108, 0, 0, 0, 2, 97, 1, 98, 255, 255, 255, 255, 106],
            list([int(1), int(-1)]),
        ),
        (
            &[104, 2, 119, 1, 97, 104, 1, 119, 1, 98],
            tuple([atom("a"), tuple([atom("b")])]),
        ),
        (
            &[
                116, 0, 0, 0, 2, 119, 1, 97, 97, 1, 119, 1, 98, 107, 0, 1, 120,
            ],
            map([(atom("a"), int(1)), (atom("b"), string("x"))]),
        ),
        (&[109, 0, 0, 0, 3, 98, 105, 110], binary("bin")),
        (
            &[77, 0, 0, 0, 1, 3, 160],
            Term::from(BitBinary::from((vec![5], 3))),
        ),
        (&[70, 63, 248, 0, 0, 0, 0, 0, 0], float(1.5)),
        (
            &[110, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0, 64],
            bigint(BigInt::from(-1) << 70),
        ),
        (
            &[
                113, 119, 5, 108, 105, 115, 116, 115, 119, 3, 109, 97, 112, 97, 2,
            ],
            export("lists", "map", 2),
        ),
        (
            &[108, 0, 0, 0, 1, 119, 1, 97, 119, 1, 98],
            improper([atom("a")], atom("b")),
        ),
        (&[119, 6, 195, 165, 195, 164, 195, 182], atom("åäö")),
        (&[108, 0, 0, 0, 1, 98, 0, 0, 3, 187, 106], string("λ")),
    ];
    for (bytes, term) in written {
        assert_eq!(good(bytes).decode().as_ref(), Ok(&term));
        assert_eq!(&Raw::encode(&term).to_bytes()[..], bytes);
    }
}

#[test]
fn terms_in_logs_are_text() {
    let raw = Raw::encode(&tuple([atom("a"), string("b")]));
    assert_eq!(format!("{raw:?}"), "{a,\"b\"}");
    let record = good(&[67, 0, 0, 0, 0, 0, 119, 1, b'm', 119, 1, b'r']);
    assert!(format!("{record:?}").starts_with("#Term<12 bytes, a record"));
}
