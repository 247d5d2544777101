//! Meta as it is written on the command line: `KEY=VALUE` and `KEY:=TERM`.
//!
//! `KEY=VALUE` is an integer or a float when the whole value is one in Erlang's
//! syntax, else a string. `KEY:=TERM` gives any other type: `zone:=eu` an atom,
//! `zip:="007"` a string of digits, `tag:=<<"x">>` a binary.

use eetf::Term;

use super::error::{BadValue, shown};
use crate::grid::meta::{BadMeta, Meta, MetaValue};

/// Reads all entries. Two with one key are refused: it would not be plain which
/// of them counts.
pub(super) fn meta(entries: &[String]) -> Result<Meta, BadValue> {
    let mut read: Vec<(String, MetaValue)> = Vec::new();
    for raw in entries {
        let (key, value) = entry(raw)?;
        if read.iter().any(|(known, _)| *known == key) {
            return Err(BadValue::new(
                format!("the key {} is given twice", shown(&key)),
                "give it once",
            ));
        }
        read.push((key, value));
    }
    Meta::new(read).map_err(|bad| {
        let mend = match bad {
            BadMeta::Reserved => "set the address with --ip",
            BadMeta::TooMany => "leave some out",
            BadMeta::EmptyKey | BadMeta::LongKey(_) => "write a key of 1 to 255 bytes",
            BadMeta::LongValue(_) | BadMeta::LongAtom(_) => "shorten it; meta is for small facts",
            BadMeta::NotFinite(_) => "write a number that Erlang has",
        };
        BadValue::new(bad.to_string(), mend)
    })
}

/// Reads one `KEY=VALUE` or `KEY:=TERM`. Bounds are checked by [`Meta::new`].
///
/// # Errors
/// When there is no `=`, or the term is none, or is of a type that meta has not.
pub fn entry(raw: &str) -> Result<(String, MetaValue), BadValue> {
    let Some((key, text)) = raw.split_once('=') else {
        return Err(BadValue::new(
            format!("{} is not KEY=VALUE", shown(raw)),
            "write KEY=VALUE or KEY:=TERM; a value with a comma in it needs its own --meta, or KEY:=\"VALUE\"",
        ));
    };
    let (key, value) = match key.strip_suffix(':') {
        Some(key) => (key, term_value(text)?),
        None => (
            key,
            MetaValue::integer(text)
                .or_else(|| MetaValue::float(text))
                .unwrap_or_else(|| MetaValue::String(text.to_owned())),
        ),
    };
    Ok((key.to_owned(), value))
}

fn term_value(text: &str) -> Result<MetaValue, BadValue> {
    let term = crate::term::text::parse(text).map_err(|reason| {
        BadValue::new(
            format!("{} is no Erlang term: {reason}", shown(text)),
            "write a term like eu, \"text\", <<\"bytes\">> or 42",
        )
    })?;
    value_of(&term).ok_or_else(|| {
        BadValue::new(
            format!("{} cannot be meta", shown(text)),
            "write an atom, a binary, a string, an integer or a float",
        )
    })
}

/// The value that a term is; `None` for a type that meta has not. The empty list
/// is the empty string, as it is in Erlang.
fn value_of(term: &Term) -> Option<MetaValue> {
    Some(match term {
        Term::Atom(atom) => MetaValue::Atom(atom.name.clone()),
        Term::Binary(binary) => MetaValue::Binary(binary.bytes.clone()),
        Term::FixInteger(integer) => MetaValue::Integer(integer.value.into()),
        Term::BigInteger(integer) => return MetaValue::integer(&integer.value.to_string()),
        Term::Float(float) => MetaValue::Float(float.value),
        // An Erlang string is a list of characters, here by their bytes.
        Term::ByteList(list) => {
            MetaValue::String(list.bytes.iter().map(|byte| char::from(*byte)).collect())
        }
        Term::List(list) => {
            let characters = list.elements.iter().map(|element| match element {
                Term::FixInteger(code) => u32::try_from(code.value).ok().and_then(char::from_u32),
                _ => None,
            });
            MetaValue::String(characters.collect::<Option<String>>()?)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(raw: &str) -> MetaValue {
        entry(raw).unwrap().1
    }

    #[test]
    fn a_value_is_a_number_when_the_whole_text_is_one() {
        assert_eq!(value("weight=0"), MetaValue::Integer(0));
        assert_eq!(value("weight=-12"), MetaValue::Integer(-12));
        assert_eq!(value("load=0.5"), MetaValue::Float(0.5));
        assert_eq!(value("load=1.0e3"), MetaValue::Float(1000.0));
        for text in ["", "rust", "1.2.3", "5s", "1e5", "+5", " 5", "0x10", "inf"] {
            assert_eq!(
                value(&format!("k={text}")),
                MetaValue::from(text),
                "{text:?}"
            );
        }
    }

    #[test]
    fn only_the_first_equals_sign_separates() {
        assert_eq!(entry("url=a=b").unwrap(), ("url".to_owned(), "a=b".into()));
        assert_eq!(entry("a:b=c").unwrap(), ("a:b".to_owned(), "c".into()));
    }

    #[test]
    fn each_bad_entry_says_what_and_how_to_mend_it() {
        for (raw, problem) in [
            (vec!["weight"], "\"weight\" is not KEY=VALUE"),
            (vec!["=1"], "a meta key is empty"),
            (vec!["ip=10.0.0.1"], "reserved"),
            (vec!["a=1", "a=2"], "\"a\" is given twice"),
        ] {
            let entries: Vec<String> = raw.into_iter().map(str::to_owned).collect();
            let bad = meta(&entries).unwrap_err();
            assert!(bad.problem.contains(problem), "{bad:?}");
            assert!(!bad.mend.is_empty());
        }
    }

    #[test]
    fn a_term_gives_any_type_that_meta_has() {
        for (raw, expected) in [
            ("zone:=eu", MetaValue::Atom("eu".into())),
            ("zone:='e u'", MetaValue::Atom("e u".into())),
            ("zip:=\"007\"", "007".into()),
            ("tag:=<<\"x,y\">>", MetaValue::Binary(b"x,y".to_vec())),
            (
                "n:=36893488147419103232",
                MetaValue::BigInteger("36893488147419103232".into()),
            ),
            ("n:=-1", MetaValue::Integer(-1)),
            ("f:=1.5", MetaValue::Float(1.5)),
        ] {
            assert_eq!(value(raw), expected, "{raw}");
        }
        let bad = entry("zone:=[eu").unwrap_err();
        assert!(bad.problem.contains("\"[eu\" is no Erlang term"), "{bad:?}");
        let bad = entry("zone:={eu,1}").unwrap_err();
        assert!(bad.problem.contains("\"{eu,1}\" cannot be meta"), "{bad:?}");
    }

    #[test]
    fn a_term_becomes_the_value_it_is() {
        let big: num_bigint::BigInt = "18446744073709551616".parse().unwrap();
        for (term, value) in [
            (
                Term::from(eetf::Atom::from("eu")),
                Some(MetaValue::Atom("eu".into())),
            ),
            (
                Term::from(eetf::Binary::from(vec![255])),
                Some(MetaValue::Binary(vec![255])),
            ),
            (
                Term::from(eetf::FixInteger::from(-1)),
                Some(MetaValue::Integer(-1)),
            ),
            (
                Term::from(eetf::BigInteger { value: big }),
                Some(MetaValue::BigInteger("18446744073709551616".into())),
            ),
            (
                Term::from(eetf::Float { value: 1.5 }),
                Some(MetaValue::Float(1.5)),
            ),
            (Term::from(eetf::List::nil()), Some("".into())),
            (
                Term::from(eetf::List::from(vec![Term::from(eetf::FixInteger::from(
                    8364,
                ))])),
                Some("\u{20ac}".into()),
            ),
            (Term::from(eetf::Tuple::nil()), None),
            (
                Term::from(eetf::List::from(vec![Term::from(eetf::Atom::from("a"))])),
                None,
            ),
        ] {
            assert_eq!(value_of(&term), value, "{term}");
        }
    }
}
