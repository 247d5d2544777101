//! The one mapping of terms to JSON, for `--json`, the HTTP interface and structured logs.
//!
//! It is made for reading: what a person would call a name, a text or a record of fields comes out as that. It is
//! not reversible, since JSON has neither atoms nor tuples.
//!
//! | Term | JSON |
//! |---|---|
//! | `true`, `false` | the same |
//! | `undefined`, `null`, `nil` | `null` |
//! | any other atom | string |
//! | integer | number when it fits 64 bits, signed or unsigned; else a string of digits |
//! | float | number |
//! | binary | string when it is UTF-8; else `{"$base64": "..."}` |
//! | bitstring that is no binary | string: as printed, `"<<5:3>>"` |
//! | string, that is a list `erl` prints as one | string |
//! | `[]` | `[]` |
//! | list of pairs `{Name, Value}`, each name once | object; a name is an atom, a UTF-8 binary or a string |
//! | any other list | array; the tail of an improper list is its last element |
//! | tuple | array |
//! | map | object, its keys in Erlang's order; a key that is no name is the text it prints as |
//! | map where two keys would be the same text | array of `[key, value]` |
//! | pid, port, reference, fun | string: as printed |

use std::collections::HashSet;

use serde_json::{Map, Number, Value};

use super::order::compare_keys;
use super::text::{is_string, print};
use super::{Term, byte};

/// The JSON of a term, as the table at the top of this file has it.
///
/// Recurses into the term, as dropping the result does; decoded and parsed terms are shallow enough for both.
pub fn to_json(term: &Term) -> Value {
    match term {
        Term::Atom(atom) => match &*atom.name {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "undefined" | "null" | "nil" => Value::Null,
            name => Value::from(name),
        },
        Term::FixInteger(n) => Value::from(n.value),
        Term::BigInteger(n) => match (i64::try_from(&n.value), u64::try_from(&n.value)) {
            (Ok(n), _) => Value::from(n),
            (_, Ok(n)) => Value::from(n),
            _ => Value::from(n.value.to_string()),
        },
        Term::Float(float) => Number::from_f64(float.value).map_or(Value::Null, Value::Number),
        Term::Binary(binary) => match std::str::from_utf8(&binary.bytes) {
            Ok(text) => Value::from(text),
            Err(_) => {
                let encoded = Value::from(base64(&binary.bytes));
                Value::Object(Map::from_iter([("$base64".to_owned(), encoded)]))
            }
        },
        Term::ByteList(list) => match latin1_string(&list.bytes) {
            Some(text) => Value::from(text),
            None => Value::from(list.bytes.clone()),
        },
        Term::List(list) => list_to_json(&list.elements),
        Term::ImproperList(list) => {
            let mut elements = array(&list.elements);
            elements.push(to_json(&list.last));
            Value::Array(elements)
        }
        Term::Tuple(tuple) => Value::Array(array(&tuple.elements)),
        Term::Map(map) => {
            let mut pairs: Vec<_> = map.map.iter().collect();
            pairs.sort_by(|(a, _), (b, _)| compare_keys(a, b));
            let named = |(key, value)| Some((name(key).unwrap_or_else(|| print(key)), value));
            object(pairs.iter().copied().map(named)).unwrap_or_else(|| {
                let pair = |(key, value): &(&Term, &Term)| {
                    Value::Array(vec![to_json(key), to_json(value)])
                };
                Value::Array(pairs.iter().map(pair).collect())
            })
        }
        Term::BitBinary(_)
        | Term::Pid(_)
        | Term::Port(_)
        | Term::Reference(_)
        | Term::ExternalFun(_)
        | Term::InternalFun(_) => Value::from(print(term)),
    }
}

fn array(elements: &[Term]) -> Vec<Value> {
    elements.iter().map(to_json).collect()
}

fn list_to_json(elements: &[Term]) -> Value {
    if elements.is_empty() {
        return Value::Array(Vec::new());
    }
    // A list that somebody put together by hand may be a string all the same.
    let bytes: Option<Vec<u8>> = elements.iter().map(byte).collect();
    if let Some(text) = bytes.as_deref().and_then(latin1_string) {
        return Value::from(text);
    }
    let pairs = elements.iter().map(|element| match element {
        Term::Tuple(pair) => match &*pair.elements {
            [key, value] => Some((name(key)?, value)),
            _ => None,
        },
        _ => None,
    });
    object(pairs).unwrap_or_else(|| Value::Array(array(elements)))
}

/// `None` when something is no pair, or a name comes twice.
fn object<'t>(pairs: impl Iterator<Item = Option<(String, &'t Term)>>) -> Option<Value> {
    // All names before any value: whoever gives up after converting values makes the caller convert them again,
    // at each level twice as often.
    let pairs: Vec<_> = pairs.collect::<Option<_>>()?;
    let mut seen = HashSet::with_capacity(pairs.len());
    if !pairs.iter().all(|(name, _)| seen.insert(name)) {
        return None;
    }
    let fields = pairs.iter();
    let fields = fields.map(|(name, value)| (name.clone(), to_json(value)));
    Some(Value::Object(fields.collect()))
}

/// What may name a field.
fn name(key: &Term) -> Option<String> {
    match key {
        Term::ByteList(list) => latin1_string(&list.bytes),
        Term::Atom(_) | Term::Binary(_) => super::name(key),
        _ => None,
    }
}

fn latin1_string(bytes: &[u8]) -> Option<String> {
    is_string(bytes).then(|| bytes.iter().copied().map(char::from).collect())
}

/// The alphabet with `+` and `/`, filled up with `=`.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |n| u32::from(three.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            if n > three.len() {
                text.push('=');
            } else {
                let letter = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
                text.push(char::from(letter));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use num_bigint::BigInt;
    use serde_json::json;

    use super::super::{
        BitBinary, List, Pid, Raw, atom, bigint, binary, export, float, improper, int, list, map,
        nil, parse, string, tuple,
    };
    use super::*;

    fn pair(key: Term, value: Term) -> Term {
        tuple([key, value])
    }

    #[test]
    fn each_kind_of_term_maps_as_the_table_says() {
        for (term, expected) in [
            (atom("true"), json!(true)),
            (atom("false"), json!(false)),
            (atom("undefined"), json!(null)),
            (atom("null"), json!(null)),
            (atom("nil"), json!(null)),
            (atom("ok"), json!("ok")),
            (int(-5), json!(-5)),
            (int(i64::MIN), json!(i64::MIN)),
            (bigint(BigInt::from(u64::MAX)), json!(u64::MAX)),
            (
                bigint(BigInt::from(u64::MAX) + 1),
                json!("18446744073709551616"),
            ),
            (float(1.0), json!(1.0)),
            (float(f64::NAN), json!(null)),
            (binary("é"), json!("é")),
            (binary([255]), json!({"$base64": "/w=="})),
            (Term::from(BitBinary::from((vec![5], 3))), json!("<<5:3>>")),
            (string("10.0.0.1"), json!("10.0.0.1")),
            (string("é"), json!("é")),
            (Term::from(List::from(vec![int(97), int(98)])), json!("ab")),
            (list([int(1), int(2)]), json!([1, 2])),
            (string("aλ"), json!([97, 955])),
            (nil(), json!([])),
            (list([atom("a"), nil()]), json!(["a", []])),
            (improper([atom("a")], atom("b")), json!(["a", "b"])),
            (tuple([atom("ok"), int(1)]), json!(["ok", 1])),
            (Term::from(Pid::new("a@b", 1, 2, 3)), json!("<a@b.1.2>")),
            (export("m", "f", 1), json!("fun m:f/1")),
        ] {
            assert_eq!(to_json(&term), expected, "{}", print(&term));
        }
    }

    #[test]
    fn lists_of_pairs_are_objects_when_each_name_comes_once() {
        let nodes = parse("[{'foo@h',[{ip,\"10.0.0.1\"},{weight,0}]},{bar,[{<<\"k\">>,v}]}]");
        assert_eq!(
            to_json(&nodes.unwrap()),
            json!({"foo@h": {"ip": "10.0.0.1", "weight": 0}, "bar": {"k": "v"}})
        );
        let twice = list([pair(atom("a"), int(1)), pair(string("a"), int(2))]);
        assert_eq!(to_json(&twice), json!([["a", 1], ["a", 2]]));
        let numbered = list([pair(int(1), int(2))]);
        assert_eq!(to_json(&numbered), json!([[1, 2]]));
        let mixed = list([pair(atom("a"), int(1)), atom("b")]);
        assert_eq!(to_json(&mixed), json!([["a", 1], "b"]));
    }

    #[test]
    fn maps_are_objects_when_their_keys_differ_as_text() {
        let keys = map([
            (atom("b"), int(1)),
            (binary("a"), int(2)),
            (int(7), int(3)),
            (tuple([atom("x")]), int(4)),
        ]);
        let text = to_json(&keys).to_string();
        assert_eq!(text, r#"{"7":3,"b":1,"{x}":4,"a":2}"#);
        let alike = map([(atom("a"), int(1)), (binary("a"), int(2))]);
        assert_eq!(to_json(&alike), json!([["a", 1], ["a", 2]]));
        assert_eq!(to_json(&map([])), json!({}));
    }

    #[test]
    fn names_that_come_twice_at_every_level_cost_no_more() {
        let (open, close) = ("[{a,", "},{a,1}]");
        let term = parse(&(open.repeat(100) + "b" + &close.repeat(100))).unwrap();
        let json = to_json(&term).to_string();
        assert_eq!(json.matches("\"a\"").count(), 200);
    }

    #[test]
    fn base64_is_filled_up() {
        // The examples of RFC 4648.
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
        assert_eq!(base64("foobar".as_bytes()), "Zm9vYmFy");
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn the_deepest_term_fits_a_small_stack() {
        let reader = std::thread::Builder::new().stack_size(1 << 20);
        let done = reader.spawn(|| {
            for (open, close) in [("{", "}"), ("[", "]"), ("[{a,", "}]"), ("#{a => ", "}")] {
                let depth = super::super::MAX_DECODE_DEPTH / open.matches(['{', '[']).count();
                let text = open.repeat(depth) + "a" + &close.repeat(depth);
                let term = parse(&text).unwrap();
                let json = to_json(&Raw::encode(&term).decode().unwrap());
                assert!(json.to_string().len() >= depth);
            }
        });
        done.unwrap().join().unwrap();
    }
}
